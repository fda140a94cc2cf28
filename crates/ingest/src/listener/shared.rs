//! What all connections of a listener share, and how they report a client that was refused or closed.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use metrics::counter;
use pushline_model::{Timestamp, TopicPattern};
use tokio::{sync::watch, time::Instant};

use crate::{Ingest, budget::Budget, metrics as names};

use super::{
    Clients, DisconnectReason, InvalidOption, Limits, Options, Subscriptions, TooLarge, entrance::Entrance, one_read::Fault,
    refused_clients::Refused,
};

/// The state that all connections of a listener share.
pub(crate) struct Shared {
    pub(crate) ingest: Arc<Ingest>,
    pub(crate) clients: Arc<Clients>,
    pub(crate) topics: Vec<TopicPattern>,
    pub(crate) max_payload: usize,
    pub(crate) too_large: TooLarge,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) limits: Limits,
    /// For the wills of all clients.
    pub(crate) wills: Arc<Budget>,
    pub(crate) entrance: Arc<Entrance>,
    /// Changes when certificates, users and keys were read again.
    pub(crate) read_again: watch::Receiver<()>,
}

/// The client id and the user, as far as they are known.
pub(crate) type Who<'a> = (&'a str, Option<&'a str>);

impl Shared {
    /// Reads the files that the options name; what is sent here says that they were read again.
    ///
    /// # Errors
    /// A file is of no use.
    pub(super) fn new(options: Options, ingest: Arc<Ingest>, clients: Arc<Clients>) -> Result<(Self, watch::Sender<()>), InvalidOption> {
        let (entrance, (sender, read_again)) = (Arc::new(options.entrance()?), watch::channel(()));
        let Options { topics, max_payload_bytes: max_payload, too_large, subscriptions, limits, .. } = options;
        let wills = Budget::new(limits.will_bytes);
        Ok((Self { ingest, clients, topics, max_payload, too_large, subscriptions, wills, limits, entrance, read_again }, sender))
    }

    /// Counts a client that was refused or closed, and reports it.
    pub(super) fn refused(&self, address: SocketAddr, who: Who<'_>, reason: DisconnectReason, topic: Option<&str>, detail: &str) {
        counter!(names::PACKETS, "source" => "listener", "result" => reason.label()).increment(1);
        self.report(address, who, reason, topic, detail);
    }

    /// The same for a packet at fault.
    pub(super) fn refused_for(&self, address: SocketAddr, who: Who<'_>, fault: &Fault) {
        self.refused(address, who, fault.reason, fault.topic.as_deref(), &self.detail(fault));
    }

    /// Puts a client on the list and into the log, where its reason is worth it.
    pub(super) fn report(
        &self,
        address: SocketAddr,
        (client_id, user): Who<'_>,
        reason: DisconnectReason,
        topic: Option<&str>,
        detail: &str,
    ) {
        if reason.is_reported() {
            let refused = Refused { client_id, user, address: address.ip(), reason, topic, detail };
            self.clients.refused.report(&refused, now(), Instant::now().into_std());
        }
    }

    /// What is wrong with a packet. One that is too large is named with its size and the option that allows it.
    pub(super) fn detail(&self, fault: &Fault) -> String {
        match (fault.reason, fault.length) {
            (DisconnectReason::PacketTooLarge, Some(length)) => {
                format!("a packet of {length} bytes is larger than max_payload_bytes = {} allows", self.max_payload)
            }
            (reason, _) => reason.describe().to_owned(),
        }
    }
}

/// The wall clock.
pub(super) fn now() -> Timestamp {
    Timestamp::of(SystemTime::now())
}
