//! IDX files (<http://yann.lecun.com/exdb/mnist/>) under the names that MNIST and its kin have.

use super::formats::{AGAIN, layout, read, walk};
use super::{CLASSES_FIRST, of_parts};
use branchynet::data::Raw;
use branchynet::data::labels::whole;
use branchynet::{Result, bail, error};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What an IDX file holds.
struct Idx {
    dims: Vec<usize>,
    /// The code of its type: 8 for unsigned bytes.
    kind: u8,
    values: Vec<u8>,
}

/// What IDX files in a folder are.
pub(super) struct IdxFiles {
    pub raw: Raw,
    /// What was done to the images, if anything.
    pub note: Option<&'static str>,
}

fn read_idx(path: &Path) -> Result<Idx> {
    let mut bytes = read(path)?;
    let broken = || error!(File, "{}: not an IDX file; {AGAIN}", path.display());
    let [0, 0, kind, rank] = *bytes.first_chunk::<4>().ok_or_else(broken)? else {
        return Err(broken());
    };
    let width = match kind {
        8 | 9 => 1,
        0x0b => 2,
        0x0c | 0x0d => 4,
        0x0e => 8,
        _ => return Err(broken()),
    };
    let header = 4 + 4 * usize::from(rank);
    let (sizes, _) = bytes.get(4..header).ok_or_else(broken)?.as_chunks::<4>();
    let dims: Vec<usize> = sizes.iter().map(|b| u32::from_be_bytes(*b) as usize).collect();
    let expected =
        dims.iter().try_fold(width, |n: usize, &dim| n.checked_mul(dim)).and_then(|n| n.checked_add(header));
    if expected != Some(bytes.len()) {
        bail!(
            File,
            "{}: {} bytes with dimensions {dims:?}, expected {} bytes; {AGAIN}",
            path.display(),
            bytes.len(),
            expected.unwrap_or(usize::MAX)
        )
    }
    bytes.drain(..header);
    Ok(Idx { dims, kind, values: bytes })
}

impl Idx {
    /// One label for each sample; of QMNIST's eight numbers the first.
    fn labels(&self) -> std::result::Result<Vec<u32>, String> {
        let columns = match self.dims[..] {
            [_] | [_, 1] => 1,
            [_, 8] if self.kind == 0x0c => 8,
            ref dims => return Err(format!("its shape is {dims:?}; {CLASSES_FIRST}")),
        };
        fn each<const N: usize>(bytes: &[u8], number: fn([u8; N]) -> f64) -> Vec<f64> {
            bytes.as_chunks().0.iter().map(|bytes| number(*bytes)).collect()
        }
        let numbers = match self.kind {
            8 => each(&self.values, |b| f64::from(u8::from_be_bytes(b))),
            9 => each(&self.values, |b| f64::from(i8::from_be_bytes(b))),
            0x0b => each(&self.values, |b| f64::from(i16::from_be_bytes(b))),
            0x0c => each(&self.values, |b| f64::from(i32::from_be_bytes(b))),
            0x0d => each(&self.values, |b| f64::from(f32::from_be_bytes(b))),
            _ => each(&self.values, f64::from_be_bytes),
        };
        whole(numbers.into_iter().step_by(columns))
    }
}

const ROLES: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
];

/// Which of the four files a name is for, and what the name says before that: `emnist-letters`.
fn role(path: &Path) -> Option<(String, usize)> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    let words: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    words.iter().find(|word| word.starts_with("idx") || **word == "ubyte")?;
    let at = words.iter().position(|word| ["train", "t10k", "test"].contains(word))?;
    let labels = words[at..].iter().find_map(|&word| match word {
        "images" | "image" => Some(0),
        "labels" | "label" => Some(1),
        _ => None,
    })?;
    Some((words[..at].join("-"), labels + if words[at] == "train" { 0 } else { 2 }))
}

/// The four IDX files of a data set in `dir` or in folders there, plain or gzipped, named as those of MNIST
/// (`train-images-idx3-ubyte`, `train-images.idx3-ubyte`), EMNIST (`emnist-letters-test-images-idx3-ubyte`, whose
/// transposed images are turned upright) or QMNIST (`qmnist-train-labels-idx2-int`, whose first column is the class); with
/// colours idx4: samples, channels, height, width, or the channels last. `None` where there are none. Fails when only
/// some are there, one is damaged, or they are of several data sets.
pub fn read_idx_files(dir: &Path) -> Result<Option<Raw>> {
    Ok(find(dir)?.map(|files| files.raw))
}

/// [`read_idx_files`], with a word about the images.
pub(super) fn find(dir: &Path) -> Result<Option<IdxFiles>> {
    let mut sets: BTreeMap<String, [Option<PathBuf>; 4]> = BTreeMap::new();
    let mut files = walk(dir);
    // Those at the top first, and plain ones before the same compressed.
    files.sort_by_key(|path| (path.components().count(), path.as_os_str().len()));
    for path in files {
        if let Some((set, role)) = role(&path) {
            let first = sets.entry(set).or_default()[role].get_or_insert(path.clone());
            if first.components().count() == path.components().count() && first.parent() != path.parent() {
                bail!(File, "{} and {} have the same name; keep one of them", first.display(), path.display())
            }
        }
    }
    let here = dir.file_name().map_or_else(String::new, |name| name.to_string_lossy().to_ascii_lowercase());
    if sets.len() > 1 {
        let names = sets.keys().cloned().collect::<Vec<_>>().join(", ");
        sets.retain(|set, _| *set == here);
        if sets.is_empty() {
            bail!(
                File,
                "{}: IDX files of several data sets ({names}); put those of one into a folder of its own",
                dir.display()
            )
        }
    }
    let Some((set, paths)) = sets.pop_first() else { return Ok(None) };
    if let Some(missing) = paths.iter().position(Option::is_none) {
        let name = [&set[..], ROLES[missing]].join(if set.is_empty() { "" } else { "-" });
        bail!(File, "{}: {name} is missing beside the other files; add it, or remove them all", dir.display())
    }
    let upright = set.starts_with("emnist");
    let part = |images: &Option<PathBuf>, labels: &Option<PathBuf>| -> Result<_> {
        let (Some(images), Some(labels)) = (images, labels) else { unreachable!("none is missing") };
        let pixels = read_idx(images)?;
        let wrong = |path: &Path, what: String| error!(File, "{}: {what}", path.display());
        if pixels.kind != 8 {
            return Err(wrong(images, "images of another type than unsigned bytes".to_string()));
        }
        let layout = layout(&pixels.dims).map_err(|what| wrong(images, what))?;
        let labels = read_idx(labels)?.labels().map_err(|what| wrong(labels, what))?;
        let mut bytes = layout.channels_first(pixels.values);
        let [_, height, width] = layout.image;
        if upright {
            for plane in bytes.chunks_mut((height * width).max(1)) {
                let lying = plane.to_vec();
                plane.iter_mut().enumerate().for_each(|(i, to)| *to = lying[i % height * width + i / height]);
            }
        }
        let image = if upright { [layout.image[0], width, height] } else { layout.image };
        Ok((image, (bytes, labels)))
    };
    let [a, b, c, d] = &paths;
    let raw = of_parts(&dir.display().to_string(), part(a, b)?, part(c, d)?)?;
    let note = upright.then_some("EMNIST's images, which are stored transposed, are turned upright");
    Ok(Some(IdxFiles { raw, note }))
}
