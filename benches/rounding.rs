//! What the ways to compute convolutions change on all test images: `cargo bench --profile dev --bench rounding -- alexnet`
//! prints a table in CSV. Each plan is compared with the one that computes them by their definition.

use branchynet::Result;
use branchynet::exits::{ExitPolicy, Plan};
use branchynet_runs::{Experiment, Pretrained};
use candle_core::Device;

/// The largest change of a logit, and the answers and exits that differ.
fn compare(
    plan: &mut Plan,
    exact: &mut Plan,
    policy: &ExitPolicy,
    images: &[f32],
) -> Result<(f32, usize, usize)> {
    let (logits, wanted) = (plan.logits(images)?.concat(), exact.logits(images)?.concat());
    let largest = logits.iter().zip(&wanted).fold(0f32, |largest, (a, b)| largest.max((a - b).abs()));
    let answers = plan.classify_all(images, policy)?.into_iter().zip(exact.classify_all(images, policy)?);
    let (mut labels, mut exits) = (0, 0);
    for (a, b) in answers {
        labels += usize::from(a.label != b.label);
        exits += usize::from(a.exit != b.exit);
    }
    Ok((largest, labels, exits))
}

fn main() -> Result<()> {
    branchynet::prepare_process();
    println!("network,plan,largest change of a logit,answers changed,exits changed,of");
    for name in std::env::args().skip(1).filter(|name| !name.starts_with('-')) {
        let Pretrained { network, about, .. } = Pretrained::named(&name, &Device::Cpu)?;
        let (_, policy) = about.policies.last().expect("a reference run has policies");
        let images = Experiment::named(&name)?.load()?.test;
        let mut exact = Plan::by_definition(&network)?;
        for (what, mut plan) in
            [("for images alone", Plan::new(&network)?), ("for batches", Plan::for_batches(&network)?)]
        {
            let (mut largest, mut labels, mut exits) = (0f32, 0, 0);
            for start in (0..images.len()).step_by(1000) {
                let samples: Vec<usize> = (start..images.len().min(start + 1000)).collect();
                let batch = images.batch(&samples, &Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
                let found = compare(&mut plan, &mut exact, policy, &batch)?;
                (largest, labels, exits) = (largest.max(found.0), labels + found.1, exits + found.2);
            }
            println!("{name},{what},{largest:.1e},{labels},{exits},{}", images.len());
        }
    }
    Ok(())
}
