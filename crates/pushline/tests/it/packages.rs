//! What programs of other makes need besides what is installed: packages of PyPI, npm and Maven Central, and compiled programs, made once a target folder.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
};

/// The folder that Cargo gives to integration tests.
const CACHE: &str = env!("CARGO_TARGET_TMPDIR");

/// Maven's way to fetch packages with all that they need.
const COPY_DEPENDENCIES: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// A folder for `PYTHONPATH` with packages of PyPI, each with its version.
pub(crate) fn of_pypi(packages: &[&str]) -> PathBuf {
    once(&format!("python-{:x}", hash(&packages)), |folder| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--target"]).arg(folder);
        pip.args(packages);
        pip
    })
}

/// A folder for `NODE_PATH` with packages of npm, each with its version.
pub(crate) fn of_npm(packages: &[&str]) -> PathBuf {
    let folder = once(&format!("node-{:x}", hash(&packages)), |folder| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(folder).args(packages);
        npm
    });
    folder.join("node_modules")
}

/// A class path with a package of Maven Central and all that it needs.
pub(crate) fn of_maven(group: &str, artifact: &str, version: &str) -> String {
    let folder = once(&format!("java-{:x}", hash(&(group, artifact, version))), |folder| {
        fs::create_dir_all(folder).unwrap();
        let project = folder.join("pom.xml");
        let text = format!(
            "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion><groupId>pushline</groupId>\
             <artifactId>tests</artifactId><version>0</version><packaging>pom</packaging><dependencies><dependency><groupId>{group}</groupId>\
             <artifactId>{artifact}</artifactId><version>{version}</version></dependency></dependencies></project>"
        );
        fs::write(&project, text).unwrap();
        let mut maven = Command::new("mvn");
        maven.args(["--quiet", "--batch-mode", "--strict-checksums", "--file"]).arg(project).arg(COPY_DEPENDENCIES);
        maven.arg("-DincludeScope=runtime").arg(format!("-DoutputDirectory={}", folder.display()));
        maven
    });
    folder.join("*").display().to_string()
}

/// The program that a file of Go makes, without packages of others.
pub(crate) fn go_program(name: &str, source: &str) -> PathBuf {
    let folder = once(&format!("go-{:x}", hash(&source)), |folder| {
        let file = written(folder, &[(name, source)]).join(name);
        let mut go = Command::new("go");
        go.args(["build", "-o"]).arg(folder.join("program")).arg(file).env("GO111MODULE", "off");
        go
    });
    folder.join("program")
}

/// The program that a module of Go makes: its files, which name its packages and their checksums.
pub(crate) fn go_module(files: &[(&str, &str)]) -> PathBuf {
    let folder = once(&format!("go-{:x}", hash(&files)), |folder| {
        let mut go = Command::new("go");
        go.args(["build", "-o", "program", "."]).current_dir(written(folder, files));
        go
    });
    folder.join("program")
}

/// The folder, with these files in it.
fn written<'a>(folder: &'a Path, files: &[(&str, &str)]) -> &'a Path {
    fs::create_dir_all(folder).unwrap();
    files.iter().for_each(|(name, text)| fs::write(folder.join(name), text).unwrap());
    folder
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
