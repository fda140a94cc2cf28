//! The running process, as its admin server tells of it. None may run.

use std::time::Duration;

use axum::http::{Method, Response, StatusCode};
use tokio::time::timeout;

use super::finding::Finding;
use crate::{
    admin_client::{self, HostPort},
    config::Config,
};

/// An admin server that takes longer has a reason that its operator must find.
const PATIENCE: Duration = Duration::from_secs(5);

/// Is a process ready, of this version, and was its last reload taken? `admin` names it; else the configuration does.
pub(super) async fn examine(config: &Config, admin: Option<&HostPort>) -> Vec<Finding> {
    let configured = config.settings.admin.address.to_string();
    let configured = configured.parse().expect("an address with a port is one");
    let process = admin.unwrap_or(&configured);
    let (readiness, metrics) = match (ask(process, "/readyz").await, ask(process, "/metrics").await) {
        (Ok(readiness), Ok(metrics)) => (readiness, metrics),
        (Err(error), _) | (_, Err(error)) if admin.is_some() => {
            return vec![Finding::failed("process", format!("{error:#}"), "start Pushline, or name its admin address")];
        }
        _ => return vec![Finding::ok("process", format!("none runs at {process}"))],
    };
    let is_ready = match readiness.status() {
        StatusCode::OK if readiness.body() == "ready\n" => Finding::ok("process", format!("the one at {process} is ready")),
        StatusCode::SERVICE_UNAVAILABLE => {
            Finding::failed("process", format!("the one at {process} isn't ready: {}", readiness.body().trim()), "remove this cause")
        }
        other => {
            let remedy = "give [admin] address a port of its own";
            return vec![Finding::failed("process", format!("something else answers at {process}: /readyz is {other}"), remedy)];
        }
    };
    [Some(is_ready), of_version(metrics.body()), of_reload(metrics.body())].into_iter().flatten().collect()
}

async fn ask(process: &HostPort, path: &str) -> anyhow::Result<Response<String>> {
    timeout(PATIENCE, admin_client::request(process, Method::GET, path)).await?
}

fn of_version(metrics: &str) -> Option<Finding> {
    let line = metrics.lines().find(|line| line.starts_with("pushline_build_info{"))?;
    let version = line.split("version=\"").nth(1)?.split('"').next()?;
    let own = env!("CARGO_PKG_VERSION");
    (version != own).then(|| Finding::warning("process", format!("it is version {version}, this is {own}"), "restart it to upgrade it"))
}

fn of_reload(metrics: &str) -> Option<Finding> {
    let is_refused = metrics.lines().any(|line| line == "pushline_config_last_reload_successful 0");
    is_refused.then(|| {
        let text = "its last reload was refused: it runs with an older configuration";
        Finding::failed(
            "process",
            text,
            "mend the configuration; the log has its mistakes; options beside webhooks and groups need a restart",
        )
    })
}
