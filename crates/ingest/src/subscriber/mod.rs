//! The subscriber of an MQTT broker: packets come from there instead of from devices. It acknowledges a packet only when the queue has made it durable.
//!
//! | what | where |
//! |---|---|
//! | the filters to subscribe to (pure) | `filters.rs` |
//! | rumqttc, in either protocol version | `client.rs` |
//! | what becomes of a packet (pure) | `packets.rs` |
//! | the only `select!` of a connection | `connection.rs` |
//! | when to connect again (pure) | `reconnect_delay.rs` |
//! | whether a connection is up, for the log and `/readyz` | `health.rs` |

mod client;
mod connection;
mod filters;
mod health;
mod packets;
mod reconnect_delay;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use pushline_model::{Secret, TopicPattern};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use self::{
    client::{Client, ClientV3, ClientV5, Target},
    connection::{Connection, End},
    health::ConnectionHealth,
    reconnect_delay::ReconnectDelay,
};
pub use self::{
    filters::{filters, overlapping},
    health::BrokerHealth,
};
use crate::{Ingest, tasks::resume_panic};

/// A broker, and how to take packets from it.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// What the log, the metrics and `/readyz` call the broker.
    pub name: String,
    /// The host to dial: a name, or an address without brackets.
    pub host: String,
    /// The port to dial.
    pub port: u16,
    /// The version of the protocol.
    pub version: ProtocolVersion,
    /// `None`: no TLS.
    pub tls: Option<ClientConfigs>,
    /// User name and password.
    pub credentials: Option<(String, Secret)>,
    /// Of the first connection; further ones add `-2`, `-3`. It names the session, so it must stay the same over restarts.
    pub client_id: String,
    /// The topic patterns; the first one that matches a topic counts. They decide what is subscribed to.
    pub topics: Vec<TopicPattern>,
    /// The members of a shared group share the packets among them.
    pub shared_group: Option<String>,
    /// How many connections to hold. Without a shared group each packet would come once for each.
    pub connections: u16,
    /// How long the broker keeps packets for a connection that is down.
    pub session_expiry: Duration,
    /// How many packets the broker may send before the first is acknowledged. MQTT 5 only.
    pub receive_maximum: u16,
    /// The largest payload, in bytes.
    pub max_payload_bytes: usize,
    /// Larger payloads are kept as dead letters up to this size, in bytes.
    pub max_dead_letter_bytes: usize,
}

/// A version of MQTT.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProtocolVersion {
    /// 3.1.1.
    V3,
    /// 5.
    #[default]
    V5,
}

/// Makes the TLS configuration of a connection. It is called for each, so that a changed certificate counts from the next one on. It may block.
#[derive(Clone)]
pub struct ClientConfigs(Arc<ReadClientConfig>);

type ReadClientConfig = dyn Fn() -> Result<Arc<rustls::ClientConfig>, String> + Send + Sync;

/// The connections to one broker. [`Subscriber::run`] holds them.
pub struct Subscriber {
    ingest: Arc<Ingest>,
    options: Arc<BrokerOptions>,
    health: Vec<Arc<ConnectionHealth>>,
}

impl ClientConfigs {
    /// From a function that reads files, or says what is wrong with one.
    pub fn new(read: impl Fn() -> Result<Arc<rustls::ClientConfig>, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Calls the function where it may block.
    pub(crate) async fn read(&self) -> Result<Arc<rustls::ClientConfig>, String> {
        let read = self.clone();
        tokio::task::spawn_blocking(move || (read.0)()).await.map_err(|error| error.to_string())?
    }
}

impl fmt::Debug for ClientConfigs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientConfigs")
    }
}

impl BrokerOptions {
    /// The filters to subscribe to.
    pub(crate) fn filters(&self) -> Vec<String> {
        filters(&self.topics, self.shared_group.as_deref())
    }

    /// The client id of a connection, counted from 1.
    fn client_id(&self, connection: u16) -> String {
        if connection == 1 { self.client_id.clone() } else { format!("{}-{connection}", self.client_id) }
    }

    async fn target(&self, client_id: &str) -> Result<Target, String> {
        let tls = match &self.tls {
            None => None,
            Some(configs) => Some(configs.read().await?),
        };
        Ok(Target {
            host: self.host.clone(),
            port: self.port,
            tls,
            client_id: client_id.to_owned(),
            credentials: self.credentials.clone(),
            session_expiry: self.session_expiry,
            receive_maximum: self.receive_maximum,
        })
    }
}

impl Subscriber {
    /// A subscriber that isn't connected yet.
    #[must_use]
    pub fn new(options: BrokerOptions, ingest: Arc<Ingest>) -> Self {
        let health = (1..=options.connections).map(|number| ConnectionHealth::new(&options.name, options.client_id(number))).collect();
        Self { ingest, options: Arc::new(options), health }
    }

    /// Whether its connections have been up.
    #[must_use]
    pub fn health(&self) -> BrokerHealth {
        BrokerHealth(self.health.clone())
    }

    /// Takes packets in until the process stops, then waits until each connection has sent its last acknowledgements.
    pub async fn run(self) {
        let mut connections = JoinSet::new();
        for health in self.health {
            let (ingest, options) = (Arc::clone(&self.ingest), Arc::clone(&self.options));
            match options.version {
                ProtocolVersion::V3 => connections.spawn(keep_connected::<ClientV3>(ingest, options, health)),
                ProtocolVersion::V5 => connections.spawn(keep_connected::<ClientV5>(ingest, options, health)),
            };
        }
        while let Some(ended) = connections.join_next().await {
            _ = resume_panic(ended);
        }
    }
}

/// Holds a connection, and makes a new one when it is lost.
async fn keep_connected<C: Client>(ingest: Arc<Ingest>, options: Arc<BrokerOptions>, health: Arc<ConnectionHealth>) {
    let mut delay = ReconnectDelay::default();
    loop {
        // While storage is away, packets are safer at the broker.
        tokio::select! {
            () = ingest.budget.capacity() => {}
            () = ingest.stopped() => return,
        }
        let began = Instant::now();
        let end = match options.target(&health.client_id).await {
            Ok(target) => Connection::new(Arc::clone(&ingest), Arc::clone(&options), C::new(&target), Arc::clone(&health)).run().await,
            Err(problem) => End::Lost(problem),
        };
        health.down(&end);
        if end == End::Stopped {
            return;
        }
        tokio::select! {
            () = sleep(delay.after(began.elapsed())) => {}
            () = ingest.stopped() => return,
        }
    }
}
