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

/// What a text uses of its own crate: the first name behind `crate::` in code.
fn uses(text: &str) -> impl Iterator<Item = &str> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or(""))
}

#[test]
fn folders_use_those_before_them() {
    for (package, order) in ORDER {
        let (mut seen, mut used_before) = (0, 0);
        for (place, modules) in order.iter().enumerate().filter(|(_, modules)| **modules != "kernels") {
            for (path, text) in sources(package, modules) {
                seen += 1;
                for used in uses(&text) {
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

#[test]
fn the_library_knows_no_notebook() {
    for (package, order) in ORDER {
        for (path, text) in order.iter().filter(|m| **m != "kernels").flat_map(|m| sources(package, m)) {
            for word in ["polars", "plotly", "figures/", ".ipynb", "println!"] {
                let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
                let found =
                    code.take_while(|line| !line.contains("#[cfg(test)]")).find(|line| line.contains(word));
                assert!(found.is_none(), "{path}: {word:?} in {found:?}");
            }
        }
    }
}
