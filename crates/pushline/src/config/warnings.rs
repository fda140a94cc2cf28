//! What is no mistake, since it may be meant: options that aren't used, and a machine that doesn't fit the file. `check` prints it, the start logs it.

use std::net::{IpAddr, UdpSocket};

use pushline_model::Registry;

use super::{
    read::Table,
    settings::{QueueKind, Settings},
};

/// Of the settings and the registry that a document holds.
pub(super) fn of(document: &Table<'_, '_>, settings: &Settings, registry: &Registry) -> Vec<String> {
    let unused: &[&str] = match settings.queue.kind {
        QueueKind::Embedded => &["kafka"],
        QueueKind::Kafka => &["dir", "max_bytes", "min_free"],
    };
    let queue = document.table().and_then(|table| table.get("queue")?.get_ref().as_table());
    let is_given = |name: &&&str| queue.is_some_and(|queue| queue.contains_key(**name));
    let unused = unused.iter().filter(is_given);
    let mut warnings: Vec<String> = unused.map(|name| format!("queue.{name} isn't used, since queue.kind is another")).collect();
    if registry.webhooks().is_empty() {
        warnings.push("there are no [[webhooks]]: every packet becomes a dead letter".to_owned());
    }
    if let Some(address) = settings.egress.source_address.filter(|address| !is_here(*address)) {
        warnings.push(format!("egress.source_address {address} is no address of this machine: no webhook can be reached from here"));
    }
    warnings
}

/// Of the variables that begin like Pushline's own and name no field.
pub(super) fn of_variables(passed_over: &[String]) -> Option<String> {
    let names = passed_over.join(", ");
    (!passed_over.is_empty()).then(|| format!("ignored environment variables that name no field: {names}"))
}

fn is_here(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}
