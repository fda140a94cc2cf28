//! The names of this crate's metrics, each with its help text and unit.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Packets by source and result.
pub const PACKETS: &str = "pushline_ingest_packets_total";
/// From the reading of a packet until its acknowledgement was written.
pub const ACK_SECONDS: &str = "pushline_ingest_ack_seconds";
/// Open MQTT connections.
pub const CONNECTIONS: &str = "pushline_ingest_connections";

/// Registers help texts and units with the recorder.
pub fn describe() {
    describe_counter!(PACKETS, "Packets by source and result; refused_… counts connections that were refused or closed, by reason");
    describe_histogram!(ACK_SECONDS, Unit::Seconds, "From the reading of a packet until its acknowledgement was written");
    describe_gauge!(CONNECTIONS, "Open MQTT connections");
}
