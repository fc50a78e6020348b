//! The program: settings, messages, exit codes.

use branchynet::candle_core::{Device, Tensor, safetensors};
use branchynet_runs::{OnnxFile, Recording, Results};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::process::{Command, Stdio};

/// Exit code, standard output and standard error.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output = Command::new(Path::new(env!("CARGO_BIN_EXE_branchynet")))
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_program_explains_itself_and_its_exit_codes_tell_failures_apart() {
    let (code, help, _) = run(&["--help"], &[]);
    assert!(code == Some(0) && help.contains("Usage:") && help.contains("train"));
    let (code, help, _) = run(&["train", "--help"], &[]);
    assert!(code == Some(0) && help.starts_with("Train the baseline") && help.contains("LEARNING_RATE"));
    // A subcommand's own flags come before the settings, which show the network's defaults.
    let (_, help, _) = run(&["sweep", "alexnet", "--help"], &[]);
    assert!(help.find("--guarantee") < help.find("--learning-rate"), "{help}");
    assert!(help.contains("[default: 40]") && help.contains("[default: yes]"), "{help}");
    let (code, settings, _) = run(&["settings"], &[]);
    assert!(code == Some(0) && settings.contains("FINAL_RATE"));
    for (expected, arguments) in [
        (2, &[][..]),
        (2, &["frobnicate"]),
        (2, &["--frobnicate"]),
        (2, &["datasets", "--from"]),
        (2, &["train"]),
        (2, &["train", "vgg"]),
        (2, &["train", "alexnet", "--epochs", "ten"]),
        (2, &["train", "alexnet", "--weights", "1,2"]),
        (2, &["train", "alexnet", "--augment", "maybe"]),
        (2, &["train", "alexnet", "--momentum", "0.5"]),
        (2, &["train", "alexnet", "--preprocessing", "none"]),
        (2, &["train", "alexnet", "--output", "x"]),
        (2, &["sweep", "alexnet", "b"]),
        (2, &["sweep", "alexnet", "--criterion", "mood"]),
        (2, &["sweep", "alexnet", "--rows", "-1"]),
        (2, &["sweep", "alexnet", "--rows", "9", "--budgeted"]),
        (2, &["sweep", "alexnet", "--cost", "nan"]),
        (2, &["classify", "lenet", "1.png", "--thresholds", "0", "--choice", "knee"]),
        (1, &["classify", "1.png", "2.png"]),
        (1, &["train", "alexnet", "--device", "cuda:9"]),
        (1, &["evaluate", "alexnet", "--seed", "123456789"]),
        (1, &["sweep", "alexnet", "--record", "there/is/no/such.file"]),
        (1, &["datasets", "imagenet"]),
        (1, &["summary", "lenet", "--data", "nowhere"]),
    ] {
        let (code, _, error) = run(arguments, &[]);
        assert_eq!(code, Some(expected), "{arguments:?}: {error}");
        assert!(error.starts_with("branchynet: ") && error.trim_end().lines().count() == 1, "{error}");
    }
    let (code, summary, _) = run(&["summary", "resnet110"], &[]);
    assert!(code == Some(0) && summary.contains("residual block ×18"), "{summary}");
}

/// Values for a setting, one of which is not AlexNet's default: by what the list of settings calls them, else by its name.
fn other_values(variable: &str, called: &str) -> &'static [&'static str] {
    match (called, variable) {
        ("N", _) => &["77"],
        ("X", _) => &["0.25"],
        ("yes|no", _) => &["yes", "no"],
        (_, "WEIGHTS") => &["1,0.3,0.5"],
        (_, "SCHEDULE") => &["triangle"],
        (_, "AUGMENTATION") => &["alternating"],
        (_, "BRANCHES") => &["conv3:2x16"],
        (_, "OPTIMIZER") => &["sgd"],
        (_, "PRECISION") => &["tf32"],
        (_, "PREPROCESSING") => &["zca"],
        (_, "DATA") => &["mnist"],
        (_, "CRITERION") => &["margin"],
        (_, "DEVICE") => &["nowhere"],
        (_, "QUICK" | "RETRAIN" | "PAPER") => &["1"],
        (called, other) => panic!("a value {called} for the setting {other} is missing here"),
    }
}

#[test]
fn a_setting_means_the_same_as_a_flag_and_in_the_environment() {
    let (_, list, _) = run(&["settings"], &[]);
    let (of_adam, of_sgd) = (&["summary", "alexnet"][..], &["summary", "alexnet", "--optimizer", "sgd"][..]);
    let mut seen = 0;
    for line in list.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (variable, flag, called) = (words[0], words[1], words[2]);
        let changes = other_values(variable, called).iter().any(|value| {
            let switch = matches!(variable, "QUICK" | "RETRAIN" | "PAPER");
            let flagged = if switch { vec![flag] } else { vec![flag, value] };
            let by_flag = |start: &[&str]| run(&[start, &flagged].concat(), &[]);
            let refused = by_flag(of_adam).2.contains("is for optimizer=sgd");
            let start = if refused { of_sgd } else { of_adam };
            let (default, by_flag) = (run(start, &[]), by_flag(start));
            assert_eq!(by_flag, run(start, &[(variable, value)]), "{variable}");
            // Set to nothing is not set.
            assert_eq!(run(start, &[(variable, "")]), default);
            by_flag != default
        });
        assert!(changes, "{variable} changes nothing");
        seen += 1;
    }
    assert!(seen >= 18, "only {seen} settings are listed");
}

#[test]
fn exits_of_a_network_from_elsewhere_are_swept() {
    // Two exits, two classes, 400 samples; exit 1 is wrong about every tenth, and less sure of it. Costs in ms.
    let labels: Vec<u8> = [0, 1].repeat(200);
    let logits = |exit: usize| -> Vec<f32> {
        let row = |(i, &label): (usize, &u8)| {
            let (wrong, sure) = (exit == 0 && i % 10 == 0, 2.0 + (i % 10) as f32);
            if (label == 1) != wrong { [0.0, sure] } else { [sure, 0.0] }
        };
        labels.iter().enumerate().flat_map(row).collect()
    };
    let logits =
        Tensor::from_vec([logits(0), logits(1)].concat(), (2, 400, 2), &Device::Cpu).expect("logits");
    let labels = Tensor::from_vec(labels, 400, &Device::Cpu).expect("labels");
    let costs = Tensor::new(&[0.25f32, 1.0], &Device::Cpu).expect("costs");
    let mut arrays = HashMap::from([("costs".to_string(), costs)]);
    for split in ["validation", "test"] {
        arrays.insert(format!("{split}_logits"), logits.clone());
        arrays.insert(format!("{split}_labels"), labels.clone());
    }
    let path = std::env::temp_dir().join(format!("branchynet-mine-{}.safetensors", std::process::id()));
    safetensors::save(&arrays, &path).expect("a file");
    let sweep = |more: &[&str]| {
        let record = path.display().to_string();
        run(&[&["sweep", &record], more].concat(), &[])
    };
    let (code, out, error) = sweep(&[]);
    assert_eq!(code, Some(0), "{error}");
    // Nine in ten leave early at no loss: 0.9 · 0.25 + 0.1 · 1.0.
    assert!(out.contains("0.325") && out.contains("100.00"), "{out}");
    let (_, out, _) = sweep(&["--guarantee", "0.01"]);
    let chosen: Vec<&str> = out.lines().last().expect("a row").split_whitespace().collect();
    assert_eq!(chosen[1..], ["100.00", "0.325", "100.00", "0.325", "90.0,", "10.0"], "{out}");
    let (code, _, error) = sweep(&["--guarantee", "1"]);
    assert!(code == Some(2) && error.contains("above 0 and below 1"), "{error}");
    let printed = |args: &[&str]| sweep(args).1.lines().last().expect("a row").to_string();
    // With a network's name as before, and by another criterion.
    let record = path.display().to_string();
    assert_eq!(run(&["sweep", "lenet", "--record", &record], &[]).1, run(&["sweep", &record], &[]).1);
    assert!(printed(&["--criterion", "margin"]) != printed(&[]));
    // What is printed can be given back.
    let row = printed(&["--guarantee", "0.01"]);
    let threshold = row.split_whitespace().next().expect("a threshold");
    assert_eq!(printed(&["--grid", threshold]), row);
    // Budgets, and why one cannot be met.
    let json = |args: &[&str]| -> serde_json::Value {
        let (code, out, error) = sweep(&[args, &["--json"]].concat());
        assert_eq!(code, Some(0), "{error}");
        serde_json::from_str(&out).expect("JSON")
    };
    for args in [["--cost", "0.4"], ["--accuracy", "0.95"]] {
        for shared in [&[][..], &["--shared"]] {
            let points = &json(&[&args, shared].concat())["points"];
            assert_eq!(
                (points.as_array().map(Vec::len), points[0]["test"]["cost"].as_f64()),
                (Some(1), Some(0.325))
            );
        }
    }
    let front = &json(&[])["points"];
    assert!(front[0]["thresholds"][0] == "inf" && front[0]["validation"]["shares"][0] == 1.0, "{front}");
    for (args, part) in [
        (["--cost", "0.1"], "the cheapest cost 0.25"),
        (["--accuracy", "80"], "a share from 0 to 1, as in 0.92, got 80"),
        (["--epochs", "3"], "--epochs is for a network by name"),
        (["--latency-ms", "1"], "--latency-ms measures a network"),
    ] {
        let (code, _, error) = sweep(&args);
        assert!(code != Some(0) && error.contains(part), "{error}");
    }
    let (code, _, error) = sweep(&["--guarantee", "0.001"]);
    assert!(code == Some(0) && error.contains("takes 2995 validation images, and there are 400"), "{error}");
    // What is odd is said, and does not stop it.
    let falling = Tensor::new(&[1.0f32, 0.25], &Device::Cpu).expect("costs");
    arrays.insert("costs".to_string(), falling);
    safetensors::save(&arrays, &path).expect("a file");
    let (code, _, error) = sweep(&[]);
    assert!(code == Some(0) && error.contains("warning: costs fall from exit 1 to exit 2"), "{error}");
    std::fs::remove_file(&path).expect("removed");
    let (code, _, error) = sweep(&[]);
    assert!(code == Some(1) && error.contains("there is no file"), "{error}");
}

#[test]
fn every_network_follows_data_of_ones_own() {
    let home = std::env::temp_dir().join(format!("branchynet-own-{}", std::process::id()));
    // 26 classes of 40x40 grey pixels, and 3 of 12x12 in colour.
    let put = |name: &str, classes: usize, image: [usize; 3]| {
        let folder = home.join("datasets").join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut arrays = HashMap::new();
        for (split, count) in [("train", 12 * classes), ("test", 4 * classes)] {
            let size: usize = image.iter().product();
            let labels: Vec<u8> = (0..count).map(|i| (i % classes) as u8).collect();
            let pixels = labels.iter().flat_map(|&label| {
                (0..size).map(move |i| if i % 26 == usize::from(label) { 250 } else { 9 })
            });
            let shape = [&[count][..], &image].concat();
            let images = Tensor::from_vec(pixels.collect::<Vec<u8>>(), shape, &Device::Cpu).expect("images");
            arrays.insert(format!("{split}_images"), images);
            arrays.insert(
                format!("{split}_labels"),
                Tensor::from_vec(labels, count, &Device::Cpu).expect("labels"),
            );
        }
        safetensors::save(&arrays, folder.join("data.safetensors")).expect("a file");
    };
    put("letters", 26, [1, 40, 40]);
    put("tiny", 3, [3, 12, 12]);
    let home_text = home.display().to_string();
    let own = |arguments: &[&str]| run(arguments, &[("BRANCHYNET_DIR", &home_text)]);
    for network in branchynet_runs::names() {
        let (code, out, error) = own(&["summary", network, "--data", "letters"]);
        assert_eq!(code, Some(0), "{network}: {error}");
        assert!(out.contains(" on 1x40x40") && out.contains(", 26)") && !out.contains(", 10)"), "{out}");
    }
    let (code, out, error) =
        own(&["summary", "alexnet", "--data", "letters", "--branches", "conv3:1x16,conv4:0x0"]);
    assert!(code == Some(0) && out.matches(", 26)").count() == 3, "{out}{error}");
    let (code, _, error) = own(&["summary", "resnet110", "--data", "tiny"]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("ResNet-110 on tiny: layer average_pool1, average_pool(6, 1): it expects"),
        "{error}"
    );
    assert!(error.contains("gives 64x3x3") && error.trim_end().lines().count() == 1, "{error}");
    let settings = [
        "--data",
        "letters",
        "--epochs",
        "1",
        "--baseline-epochs",
        "1",
        "--matched",
        "no",
        "--batch-size",
        "32",
    ];
    for step in ["train", "evaluate", "sweep", "export"] {
        let (code, out, error) = own(&[&[step, "lenet"], &settings[..]].concat());
        assert_eq!(code, Some(0), "{step}: {out}{error}");
    }
    // Weights of another run are not written over.
    let weights = home.join("datasets/reference/weights/lenet.safetensors");
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../../datasets/reference/weights/lenet.safetensors");
    std::fs::copy(shipped, &weights).expect("copied");
    let (code, _, error) = own(&[&["export", "lenet"], &settings[..]].concat());
    assert!(code == Some(2) && error.contains("holds weights of other settings"), "{error}");
    let (code, _, error) = own(&[&["export", "lenet", "--name", "mine"], &settings[..]].concat());
    assert_eq!(code, Some(0), "{error}");
    for step in ["stream", "time"] {
        let shares = if step == "time" { ["--batches", "2"] } else { ["--count", "2"] };
        let (code, _, error) =
            own(&[&[step, "lenet", "--shares", "0.5,0.5"], &shares[..], &settings].concat());
        assert_eq!(code, Some(0), "{step}: {error}");
    }
    std::fs::remove_dir_all(&home).expect("removed");
}

#[test]
fn weights_become_onnx_in_each_form() {
    let folder = std::env::temp_dir().join(format!("branchynet-onnx-{}", std::process::id()));
    let path = |path: &Path| path.to_str().expect("a path").to_string();
    let export = |to: &str, more: &[&str]| {
        run(&[&["export", "lenet", "--onnx", &path(&folder.join(to))], more].concat(), &[])
    };
    for (to, form, files) in [
        ("nested.onnx", "if", &["nested.onnx"][..]),
        ("batch.onnx", "batch", &["batch.onnx"]),
        ("exits.onnx", "exits", &["exits.onnx"]),
        ("stages", "stages", &["stages/stage1.onnx", "stages/stage2.onnx", "stages/manifest.json"]),
    ] {
        let (code, out, error) = export(to, &["--form", form]);
        assert_eq!((code, out.lines().count()), (Some(0), files.len()), "{out}{error}");
        for file in files {
            assert!(folder.join(file).is_file(), "{file} of {out}");
        }
    }
    // No stage of an older network with more exits stays, and nothing else goes, whatever a manifest names.
    let stages = folder.join("stages");
    let (code, _, error) = run(&["export", "alexnet", "--form", "stages", "--onnx", &path(&stages)], &[]);
    assert!(code == Some(0) && stages.join("stage3.onnx").is_file(), "{error}");
    std::fs::write(stages.join("own.onnx"), "").expect("written");
    let manifest = std::fs::read_to_string(stages.join("manifest.json")).expect("written");
    let others = manifest.replace("stage1.onnx", "own.onnx").replace("stage2.onnx", "../nested.onnx");
    std::fs::write(stages.join("manifest.json"), others).expect("written");
    let (code, _, error) = export("stages", &["--form", "stages"]);
    assert_eq!(code, Some(0), "{error}");
    let there = std::fs::read_dir(&stages).expect("a folder").map(|file| file.expect("a file").file_name());
    let there: BTreeSet<_> = there.map(|name| name.into_string().expect("text")).collect();
    assert_eq!(there, ["manifest.json", "own.onnx", "stage1.onnx", "stage2.onnx"].map(String::from).into());
    assert!(folder.join("nested.onnx").is_file());
    // What decides is chosen on the record by the criterion that is asked for.
    let read = |file: &str| std::fs::read(folder.join(file)).expect("written");
    let (code, _, error) = export("margin.onnx", &["--criterion", "margin"]);
    assert!(code == Some(0) && read("margin.onnx") != read("nested.onnx"), "{error}");
    let (code, _, error) = export("guaranteed.onnx", &["--choice", "1 % guaranteed", "--temperatures"]);
    assert_eq!(code, Some(0), "{error}");
    let (code, _, error) = export("none.onnx", &["--fixed", "--form", "exits"]);
    assert!(
        code == Some(2) && error.contains("thresholds are fixed in the forms `if` and `batch` alone"),
        "{error}"
    );
    let (code, _, error) = export("stages", &[]);
    assert!(code == Some(1) && error.contains("is no file; name a file"), "{error}");
    let (code, _, error) = export("none.onnx", &["--choice", "best"]);
    assert!(code == Some(1) && error.contains("there is no choice \"best\", there are: no loss"), "{error}");
    let (code, _, error) = run(&["export", "lenet", "--plain"], &[]);
    assert!(code == Some(2) && error.contains("--onnx"), "{error}");
    // A file from elsewhere goes out with a policy, once there is a record of it.
    let exits = path(&folder.join("exits.onnx"));
    let from = |more: &[&str]| {
        let to = path(&folder.join("decides.onnx"));
        run(&[&["export", "--from", &exits, "--onnx", &to], more].concat(), &[])
    };
    let (code, _, error) = from(&[]);
    assert!(code == Some(1) && error.contains("exits.record.safetensors; `branchynet record "), "{error}");
    let logits: Vec<f32> = (0..2 * 30 * 10).map(|i| (1.7 * i as f32).sin()).collect();
    let labels: Vec<u32> = (0..30).map(|i| i % 10).collect();
    let of = |split: &str| {
        let logits = Tensor::from_slice(&logits, (2, 30, 10), &Device::Cpu).expect("logits");
        let labels = Tensor::from_slice(&labels, 30, &Device::Cpu).expect("labels");
        [(format!("{split}_logits"), logits), (format!("{split}_labels"), labels)]
    };
    let arrays: HashMap<_, _> = ["validation", "test"].into_iter().flat_map(of).collect();
    safetensors::save(&arrays, folder.join("exits.record.safetensors")).expect("saved");
    let (code, out, error) = from(&[]);
    assert!(code == Some(0) && out.contains("decides.onnx"), "{out}{error}");
    for (more, said) in [
        (&["--int8"][..], "--from leaves the network's operations as they are"),
        (&["--epochs", "3"], "--epochs is for a network by name, and"),
        (&["--exits", "exit2,nothing"], "there is no output nothing; there are exit1, exit2"),
    ] {
        let (code, _, error) = from(more);
        assert!(code != Some(0) && error.contains(said) && error.lines().count() == 1, "{error}");
    }
    // Thresholds of one network are not given to another, nor those of some exits to others; files that are read stay.
    let (record, before) = (folder.join("exits.record.safetensors"), read("exits.onnx"));
    let results = Results::read(&record).expect("a record");
    let recorded = |digest: String, exits: [&str; 2]| {
        let of = Recording {
            digest,
            exits: exits.map(String::from).into(),
            data: "mnist".to_string(),
            classes: (0..10).map(|class| class.to_string()).collect(),
            mean: Vec::new(),
            std: Vec::new(),
        };
        Results::write_arrays(&record, &results.validation, &results.test, None, Some(&of)).expect("written");
    };
    let digest = OnnxFile::read(&folder.join("exits.onnx")).expect("a network").digest();
    recorded("00000000".to_string(), ["exit1", "exit2"]);
    let (code, _, error) = from(&[]);
    assert!(
        code == Some(2) && error.contains("is not a record of ") && error.contains("--data mnist` makes one")
    );
    recorded(digest.clone(), ["exit2", "exit1"]);
    let (code, _, error) = from(&["--exits", "exit1,exit2"]);
    assert!(code == Some(2) && error.contains("is of the exits exit2,exit1; leave --exits out"), "{error}");
    recorded(digest, ["exit1", "exit2"]);
    let (code, _, error) = from(&[]);
    assert_eq!(code, Some(0), "{error}");
    let decides = read("decides.onnx");
    let model = String::from_utf8_lossy(&decides);
    assert!(model.contains("bytes from 0 to 255") && model.contains(r#"["0","1","2","#));
    for onto in ["exits.onnx", "exits.record.safetensors"] {
        let (code, _, error) = run(&["export", "--from", &exits, "--onnx", &path(&folder.join(onto))], &[]);
        assert!(code == Some(2) && error.contains("would replace what is read"), "{error}");
    }
    let (code, _, error) = run(&["record", &exits, "--data", "mnist", "--output", &exits], &[]);
    assert!(code == Some(2) && error.contains("would replace what is read"), "{error}");
    assert_eq!(read("exits.onnx"), before);
    let (code, _, error) = export("nested.onnx", &["--form", "stages"]);
    assert!(
        code == Some(1) && error.contains("nested.onnx is a file, and stages go into a folder"),
        "{error}"
    );
    let (code, _, error) = run(&["record", "nothing.onnx", "--data", "mnist"], &[]);
    assert!(code == Some(1) && error.contains("there is no file nothing.onnx"), "{error}");
    std::fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut child = Command::new(Path::new(env!("CARGO_BIN_EXE_branchynet")))
        .args(["summary", "resnet110"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // Nobody reads.
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_warning_that_nobody_reads_ends_no_work() {
    // A guarantee that nobody can be given is warned of.
    let path = std::env::temp_dir().join(format!("branchynet-few-{}.safetensors", std::process::id()));
    let logits = Tensor::from_vec(vec![0f32, 1.0, 1.0, 0.0, 0.0, 2.0, 2.0, 0.0], (2, 2, 2), &Device::Cpu)
        .expect("logits");
    let labels = Tensor::new(&[1u32, 0], &Device::Cpu).expect("labels");
    let mut arrays = HashMap::new();
    for split in ["validation", "test"] {
        arrays.insert(format!("{split}_logits"), logits.clone());
        arrays.insert(format!("{split}_labels"), labels.clone());
    }
    safetensors::save(&arrays, &path).expect("a file");
    let sweep = || {
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_branchynet")));
        command.args(["sweep", path.to_str().expect("a path"), "--guarantee", "0.01"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let all = sweep().output().expect("it ends");
    assert!(String::from_utf8_lossy(&all.stderr).contains("nobody leaves early"), "{all:?}");
    let mut child = sweep().spawn().expect("the program starts");
    drop(child.stderr.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success() && output.stdout == all.stdout, "{output:?}");
    std::fs::remove_file(&path).expect("removed");
}

#[test]
#[cfg(target_os = "linux")]
fn results_that_cannot_be_written_are_a_failure() {
    for arguments in [&["settings"][..], &["--help"], &["summary", "lenet"], &["sweep", "lenet", "--json"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("a full device");
        let output = Command::new(Path::new(env!("CARGO_BIN_EXE_branchynet")))
            .args(arguments)
            .stdout(full)
            .output()
            .expect("it ends");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && error.contains("No space left"), "{arguments:?}: {error}");
    }
}

#[test]
fn pictures_by_class_become_a_data_set() {
    let home = std::env::temp_dir().join(format!("branchynet-home-{}", std::process::id()));
    let environment = [("BRANCHYNET_DIR", home.to_str().expect("a path"))];
    let folder = home.join("datasets/pets");
    let datasets = |more: &[&str]| run(&[&["datasets", "pets"], more].concat(), &environment);
    let train = || run(&["summary", "lenet", "--data", "pets"], &environment);
    for (part, count) in [("train", 10), ("test", 3)] {
        for (shade, class) in [(40, "9"), (200, "10")] {
            let folder = folder.join(part).join(class);
            std::fs::create_dir_all(&folder).expect("a folder");
            std::fs::write(folder.join(".DS_Store"), "x").expect("a file");
            for i in 0..count {
                let grey = image::GrayImage::from_pixel(30, 28, image::Luma([shade + i]));
                match i % 2 {
                    0 => grey.save(folder.join(format!("{i}.png"))),
                    // Transparent: white.
                    _ => image::RgbaImage::from_pixel(30, 28, image::Rgba([0, 0, 0, 0]))
                        .save(folder.join(format!("{i}.PNG"))),
                }
                .expect("a picture");
            }
        }
    }
    let (_, _, error) = train();
    assert!(error.contains("`branchynet datasets pets` makes"), "{error}");
    let (code, out, error) = datasets(&[]);
    assert_eq!(
        (code, &out[..]),
        (
            Some(0),
            "datasets/pets.safetensors: made from 20 + 6 pictures of 1×28×30 in 2 classes in datasets/pets\n"
        ),
        "{error}"
    );
    let made = home.join("datasets/pets.safetensors");
    let tensors = safetensors::load(&made, &Device::Cpu).expect("a file");
    let pixels = tensors["train_images"].flatten_from(1).and_then(|t| t.to_vec2::<u8>()).expect("bytes");
    // 10 comes after 9, and both after names in the order of the files.
    let first: Vec<u8> = pixels.iter().map(|image| image[0]).collect();
    assert_eq!(first[..4], [40, 255, 42, 255]);
    assert_eq!(first[10..12], [200, 255]);
    // Of several sizes, and scaled to one.
    let odd = image::RgbImage::from_pixel(20, 20, image::Rgb([250, 0, 0]));
    odd.save(folder.join("test/9/odd.png")).expect("a picture");
    let (code, _, error) = datasets(&[]);
    assert!(
        code == Some(1) && error.contains("2 sizes: 26 of 30x28") && error.contains("--size 30x28"),
        "{error}"
    );
    let (code, out, error) = datasets(&["--size", "8"]);
    assert!(code == Some(0) && out.contains("20 + 7 pictures of 3×8×8"), "{out}{error}");
    for size in ["0", "8x", "5000", "8x9999999"] {
        let (code, _, error) = datasets(&["--size", size]);
        assert!(code == Some(2) && error.contains("a number of pixels"), "{error}");
    }
    // Arrays in a data set's folder are read before what is made of others.
    let [own, other] = [home.join("datasets/own/a.safetensors"), home.join("other.safetensors")];
    std::fs::create_dir_all(home.join("datasets/own")).expect("a folder");
    std::fs::copy(&made, &other).expect("copied");
    let from = |name: &str| run(&["datasets", name, "--from", other.to_str().expect("a path")], &environment);
    let (code, out, error) = from("own");
    assert!(code == Some(0) && out.contains("datasets/own.safetensors: made from"), "{out}{error}");
    std::fs::copy(&made, &own).expect("copied");
    let (code, _, error) = from("own");
    assert!(code == Some(1) && error.contains("own/a.safetensors is there already"), "{error}");
    let (code, _, error) = from("../own");
    assert!(code == Some(2) && error.contains("../own is no name for a data set"), "{error}");
    // What no data set can be made of is not stored.
    let one = |tensor: &Tensor| tensor.narrow(0, 0, 1).expect("one of the first class");
    let ones: HashMap<_, _> = tensors.iter().map(|(name, tensor)| (name.clone(), one(tensor))).collect();
    safetensors::save(&ones, &other).expect("saved");
    let (code, _, error) = from("few");
    assert!(
        code == Some(1) && error.contains("other.safetensors: few: all labels are of one class"),
        "{error}"
    );
    assert!(!home.join("datasets/few.safetensors").exists());
    let (code, _, error) = run(&["datasets", "own", "--from", "nowhere"], &environment);
    assert!(code == Some(1) && error.contains("there is no file or folder nowhere"), "{error}");
    let (cat, dog) = (folder.join("test/10"), home.join("of_test"));
    std::fs::rename(&cat, &dog).expect("moved");
    std::fs::rename(folder.join("train/10"), home.join("of_train")).expect("moved");
    let (code, _, error) = datasets(&["--size", "8"]);
    assert!(code == Some(1) && error.contains("9 is the only class"), "{error}");
    std::fs::rename(&dog, &cat).expect("moved");
    std::fs::rename(home.join("of_train"), folder.join("train/10")).expect("moved");
    std::fs::create_dir_all(home.join("datasets/web/train/cat")).expect("a folder");
    std::fs::create_dir_all(home.join("datasets/web/Test/cat")).expect("a folder");
    std::fs::write(home.join("datasets/web/train/cat/1.txt"), "x").expect("a file");
    let (_, _, error) = run(&["datasets", "web"], &environment);
    assert!(error.contains("TIFF is there; convert its 1 other files"), "{error}");
    let (code, _, error) = run(&["datasets", "none", "--size", "8"], &environment);
    assert!(code == Some(2) && error.contains("none has none"), "{error}");
    // What cannot be read, an empty class, and one that is not trained on.
    std::fs::write(folder.join("test/9/odd.png"), "no picture").expect("a file");
    let (_, _, error) = datasets(&[]);
    assert!(error.contains("odd.png: it is no PNG"), "{error}");
    std::fs::remove_file(folder.join("test/9/odd.png")).expect("removed");
    std::fs::create_dir_all(folder.join("train/cow")).expect("a folder");
    let (_, _, error) = datasets(&[]);
    assert!(error.contains("TIFF is there; it is empty"), "{error}");
    std::fs::rename(folder.join("train/cow"), folder.join("test/cow")).expect("moved");
    let (_, _, error) = datasets(&[]);
    assert!(error.contains("the class cow is not in"), "{error}");
    std::fs::remove_dir_all(&home).expect("removed");
}
