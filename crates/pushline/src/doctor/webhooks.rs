//! The webhooks: can each server be reached as an attempt would reach it, and does it accept a test message where one was asked for?

use std::{sync::Arc, time::SystemTime};

use futures_util::{StreamExt, stream};
use pushline_deliver::{Network, Probe};
use pushline_model::{Outcome, Packet, Timestamp, Webhook};

use super::{Report, finding::Finding};
use crate::config::{Config, EXPIRES_SOON};

/// Servers that are looked at beside each other.
const AT_ONCE: usize = 32;

/// The payload of a test message.
const PAYLOAD: &[u8] = b"pushline doctor";

/// Looks at each webhook, in order, and pushes to those that are named.
///
/// # Errors
/// The report can't be printed.
pub(super) async fn examine(config: &Config, push: &[String], report: &mut Report) -> anyhow::Result<()> {
    report.add_all(certificates(config))?;
    let network = match Network::new(config.egress()) {
        Ok(network) => network,
        Err(error) => {
            let remedy = "change [egress] source_address, or give this machine the address";
            return report.add(&Finding::failed("webhook", format!("{error:#}"), remedy));
        }
    };
    let looks = config.registry.webhooks().iter().map(|webhook| {
        let is_pushed = push.contains(&webhook.name);
        look(Arc::clone(webhook), Arc::clone(&network), is_pushed)
    });
    let mut findings = stream::iter(looks).buffered(AT_ONCE);
    while let Some(finding) = findings.next().await {
        report.add(&finding)?;
    }
    Ok(())
}

async fn look(webhook: Arc<Webhook>, network: Arc<Network>, is_pushed: bool) -> Finding {
    let name = webhook.name.clone();
    let probe = match Probe::new(webhook, network) {
        Ok(probe) => probe,
        Err(error) => return Finding::failed("webhook", format!("{name}: {error:#}"), "change this webhook"),
    };
    if !is_pushed {
        return match probe.reach().await {
            Ok(protocol) => Finding::ok("webhook", format!("{name}: reached over {protocol}")),
            Err(outcome) => Finding::failed("webhook", format!("{name}: {outcome}"), remedy(&outcome)),
        };
    }
    let iccid = "0".parse().expect("0 is an ICCID");
    let packet = Packet { iccid, topic: "pushline/doctor", received_at: Timestamp::of(SystemTime::now()), payload: PAYLOAD };
    match probe.push(&packet).await {
        Outcome::Accepted { status } => Finding::ok("webhook", format!("{name}: accepted a test message with status {status}")),
        outcome => Finding::failed("webhook", format!("{name}: {outcome}"), remedy(&outcome)),
    }
}

fn remedy(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Accepted { .. } => String::new(),
        Outcome::ErrorResponse { status: 401 | 403, .. } => "check the credentials with the customer".to_owned(),
        Outcome::ErrorResponse { .. } => "ask the customer what their server's log says of this request".to_owned(),
        Outcome::BlockedAddress { .. } => "allow its range in [egress] allow, if this webhook may be private".to_owned(),
        Outcome::LocalFailure(_) => "this machine can't make the connection: see /readyz of the running process, or its log".to_owned(),
        Outcome::NoResponse(_) => "tell the customer; packets wait up to [backlog] max_age and follow when the server is back".to_owned(),
    }
}

/// The certificates that webhooks show or trust.
fn certificates(config: &Config) -> Vec<Finding> {
    let now = SystemTime::now();
    let finding = |(webhook, expiry): &(String, pushline_deliver::CertificateExpiry)| {
        let text = format!("{webhook}: {}", expiry.describe(now));
        let remedy = "put a new certificate in its place; Pushline reads it again";
        match expiry.at {
            past if past <= now => Finding::failed("certificate", text, remedy),
            soon if soon <= now + EXPIRES_SOON => Finding::warning("certificate", text, remedy),
            _ => Finding::ok("certificate", text),
        }
    };
    config.certificates.iter().map(finding).collect()
}
