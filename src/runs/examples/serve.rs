//! Loads a trained network once, and answers for files of an image's bytes:
//! `cargo run -p branchynet-runs --example serve -- lenet digit.raw`.

use branchynet_runs::prelude::*;

fn main() -> Result<()> {
    branchynet::prepare_process();
    let mut arguments = std::env::args().skip(1);
    let trained = Pretrained::named(&arguments.next().unwrap_or("lenet".to_string()), &Device::Cpu)?;
    let policy = trained.policy("no loss")?;
    // Compiled once: `Network::classify` does so at each call.
    let mut plan = Plan::new(&trained.network)?;
    for file in arguments {
        let bytes = std::fs::read(&file)
            .map_err(|cause| std::io::Error::new(cause.kind(), format!("{file}: {cause}")))?;
        let pixels: Vec<f32> = trained.images(&bytes)?.flatten_all()?.to_vec1()?;
        let answer = plan.classify(&pixels, policy)?;
        let class = &trained.about.classes[answer.label];
        println!("{file}: {class}, at exit {} of {}", answer.exit + 1, plan.exits());
    }
    Ok(())
}
