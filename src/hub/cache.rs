//! The cache of the Hugging Face hub, as `datasets`, `hf download` and other programs leave it.

use std::path::{Path, PathBuf};

/// Where a data set is in the cache.
pub struct Known {
    pub name: &'static str,
    /// The repositories that hold it, first the one that candle-datasets asks for.
    pub repositories: [&'static str; 2],
    /// What candle-datasets calls its configuration.
    configuration: &'static str,
}

pub const KNOWN: [Known; 3] = [
    Known { name: "mnist", repositories: ["ylecun/mnist", "mnist"], configuration: "mnist" },
    Known {
        name: "fashion-mnist",
        repositories: ["zalando-datasets/fashion_mnist", "fashion_mnist"],
        configuration: "fashion_mnist",
    },
    Known { name: "cifar10", repositories: ["cifar10", "uoft-cs/cifar10"], configuration: "plain_text" },
];

/// An environment variable that is set to something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The folder of the cache, as `huggingface_hub` finds it, with `~` expanded, which shells leave behind an equals sign.
pub fn folder() -> PathBuf {
    let home = || PathBuf::from(variable("HOME").unwrap_or_default());
    let expanded = |path: String| match path.strip_prefix("~/") {
        Some(rest) => home().join(rest),
        None if path == "~" => home(),
        None => PathBuf::from(path),
    };
    let named = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE")).map(expanded);
    named.unwrap_or_else(|| {
        let cache = || variable("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), expanded);
        variable("HF_HOME").map_or_else(|| cache().join("huggingface"), expanded).join("hub")
    })
}

/// Whether the network is not to be used.
pub fn offline() -> bool {
    variable("HF_HUB_OFFLINE")
        .is_some_and(|value| ["1", "on", "yes", "true"].contains(&&*value.to_lowercase()))
}

/// Finds a data set's parquet files in any snapshot in `cache`, and links them in `target` under the names that candle-datasets
/// asks for: it takes those of the hub's conversion (`mnist/train/0000.parquet`), and others leave those of the repository
/// (`mnist/train-00000-of-00001.parquet`). Whether they are there.
pub fn link(known: &Known, cache: &Path, target: &Path) -> std::io::Result<bool> {
    let folder_of = |repository: &str| format!("datasets--{}", repository.replace('/', "--"));
    for repository in known.repositories {
        for snapshot in entries(&cache.join(folder_of(repository)).join("snapshots")) {
            let files: Vec<PathBuf> =
                entries(&snapshot).into_iter().chain(entries_below(&snapshot)).collect();
            let part = |name: &str| {
                let of_part = |path: &&PathBuf| {
                    let inside = path.strip_prefix(&snapshot).unwrap_or(path).to_string_lossy();
                    inside.ends_with(".parquet") && inside.split(['/', '-', '.']).any(|word| word == name)
                };
                let found: Vec<&PathBuf> = files.iter().filter(of_part).collect();
                // In several files it would not be whole. A link in the cache may point nowhere.
                match found[..] {
                    [file] if file.exists() => Some(file.clone()),
                    _ => None,
                }
            };
            let (Some(train), Some(test)) = (part("train"), part("test")) else { continue };
            let _ = std::fs::remove_dir_all(target);
            let repository = target.join(folder_of(known.repositories[0]));
            std::fs::create_dir_all(repository.join("refs/refs/convert"))?;
            // Any name of a commit.
            let commit = "0".repeat(40);
            std::fs::write(repository.join("refs/refs/convert/parquet"), &commit)?;
            for (name, file) in [("train", train), ("test", test)] {
                let folder = repository.join("snapshots").join(&commit).join(known.configuration).join(name);
                std::fs::create_dir_all(&folder)?;
                std::os::unix::fs::symlink(std::fs::canonicalize(file)?, folder.join("0000.parquet"))?;
            }
            return Ok(true);
        }
    }
    Ok(false)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Two levels: `mnist/train-….parquet` and `mnist/train/0000.parquet`.
fn entries_below(folder: &Path) -> Vec<PathBuf> {
    let folders = entries(folder).into_iter().filter(|path| path.is_dir());
    folders
        .flat_map(|folder| {
            [entries(&folder), entries(&folder).iter().flat_map(|path| entries(path)).collect()].concat()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_leave_in_the_cache_is_found() -> std::io::Result<()> {
        let cache = std::env::temp_dir().join(format!("branchynet-hub-{}", std::process::id()));
        let target = cache.join("target");
        let mnist = &KNOWN[0];
        assert!(!link(mnist, &cache, &target)?);
        // As `hf download ylecun/mnist --repo-type dataset` leaves it: links to blobs.
        let (blobs, snapshot) = (
            cache.join("datasets--ylecun--mnist/blobs"),
            cache.join("datasets--ylecun--mnist/snapshots/ab12/mnist"),
        );
        std::fs::create_dir_all(&blobs)?;
        std::fs::create_dir_all(&snapshot)?;
        for name in ["train", "test"] {
            assert!(!link(mnist, &cache, &target)?);
            std::fs::write(blobs.join(name), name)?;
            std::os::unix::fs::symlink(
                format!("../../../blobs/{name}"),
                snapshot.join(format!("{name}-00000-of-00001.parquet")),
            )?;
        }
        assert!(link(mnist, &cache, &target)?);
        let linked = format!("datasets--ylecun--mnist/snapshots/{}/mnist/test/0000.parquet", "0".repeat(40));
        assert_eq!(std::fs::read_to_string(target.join(linked))?, "test");
        std::fs::remove_dir_all(&cache)
    }
}
