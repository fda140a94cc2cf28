//! What could not be delivered, with the reason, for as long as the operator keeps it (docs/delivery.md, Dead letters).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Attempt, Invalid, Offset, Packet, ResponseHeaders, Timestamp};

/// How much of a response's body a dead letter keeps, in bytes.
pub const RESPONSE_KEPT: usize = 2048;

/// Why packets became a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The customer's server answered, and not with a 2xx.
    ErrorResponse,
    /// It didn't answer any of the attempts.
    NoResponse,
    /// The egress guard permits no address of the host.
    BlockedAddress,
    /// No topic pattern matched, or the device is in no group.
    Unrouted,
    /// The group has no webhook.
    NoWebhook,
    /// It waited longer than `backlog.max_age`, or in more space than `queue.max_bytes`.
    Expired,
    /// A foreign record on the topic.
    Unreadable,
    /// The payload is larger than the listener's or broker's `max_payload_bytes`.
    TooLarge,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::ErrorResponse,
        Self::NoResponse,
        Self::BlockedAddress,
        Self::Unrouted,
        Self::NoWebhook,
        Self::Expired,
        Self::Unreadable,
        Self::TooLarge,
    ];

    /// As configuration, metrics and lists name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ErrorResponse => "error_response",
            Self::NoResponse => "no_response",
            Self::BlockedAddress => "blocked_address",
            Self::Unrouted => "unrouted",
            Self::NoWebhook => "no_webhook",
            Self::Expired => "expired",
            Self::Unreadable => "unreadable",
            Self::TooLarge => "too_large",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Cause {
    type Err = Invalid;

    fn from_str(name: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|cause| cause.name() == name).ok_or_else(|| Invalid::Cause(name.to_owned()))
    }
}

/// One message that wasn't delivered, or one packet where no message was cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// When it was written.
    pub time: Timestamp,
    /// `organisation/name`; only `organisation/` or nothing for a packet that belongs to no group.
    pub group: String,
    /// The webhook's name, where there was one.
    pub webhook: Option<String>,
    /// The message's id, where a message was cut.
    pub message_id: Option<String>,
    /// Where the packet lies in the packet log, where no message was cut and it had been stored.
    pub record: Option<RecordPlace>,
    /// Whether the body was an array.
    pub array: bool,
    /// Why.
    pub cause: Cause,
    /// The status of the last response.
    pub status: Option<u16>,
    /// The first [`RESPONSE_KEPT`] bytes of its body, or the addresses that were blocked.
    pub response: Vec<u8>,
    /// Every attempt, oldest first. A local failure is none.
    pub attempts: Vec<Attempt>,
    /// The packets as they came.
    pub packets: Vec<DeadPacket>,
    /// Headers of the last response.
    pub headers: ResponseHeaders,
}

impl DeadLetter {
    /// A dead letter of packets that were in no message, so no attempt was made.
    #[must_use]
    pub fn unsent(time: Timestamp, group: String, cause: Cause, packets: Vec<DeadPacket>) -> Self {
        Self {
            time,
            group,
            webhook: None,
            message_id: None,
            record: None,
            array: false,
            cause,
            status: None,
            response: Vec::new(),
            attempts: Vec::new(),
            packets,
            headers: ResponseHeaders::default(),
        }
    }
}

/// A record's place in the packet log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordPlace {
    /// The partition.
    pub partition: u32,
    /// The offset in the partition.
    pub offset: Offset,
}

/// A packet as it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadPacket {
    /// When the PUBLISH was read.
    pub received_at: Timestamp,
    /// As published.
    pub topic: String,
    /// The device; empty where the topic named none.
    pub iccid: String,
    /// The bytes.
    pub payload: Vec<u8>,
}

impl From<Packet<'_>> for DeadPacket {
    fn from(packet: Packet<'_>) -> Self {
        Self {
            received_at: packet.received_at,
            topic: packet.topic.to_owned(),
            iccid: packet.iccid.to_string(),
            payload: packet.payload.to_vec(),
        }
    }
}
