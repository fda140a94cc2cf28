//! The names of this crate's metrics, each with its help text and unit.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Packets by source and result.
pub const PACKETS: &str = "pushline_ingest_packets_total";
/// From the reading of a packet until its acknowledgement was written.
pub const ACK_SECONDS: &str = "pushline_ingest_ack_seconds";
/// Open MQTT connections.
pub const CONNECTIONS: &str = "pushline_ingest_connections";

/// Logins that a login end point was asked about.
pub const LOGIN_REQUESTS: &str = "pushline_ingest_login_requests_total";

/// How often a client was read no further because of its rate.
pub const RATE_LIMITED: &str = "pushline_ingest_rate_limited_total";

/// Connections to MQTT brokers that are up.
pub const BROKER_CONNECTIONS: &str = "pushline_ingest_broker_connections";
/// Ends of connections to MQTT brokers.
pub const BROKER_DISCONNECTIONS: &str = "pushline_ingest_broker_disconnections_total";
/// Packets that a device or a broker had sent before.
pub const RESENT_PACKETS: &str = "pushline_ingest_resent_packets_total";

/// Registers help texts and units with the recorder.
pub fn describe() {
    describe_counter!(PACKETS, "Packets by source and result; refused_… counts connections that were refused or closed, by reason");
    describe_histogram!(ACK_SECONDS, Unit::Seconds, "From the reading of a packet until its acknowledgement was written");
    describe_gauge!(CONNECTIONS, "Open MQTT connections");
    describe_counter!(LOGIN_REQUESTS, "Logins that a login end point was asked about, by result");
    describe_counter!(RATE_LIMITED, "How often a client wasn't read for a while, because its packet_rate or byte_rate was used up");
    describe_gauge!(BROKER_CONNECTIONS, "Connections to MQTT brokers that are up, with their subscriptions granted");
    describe_counter!(BROKER_DISCONNECTIONS, "Ends of connections to MQTT brokers, by reason");
    describe_counter!(RESENT_PACKETS, "Packets that a device or an MQTT broker sent again: each may be stored twice");
}
