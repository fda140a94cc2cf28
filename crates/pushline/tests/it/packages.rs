//! What the servers need besides installed programs: packages from PyPI and a compiled program, made once a target folder.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
};

/// Servers from PyPI, with the parser that uvicorn uses where it is installed.
const FROM_PYPI: [&str; 3] = ["uvicorn==0.54.0", "httptools==0.9.0", "hypercorn==0.18.0"];

/// The folder that Cargo gives to integration tests.
const CACHE: &str = env!("CARGO_TARGET_TMPDIR");

/// A folder for `PYTHONPATH` with the servers.
pub(super) fn python_packages() -> PathBuf {
    once(&format!("python-{:x}", hash(&FROM_PYPI)), |folder| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--target"]).arg(folder);
        pip.args(FROM_PYPI);
        pip
    })
}

/// The program that a file of Go makes, without packages of others.
pub(super) fn go_program(name: &str, source: &str) -> PathBuf {
    let folder = once(&format!("go-{:x}", hash(&source)), |folder| {
        fs::create_dir_all(folder).unwrap();
        let file = folder.join(name);
        fs::write(&file, source).unwrap();
        let mut go = Command::new("go");
        go.args(["build", "-o"]).arg(folder.join("server")).arg(file).env("GO111MODULE", "off");
        go
    });
    folder.join("server")
}

/// A folder that a command makes. Several tests may ask at once: one makes it, the others wait. It gets its name when it is complete.
fn once(name: &str, making: impl FnOnce(&Path) -> Command) -> PathBuf {
    let (folder, partial) = (Path::new(CACHE).join(name), Path::new(CACHE).join(format!("{name}.partial")));
    // Held until its file is dropped, so it ends with the process too.
    let lock = File::create(Path::new(CACHE).join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    if folder.is_dir() {
        return folder;
    }
    let _ = fs::remove_dir_all(&partial);
    let mut command = making(&partial);
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}; README.md says what the tests need", command.get_program().display()));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&partial, &folder).unwrap();
    folder
}

fn hash(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}
