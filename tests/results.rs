//! Exit records as files, and how an experiment finds them.

mod common;

use branchynet::candle_core::Device;
use branchynet::data::{Preprocessing, Test, Validation};
use branchynet::exits::{Criterion, ExitRecord, Gate, Loss, Prediction, Readout, pareto_optimal};
use branchynet::files::project_dir;
use branchynet::networks::{BranchStyle, Pass, branch, linear, relu, without_branches};
use branchynet::training::{Config, Epoch, Scores, evaluate};
use branchynet::{Error, Network, Result, Rng, clap};
use branchynet_runs::{
    Baseline, Experiment, Pretrained, Results, RunInfo, Session, Settings, Source, Summary, Trained, names,
};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use std::io::Write;
use std::path::PathBuf;

fn experiment() -> Experiment {
    Experiment {
        name: "B-Tiny".to_string(),
        layers: vec![branch([linear(784, 10)]), linear(784, 10)],
        data: "mnist".into(),
        preprocessing: Preprocessing::Unit,
        zero_start: false,
        train_images: Some(100),
        test_images: None,
        baseline_epochs: 1,
        matched: true,
        criterion: Criterion::Entropy,
        branch_style: BranchStyle::default(),
        config: Config { epochs: 2, ..Config::default() },
    }
}

/// For [`common::quadrants`] of one channel.
fn of_quadrants() -> Experiment {
    let layers = vec![branch([linear(64, 4)]), linear(64, 32), relu(), linear(32, 4)];
    Experiment { layers, ..experiment() }
}

fn made_up(experiment: &Experiment) -> Result<Results> {
    let logits = |exit: usize| (0..300).map(|i| (i as f32 * 0.37 + exit as f32).sin()).collect();
    let labels: Vec<u32> = (0..30).map(|i| i % 10).collect();
    let scores = Scores { loss: vec![0.5, 0.25], accuracy: vec![0.8, 0.9] };
    let history = vec![Epoch {
        epoch: 1,
        train: scores.clone(),
        validation: scores,
        device: "CPU".to_string(),
        images_per_second: 12.5,
        seconds: 3.25,
    }];
    let baseline = |exit| -> Result<_> {
        let test = ExitRecord::from_logits(vec![logits(exit)], labels.clone())?;
        Ok(Some(Baseline { history: history.clone(), test }))
    };
    Ok(Results {
        run: RunInfo {
            settings: experiment.settings(),
            data: "MNIST (trained on 100)".to_string(),
            commit: "abc".to_string(),
            history: history.clone(),
        },
        made: 1_700_000_000,
        origin: String::new(),
        validation: ExitRecord::<Validation>::from_logits(vec![logits(0), logits(1)], labels.clone())?,
        test: ExitRecord::<Test>::from_logits(vec![logits(2), logits(3)], labels.clone())?,
        baseline: baseline(4)?,
        matched: baseline(5)?,
        costs: None,
        warnings: Vec::new(),
    })
}

fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("branchynet-{}-{name}.safetensors.gz", std::process::id()))
}

#[test]
fn a_record_comes_back_bit_for_bit() -> Result<()> {
    let (path, results) = (file("record"), made_up(&experiment())?);
    results.write(&path)?;
    let again = Results::read(&path)?;
    assert_eq!(again.run.settings, results.run.settings);
    assert_eq!((&again.run.commit, again.made), (&results.run.commit, results.made));
    assert_eq!(again.run.history, results.run.history);
    for exit in 0..2 {
        assert_eq!(again.validation.logits(exit), results.validation.logits(exit));
        assert_eq!(again.test.logits(exit), results.test.logits(exit));
    }
    assert_eq!(again.test.labels(), results.test.labels());
    let pairs = [(&again.baseline, &results.baseline), (&again.matched, &results.matched)];
    for (again, before) in pairs {
        let (again, before) = (again.as_ref().expect("there"), before.as_ref().expect("there"));
        assert_eq!((&again.history, again.test.logits(0)), (&before.history, before.test.logits(0)));
    }
    assert_ne!(
        results.baseline.as_ref().map(|b| b.test.logits(0)),
        results.matched.as_ref().map(|b| b.test.logits(0))
    );
    assert!(again.caption().contains("1 + 2 epochs") && again.caption().contains("record "));
    // Cut short, too long, something else, and a byte altered anywhere behind the head of the gzip
    // file, which holds nothing that counts.
    let bytes = std::fs::read(&path)?;
    let mut damaged =
        vec![bytes[..bytes.len() / 2].to_vec(), [&bytes[..], b"more"].concat(), b"not a record".to_vec()];
    for i in 0..100 {
        let mut altered = bytes.clone();
        altered[10 + i * (bytes.len() - 10) / 100] ^= 1 << (i % 8);
        damaged.push(altered);
    }
    for damaged in damaged {
        std::fs::write(&path, damaged)?;
        let error = Results::read(&path).expect_err("damaged").to_string();
        assert!(error.contains("is not a whole exit record") && !error.contains('\n'), "{error}");
    }
    std::fs::remove_file(&path)?;
    Ok(())
}

#[test]
fn settings_tell_experiments_apart() -> Result<()> {
    let base = experiment().settings();
    type Change = fn(&mut Experiment);
    let changes: [Change; 7] = [
        |e| e.test_images = Some(10),
        |e| e.config.seed = 1,
        |e| e.config.exit_weights = vec![1.0, 0.3],
        |e| e.baseline_epochs = 2,
        |e| e.train_images = None,
        |e| e.preprocessing = Preprocessing::Channels,
        |e| e.layers = vec![branch([linear(784, 10)]), linear(784, 11), linear(11, 10)],
    ];
    for change in changes {
        let mut changed = experiment();
        change(&mut changed);
        assert_ne!(changed.settings(), base);
        assert_ne!(Results::default_path(&changed.settings())?, Results::default_path(&base)?);
    }
    // Weights of 1 written out are the default's.
    let mut same = experiment();
    same.config.exit_weights = vec![1.0, 1.0];
    assert_eq!(same.settings(), base);
    Ok(())
}

/// What was written before a setting existed means its default, under the same name.
#[test]
fn a_new_setting_with_a_default_orphans_nothing() -> Result<()> {
    let settings = experiment().settings();
    let mut json = serde_json::to_value(&settings)?;
    let config = json["config"].as_object_mut().expect("an object");
    assert!(config.remove("precision").is_some() && config.remove("beta2").is_some());
    let older = serde_json::from_value(json)?;
    assert_eq!(settings, older);
    // The name holds no setting that has its default value.
    let mut other = experiment();
    other.config.adam.beta2 = 0.99;
    let path = Results::default_path(&settings)?;
    assert_ne!(path, Results::default_path(&other.settings())?);
    assert_eq!(path.file_name().and_then(|name| name.to_str()), Some("b-tiny-a6bbd853.safetensors.gz"));
    Ok(())
}

/// The runs of the table of reference runs: their names, and the settings that they ask for.
fn table() -> Result<Vec<(String, Session)>> {
    let path = project_dir().join("datasets/reference/runs.csv");
    let text = std::fs::read_to_string(path)?;
    let mut runs = Vec::new();
    for line in text.lines().skip(1) {
        let cells: Vec<&str> = line.split(';').collect();
        let [run, network, settings, seeds, keeps, hours] = cells[..] else {
            panic!("{line}: six columns are expected")
        };
        assert!(["record", "weights", "summary"].contains(&keeps) && hours.parse::<f64>().is_ok(), "{line}");
        let (first, last) = seeds.split_once('-').unwrap_or((seeds, seeds));
        let (first, last): (u64, u64) = (first.parse().expect("a seed"), last.parse().expect("a seed"));
        for seed in first..=last {
            let arguments = [network].into_iter().chain(settings.split_whitespace());
            let seeded = arguments.map(str::to_string).chain(["--seed".to_string(), seed.to_string()]);
            let command = Session::arguments(clap::Command::new("run").no_binary_name(true));
            let matches =
                command.try_get_matches_from(seeded).unwrap_or_else(|error| panic!("{line}: {error}"));
            runs.push((format!("{run}-{seed}"), Session::from_matches(&matches)?));
        }
    }
    Ok(runs)
}

/// Committed records are of the splits that the stored data sets still have.
#[test]
fn the_splits_of_recorded_runs_are_as_they_were() -> Result<()> {
    for name in ["mnist", "cifar10"] {
        let source = Source::from(name);
        if !project_dir().join(format!("datasets/{name}.safetensors")).exists() {
            println!("skipped: {name} is not there");
            continue;
        }
        let data = source.load()?;
        let whole = |settings: &Settings| settings.data == name && settings.train_images.is_none();
        let records = Results::recorded(|settings| whole(settings) && settings.test_images.is_none())?;
        for record in records.iter().filter(|record| record.run.data == data.name).take(1) {
            assert_eq!(record.validation.labels(), data.validation.labels());
            assert_eq!(record.test.labels(), data.test.labels());
        }
    }
    Ok(())
}

/// Each committed record is of its line of the table, or of an experiment's default settings, and holds
/// what it claims.
#[test]
fn reference_records_are_whole_and_of_the_settings_of_their_run() -> Result<()> {
    let runs = table()?;
    let mut records = Results::recorded(|_| true)?;
    records.retain(|record| record.origin.contains("datasets/reference/"));
    assert!(records.len() >= 3);
    for record in &records {
        let run = runs.iter().find(|(name, _)| record.origin.ends_with(&format!("/{name}.safetensors.gz")));
        let matching = match run {
            Some((_, session)) => session.experiment.settings() == record.run.settings,
            None => names()
                .filter_map(|name| Experiment::named(name).ok())
                .any(|experiment| experiment.settings() == record.run.settings),
        };
        assert!(matching, "{} is not of the settings of its run", record.origin);
        assert_eq!(record.run.history.len(), record.run.settings.config.epochs);
        let epochs = |of: &Option<Baseline>| of.as_ref().map_or(0, |baseline| baseline.history.len());
        assert_eq!(epochs(&record.baseline), record.run.settings.baseline_epochs);
        if record.matched.is_some() {
            assert_eq!(epochs(&record.matched), record.run.settings.config.epochs);
        }
        assert_eq!((record.validation.len(), record.test.len()), (5_000, 10_000));
        // The history's last validation accuracy is that of the recorded logits.
        let last = record.run.history.last().map(|epoch| &epoch.validation.accuracy);
        assert_eq!(last, Some(&record.validation.exit_accuracy()));
    }
    Ok(())
}

/// With one threshold, and with two, whose order takes half of the images.
#[test]
fn a_guarantee_is_kept_as_often_as_it_says() -> Result<()> {
    // A tenth of the divisions may break it; that as many do as are given last has a probability of 0.1 %.
    for (name, costs, divisions, too_many) in
        [("lenet-0", vec![1.0, 5.0], 100, 20), ("alexnet-0", vec![1.0, 1.4, 1.6], 50, 14)]
    {
        let results =
            Results::read(&project_dir().join(format!("datasets/reference/{name}.safetensors.gz")))?;
        let all = results.validation.joined(&results.test)?;
        let last: Vec<usize> =
            all.predictions(costs.len() - 1).iter().map(|prediction| prediction.label).collect();
        let (epsilon, delta) = (0.01, 0.1);
        for loss in [Loss::Different, Loss::Wrong] {
            let (mut broken, mut early) = (0, 0.0);
            for division in 0..divisions {
                let mut samples: Vec<usize> = (0..all.len()).collect();
                samples.shuffle(&mut Rng::seed_from_u64(division as u64));
                let (choose, rest) = samples.split_at(2_000);
                let chosen = all.select(choose)?.learn_then_test(loss, epsilon, delta, &costs)?;
                let others = all.select(rest)?;
                let answers = others.answers(&chosen.thresholds)?;
                let lost =
                    answers.iter().zip(rest).zip(others.labels()).filter(|((answer, sample), label)| {
                        let (ours, theirs, label) = (answer.label, last[**sample], **label as usize);
                        ours != theirs && (loss == Loss::Different || theirs == label)
                    });
                broken += usize::from(lost.count() as f64 > epsilon * rest.len() as f64);
                early += (1.0 - chosen.shares()[costs.len() - 1]) / f64::from(divisions);
            }
            assert!(broken < too_many, "{name}, {loss:?}: broken in {broken} of {divisions}");
            assert!(early > 0.3, "{name}, {loss:?}: only {early} leave early");
            println!("{name}, {loss:?}: broken in {broken} of {divisions}, {early} leave early");
        }
        assert!(all.learn_then_test(Loss::Wrong, 0.0, 0.05, &costs).is_err());
    }
    Ok(())
}

#[test]
fn a_summary_says_what_the_networks_do_and_comes_back() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("branchynet-summary-{}", std::process::id()));
    let data = common::quadrants(1, 400, 100);
    let experiment = of_quadrants();
    let build = |layers| Network::new("tiny", [1, 8, 8], layers, 0, &Device::Cpu);
    let (baseline, network) =
        (build(without_branches(&experiment.layers))?, build(experiment.layers.clone())?);
    let of_test = |network: &Network| Ok::<f64, Error>(evaluate(network, &data.test)?.accuracy[0]);
    let train = |network: &Network, file: &str| {
        common::train_at(network, &data, &experiment.config, &folder.join(file), |_| ())
    };
    let of_baseline = train(&baseline, "baseline")?;
    let baseline_accuracy = of_test(&baseline)?;
    let run = train(&network, "network")?;
    let trained = Trained { baseline: Some((baseline, of_baseline)), network, run, matched: None };
    let summary = Summary::collect(&experiment, &trained, &data)?;
    let (network, exits) = (&trained.network, &summary.exits);
    let expected = [evaluate(network, &data.train)?, evaluate(network, &data.test)?];
    for (exit, of_exit) in exits.iter().enumerate() {
        assert_eq!([of_exit.train, of_exit.test], [expected[0].accuracy[exit], expected[1].accuracy[exit]]);
        assert_eq!(of_exit.validation, summary.run.history[1].validation.accuracy[exit]);
    }
    assert!(summary.baseline.is_some_and(|baseline| baseline.test == baseline_accuracy));
    assert!(summary.matched.is_none());
    let lossless = &summary.choices[0];
    let macs = network.macs();
    let mean: f64 = lossless.shares.iter().zip(&macs).map(|(share, macs)| share * macs).sum();
    assert_eq!(lossless.name, "no loss");
    assert!((1.0 / lossless.cost - (macs[1] - macs[0]) / mean).abs() < 1e-9);
    let changed = summary.choices.last().expect("choices");
    let validation = ExitRecord::collect(network, &data.validation)?;
    assert_eq!(changed.name, "1 % changed");
    assert!(100 * validation.lost(Loss::Different, &changed.thresholds)? <= validation.len());
    // It has one branch alone.
    let [alone] = &summary.alone[..] else { panic!("one branch, one choice") };
    assert_eq!(
        (alone.accuracy, &alone.shares, alone.cost),
        (lossless.accuracy, &lossless.shares, lossless.cost)
    );
    let path = folder.join("summary.json");
    summary.write(&path)?;
    let read = Summary::read(&path)?;
    assert_eq!(
        (&read.run.settings, &read.exits, &read.baseline),
        (&summary.run.settings, exits, &summary.baseline)
    );
    assert_eq!(read.run.history.len(), 2);
    for (read, choice) in read.choices.iter().zip(&summary.choices) {
        assert_eq!(
            (&read.name, read.accuracy, &read.shares),
            (&choice.name, choice.accuracy, &choice.shares)
        );
        assert!((read.cost / choice.cost - 1.0).abs() < 1e-12);
    }
    std::fs::write(&path, "{}")?;
    assert!(Summary::read(&path).is_err());
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

/// Each committed summary is of its line of the table, and holds what it claims.
#[test]
fn reference_summaries_are_of_the_settings_of_their_run() -> Result<()> {
    let folder = project_dir().join("datasets/reference/summaries");
    let runs = table()?;
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry?.path();
        let summary = Summary::read(&path)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (_, session) = runs
            .iter()
            .find(|(run, _)| *run == name)
            .unwrap_or_else(|| panic!("{name} is in no line of the table"));
        assert_eq!(session.experiment.settings(), summary.run.settings, "{name}");
        assert_eq!(summary.run.history.len(), summary.run.settings.config.epochs, "{name}");
        let last = &summary.run.history[summary.run.history.len() - 1].validation.accuracy;
        let recorded: Vec<f64> = summary.exits.iter().map(|exit| exit.validation).collect();
        assert_eq!(*last, recorded, "{name}");
    }
    Ok(())
}

/// The committed weights give the logits of their run's record, on the first test images.
#[test]
fn trained_weights_agree_with_their_record() -> Result<()> {
    const IMAGES: usize = 300;
    let folder = project_dir().join("datasets/reference/weights");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            continue;
        }
        seen += 1;
        let weights = Pretrained::read(&path, &Device::Cpu)?;
        let settings = &weights.about.settings;
        let mut records = Results::recorded(|other| other == settings)?;
        records.retain(|record| record.origin.contains("datasets/reference/"));
        let [record] = &records[..] else { panic!("{} has not one record", path.display()) };
        let policies = &weights.about.policies;
        let criterion = &policies[0].1.readout.criterion;
        assert_eq!(*policies, record.by(criterion).policies(&weights.network.macs())?, "{}", path.display());
        let source = Source::from(settings.data.as_str());
        let Ok(data) = source.load().and_then(|data| data.preprocessed(settings.preprocessing)) else {
            let _ = writeln!(std::io::stderr(), "SKIPPED: {} is not here", settings.data);
            continue;
        };
        let samples: Vec<usize> = (0..IMAGES).collect();
        let images = data.test.batch(&samples, &Device::Cpu)?;
        let logits = weights.network.forward(&images, &mut Pass::Evaluate)?;
        for (exit, logits) in logits.iter().enumerate() {
            let recorded = record.test.logits(exit);
            for (&z, recorded) in logits.flatten_all()?.to_vec1::<f32>()?.iter().zip(recorded) {
                // Processors differ in the order of sums.
                assert!((z - recorded).abs() < 1e-3 * (1.0 + recorded.abs()), "exit {exit}: {z}, {recorded}");
            }
        }
    }
    assert!(seen > 0);
    Ok(())
}

/// Also where exits have temperatures and answer together.
#[test]
fn exported_weights_decide_as_their_record() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("branchynet-export-{}", std::process::id()));
    let data = common::quadrants(1, 4_000, 500);
    let experiment = of_quadrants();
    let network = Network::new("tiny", [1, 8, 8], experiment.layers.clone(), 0, &Device::Cpu)?;
    let run = common::train_at(&network, &data, &experiment.config, &folder.join("run"), |_| ())?;
    let trained = Trained { baseline: None, network, run, matched: None };
    let plain = Results::collect(&experiment, &trained, &data)?;
    let temperatures = plain.validation.temperatures();
    let images = data.test.batch(&(0..500).collect::<Vec<_>>(), &Device::Cpu)?;
    for (criterion, temperatures, ensemble) in [
        (Criterion::Entropy, vec![], false),
        (Criterion::Margin, temperatures.clone(), true),
        (Criterion::Gate(Gate::fit(&plain.validation)), temperatures, false),
    ] {
        let results = plain.read_by(&Readout { criterion, temperatures, ensemble })?;
        let path = folder.join("weights.safetensors");
        Pretrained::of(&trained, &results, &data)?.write(&path)?;
        let weights = Pretrained::read(&path, &Device::Cpu)?;
        for (name, policy) in &weights.about.policies {
            let replay = results.test.answers(&policy.thresholds)?;
            assert_eq!(weights.network.classify(&images, policy)?, replay, "{name}: {policy:?}");
        }
        let promise = weights.policy("1 % guaranteed")?.promise;
        assert_eq!(
            promise.map(|promise| (promise.epsilon, promise.images)),
            Some((0.01, plain.validation.len()))
        );
    }
    let own = plain.by(&Criterion::own("mine", |_| 0.0));
    let error = Pretrained::of(&trained, &own, &data).expect_err("no file can hold it").to_string();
    assert!(error.contains("the criterion mine"), "{error}");
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

/// Thresholds as text decide for every sample as the numbers they were.
#[test]
fn fronts_of_reference_records_go_through_text_and_back() -> Result<()> {
    let mut points = 0;
    for record in Results::recorded(|_| true)? {
        let exits = record.validation.exits();
        let costs: Vec<f64> = (1..=exits).map(|exit| exit as f64).collect();
        let front = match record.validation.front_is_exact() {
            true => record.validation.pareto_front(&costs)?,
            false => pareto_optimal(record.validation.shared_curve(&costs)?),
        };
        for point in front {
            let text = record.shortest(&point.thresholds).iter().map(f64::to_string).collect::<Vec<_>>();
            let read: Vec<f64> = text.iter().map(|text| text.parse().expect("a number")).collect();
            for (exit, (read, threshold)) in read.iter().zip(&point.thresholds).enumerate() {
                let validation = record.validation.predictions(exit).iter();
                for Prediction { uncertainty, .. } in validation.chain(record.test.predictions(exit)) {
                    assert_eq!(uncertainty < read, uncertainty < threshold, "{}: {text:?}", record.origin);
                }
            }
            points += 1;
        }
    }
    assert!(points > 1_000, "{points}");
    Ok(())
}

#[test]
fn damaged_weights_are_refused() -> Result<()> {
    let bytes = std::fs::read(Pretrained::path("lenet"))?;
    let path = std::env::temp_dir().join(format!("branchynet-weights-{}", std::process::id()));
    for i in 0..40 {
        let mut altered = bytes.clone();
        altered[i * bytes.len() / 40] ^= 1 << (i % 8);
        std::fs::write(&path, altered)?;
        let error = Pretrained::read(&path, &Device::Cpu).expect_err("damaged").to_string();
        assert!(error.contains("is not a whole file of weights") && !error.contains('\n'), "{error}");
    }
    std::fs::remove_file(&path)?;
    // Found by their settings too; others have none.
    let session = |seed: &str| {
        let command = Session::arguments(clap::Command::new("run").no_binary_name(true));
        Session::from_matches(&command.get_matches_from(["lenet", "--seed", seed]))
    };
    assert_eq!(session("0")?.trained()?.name(), "B-LeNet");
    let error = session("987654321")?.trained().expect_err("never trained").to_string();
    assert!(error.contains("no trained weights of B-LeNet with these settings"), "{error}");
    let error = Pretrained::named("vgg", &Device::Cpu).expect_err("there are none").to_string();
    assert!(error.contains("which holds: "), "{error}");
    Ok(())
}
