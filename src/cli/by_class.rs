//! `branchynet datasets` of pictures by class: `train/cat/1.png`, `test/dog/7.jpeg`.

use crate::picture::{self, FORMATS};
use crate::say;
use branchynet::data::Raw;
use branchynet::files::{entries, project_dir, shown};
use branchynet::{Error, ErrorKind, Result};
use branchynet_runs::Source;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u32, u32);

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (width, height) = text.split_once('x').unwrap_or((text, text));
        match (width.parse(), height.parse()) {
            (Ok(width @ 1..=4096), Ok(height @ 1..=4096)) => Ok(Self(width, height)),
            _ => {
                Err("expected a number of pixels from 1 to 4096, as in 32, or width and height, as in 48x32"
                    .to_string())
            }
        }
    }
}

/// The pictures of one class.
struct Class {
    pictures: Vec<PathBuf>,
    others: Vec<PathBuf>,
}

fn classes(folder: &Path) -> BTreeMap<String, Class> {
    let class = |path: PathBuf| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        let (pictures, others) = entries(&path).into_iter().partition(|path| picture::seems_one(path));
        path.is_dir().then_some((name, Class { pictures, others }))
    };
    entries(folder).into_iter().filter_map(class).collect()
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::File, message)
}

/// Makes `datasets/<name>.safetensors` of the pictures in `folder` and returns a line about it; `None` where none are
/// there by class.
pub fn datasets(source: &Source, name: &str, folder: &Path, size: Option<Size>) -> Result<Option<String>> {
    let folders: Vec<PathBuf> = entries(folder).into_iter().filter(|path| path.is_dir()).collect();
    let part = |names: &[&str]| {
        let called = |name: &&str| {
            folders.iter().find(|path| path.file_name().is_some_and(|is| is.eq_ignore_ascii_case(name)))
        };
        names.iter().find_map(called).cloned()
    };
    let pictures =
        |classes: &BTreeMap<String, Class>| classes.values().any(|class| !class.pictures.is_empty());
    let at_top = classes(folder);
    let Some(train_folder) = part(&["train", "training"]) else {
        if pictures(&at_top) {
            let message = format!(
                "{}: pictures by class, but not parted; put them into train/CLASS/ and test/CLASS/ there (one in six for the test is usual)",
                shown(folder)
            );
            return Err(wrong(message));
        }
        return Ok(None);
    };
    let (of_train, test) = (classes(&train_folder), part(&["test", "val", "valid", "validation"]));
    if of_train.is_empty() {
        return Ok(None);
    }
    let Some(test_folder) = test else {
        return Err(wrong(format!(
            "{}: there is train/, but no test/ with pictures to test on",
            shown(folder)
        )));
    };
    let of_test = classes(&test_folder);
    let mut names: Vec<String> = of_train.keys().cloned().collect();
    // 10 comes after 9.
    names.sort_by_key(|name| (name.parse::<u64>().unwrap_or(u64::MAX), name.clone()));
    if let Some(other) = of_test.keys().find(|name| !names.contains(name)) {
        return Err(wrong(format!(
            "{}: the class {other} is not in {}",
            shown(&test_folder),
            shown(&train_folder)
        )));
    }
    let mut others = 0;
    for (folder, classes) in [(&train_folder, &of_train), (&test_folder, &of_test)] {
        for (name, class) in classes {
            if let Some(inner) = class.pictures.iter().chain(&class.others).find(|path| path.is_dir()) {
                let message = format!(
                    "{}: a folder in a class, and pictures are read from the class folders alone; move them up",
                    shown(inner)
                );
                return Err(wrong(message));
            }
            others += class.others.len();
            if class.pictures.is_empty() {
                let what = match class.others.len() {
                    0 => "it is empty".to_string(),
                    count => format!("convert its {count} other files, or remove it"),
                };
                let folder = shown(&folder.join(name));
                return Err(wrong(format!("{folder}: no {FORMATS} is there; {what}")));
            }
        }
    }
    if let [one] = &names[..] {
        let folder = shown(&train_folder);
        return Err(wrong(format!("{folder}: {one} is the only class, and a classifier needs two or more")));
    }
    let mut bad = 0;
    let (mut decoded, mut sizes) = ([Vec::new(), Vec::new()], BTreeMap::<Size, (usize, PathBuf)>::new());
    for (decoded, classes) in decoded.iter_mut().zip([&of_train, &of_test]) {
        for (label, name) in names.iter().enumerate() {
            for path in classes.get(name).map_or(&[][..], |class| &class.pictures) {
                let picture = match read(path, size) {
                    Ok(picture) => picture,
                    Err(error) => {
                        say::aside(error);
                        bad += 1;
                        continue;
                    }
                };
                let size = Size(picture.width(), picture.height());
                sizes.entry(size).or_insert((0, path.clone())).0 += 1;
                decoded.push((picture.into_raw(), label as u32));
            }
        }
    }
    if bad > 0 {
        return Err(wrong(format!("{bad} pictures could not be read; mend or remove them")));
    }
    let [(Size(width, height), _)] = sizes.iter().collect::<Vec<_>>()[..] else {
        let mut found: Vec<_> = sizes.iter().collect();
        found.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        let shown = found.iter().take(4).map(|(Size(width, height), (count, path))| {
            format!("{count} of {width}x{height} ({})", shown(path))
        });
        let message = format!(
            "pictures of {} sizes: {}{}; --size {}x{} scales all to one",
            found.len(),
            shown.collect::<Vec<_>>().join(", "),
            if found.len() > 4 { ", …" } else { "" },
            found[0].0.0,
            found[0].0.1
        );
        return Err(wrong(message));
    };
    // Grey, where all are.
    let grey =
        decoded.iter().flatten().all(|(pixels, _)| pixels.chunks(3).all(|p| p[0] == p[1] && p[1] == p[2]));
    let channels = if grey { 1 } else { 3 };
    let [train, test] = decoded.map(|samples| {
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for (pixels, label) in samples {
            images.extend((0..channels).flat_map(|channel| pixels.iter().skip(channel).step_by(3).copied()));
            labels.push(label);
        }
        (images, labels)
    });
    let counts = (train.1.len(), test.1.len());
    let raw = Raw { image: [channels, *height as usize, *width as usize], train, test };
    let target = project_dir().join("datasets").join(format!("{name}.safetensors"));
    source.store(&raw, &names, &shown(folder), &target)?;
    let mut notes = match others {
        0 => String::new(),
        count => format!("; {count} other files were passed over"),
    };
    if !test_folder.ends_with("test") {
        notes += &format!("; {} is what it is tested on", shown(&test_folder));
    }
    for unused in folders.iter().filter(|path| **path != train_folder && **path != test_folder) {
        notes += &format!("; {} was not used", shown(unused));
    }
    Ok(Some(format!(
        "{}: made from {} + {} pictures of {channels}×{height}×{width} in {} classes in {}{notes}",
        shown(&target),
        counts.0,
        counts.1,
        names.len(),
        shown(folder)
    )))
}

/// A picture in the size that is asked for. What was done to it to be readable is said.
fn read(path: &Path, size: Option<Size>) -> Result<image::RgbImage> {
    let (mut picture, warnings) = picture::open(path)?;
    for warning in warnings {
        say::warning(format_args!("{}: {warning}", path.display()));
    }
    if let Some(Size(width, height)) = size {
        picture = picture::scaled(&picture, width, height);
    }
    Ok(picture.to_rgb8())
}
