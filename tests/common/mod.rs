//! Shared by the tests.

use branchynet::candle_core::Device;
use std::io::Write;
use std::sync::OnceLock;

/// Where operations are tested: on the CPU, and on the GPU if there is one. Says once, past the test
/// harness, that there is none.
pub fn devices() -> &'static [Device] {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let mut devices = vec![Device::Cpu];
        match branchynet::device("cuda") {
            Ok(device) => devices.push(device),
            Err(why) => {
                let _ = writeln!(std::io::stderr(), "SKIPPED on the GPU: {why}");
            }
        }
        devices
    })
}
