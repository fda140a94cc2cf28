//! Apache Kafka from Maven Central, once for all test processes and worktrees of a user; the second time without a network.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
};

/// The broker that the tests run on; `deploy/compose.yaml` names the same.
pub const KAFKA_VERSION: &str = "4.1.2";

/// The log4j that this Kafka comes with: its binding to slf4j isn't among Kafka's dependencies.
const LOG4J_VERSION: &str = "2.25.3";

const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// What to do where something is missing.
const REMEDY: &str =
    "Apache Kafka needs java (17 or later) and, the first time, mvn: apt-get install default-jre-headless maven, or your system's packages";

/// Where Kafka's classes are.
#[derive(Debug, Clone)]
pub(crate) struct Installation {
    folder: PathBuf,
}

impl Installation {
    /// The one of this user, resolved if it isn't there.
    pub(crate) fn of_this_user() -> Result<Self, String> {
        let java = Command::new("java").arg("-version").output();
        java.map_err(|error| format!("can't start java ({error}): {REMEDY}"))?;
        Self::in_folder(&cache(), "mvn")
    }

    /// The one in a folder. Several processes may ask at once: one resolves, the others wait for it.
    fn in_folder(cache: &Path, maven: &str) -> Result<Self, String> {
        let this = Self { folder: cache.join(format!("kafka-{KAFKA_VERSION}")) };
        if this.jars().is_dir() {
            return Ok(this);
        }
        fs::create_dir_all(&this.folder).map_err(|error| format!("can't create {}: {error}", this.folder.display()))?;
        let _lock = this.lock()?;
        if !this.jars().is_dir() {
            this.resolve(maven)?;
        }
        Ok(this)
    }

    /// Held while something is added; ends with its file, so with the process too.
    pub(crate) fn lock(&self) -> Result<File, String> {
        let path = self.folder.join("lock");
        let lock = File::create(&path).and_then(|file| file.lock().map(|()| file));
        lock.map_err(|error| format!("can't lock {}: {error}", path.display()))
    }

    /// Into a folder beside, which gets its name when it is complete.
    fn resolve(&self, maven: &str) -> Result<(), String> {
        let failed = |error: io::Error| format!("can't keep Kafka in {}: {error}", self.folder.display());
        let (pom, partial) = (self.folder.join("pom.xml"), self.folder.join("partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(failed)?;
        }
        fs::write(&pom, project()).map_err(failed)?;
        let mut command = Command::new(maven);
        command.args(["--quiet", "--batch-mode", "--strict-checksums", "--file"]).arg(&pom);
        command.arg(COPY).arg("-DincludeScope=runtime").arg(format!("-DoutputDirectory={}", partial.display()));
        let output = command.output().map_err(|error| format!("can't start {maven} ({error}): {REMEDY}"))?;
        if !output.status.success() {
            return Err(format!("{maven} can't resolve Kafka {KAFKA_VERSION}: {}", String::from_utf8_lossy(&output.stdout)));
        }
        fs::rename(&partial, self.jars()).map_err(failed)
    }

    fn jars(&self) -> PathBuf {
        self.folder.join("jars")
    }

    /// What java gets as its class path.
    pub(crate) fn class_path(&self) -> String {
        self.jars().join("*").display().to_string()
    }

    /// An archive of the loaded classes (JEP 350): with it a broker starts in half the time. Java passes over one that isn't its own.
    pub(crate) fn archive(&self) -> PathBuf {
        self.folder.join("classes.jsa")
    }
}

fn cache() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("pushline-testkit")
}

fn project() -> String {
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!("<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>")
    };
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>pushline</groupId><artifactId>testkit</artifactId><version>0</version><packaging>pom</packaging><dependencies>{}{}</dependencies></project>\n",
        dependency("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
        dependency("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J_VERSION),
    )
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, thread};

    use super::*;

    /// A Maven that writes down each call and brings one jar.
    fn maven(folder: &Path) -> String {
        let path = folder.join("mvn");
        let script = "#!/bin/sh\necho called >> \"${0%/*}/calls\"\nfor argument; do case $argument in -DoutputDirectory=*) folder=${argument#*=};; esac; done\n\
                      mkdir \"$folder\" && echo > \"$folder/kafka.jar\"\n";
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    }

    #[test]
    fn many_at_once_resolve_it_once_and_later_ones_need_no_maven() {
        let folder = tempfile::tempdir().unwrap();
        let maven = maven(folder.path());
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| Installation::in_folder(folder.path(), &maven).unwrap());
            }
        });
        assert_eq!(fs::read_to_string(folder.path().join("calls")).unwrap(), "called\n");
        let offline = Installation::in_folder(folder.path(), "no-such-maven").unwrap();
        assert!(offline.jars().join("kafka.jar").exists());
    }

    #[test]
    fn one_that_broke_off_is_resolved_again() {
        let folder = tempfile::tempdir().unwrap();
        let partial = folder.path().join(format!("kafka-{KAFKA_VERSION}/partial"));
        fs::create_dir_all(&partial).unwrap();
        fs::write(partial.join("half.jar"), "").unwrap();
        let installation = Installation::in_folder(folder.path(), &maven(folder.path())).unwrap();
        assert!(!installation.jars().join("half.jar").exists());
        assert!(installation.jars().join("kafka.jar").exists());
    }

    #[test]
    fn without_maven_it_says_what_to_install() {
        let folder = tempfile::tempdir().unwrap();
        let error = Installation::in_folder(folder.path(), "no-such-maven").unwrap_err();
        assert!(error.contains("apt-get install default-jre-headless maven"), "{error}");
    }
}
