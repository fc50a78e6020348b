//! Records of networks from elsewhere: arrays as numpy, PyTorch, Julia, R and MATLAB write them, and what is said of those
//! that do not fit.

use branchynet::Result;
use branchynet::candle_core::{DType, Device, Tensor, safetensors};
use branchynet::exits::{Criterion, ExitRecord};
use branchynet_runs::Results;
use half::{bf16, f16};
use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Write};
use std::path::PathBuf;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// An array as numpy writes it.
#[derive(Clone)]
struct Npy {
    descr: &'static str,
    fortran: bool,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Npy {
    /// An array of values in the order of C, written as `descr` and in the order of Fortran where that is asked for.
    fn new(descr: &'static str, fortran: bool, shape: &[usize], values: &[f64]) -> Self {
        let mut order: Vec<usize> = (0..values.len()).collect();
        if fortran {
            // The place of a value in the file, the first axis first.
            order.sort_by_key(|&at| {
                let (mut rest, mut key, mut size) = (at, 0, values.len());
                for &axis in shape.iter().rev() {
                    size /= axis;
                    key += rest % axis * size;
                    rest /= axis;
                }
                key
            });
        }
        let mut bytes = Vec::new();
        for at in order {
            let value = values[at];
            let mut number = match &descr[1..] {
                "f2" => f16::from_f64(value).to_le_bytes().to_vec(),
                "V2" => bf16::from_f64(value).to_le_bytes().to_vec(),
                "f4" => (value as f32).to_le_bytes().to_vec(),
                "f8" => value.to_le_bytes().to_vec(),
                "b1" => vec![u8::from(value != 0.0)],
                "i1" => (value as i8).to_le_bytes().to_vec(),
                "u1" => vec![value as u8],
                "i2" => (value as i16).to_le_bytes().to_vec(),
                "u2" => (value as u16).to_le_bytes().to_vec(),
                "i4" => (value as i32).to_le_bytes().to_vec(),
                "u4" => (value as u32).to_le_bytes().to_vec(),
                "i8" => (value as i64).to_le_bytes().to_vec(),
                _ => (value as u64).to_le_bytes().to_vec(),
            };
            if descr.starts_with('>') {
                number.reverse();
            }
            bytes.extend(number);
        }
        Self { descr, fortran, shape: shape.to_vec(), bytes }
    }

    fn file(&self) -> Vec<u8> {
        let sizes: String = self.shape.iter().map(|size| format!("{size}, ")).collect();
        let order = if self.fortran { "True" } else { "False" };
        let mut header =
            format!("{{'descr': '{}', 'fortran_order': {order}, 'shape': ({sizes}), }}", self.descr);
        header += &" ".repeat(63 - (header.len() + 10) % 64);
        header.push('\n');
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.bytes());
        file.extend(&self.bytes);
        file
    }
}

type Arrays = BTreeMap<&'static str, Npy>;

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("branchynet-{}-{name}", std::process::id()))
}

/// What the library makes of these arrays in one `.npz` file.
fn read(name: &str, arrays: &Arrays, method: CompressionMethod) -> Result<Results> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, array) in arrays {
        let options = SimpleFileOptions::default().compression_method(method);
        zip.start_file(format!("{name}.npy"), options).expect("a name");
        zip.write_all(&array.file())?;
    }
    let path = path(&format!("{name}.npz"));
    std::fs::write(&path, zip.finish().expect("an archive").into_inner())?;
    let results = Results::read(&path);
    std::fs::remove_file(&path)?;
    results
}

/// Logits (2 exits, 5 samples, 3 classes) that float16 and bfloat16 hold exactly, no two alike in a row.
fn logits() -> Vec<f64> {
    (0..30).map(|i| f64::from((i * 7) % 31) / 4.0 - 3.0).collect()
}

const LABELS: [f64; 5] = [0.0, 2.0, 1.0, 1.0, 0.0];

fn arrays() -> Arrays {
    let logits = Npy::new("<f4", false, &[2, 5, 3], &logits());
    let labels = Npy::new("<i8", false, &[5], &LABELS);
    [
        ("validation_logits", logits.clone()),
        ("validation_labels", labels.clone()),
        ("test_logits", logits),
        ("test_labels", labels),
        ("costs", Npy::new("<f8", false, &[2], &[10.0, 40.0])),
    ]
    .into()
}

#[test]
fn logits_and_labels_of_every_type_and_order_read_alike() -> Result<()> {
    let expected: Vec<f32> = logits().iter().map(|&logit| logit as f32).collect();
    let check = |results: Results, what: &str| {
        assert_eq!([results.test.logits(0), results.test.logits(1)].concat(), expected, "{what}");
        assert_eq!(results.test.labels(), [0, 2, 1, 1, 0], "{what}");
        assert!(results.warnings.is_empty(), "{what}: {:?}", results.warnings);
    };
    for descr in ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "|V2", "<V2"] {
        for (fortran, method) in [(false, CompressionMethod::Stored), (true, CompressionMethod::Deflated)] {
            let mut arrays = arrays();
            for name in ["validation_logits", "test_logits"] {
                arrays.insert(name, Npy::new(descr, fortran, &[2, 5, 3], &logits()));
            }
            // Others' arrays are none of ours, whatever they hold.
            arrays.insert("names", Npy { descr: "|O", fortran, shape: vec![2], bytes: vec![1, 2, 3] });
            check(read(&format!("types-{}", &descr[1..]), &arrays, method)?, descr);
        }
    }
    for descr in ["|i1", "|u1", "<i2", ">u2", "<i4", ">i4", "<u4", ">i8", "<u8", "<f4", "<f8"] {
        // A row and a column are vectors in MATLAB and R.
        for shape in [vec![5], vec![5, 1], vec![1, 5]] {
            let mut arrays = arrays();
            arrays.insert("test_labels", Npy::new(descr, shape.len() == 2, &shape, &LABELS));
            check(read(&format!("labels-{}", &descr[1..]), &arrays, CompressionMethod::Stored)?, descr);
        }
    }
    // As PyTorch writes them, without the ending of the name.
    let file = path("as-torch");
    let tensor = |values: Vec<f32>| Tensor::from_vec(values, (2, 5, 3), &Device::Cpu);
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        let logits = tensor(expected.clone())?.to_dtype(dtype)?;
        let labels = Tensor::new(&[0i64, 2, 1, 1, 0], &Device::Cpu)?;
        let mut arrays = HashMap::from([("costs", Tensor::new(&[10.0, 40.0], &Device::Cpu)?)]);
        for (name, array) in [("logits", &logits), ("labels", &labels)] {
            for (split, whole) in
                [("validation", format!("validation_{name}")), ("test", format!("test_{name}"))]
            {
                let _ = split;
                arrays.insert(whole.leak(), array.clone());
            }
        }
        safetensors::save(&arrays, &file)?;
        check(Results::of_arrays(&file)?, &format!("{dtype:?}"));
    }
    std::fs::remove_file(&file)?;
    Ok(())
}

#[test]
fn what_does_not_fit_is_named_with_the_way_out() -> Result<()> {
    let zeros = |descr, shape: &[usize]| Npy::new(descr, false, shape, &vec![0.0; shape.iter().product()]);
    let labels = |labels: &[f64]| Npy::new("<f8", false, &[labels.len()], labels);
    let with = |place: usize, value: f64| {
        let mut logits = logits();
        logits[place] = value;
        Npy::new("<f8", false, &[2, 5, 3], &logits)
    };
    let whole = |rows: &[[f64; 3]; 10]| Npy::new("<f8", false, &[2, 5, 3], rows.as_flattened());
    for (name, array, parts) in [
        (
            "test_labels",
            None,
            &["the array test_labels (samples) is missing; there are: costs, test_logits, validation_labels"]
                [..],
        ),
        ("test_logits", None, &["the array test_logits (exits, samples, classes) is missing"]),
        (
            "test_logits",
            Some(zeros("<f4", &[5, 3])),
            &["expected (exits, samples, classes), got [5, 3]", "logits[None]"],
        ),
        ("test_logits", Some(zeros("<f4", &[2, 4, 3])), &["got [2, 4, 3], and 5 labels"]),
        ("test_logits", Some(zeros("<f4", &[5, 2, 3])), &["got [5, 2, 3]", "np.swapaxes(logits, 0, 1)"]),
        ("test_logits", Some(zeros("<f4", &[2, 3, 5])), &["got [2, 3, 5]", "np.moveaxis(logits, 2, 1)"]),
        ("test_logits", Some(zeros("<f4", &[3, 5, 2])), &["and 2 costs", "np.transpose(logits, (2, 1, 0))"]),
        ("test_logits", Some(zeros("<f4", &[2, 5, 4])), &["as in validation_logits, 2 and 3, got 2 and 4"]),
        ("test_logits", Some(zeros("|b1", &[2, 5, 1])), &["less than two classes"]),
        (
            "test_logits",
            Some(Npy { descr: "<c8", ..zeros("<f8", &[2, 5, 3]) }),
            &["numbers are expected, got numpy's type '<c8'"],
        ),
        (
            "test_logits",
            Some(Npy { shape: vec![2, 50, 3], ..zeros("<f4", &[2, 5, 3]) }),
            &["[2, 50, 3]", "and 5 labels"],
        ),
        (
            "test_logits",
            Some(Npy { bytes: vec![0; 100], ..zeros("<f4", &[2, 5, 3]) }),
            &["it ends too early"],
        ),
        (
            "test_logits",
            Some(Npy { shape: vec![2, 5, 3 << 40], ..zeros("<f4", &[2, 5, 3]) }),
            &["needs more than the", "bytes that it has"],
        ),
        ("test_logits", Some(with(19, f64::NAN)), &["exit 2, sample 1: a logit is not a number"]),
        ("test_logits", Some(with(0, f64::INFINITY)), &["exit 1, sample 0: a logit is infinite"]),
        (
            "test_logits",
            Some(whole(&[[f64::NEG_INFINITY; 3]; 10])),
            &["exit 1, sample 0: a logit is minus infinity for each class"],
        ),
        (
            "test_labels",
            Some(labels(&[0.0, 3.0, 1.0, 1.0, 0.0])),
            &["3 classes are numbered from 0 to 2, got 0 to 3"],
        ),
        (
            "test_labels",
            Some(labels(&[1.0, 3.0, 1.0, 1.0, 2.0])),
            &["got 1 to 3; they seem to count from 1: subtract 1"],
        ),
        (
            "test_labels",
            Some(labels(&[0.0, 1.0, 1.5, 1.0, 2.0])),
            &["whole numbers from 0, got 1.5 for sample 2"],
        ),
        (
            "test_labels",
            Some(labels(&[0.0, 1.0, 1.0, -1.0, 2.0])),
            &["got -1 for sample 3; leave out samples"],
        ),
        ("test_labels", Some(labels(&[f64::NAN, 1.0, 1.0, 1.0, 2.0])), &["got NaN for sample 0"]),
        (
            "test_labels",
            Some(zeros("<f4", &[5, 3])),
            &["one class for each sample, got an array [5, 3]", "argmax"],
        ),
        ("test_labels", Some(zeros("<f4", &[0])), &["it has no samples"]),
        ("costs", Some(labels(&[10.0])), &["and 1 costs"]),
        (
            "costs",
            Some(labels(&[10.0, -1.0])),
            &["costs must be one number for each exit, finite and at least 0, got [10.0, -1.0]"],
        ),
        (
            "stage_costs",
            Some(labels(&[10.0, 1.0])),
            &["either costs (of leaving at each exit) or stage_costs"],
        ),
    ] {
        let mut arrays = arrays();
        arrays.remove(name);
        arrays.extend(array.map(|array| (name, array)));
        let message = read("wrong", &arrays, CompressionMethod::Stored).expect_err(name).to_string();
        let names_it = message.contains("wrong.npz") && message.contains(name) && !message.contains('\n');
        assert!(names_it && parts.iter().all(|part| message.contains(part)), "{name}: {message}");
    }
    for (bytes, part) in [
        (&arrays()["costs"].file()[..], "this is a single array (np.save)"),
        (b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "this is a MATLAB file"),
        (b"\x80\x04\x95 a pickle", "this is a pickle of Python"),
        (b"PK\x03\x04 cut off", "a damaged .npz file"),
        (b"exit,sample,label\n", "neither an .npz file (np.savez) nor a .safetensors file"),
        (b"", "it is too short"),
    ] {
        let path = path("other");
        std::fs::write(&path, bytes)?;
        let message = Results::of_arrays(&path).expect_err(part).to_string();
        assert!(message.contains(part) && message.contains("other"), "{message}");
        std::fs::remove_file(&path)?;
    }
    Ok(())
}

#[test]
fn what_is_odd_is_said() -> Result<()> {
    let probabilities: Vec<f64> =
        (0..10).flat_map(|i| [0.5, 0.25 + f64::from(i) / 50.0, 0.25 - f64::from(i) / 50.0]).collect();
    let numbers = |numbers: &[f64]| Npy::new("<f8", false, &[numbers.len()], numbers);
    for (name, array, part) in [
        (
            "test_logits",
            Npy::new("<f4", false, &[2, 5, 3], &probabilities),
            "test_logits, exit 1: these are probabilities",
        ),
        ("costs", numbers(&[10.0, 4.0]), "costs fall from exit 1 to exit 2"),
        ("test_labels", numbers(&[1.0; 5]), "all of test_labels are class 1"),
    ] {
        let mut arrays = arrays();
        arrays.insert(name, array);
        let warnings = read(&format!("odd-{name}"), &arrays, CompressionMethod::Stored)?.warnings;
        assert!(warnings.first().is_some_and(|warning| warning.contains(part)), "{warnings:?}");
    }
    let mut arrays = arrays();
    arrays.remove("costs");
    let results = read("no-costs", &arrays, CompressionMethod::Stored)?;
    assert_eq!((results.costs()?, results.warnings.len()), (vec![1.0, 2.0], 1));
    arrays.insert("stage_costs", numbers(&[10.0, 4.0]));
    let results = read("stages", &arrays, CompressionMethod::Stored)?;
    assert_eq!((results.costs()?, results.warnings.len()), (vec![10.0, 14.0], 0));
    Ok(())
}

#[test]
fn a_last_exit_below_chance_is_named() -> Result<()> {
    // 120 samples of 2 exits and 3 classes, both always right, and labels that are shifted by one.
    let logits: Vec<f64> =
        (0..720).map(|i| f64::from(u8::from(i / 3 % 3 == i % 3))).map(|right| 3.0 * right - 1.0).collect();
    for (shift, warnings) in [(0, 0), (1, 2)] {
        let labels: Vec<f64> = (0..120).map(|sample| f64::from((sample + shift) % 3)).collect();
        let mut arrays = arrays();
        for split in [["validation_logits", "validation_labels"], ["test_logits", "test_labels"]] {
            arrays.insert(split[0], Npy::new("<f4", false, &[2, 120, 3], &logits));
            arrays.insert(split[1], Npy::new("<i8", false, &[120], &labels));
        }
        let found = read("chance", &arrays, CompressionMethod::Stored)?.warnings;
        let named = found.iter().filter(|warning| warning.contains("the last exit is right for 0.00 %"));
        assert_eq!(named.count(), warnings, "{found:?}");
    }
    Ok(())
}

/// Numbers that f32 rounds to the same.
#[test]
fn wide_logits_keep_their_differences() -> Result<()> {
    let shifted = |by: f64| -> Result<Results> {
        let values: Vec<f64> = logits().into_iter().map(|z| z + by).collect();
        let mut arrays = arrays();
        for name in ["validation_logits", "test_logits"] {
            arrays.insert(name, Npy::new("<f8", false, &[2, 5, 3], &values));
        }
        read("wide", &arrays, CompressionMethod::Stored)
    };
    let (plain, shifted) = (shifted(0.0)?, shifted(1e9)?);
    assert_eq!(shifted.test.predictions(1), plain.test.predictions(1));
    Ok(())
}

/// Also one whose first bytes are those of a pickle.
#[test]
fn a_head_of_any_length_is_read() -> Result<()> {
    let of = |name: &'static str, array: &Npy| {
        let values: Vec<f32> =
            array.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Ok::<_, branchynet::Error>((name, Tensor::from_vec(values, &array.shape[..], &Device::Cpu)?))
    };
    let mut arrays = arrays();
    for labels in ["validation_labels", "test_labels"] {
        arrays.insert(labels, Npy::new("<f4", false, &[5], &LABELS));
    }
    arrays.insert("costs", Npy::new("<f4", false, &[2], &[10.0, 14.0]));
    let tensors: HashMap<_, _> = arrays.iter().map(|(name, array)| of(name, array)).collect::<Result<_>>()?;
    let path = path("head.safetensors");
    safetensors::save(&tensors, &path)?;
    let bytes = std::fs::read(&path)?;
    let (length, rest) = bytes.split_at(8);
    let length = u64::from_le_bytes(length.try_into().expect("8 bytes")) as usize;
    for low in [0x80, 0xc8] {
        let padded = (length / 256 + 1) * 256 + low;
        let head =
            [&(padded as u64).to_le_bytes()[..], &rest[..length], &vec![b' '; padded - length]].concat();
        std::fs::write(&path, [&head[..], &rest[length..]].concat())?;
        assert_eq!(Results::read(&path)?.test.len(), 5);
    }
    std::fs::remove_file(&path)?;
    Ok(())
}

/// What an archive's checksum does not agree with.
#[test]
fn damaged_numbers_are_refused() -> Result<()> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, array) in arrays() {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        zip.start_file(format!("{name}.npy"), options).expect("a name");
        zip.write_all(&array.file())?;
    }
    let mut bytes = zip.finish().expect("an archive").into_inner();
    let label = arrays()["test_labels"].bytes.clone();
    let at = bytes.windows(label.len()).position(|part| part == label).expect("the labels");
    bytes[at] ^= 1;
    let path = path("damaged.npz");
    std::fs::write(&path, bytes)?;
    let message = Results::read(&path).expect_err("damaged").to_string();
    assert!(message.contains("it is damaged (Invalid checksum)"), "{message}");
    std::fs::remove_file(&path)?;
    Ok(())
}

#[test]
fn a_class_that_is_ruled_out_counts_for_nothing() -> Result<()> {
    let ruled_out = |by: f64| -> Result<Results> {
        let values: Vec<f64> =
            logits().into_iter().enumerate().map(|(i, z)| if i % 3 == i % 2 { by } else { z }).collect();
        let mut arrays = arrays();
        for name in ["validation_logits", "test_logits"] {
            arrays.insert(name, Npy::new("<f4", false, &[2, 5, 3], &values));
        }
        read("ruled-out", &arrays, CompressionMethod::Stored)
    };
    let results = ruled_out(f64::NEG_INFINITY)?;
    let (infinite, large) = (results.test, ruled_out(-1e4)?.test);
    for criterion in Criterion::NAMED {
        for exit in 0..2 {
            let of =
                |record: &branchynet::exits::ExitRecord<_>| record.by(&criterion).predictions(exit).to_vec();
            assert_eq!(of(&infinite), of(&large), "{criterion}, exit {exit}");
        }
    }
    // A sample of a class that is ruled out says nothing about the temperature.
    let possible = results.validation.only(&[0])?.select(&[1, 3])?;
    assert_eq!(results.validation.temperatures()[0], possible.temperatures()[0]);
    assert_eq!(infinite.ensembled()?.predictions(1), large.ensembled()?.predictions(1));
    Ok(())
}

#[test]
fn many_classes_are_read() -> Result<()> {
    let (classes, samples) = (65_536, 3);
    let values: Vec<f64> =
        (0..2 * samples * classes).map(|i| f64::from(u8::from(i % classes == 65_535))).collect();
    let mut arrays = arrays();
    for name in ["validation_logits", "test_logits"] {
        arrays.insert(name, Npy::new("<f4", false, &[2, samples, classes], &values));
    }
    for name in ["validation_labels", "test_labels"] {
        arrays.insert(name, Npy::new("<u2", false, &[samples], &[65_535.0, 0.0, 65_535.0]));
    }
    let results = read("classes", &arrays, CompressionMethod::Deflated)?;
    assert_eq!((results.test.classes(), results.test.exit_accuracy()), (classes, vec![2.0 / 3.0; 2]));
    Ok(())
}

#[test]
fn what_is_no_logit_is_not_written() -> Result<()> {
    let path = std::env::temp_dir().join(format!("branchynet-nan-{}.safetensors", std::process::id()));
    let logits = |last: f32| vec![vec![0.0, 1.0, 2.0, 0.5], vec![0.0, 1.0, 2.0, last]];
    let labels = vec![1u32, 0];
    let test = ExitRecord::from_logits(logits(3.0), labels.clone())?;
    let validation = ExitRecord::from_logits(logits(f32::NAN), labels.clone())?;
    let error =
        Results::write_arrays(&path, &validation, &test, None, None).expect_err("refused").to_string();
    assert!(error.contains("exit 2, sample 1: a logit is not a number") && !path.exists(), "{error}");
    let validation = ExitRecord::from_logits(vec![vec![0.25, 0.75, 1.0, 0.0]; 2], labels)?;
    let warnings = Results::write_arrays(&path, &validation, &test, None, None)?;
    assert!(warnings.len() == 2 && warnings[0].contains("exit 1: these are probabilities"), "{warnings:?}");
    std::fs::remove_file(&path)?;
    Ok(())
}
