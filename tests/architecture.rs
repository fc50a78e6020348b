//! The library's folders use those before them, never those behind (docs/design.md), and know no plots, no tables and
//! no notebooks.

use std::path::Path;

/// Each may use those before it.
const ORDER: [&str; 13] = [
    "kernels",
    "error",
    "text",
    "files",
    "checked_file",
    "device",
    "data",
    "onnx",
    "layers",
    "networks",
    "training",
    "exits",
    "runs",
];

/// The files below a folder or module of `src/`, with their text.
fn sources(module: &str) -> Vec<(String, String)> {
    fn walk(path: &Path, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            walk(&entry.path(), found);
        }
        if path.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.display().to_string(), std::fs::read_to_string(path).expect("a text")));
        }
    }
    let (src, mut found) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), Vec::new());
    walk(&src.join(module), &mut found);
    walk(&src.join(format!("{module}.rs")), &mut found);
    found
}

/// What a text uses of this crate: the first name behind `crate::` in code.
fn uses(text: &str) -> impl Iterator<Item = &str> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or(""))
}

#[test]
fn folders_use_those_before_them() {
    let mut seen = 0;
    for (place, module) in ORDER.iter().enumerate().skip(1) {
        for (path, text) in sources(module) {
            seen += 1;
            for used in uses(&text) {
                let behind = ORDER[place + 1..].contains(&used);
                assert!(!behind, "{path} uses {used}, which stands behind {module} in docs/design.md");
            }
        }
    }
    assert!(seen > 50, "only {seen} files were found");
}

#[test]
fn the_library_knows_no_notebook() {
    for module in &ORDER[1..] {
        for (path, text) in sources(module) {
            for word in ["polars", "plotly", "figures/", ".ipynb", "println!"] {
                let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
                let found =
                    code.take_while(|line| !line.contains("#[cfg(test)]")).find(|line| line.contains(word));
                assert!(found.is_none(), "{path}: {word:?} in {found:?}");
            }
        }
    }
}
