//! Training on a small made-up problem: learning, repeatability, interruption, and refusals.

mod common;

use branchynet::data::{Augmentation, Dataset, Split};
use branchynet::exits::{Criterion, ExitPolicy, ExitRecord};
use branchynet::networks::{
    self, Layer, Start, batch_norm, branch, conv, dropout, gelu, linear, max_pool, relu, residual, scale,
    without_branches,
};
use branchynet::training::{
    Adam, Config, Keep, Objective, OptimizerName, Progress, Run, Schedule, Sgd, evaluate, load_checkpoint,
    train_with,
};
use branchynet::{Network, Result, Rng};
use candle_core::{DType, Device, Tensor};
use common::train_at;
use rand::SeedableRng;
use std::path::{Path, PathBuf};

fn quadrants() -> Dataset {
    common::quadrants(1, 600, 200)
}

fn layers() -> Vec<Layer> {
    vec![
        conv(1, 4, 3, 1),
        batch_norm(4),
        branch([max_pool(4, 4), relu(), linear(16, 4)]),
        max_pool(3, 2),
        relu(),
        conv(4, 8, 3, 1),
        relu(),
        residual([conv(8, 8, 3, 1), batch_norm(8)]),
        linear(128, 16),
        gelu(),
        scale(0.5),
        dropout(0.2),
        linear(16, 4),
    ]
}

fn build(layers: Vec<Layer>, seed: u64) -> Network {
    Network::new("quadrants", [1, 8, 8], layers, seed, &Device::Cpu).expect("shapes fit")
}

fn config(epochs: usize) -> Config {
    Config { epochs, batch_size: 32, learning_rate: 3e-3, final_learning_rate: 0.1, ..Config::default() }
}

/// A file in a folder of its own, removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("branchynet-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("run.safetensors")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Every weight and running statistic, bit for bit.
fn bits(network: &Network) -> Result<Vec<(String, Vec<u32>)>> {
    let bits = |var: &candle_core::Var| -> Result<Vec<u32>> {
        Ok(var.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
    };
    network.state().iter().map(|(name, var)| Ok((name.clone(), bits(var)?))).collect()
}

#[test]
fn both_exits_learn_from_a_baseline() -> Result<()> {
    let (scratch, data) = (Scratch::new("learn"), quadrants());
    let baseline = build(without_branches(&layers()), 0);
    train_at(&baseline, &data, &config(4), &scratch.0.join("baseline.safetensors"), |_| ())?;
    let network = build(layers(), 0);
    network.start_from(&baseline)?;
    let run = train_at(&network, &data, &config(6), &scratch.file(), |_| ())?;
    let accuracy = evaluate(&network, &data.test)?.accuracy;
    assert!(accuracy.iter().all(|&a| a > 0.95), "{accuracy:?}");
    assert!(run.history[5].train.loss[0] < run.history[0].train.loss[0]);
    // The checkpoint alone restores the network.
    let restored = build(layers(), 1);
    assert_ne!(bits(&restored)?, bits(&network)?);
    assert_eq!(load_checkpoint(&restored, &run.checkpoint)?.len(), 6);
    assert_eq!(bits(&restored)?, bits(&network)?);
    Ok(())
}

#[test]
fn a_frozen_trunk_stays_as_it_was_and_its_branch_learns() -> Result<()> {
    let (scratch, data) = (Scratch::new("frozen"), quadrants());
    let baseline = build(without_branches(&layers()), 0);
    train_at(&baseline, &data, &config(4), &scratch.0.join("baseline.safetensors"), |_| ())?;
    let network = build(layers(), 0);
    network.start_from(&baseline)?;
    let before = evaluate(&network, &data.test)?;
    for optimizer in [OptimizerName::Adam, OptimizerName::Sgd] {
        let config = Config { frozen: true, optimizer, ..config(6) };
        train_at(&network, &data, &config, &scratch.0.join(format!("{optimizer:?}")), |_| ())?;
        let trunk = |network| -> Result<Vec<_>> {
            Ok(bits(network)?.into_iter().filter(|(name, _)| !name.starts_with("branch")).collect())
        };
        assert_eq!(trunk(&network)?, trunk(&baseline)?);
    }
    let after = evaluate(&network, &data.test)?;
    assert!(before.accuracy[0] < 0.6 && after.accuracy[0] > 0.9, "{before:?} {after:?}");
    assert_eq!(before.accuracy[1], after.accuracy[1]);
    assert!(Config { frozen: true, ..config(1) }.check(1).is_err());
    Ok(())
}

#[test]
fn a_whitening_is_fitted_to_the_images_and_stays() -> Result<()> {
    let (scratch, data) = (Scratch::new("whitening"), quadrants());
    let whitening = conv(1, 8, 2, 0).start(Start::Whitening)?;
    let layers =
        vec![whitening, gelu(), conv(8, 8, 3, 1).start(Start::Identity)?, max_pool(3, 2), linear(72, 4)];
    let network = build(layers.clone(), 0);
    let config = Config { optimizer: OptimizerName::Sgd, learning_rate: 0.02, ..config(6) };
    train_at(&network, &data, &config, &scratch.file(), |_| ())?;
    let weight = network.parameters()["conv1.weight"].flatten_all()?.to_vec1::<f32>()?;
    assert_eq!(weight, data.train.patch_whitening(2)?);
    assert!(evaluate(&network, &data.test)?.accuracy[0] > 0.9);
    let second = build([vec![conv(1, 1, 1, 0)], layers].concat(), 0);
    let error = train_at(&second, &data, &config, &scratch.0.join("second"), |_| ()).expect_err("not first");
    assert!(error.to_string().contains("conv2: a whitening convolution must be the first layer"), "{error}");
    Ok(())
}

#[test]
fn a_cascade_trains_the_last_exit_on_those_the_first_is_least_sure_of() -> Result<()> {
    let (scratch, data) = (Scratch::new("cascade"), common::quadrants(1, 64, 16));
    // Without batch normalisation and dropout samples do not depend on each other.
    let layers = [conv(1, 4, 3, 1), branch([max_pool(4, 4), relu(), linear(16, 4)]), relu(), linear(256, 4)];
    let network = |seed| Network::new("small", [1, 8, 8], layers.clone(), seed, &Device::Cpu);
    // One step on all images, of which the last exit gets half.
    let config = Config { batch_size: 64, exit_weights: vec![0.0, 1.0], ..config(1) };
    let one_step = |config: Config, samples: &[usize]| -> Result<_> {
        let mut part = data.clone();
        let (images, labels): (Vec<&[u8]>, Vec<u32>) =
            samples.iter().map(|&i| (data.train.image(i), data.train.labels()[i])).unzip();
        part.train = Split::new(images.concat(), labels, [1, 8, 8])?;
        let network = network(0)?;
        let config = Config { optimizer: OptimizerName::Sgd, learning_rate: 0.1, ..config };
        train_at(&network, &part, &config, &scratch.0.join(samples.len().to_string()), |_| ())?;
        Ok(network.parameters()["linear1.weight"].flatten_all()?.to_vec1::<f32>()?)
    };
    let all: Vec<usize> = (0..data.train.len()).collect();
    let record = ExitRecord::collect(&network(0)?, &data.train)?;
    let unsure = |&i: &usize| record.predictions(0)[i].uncertainty;
    let mut hardest = all.clone();
    hardest.sort_by(|a, b| unsure(b).total_cmp(&unsure(a)));
    hardest.truncate(all.len() / 2);
    let cascade = one_step(Config { cascade_fraction: 0.5, ..config.clone() }, &all)?;
    let expected = one_step(config, &hardest)?;
    let apart = cascade.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let moved = Tensor::new(expected, &Device::Cpu)?
        .sub(&network(0)?.parameters()["linear1.weight"].flatten_all()?)?
        .abs()?
        .max_all()?
        .to_scalar::<f32>()?;
    assert!(apart < 1e-5 * moved.max(0.01) && moved > 1e-3, "{apart} apart, {moved} moved");
    Ok(())
}

#[test]
fn the_same_seed_gives_the_same_weights_and_another_does_not() -> Result<()> {
    let (scratch, data) = (Scratch::new("seed"), quadrants());
    let run = |file: &str, seed| -> Result<_> {
        let network = build(layers(), 0);
        let config = Config { seed, ..config(2) };
        train_at(&network, &data, &config, &scratch.0.join(file), |_| ())?;
        bits(&network)
    };
    assert_eq!(run("a", 5)?, run("b", 5)?);
    assert_ne!(run("a2", 5)?, run("c", 6)?);
    Ok(())
}

/// What is killed: 30 epochs, with everything that Adam and SGD have.
fn killed(optimizer: OptimizerName) -> Config {
    match optimizer {
        OptimizerName::Adam => Config {
            objective: Objective {
                distillation: 0.3,
                gating: 0.5,
                equilibrium: true,
                balanced: true,
                ..Objective::default()
            },
            schedule: Schedule::Rex,
            augment: true,
            augmentation: Augmentation::Wide,
            ..config(30)
        },
        OptimizerName::Sgd => Config {
            optimizer,
            warmup: 3,
            schedule: Schedule::Triangle,
            sgd: Sgd {
                nesterov: true,
                norm_rate: 4.0,
                weight_decay: 1e-3,
                decay_weights_only: true,
                ..Sgd::default()
            },
            lookahead: true,
            label_smoothing: 0.1,
            augment: true,
            augmentation: Augmentation::Alternating,
            ..config(30)
        },
    }
}

/// The child of the next tests: trains at the path that the environment names.
#[test]
fn child_that_trains_until_it_is_killed() -> Result<()> {
    for (variable, optimizer) in CHILDREN {
        if let Some(path) = std::env::var_os(variable) {
            train_at(&build(layers(), 0), &quadrants(), &killed(optimizer), Path::new(&path), |_| ())?;
        }
    }
    Ok(())
}

const CHILDREN: [(&str, OptimizerName); 2] =
    [("BRANCHYNET_TEST_ADAM", OptimizerName::Adam), ("BRANCHYNET_TEST_SGD", OptimizerName::Sgd)];

#[test]
fn a_run_killed_at_any_moment_ends_in_the_same_weights() -> Result<()> {
    CHILDREN.into_iter().try_for_each(|(variable, optimizer)| kill_and_compare(variable, optimizer))
}

fn kill_and_compare(variable: &str, optimizer: OptimizerName) -> Result<()> {
    let (scratch, data) = (Scratch::new(&format!("kill-{optimizer:?}")), quadrants());
    let undisturbed = build(layers(), 0);
    let started = std::time::Instant::now();
    let path = scratch.0.join("undisturbed.safetensors");
    train_at(&undisturbed, &data, &killed(optimizer), &path, |_| ())?;
    let whole = started.elapsed();
    let child = || {
        std::process::Command::new(std::env::current_exe().expect("a test program"))
            .args(["child_that_trains_until_it_is_killed", "--exact"])
            .env(variable, scratch.file())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("the test program starts")
    };
    // Killed (SIGKILL) three times, a quarter of the run after each start.
    for _ in 0..3 {
        let mut child = child();
        std::thread::sleep(whole / 4);
        let _ = child.kill();
        child.wait()?;
    }
    assert!(child().wait()?.success());
    let resumed = build(layers(), 0);
    assert_eq!(load_checkpoint(&resumed, &scratch.file())?.len(), 30);
    assert_eq!(bits(&resumed)?, bits(&undisturbed)?);
    Ok(())
}

#[test]
fn a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint() -> Result<()> {
    let (scratch, data) = (Scratch::new("nan"), quadrants());
    let network = build(layers(), 0);
    train_at(&network, &data, &config(2), &scratch.file(), |_| ())?;
    let good = std::fs::read(scratch.file())?;
    let bias = &network.parameters()["branch1.linear1.bias"];
    bias.set(&(bias.ones_like()? * f64::NAN)?)?;
    let error = train_at(&network, &data, &config(2), &scratch.0.join("other"), |_| ())
        .expect_err("the loss is NaN")
        .to_string();
    assert!(error.starts_with("epoch 1, step 1: the loss of exit 1 is NaN"), "{error}");
    assert!(!scratch.0.join("other").exists());
    assert_eq!(std::fs::read(scratch.file())?, good);
    // Diverging on the way: the error names where, and what was written before stays readable.
    let wild = Config { learning_rate: 1e30, ..config(3) };
    let network = build(layers(), 0);
    let error = train_at(&network, &data, &wild, &scratch.0.join("wild"), |_| ())
        .expect_err("it diverges")
        .to_string();
    assert!(error.contains("the loss of exit") && error.contains("Try a smaller learning rate"), "{error}");
    Ok(())
}

#[test]
fn more_epochs_go_on_from_a_finished_run_or_say_why_not() -> Result<()> {
    let data = common::quadrants(1, 120, 40);
    let name = format!("longer-{}", std::process::id());
    let build = || Network::new(&name, [1, 8, 8], layers(), 0, &Device::Cpu);
    let run = |config: &Config| -> Result<(Network, Run, String)> {
        let (network, mut said) = (build()?, String::new());
        let say = &mut |progress: Progress<'_>| said += &format!("{}\n", progress.text());
        let run = train_with(&network, &data, config, &Keep::default(), say)?;
        Ok((network, run, said))
    };
    let scratch = Scratch::new("longer");
    let constant = |epochs| Config { final_learning_rate: 1.0, ..config(epochs) };
    let straight = build()?;
    train_at(&straight, &data, &constant(3), &scratch.file(), |_| ())?;
    let first = run(&constant(2))?;
    let (network, longer, said) = run(&constant(3))?;
    assert_eq!((first.1.found, longer.found, longer.history.len()), (0, 2, 3));
    assert!(said.contains("goes on from the 2 epochs in"), "{said}");
    // As if it had been trained in one go, bit for bit.
    assert_eq!(bits(&network)?, bits(&straight)?);
    // Step sizes that fall until the last epoch.
    let falling = [run(&config(2))?, run(&config(3))?];
    assert_eq!(falling[1].1.found, 0);
    assert!(falling[1].2.contains("begins anew: the run of 2 epochs in"), "{}", falling[1].2);
    for (_, run, _) in [first, (network, longer, said)].into_iter().chain(falling) {
        std::fs::remove_file(run.checkpoint)?;
    }
    Ok(())
}

#[test]
fn labels_that_are_no_class_are_refused_before_the_first_step() -> Result<()> {
    let (scratch, mut data) = (Scratch::new("labels"), quadrants());
    data.train = Split::new(vec![0; 64 * 40], vec![4; 40], [1, 8, 8])?;
    let network = build(layers(), 0);
    let error = train_at(&network, &data, &config(1), &scratch.file(), |_| ()).expect_err("five classes");
    assert!(error.to_string().starts_with("an image of the train split is of class 4 (counted from 0), and the network's exits tell 4 classes apart"), "{error}");
    assert!(evaluate(&network, &data.train).is_err() && !scratch.file().exists());
    Ok(())
}

#[test]
fn images_of_another_size_are_refused_before_the_first_step() -> Result<()> {
    let (scratch, data) = (Scratch::new("sizes"), quadrants());
    // Its pooling makes the same of images one pixel smaller.
    let layers = vec![branch([max_pool(4, 4), linear(4, 4)]), max_pool(4, 4), linear(4, 4)];
    let network = Network::new("small", [1, 7, 8], layers, 0, &Device::Cpu)?;
    let error =
        train_at(&network, &data, &config(1), &scratch.file(), |_| ()).expect_err("larger").to_string();
    assert!(error.starts_with("small takes images of 1×7×8, and those of quadrants are of 1×8×8"), "{error}");
    assert!(!scratch.file().exists());
    let error = evaluate(&network, &data.test).expect_err("larger").to_string();
    assert!(error.starts_with("small takes images (batch, 1, 7, 8) in f32"), "{error}");
    let bytes = Tensor::zeros((1, 1, 7, 8), DType::U8, &Device::Cpu)?;
    let error = network.classify(&bytes, &ExitPolicy::new(Criterion::Entropy, [0.1])).expect_err("bytes");
    assert!(error.to_string().contains("got [1, 1, 7, 8] in U8"), "{error}");
    assert!(data.test.batch(&[data.test.len()], &Device::Cpu).is_err());
    let mut rng = Rng::seed_from_u64(0);
    let altered =
        data.test.augmented_batch(&[data.test.len()], Augmentation::default(), 1, &mut rng, &Device::Cpu);
    assert!(altered.is_err());
    Ok(())
}

#[test]
fn bad_settings_and_files_are_refused_in_one_line() -> Result<()> {
    let (scratch, data) = (Scratch::new("bad"), quadrants());
    let network = build(layers(), 0);
    let refused = |config: Config, part: &str| {
        let error = train_at(&network, &data, &config, &scratch.file(), |_| ()).expect_err(part).to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
        assert!(!scratch.file().exists());
    };
    refused(Config { epochs: 0, ..config(1) }, "epochs and batch_size must be at least 1");
    refused(Config { exit_weights: vec![1.0], ..config(1) }, "exit_weights must be 2 numbers");
    refused(Config { exit_weights: vec![1.0, f64::NAN], ..config(1) }, "exit_weights must be 2 numbers");
    refused(Config { exit_weights: vec![0.0; 2], ..config(1) }, "exit_weights are 0 for every exit");
    refused(Config { learning_rate: -1.0, ..config(1) }, "learning_rate must be above 0");
    let adam = Adam { beta1: 1.0, ..Adam::default() };
    refused(Config { adam, ..config(1) }, "beta1 and beta2 must be in 0..1");
    let sgd = Config { optimizer: OptimizerName::Sgd, ..config(1) };
    let decay = |weight_decay: f64| Sgd { weight_decay, ..Sgd::default() };
    refused(Config { sgd: decay(f64::NAN), ..sgd.clone() }, "weight_decay must be at least 0");
    // What the optimizer does not have is not ignored.
    refused(
        Config { sgd: decay(0.1), ..config(1) },
        "weight_decay=0.1 is for optimizer=sgd, and this is adam",
    );
    let adam = Adam { beta1: 0.5, ..Adam::default() };
    refused(Config { adam, ..sgd }, "beta1=0.5 is for optimizer=adam, and this is sgd");
    refused(Config { warmup: 2, ..config(2) }, "warmup must be shorter than the 2 epochs");
    // A checkpoint of something else, and one cut short.
    train_at(&network, &data, &config(1), &scratch.file(), |_| ())?;
    let before = bits(&network)?;
    let other = build(vec![networks::linear(64, 4)], 0);
    let error = load_checkpoint(&other, &scratch.file()).expect_err("other parameters").to_string();
    assert!(error.contains("linear1.bias is [16], but quadrants needs [4]"), "{error}");
    let error =
        train_at(&network, &data, &config(9), &scratch.file(), |_| ()).expect_err("another run").to_string();
    assert!(error.contains("holds another run: its epochs is 1, and 9 is asked for;"), "{error}");
    let image = Tensor::zeros(2, DType::F32, &Device::Cpu)?;
    let tensors = scratch.file().with_extension("other");
    image.save_safetensors("weight", &tensors)?;
    let error = load_checkpoint(&network, &tensors).expect_err("tensors");
    assert!(
        error.to_string().contains("is no checkpoint: it is a file of tensors by another program; name a checkpoint that branchynet wrote"),
        "{error}"
    );
    let bytes = std::fs::read(scratch.file())?;
    let mut damaged = vec![bytes[..bytes.len() / 2].to_vec()];
    for i in 0..100 {
        let mut altered = bytes.clone();
        altered[i * bytes.len() / 100] ^= 1 << (i % 8);
        damaged.push(altered);
    }
    for damaged in damaged {
        std::fs::write(scratch.file(), damaged)?;
        let error = load_checkpoint(&network, &scratch.file()).expect_err("a damaged file").to_string();
        assert!(error.contains("is not a whole checkpoint"), "{error}");
    }
    assert_eq!(bits(&network)?, before);
    Ok(())
}
