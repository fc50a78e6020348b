//! Folders and files use those before them, never those behind (docs/design.md), and know no plots, no tables and
//! no notebooks.

use std::path::Path;

/// What a package's folder holds. Each may use those before it, and those of its own line.
const ORDER: [(&str, &[&str]); 2] = [
    (
        "src",
        &[
            "kernels",
            "error",
            "files",
            "checked_file",
            "device",
            "data",
            "layers",
            "networks",
            "training",
            "exits",
        ],
    ),
    (
        "src/runs",
        &[
            "text",
            "threshold",
            "sources",
            "follow",
            "choices",
            "settings",
            "run_info",
            "experiment presets",
            "arrays foreign",
            "results",
            "seeds",
            "summary",
            "weights",
            "onnx",
            "session",
        ],
    ),
];

/// The files of these folders or modules of a package, with their text.
fn sources(package: &str, modules: &str) -> Vec<(String, String)> {
    fn walk(path: &Path, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            walk(&entry.path(), found);
        }
        if path.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.display().to_string(), std::fs::read_to_string(path).expect("a text")));
        }
    }
    let (src, mut found) = (Path::new(env!("CARGO_MANIFEST_DIR")).join(package), Vec::new());
    for module in modules.split(' ') {
        walk(&src.join(module), &mut found);
        walk(&src.join(format!("{module}.rs")), &mut found);
    }
    found
}

/// The lines of a text that are no comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// The names behind `word` in code: behind `crate::` what a text uses of its own crate.
fn names_behind<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    code(text)
        .flat_map(move |line| line.split(word).skip(1))
        .map(|rest| rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or(""))
}

#[test]
fn folders_use_those_before_them() {
    for (package, order) in ORDER {
        let (mut seen, mut used_before) = (0, 0);
        for (place, modules) in order.iter().enumerate().filter(|(_, modules)| **modules != "kernels") {
            for (path, text) in sources(package, modules) {
                seen += 1;
                for used in names_behind(&text, "crate::") {
                    let is = |modules: &&str| modules.split(' ').any(|module| module == used);
                    let behind = order[place + 1..].iter().any(is);
                    assert!(!behind, "{path} uses {used}, which stands behind {modules} in docs/design.md");
                    used_before += usize::from(order[..place].iter().any(is));
                }
            }
        }
        assert!(
            seen > 15 && used_before > 20,
            "{package}: only {used_before} uses in {seen} files were found"
        );
    }
}

/// The modules that a file uses of its own folder, or of its own package where the folder is the package: the names behind
/// `super::` and `crate::` before its tests.
fn neighbours(text: &str) -> Vec<&str> {
    let before = text.split("#[cfg(test)]\nmod tests").next().unwrap_or("");
    names_behind(before, "super::").chain(names_behind(before, "crate::")).collect()
}

#[test]
fn files_of_a_folder_do_not_use_each_other_in_circles() {
    let mut arrows = 0;
    for folder in ["kernels", "data", "layers", "networks", "training", "exits"] {
        let found = sources("src", folder);
        let name =
            |path: &str| Path::new(path).file_stem().and_then(|name| name.to_str()).map(str::to_string);
        let mut left: Vec<_> =
            found.iter().filter_map(|(path, text)| Some((name(path)?, neighbours(text)))).collect();
        left.retain(|(name, _)| !["mod", "lib", "build"].contains(&&name[..]));
        // Files that use none of those that are left go, until all have gone or the rest is a circle.
        loop {
            let names: Vec<String> = left.iter().map(|(name, _)| name.clone()).collect();
            let uses = |(own, used): &(String, Vec<&str>)| {
                used.iter().filter(|&&used| used != own && names.iter().any(|name| name == used)).count()
            };
            left.retain(|file| {
                let uses = uses(file);
                arrows += uses;
                uses > 0
            });
            if left.is_empty() || left.len() == names.len() {
                break;
            }
        }
        assert!(left.is_empty(), "{folder}: a circle, and what uses it: {left:?}");
    }
    assert!(arrows > 50, "only {arrows} uses were found");
}

#[test]
fn the_library_knows_no_notebook() {
    for (package, order) in ORDER {
        for (path, text) in order.iter().filter(|m| **m != "kernels").flat_map(|m| sources(package, m)) {
            for word in ["polars", "plotly", "figures/", ".ipynb", "println!"] {
                let found = code(&text)
                    .take_while(|line| !line.contains("#[cfg(test)]"))
                    .find(|line| line.contains(word));
                assert!(found.is_none(), "{path}: {word:?} in {found:?}");
            }
        }
    }
}
