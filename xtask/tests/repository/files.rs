//! The repository's text files.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A text file and its path from the root.
pub(crate) struct Text {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Text {
    pub(crate) fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|have| have == extension)
    }
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

pub(crate) fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All text files, without what is built and without the lock file.
pub(crate) fn texts() -> Vec<Text> {
    let mut texts = Vec::new();
    collect(&root(), &mut texts);
    assert!(texts.len() > 100, "the repository has more files than {}", texts.len());
    texts.sort_by(|one, other| one.path.cmp(&other.path));
    texts
}

fn collect(folder: &Path, texts: &mut Vec<Text>) {
    for entry in fs::read_dir(folder).unwrap() {
        let (path, root) = (entry.unwrap().path(), root());
        let relative = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_hidden = name.starts_with('.') && ![".ci", ".cargo", ".clippy.toml"].contains(&name);
        let is_built = name.starts_with("target") || ["pushline-data", "__pycache__", "Cargo.lock", "proptest-regressions"].contains(&name);
        if is_hidden || is_built || name.starts_with("LICENSE") {
            continue;
        }
        if path.is_dir() {
            collect(&path, texts);
        } else if let Ok(text) = fs::read_to_string(&path) {
            texts.push(Text { path: relative, text });
        }
    }
}
