//! A job of `benches/runtimes.py` for this library's own plan: a trained network from bytes to answers, one image at a time.

use branchynet::candle_core::Device;
use branchynet::exits::{ExitPolicy, Plan};
use branchynet_runs::{Pretrained, Session};

#[path = "runtimes/src/job.rs"]
mod job;

fn main() -> job::Result<()> {
    branchynet::prepare_process();
    let job = job::Job::read()?;
    let name = job.json["network"].as_str().unwrap_or_default();
    let weights = Pretrained::named(name, &Device::Cpu)?;
    let policy = weights.policy("no loss")?;
    let (trunk, _) = Session::new(name, |_| ())?.networks()?;
    // What the trunk's weights are makes no difference to its time.
    let (mut plan, mut trunk) = (Plan::new(&weights.network)?, Plan::new(&trunk)?);
    // Bytes become pixels along a line for each channel, as in the exported files.
    let of = |byte: u8| -> branchynet::Result<Vec<f32>> {
        Ok(weights.images(&vec![byte; job.dims.iter().product()])?.flatten_all()?.to_vec1()?)
    };
    let (dark, bright) = (of(0)?, of(255)?);
    let area = job.dims[2] * job.dims[3];
    let pixels = |i: usize| {
        let mut pixels = Vec::with_capacity(dark.len());
        for (channel, bytes) in job.image(i).chunks(area).enumerate() {
            let (offset, factor) =
                (dark[channel * area], (bright[channel * area] - dark[channel * area]) / 255.0);
            pixels.extend(bytes.iter().map(|&byte| f32::from(byte) * factor + offset));
        }
        pixels
    };
    let all = ExitPolicy::entropy([]);
    let answer = |i: usize| {
        let answer = plan.classify(&pixels(i), policy)?;
        Ok((answer.label as i64, answer.exit as i64 + 1))
    };
    job.measure(answer, |i| Ok(trunk.classify(&pixels(i), &all).map(drop)?))
}
