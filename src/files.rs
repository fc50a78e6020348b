//! Where files lie, and how they are written: whole or not at all.

use crate::{Result, bail, error};
use std::path::{Path, PathBuf};

/// The folder that holds `datasets/`: the one that BRANCHYNET_DIR in the environment names, for a program that was carried
/// to another machine; else the repository this was built in, for programs that lie or run there; else the current folder,
/// for those that have the library as a dependency.
pub fn project_dir() -> PathBuf {
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR"));
    let here = std::env::current_dir().unwrap_or_default();
    let program = std::env::current_exe().unwrap_or_default();
    match std::env::var_os("BRANCHYNET_DIR") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ if here.starts_with(built_in) || program.starts_with(built_in) => built_in.to_path_buf(),
        _ => here,
    }
}

/// A path for people: relative to [`project_dir`] where it lies below it.
pub fn shown(path: &Path) -> String {
    let path = path.strip_prefix(project_dir()).unwrap_or(path);
    path.display().to_string()
}

/// Reads a whole file. The error names it.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path)
        .map_err(|cause| error!(File, "cannot read {}: {cause}", path.display()).because(cause))
}

/// Fails, saying what is there, where it is no file.
pub fn expect_file(path: &Path) -> Result<()> {
    let what = match std::fs::metadata(path) {
        Ok(found) if found.is_file() => return Ok(()),
        Ok(found) if found.is_dir() => "is a folder, and a file is expected",
        Ok(_) => "is no ordinary file; write what it gives to one",
        Err(_) => bail!(File, "there is no file {}", path.display()),
    };
    bail!(File, "{} {what}", path.display())
}

/// What is in a folder, in the order of the names, without what begins with a dot, as systems leave it; nothing where there
/// is no such folder.
pub fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let hidden = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
    let mut paths: Vec<PathBuf> = entries.filter(|entry| !hidden(entry)).map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The files in a folder of the project whose names end so, in the order of their names; none where there
/// is no such folder.
pub fn listed(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut paths = entries(&project_dir().join(folder));
    paths.retain(|path| path.to_string_lossy().ends_with(ending));
    paths
}

/// Writes a file so that it is either there whole or not at all: a program that is killed leaves
/// the earlier file, and a `.part` beside it, which the next to write there removes. A link is followed, and the earlier
/// file's permissions stay. Fails where the path is there and no file: a folder, a device, a pipe, a link that leads nowhere.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let named =
        |cause: std::io::Error| error!(File, "cannot write {}: {cause}", path.display()).because(cause);
    let earlier = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => Some(std::fs::canonicalize(path).map_err(named)?),
        Ok(_) => Some(path.to_path_buf()),
        Err(_) => None,
    };
    if earlier.as_ref().is_some_and(|earlier| !earlier.is_file()) {
        bail!(File, "cannot write {}: it is there and is no file; name a file", path.display())
    }
    let permissions =
        earlier.as_ref().and_then(|earlier| Some(std::fs::metadata(earlier).ok()?.permissions()));
    let path = earlier.as_deref().unwrap_or(path);
    if let Some(dir) = path.parent() {
        if let Some(other) = dir.ancestors().find(|part| part.exists()).filter(|part| !part.is_dir()) {
            bail!(File, "cannot write {}: {} is no folder", path.display(), other.display())
        }
        std::fs::create_dir_all(dir).map_err(named)?;
        remove_leftovers(dir);
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.part", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let write = || {
        let mut file = std::fs::File::create(&unfinished)?;
        std::io::Write::write_all(&mut file, bytes)?;
        if let Some(permissions) = permissions {
            file.set_permissions(permissions)?;
        }
        file.sync_all()?;
        std::fs::rename(&unfinished, path)
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&unfinished);
        named(error)
    })
}

/// Removes what killed processes left unfinished in `dir`: `NAME.PID.part` where no process PID runs.
fn remove_leftovers(dir: &Path) {
    // Without /proc nobody can be known to be dead.
    if !Path::new("/proc/self").exists() {
        return;
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_suffix(".part")?.rsplit_once('.'))
            .and_then(|(_, pid)| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The commit that the working tree is at, for results; `unknown` outside a git checkout.
pub fn commit() -> String {
    let output = std::process::Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(project_dir())
        .output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_string(),
        _ => "unknown".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn links_are_followed_and_only_files_are_replaced() -> Result<()> {
        use std::os::unix::{fs::PermissionsExt, fs::symlink, net::UnixListener};
        let dir = std::env::temp_dir().join(format!("branchynet-links-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let [file, link, nowhere, socket] = ["file", "link", "nowhere", "socket"].map(|name| dir.join(name));
        std::fs::write(&file, "earlier")?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640))?;
        symlink(&file, &link)?;
        symlink(dir.join("none"), &nowhere)?;
        let _open = UnixListener::bind(&socket)?;
        write_atomically(&link, b"new")?;
        let mode = std::fs::metadata(&file)?.permissions().mode() & 0o777;
        assert!(link.is_symlink() && read(&file)? == b"new" && mode == 0o640);
        for other in [&nowhere, &socket, &dir] {
            let error = write_atomically(other, b"new").expect_err("no file").to_string();
            assert!(error.starts_with("cannot write"), "{error}");
        }
        assert!(nowhere.is_symlink() && !socket.is_file());
        std::fs::remove_dir_all(&dir)?;
        Ok(())
    }

    #[test]
    fn what_dead_processes_left_unfinished_is_removed() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("branchynet-part-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        // No process has the largest number; process 1 always runs.
        let (dead, alive) = (dir.join("run.4294967295.part"), dir.join("run.1.part"));
        std::fs::write(&dead, "half")?;
        std::fs::write(&alive, "half")?;
        write_atomically(&dir.join("run"), b"whole")?;
        assert!(!dead.exists() && alive.exists());
        assert_eq!(read(&dir.join("run"))?, b"whole");
        std::fs::remove_dir_all(&dir)?;
        Ok(())
    }
}
