//! The systemd unit and compose.yaml: they stop as the chart's pods do, and what they name exists.

use std::process::Command;

use super::{
    Mistakes,
    objects::seconds_to_stop,
    root, text,
    tools::output,
    tree::{documents, list, string},
};
use crate::programs;

const UNIT: &str = "deploy/systemd/pushline.service";
const COMPOSE: &str = "deploy/compose.yaml";

/// The unit's exposure in tenths, as `systemd-analyze security` rates it from 0 (closed) to 100.
const MOST_EXPOSED: u32 = 20;

pub(super) fn check() -> Result<Mistakes, String> {
    let mut mistakes = times()?;
    mistakes.extend(unit()?);
    mistakes.extend(files_of_compose()?);
    mistakes.extend(prometheus()?);
    Ok(mistakes)
}

fn times() -> Result<Mistakes, String> {
    let mut mistakes = Vec::new();
    let wanted = seconds_to_stop("");
    if !text(UNIT)?.lines().any(|line| line == format!("TimeoutStopSec={wanted}")) {
        mistakes.push(format!("{UNIT}: TimeoutStopSec isn't the {wanted} s that a stop may take"));
    }
    let wanted = seconds_to_stop(&text("deploy/pushline.toml")?);
    let mut compose: yaml_serde::Value = yaml_serde::from_str(&text(COMPOSE)?).map_err(|error| format!("{COMPOSE}: {error}"))?;
    compose.apply_merge().map_err(|error| format!("{COMPOSE}: {error}"))?;
    for service in ["ingest", "deliver"] {
        if compose["services"][service]["stop_grace_period"] != format!("{wanted}s").as_str() {
            mistakes.push(format!("{COMPOSE}: stop_grace_period of {service} isn't {wanted}s"));
        }
    }
    Ok(mistakes)
}

/// A machine without systemd can't judge the unit.
fn unit() -> Result<Mistakes, String> {
    if !programs::is_installed("systemd-analyze") {
        println!("xtask: systemd-analyze isn't installed; {UNIT} isn't verified");
        return Ok(Vec::new());
    }
    let copy = unit_for_this_machine()?;
    let (valid, told, errors) = output(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy))?;
    let mut mistakes = if valid && errors.is_empty() { Vec::new() } else { vec![format!("{UNIT}: {told}{errors}")] };
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager", &format!("--threshold={MOST_EXPOSED}")]).arg(root().join(UNIT));
    let (closed, told, errors) = output(&mut security)?;
    if !closed {
        let level = told.lines().last().unwrap_or_default().to_owned();
        mistakes.push(format!("{UNIT}: {level}{errors}"));
    }
    // Nothing depends on its end.
    let _ = std::fs::remove_dir_all(copy.parent().expect("a file in a folder has one"));
    Ok(mistakes)
}

/// `verify` wants the program to exist: a copy names one that does.
fn unit_for_this_machine() -> Result<std::path::PathBuf, String> {
    let folder = std::env::temp_dir().join(format!("pushline-unit-{}", std::process::id()));
    let file = folder.join("pushline.service");
    let unit = text(UNIT)?.replace("/usr/bin/pushline", "/bin/true");
    std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, unit)).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(file)
}

/// Files beside compose.yaml that a service mounts.
fn files_of_compose() -> Result<Mistakes, String> {
    let compose = documents(&text(COMPOSE)?)?.pop().ok_or("compose.yaml is empty")?;
    let services = compose["services"].as_object().ok_or("compose.yaml has no services")?;
    let mounts = services.iter().flat_map(|(name, service)| list(&service["volumes"]).iter().map(move |mount| (name, string(mount))));
    let files = mounts.filter_map(|(name, mount)| Some((name, mount.split(':').next()?))).filter(|(_, file)| file.starts_with('.'));
    let missing = files.filter(|(_, file)| !root().join("deploy").join(file).exists());
    Ok(missing.map(|(name, file)| format!("{COMPOSE}: {name} mounts {file}, which isn't there")).collect())
}

/// promtool reads the configuration of Prometheus, with its rules.
fn prometheus() -> Result<Mistakes, String> {
    let file = root().join("deploy/prometheus/prometheus.yml");
    let (valid, told, errors) = output(Command::new("promtool").args(["check", "config", "--syntax-only"]).arg(&file))?;
    Ok(if valid { Vec::new() } else { vec![format!("{}: {told}{errors}", file.display())] })
}
