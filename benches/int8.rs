//! What int8 costs and gains in this crate's own plan: `benches/int8.py` reads it. The first line of JSON says, of the f32 network
//! and of those with weights of 7 and 8 bits, what they answer to the test images with thresholds of *1 % guaranteed*; after each
//! line on the standard input a line says how long images took, all networks in turn.
//! Alone: `yes | head -5 | cargo bench --profile dev --bench int8 -- alexnet 1000`.

use branchynet::candle_core::{Device, Tensor};
use branchynet::data::Test;
use branchynet::exits::{ExitPolicy, ExitRecord, Plan};
use branchynet::networks::{Network, Pass};
use branchynet::{Error, ErrorKind, Result};
use branchynet_runs::{Pretrained, Results, Session};
use serde_json::json;
use std::time::Instant;

/// Images that are timed one by one in a round, and in a batch.
const TIMED: usize = 300;
const BATCH: usize = 64;

struct Way {
    name: &'static str,
    plan: Plan,
    policy: ExitPolicy,
}

/// Images whose last answer another way to compute the network changes, and the largest distance of their logits in parts of the
/// largest.
fn against_f32(network: &Network, record: &ExitRecord<Test>, images: &Tensor) -> Result<(usize, f32)> {
    let (mut changed, mut distance, classes) = (0, 0f32, record.classes());
    let last = record.exits() - 1;
    for start in (0..record.len()).step_by(500) {
        let batch = images.narrow(0, start, 500.min(record.len() - start))?;
        let logits = network.forward(&batch, &mut Pass::Evaluate)?[last].to_vec2::<f32>()?;
        for (i, f32s) in logits.iter().enumerate() {
            let own = &record.logits(last)[(start + i) * classes..][..classes];
            let largest = |z: &[f32]| (0..classes).max_by(|&a, &b| z[a].total_cmp(&z[b]));
            changed += usize::from(largest(f32s) != largest(own));
            let size = f32s.iter().fold(0f32, |size, z| size.max(z.abs()));
            let apart = f32s.iter().zip(own).fold(0f32, |apart, (a, b)| apart.max((a - b).abs()));
            distance = distance.max(apart / size);
        }
    }
    Ok((changed, distance))
}

fn main() -> Result<()> {
    branchynet::prepare_process();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    let name = arguments.first().map_or("lenet", String::as_str);
    let count = arguments.get(1).and_then(|count| count.parse().ok()).unwrap_or(10_000);
    let session = Session::new(name, |_| ())?;
    let settings = session.experiment.settings();
    let none = || Error::new(ErrorKind::Missing, format!("there are no reference weights of {name}"));
    let weights = Pretrained::of_settings(&settings, &Device::Cpu)?.ok_or_else(none)?;
    let results = Results::recorded(|recorded| *recorded == settings)?.into_iter().next().ok_or_else(none)?;
    let results = results.by(&session.experiment.criterion);
    let data = session.load()?;
    let test = data.test.take(count);
    let samples: Vec<usize> = (0..test.len()).collect();
    let images = test.batch(&samples, &Device::Cpu)?;
    let pixels: Vec<f32> = images.flatten_all()?.to_vec1()?;
    let size = pixels.len() / test.len();
    let (mut ways, mut rows, mut reference) = (Vec::new(), Vec::new(), Vec::new());
    for (name, bits) in [("f32", None), ("int8", Some(7)), ("int8, 8 bits", Some(8))] {
        let weights = match bits {
            None => weights.clone().choosing(&results)?,
            Some(bits) => weights.quantized(&results, &data, bits)?.0,
        };
        let policy = weights.policy("1 % guaranteed")?.clone();
        let record = ExitRecord::<Test>::collect(&weights.network, &test)?.read_by(&policy.readout)?;
        let mut plan = Plan::new(&weights.network)?;
        let answers = plan.classify_all(&pixels, &policy)?;
        assert_eq!(answers, record.answers(&policy.thresholds)?, "the record is of another engine");
        let last: Vec<usize> = record.predictions(record.exits() - 1).iter().map(|p| p.label).collect();
        if bits.is_none() {
            reference = last.clone();
        }
        let percent = |so: &dyn Fn(usize) -> bool| {
            100.0 * samples.iter().filter(|&&i| so(i)).count() as f64 / samples.len() as f64
        };
        let right = |label: usize, i: usize| label == test.labels()[i] as usize;
        let (changed, distance) =
            if bits.is_some() { against_f32(&weights.network, &record, &images)? } else { (0, 0.0) };
        rows.push(json!({
            "file": name,
            "last": percent(&|i| right(last[i], i)),
            "early": percent(&|i| right(answers[i].label, i)),
            "shares": (0..record.exits()).map(|exit| percent(&|i| answers[i].exit == exit)).collect::<Vec<_>>(),
            "changed": percent(&|i| answers[i].label != last[i]),
            "changed_f32": percent(&|i| answers[i].label != reference[i]),
            "other_than_f32_sums": changed,
            "distance_from_f32_sums": distance,
        }));
        ways.push(Way { name, plan, policy });
    }
    println!("{}", json!({ "instructions": branchynet::kernels::instruction_set(), "rows": rows }));
    let timed = TIMED.min(test.len());
    let batch: Vec<f32> = pixels.iter().copied().cycle().take(BATCH * size).collect();
    for _ in std::io::stdin().lines() {
        let mut round = serde_json::Map::new();
        for Way { name, plan, policy } in &mut ways {
            let milliseconds = |plan: &mut Plan, policy: &ExitPolicy| -> Result<f64> {
                let start = Instant::now();
                for image in pixels.chunks(size).take(timed) {
                    plan.classify(image, policy)?;
                }
                Ok(start.elapsed().as_secs_f64() * 1e3 / timed as f64)
            };
            let early = milliseconds(plan, policy)?;
            let whole = milliseconds(plan, &policy.to_the_end())?;
            let start = Instant::now();
            let times = (timed / BATCH).max(1);
            for _ in 0..times {
                plan.logits(&batch)?;
            }
            let batch = (times * BATCH) as f64 / start.elapsed().as_secs_f64();
            round.insert((*name).to_string(), json!({ "early": early, "whole": whole, "batch": batch }));
        }
        println!("{}", json!(round));
    }
    Ok(())
}
