//! One connection to a broker: the driver around a [`Client`]. It appends what is read together as one batch, and acknowledges the batch when it is durable.
//!
//! What isn't acknowledged when the connection ends never will be: its packet ids have no meaning on the next connection. The broker sends it again.

use std::{
    collections::VecDeque,
    fmt,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use pushline_model::Timestamp;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use super::{
    BrokerOptions,
    client::{Ack, Client, Event, KEEP_ALIVE, Requests},
    health::ConnectionHealth,
    packets::Packets,
};
use crate::{Ingest, commits::Commits, log_limit::LogLimit};

/// The subscriber gives up a connection that it couldn't read for this long, since storage is away. The broker keeps the packets for the next one.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an ending connection waits for commits that it still has to acknowledge.
const LAST_ACKS_DEADLINE: Duration = Duration::from_secs(5);

/// A connection, from CONNECT to its last acknowledgement.
pub(super) struct Connection<C: Client> {
    ingest: Arc<Ingest>,
    options: Arc<BrokerOptions>,
    client: C,
    requests: C::Requests,
    commits: Commits<Ack>,
    /// Acknowledgements of durable packets that the client hasn't taken yet, in the order of arrival.
    acks: VecDeque<Ack>,
    filters: Vec<String>,
    health: Arc<ConnectionHealth>,
    /// What CONNACK said: whether the broker kept the session. `None`: not connected.
    session_present: Option<bool>,
    too_large_log: LogLimit,
}

/// Why a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The process stops.
    Stopped,
    /// The connection broke, or the broker refused it.
    Lost(String),
    /// The broker takes one of the subscriptions not as it was asked to.
    NotSubscribed { filter: String, reason: String },
    /// Neither the broker nor the network did anything for two intervals of pings.
    Silent,
    /// The budget for packets that aren't durable yet was used up for [`STALL_TIMEOUT`].
    NoCapacity,
    /// The queue couldn't store a packet. Brokers send it again on a new connection only (MQTT 5 §4.4).
    NotStored(String),
}

impl End {
    /// The value of the metrics' label `reason`.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Lost(_) => "lost",
            Self::NotSubscribed { .. } => "not_subscribed",
            Self::Silent => "silent",
            Self::NoCapacity => "unavailable",
            Self::NotStored(_) => "storage",
        }
    }
}

/// For people.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("the process stops"),
            Self::Lost(reason) => f.write_str(reason),
            Self::NotSubscribed { filter, reason } => write!(f, "the broker refused the subscription to {filter}: {reason}"),
            Self::Silent => f.write_str("nothing happened on the connection for two intervals of pings"),
            Self::NoCapacity => f.write_str("storage is away or slow: the packets wait at the broker"),
            Self::NotStored(reason) => write!(f, "a packet couldn't be stored: {reason}"),
        }
    }
}

impl<C: Client> Connection<C> {
    pub(super) fn new(
        ingest: Arc<Ingest>,
        options: Arc<BrokerOptions>,
        (client, requests): (C, C::Requests),
        health: Arc<ConnectionHealth>,
    ) -> Self {
        let commits = Commits::new(Arc::clone(&ingest), "broker");
        let filters = options.filters();
        Self {
            ingest,
            options,
            client,
            requests,
            commits,
            acks: VecDeque::new(),
            filters,
            health,
            session_present: None,
            too_large_log: LogLimit::default(),
        }
    }

    /// Takes packets in until the connection ends.
    pub(super) async fn run(mut self) -> End {
        let end = loop {
            let mut events = Vec::new();
            let polled = self.poll(&mut events).await;
            // What was read before an error is stored too, and not acknowledged.
            let handled = self.handle(&events);
            if let Err(end) = polled.and(handled) {
                break end;
            }
            send(&self.requests, &mut self.acks);
        };
        if end == End::Stopped && self.session_present.is_some() {
            drop(timeout(LAST_ACKS_DEADLINE, self.last_acks()).await);
        }
        self.commits.count_later();
        end
    }

    /// Polls the client once, and acknowledges meanwhile. The poll is finished whatever else happens, unless the connection ends: a poll that is
    /// dropped and begun again each time would never connect.
    async fn poll(&mut self, events: &mut Vec<Event>) -> Result<(), End> {
        let silence = 2 * self.client.keep_alive().max(KEEP_ALIVE);
        let budget = &self.ingest.budget;
        let mut polling = pin!(self.client.poll(events));
        let (mut had_capacity, mut since) = (true, Instant::now());
        loop {
            let has_capacity = budget.has_capacity();
            if has_capacity != std::mem::replace(&mut had_capacity, has_capacity) {
                since = Instant::now();
            }
            let deadline = since + if has_capacity { silence } else { STALL_TIMEOUT };
            // The order is random: reading and acknowledging each handle all that is ready, so neither starves the other.
            tokio::select! {
                polled = &mut polling, if has_capacity => return polled.map_err(End::Lost),
                durable = self.commits.durable(), if !self.commits.is_empty() => {
                    self.acks.extend(durable.map_err(|error| End::NotStored(error.to_string()))?);
                    send(&self.requests, &mut self.acks);
                }
                () = budget.capacity(), if !has_capacity => {}
                () = sleep_until(deadline) => return Err(if has_capacity { End::Silent } else { End::NoCapacity }),
                () = self.ingest.stopped() => return Err(End::Stopped),
            }
        }
    }

    /// Appends the packets, and answers what else was read.
    fn handle(&mut self, events: &[Event]) -> Result<(), End> {
        self.append(events);
        for event in events {
            match event {
                Event::Connected { session_present, session_expiry } => self.connected(*session_present, *session_expiry),
                Event::Subscribed(granted) => self.subscribed(granted)?,
                Event::Published(_) | Event::Disconnected => {}
            }
        }
        Ok(())
    }

    fn append(&mut self, events: &[Event]) {
        let (registry, budget) = (self.ingest.registry.load(), &self.ingest.budget);
        let mut packets = Packets::new(&registry, &self.options, Timestamp::of(SystemTime::now()), &mut self.too_large_log);
        for event in events {
            if let Event::Published(published) = event {
                packets.take(published, budget.has_capacity());
            }
        }
        packets.append(&mut self.commits);
    }

    /// Subscribes, also where the broker kept the session: its subscriptions may be those of an older configuration.
    fn connected(&mut self, session_present: bool, session_expiry: Option<Duration>) {
        self.session_present = Some(session_present);
        if let Some(granted) = session_expiry.filter(|granted| *granted < self.options.session_expiry) {
            warn!(broker = self.options.name, ?granted, asked = ?self.options.session_expiry, "the MQTT broker keeps sessions for a shorter time than session_expiry");
        }
        self.requests.subscribe(&self.filters);
    }

    fn subscribed(&self, granted: &[Result<u8, String>]) -> Result<(), End> {
        let refused = self.filters.iter().zip(granted).find_map(|(filter, granted)| match granted {
            Ok(1..) => None,
            Ok(0) => Some((filter, "it granted QoS 0 only, which loses packets".to_owned())),
            Err(reason) => Some((filter, reason.clone())),
        });
        if let Some((filter, reason)) = refused {
            return Err(End::NotSubscribed { filter: filter.clone(), reason });
        }
        self.health.up(self.session_present == Some(true), !self.options.session_expiry.is_zero());
        Ok(())
    }

    /// Acknowledges what was appended, takes nothing in any more, and leaves.
    async fn last_acks(&mut self) {
        let mut events = Vec::new();
        let mut is_leaving = false;
        loop {
            send(&self.requests, &mut self.acks);
            if self.commits.is_empty() && self.acks.is_empty() && !is_leaving {
                is_leaving = self.requests.disconnect();
            }
            let polled = {
                let mut polling = pin!(self.client.poll(&mut events));
                tokio::select! {
                    polled = &mut polling => polled,
                    durable = self.commits.durable(), if !self.commits.is_empty() => match durable {
                        Ok(acks) => {
                            self.acks.extend(acks);
                            Ok(())
                        }
                        Err(_) => return,
                    },
                }
            };
            if polled.is_err() || events.drain(..).any(|event| event == Event::Disconnected) {
                return;
            }
        }
    }
}

/// Passes acknowledgements on until the client takes no more; the rest follows after the next poll.
fn send(requests: &impl Requests, acks: &mut VecDeque<Ack>) {
    while let Some(ack) = acks.front()
        && requests.acknowledge(*ack)
    {
        acks.pop_front();
    }
}
