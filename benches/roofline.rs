//! What bounds each step of a compiled network: its multiplications or the reading of its weights. Prints a table in CSV;
//! `make roofline` writes benches/roofline.csv from it.

use branchynet::exits::Plan;
use branchynet::{Result, kernels};
use branchynet_runs::Session;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

/// Images that go through the steps together; the least time of so many rounds.
const BATCH: usize = 32;
const ROUNDS: usize = 50;

/// Bytes a second at which one thread reads so many bytes again and again: the caches' speed.
fn bandwidth(bytes: usize) -> f64 {
    let values = vec![1f32; bytes / 4];
    let read = || {
        let start = Instant::now();
        // Many sums side by side, so that none waits for the one before.
        let mut sums = [0f32; 64];
        for values in values.as_chunks::<64>().0 {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        black_box(sums);
        bytes as f64 / start.elapsed().as_secs_f64()
    };
    (0..20).map(|_| read()).fold(0.0, f64::max)
}

fn main() -> Result<()> {
    branchynet::prepare_process();
    let names = std::env::args().skip(1).filter(|name| !name.starts_with('-'));
    let peak = kernels::inference::peak() * 1e9 / 2.0;
    println!(
        "network,images together,steps,computed,from,to,multiplications (10^6),weights (kB),by multiplications (us),by reading weights (us),predicted (us),measured (us)"
    );
    for name in names {
        let baseline = Session::new(&name, |_| ())?.networks()?.0;
        for (images, plan) in [(1, Plan::new(&baseline)?), (BATCH, Plan::for_batches(&baseline)?)] {
            // Equal steps, which residual networks have many of, share a row: their number, and the sum of their times.
            let mut rows = BTreeMap::new();
            for (i, step) in plan.profile(images, ROUNDS).into_iter().enumerate() {
                let key = (step.what.clone(), step.from, step.to);
                let row = rows.entry(key).or_insert((i, 0, 0.0, step.clone()));
                row.1 += 1;
                row.2 += step.seconds;
            }
            let mut rows: Vec<_> = rows.into_values().collect();
            rows.sort_by_key(|row| row.0);
            for (_, steps, seconds, step) in rows {
                let bytes = 4 * step.weights;
                let multiplying = steps as f64 * step.multiplications as f64 / peak * 1e6;
                let reading = match bytes {
                    0 => 0.0,
                    _ => (steps * bytes) as f64 / bandwidth(bytes.max(1 << 16)) / images as f64 * 1e6,
                };
                let shape = |[channels, height, width]: [usize; 3]| format!("{channels}x{height}x{width}");
                println!(
                    "{name},{images},{steps},{},{},{},{:.3},{:.1},{multiplying:.1},{reading:.1},{:.1},{:.1}",
                    step.what.replace(',', " of"),
                    shape(step.from),
                    shape(step.to),
                    step.multiplications as f64 / 1e6,
                    bytes as f64 / 1e3,
                    multiplying.max(reading),
                    seconds * 1e6
                );
            }
        }
    }
    Ok(())
}
