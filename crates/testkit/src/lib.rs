//! What tests and load tests share: the real process, receivers that keep what they get, a hostile one, a proxy that harms connections, and the ledger that says whether every
//! acknowledged packet arrived or is a dead letter. Never a dependency of the product.

mod chaos_proxy;
mod exactly_once;
mod exchange;
mod hostile;
mod http;
mod id_ledger;
mod inbox;
mod kafka;
mod kcat;
mod ledger;
mod mosquitto;
mod ports;
mod process;
mod request;
mod scripted;
mod signals;
mod sync_shim;

pub use pushline_sample::{Behaviour, Gateway, GatewayError, Push, Receiver};

pub use crate::{
    chaos_proxy::{ChaosProxy, Direction, Fault},
    exactly_once::{Answer, ExactlyOnceDevice},
    exchange::{RawReceiver, RawRequest},
    hostile::{CertificateAuthority, HostileProtocol, HostileServer},
    http::get,
    id_ledger::{IdLedger, PushRecord, RepeatedPacket, Sighting},
    inbox::{Inbox, payloads, payloads_of},
    kafka::{CommitProxy, HeldCommit, KAFKA_VARIABLE, KAFKA_VERSION, Kafka, KafkaCluster, KafkaMetadata, KafkaPartition, KafkaSecurity},
    kcat::kcat,
    ledger::Ledger,
    mosquitto::{Mosquitto, mosquitto_pub},
    ports::free_port,
    process::{DeadLetterLine, Pushline, command, folder},
    scripted::{Arrival, ScriptedReceiver},
    sync_shim::{SyncBegun, SyncShim},
};

/// How long a test waits for what must come, on a machine that is busy with other things: only what hangs takes so long.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);
