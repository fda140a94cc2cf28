//! Why a client is refused or closed, with the code that each protocol version has for it.

/// Why the listener refuses a client or closes its connection. The names are those of MQTT 5's reason codes where there is one (§2.4);
/// MQTT 3.1.1 closes the connection without a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum DisconnectReason {
    /// The bytes aren't MQTT, or break its format.
    MalformedPacket,
    /// The packet is MQTT, but the protocol doesn't allow it at this moment.
    ProtocolError,
    /// No CONNECT came in time.
    ConnectTimeout,
    /// The version isn't 3.1, 3.1.1 or 5.
    UnsupportedProtocolVersion,
    /// An empty client id asks for a session (MQTT 3.1.1 only).
    ClientIdentifierNotValid,
    /// The client asks for enhanced authentication, which the listener doesn't have (§4.12).
    BadAuthenticationMethod,
    PacketTooLarge,
    /// The answer is larger than the client's own Maximum Packet Size (§3.1.2.11.4).
    AnswerTooLarge,
    /// The topic name is empty, or contains a wildcard or NUL.
    TopicNameInvalid,
    /// The client used a topic alias, and CONNACK allowed none.
    TopicAliasInvalid,
    QosNotSupported,
    /// Another connection took over the client id.
    SessionTakenOver,
    KeepAliveTimeout,
    /// The budget for packets that aren't durable yet is used up: storage is away or slow.
    ServerBusy,
    /// The queue couldn't store what the client sent.
    StorageFailed,
    ServerShuttingDown,
}

impl DisconnectReason {
    /// The value of the metrics' label `result`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::MalformedPacket => "refused_malformed",
            Self::ProtocolError => "refused_protocol",
            Self::ConnectTimeout => "refused_no_connect",
            Self::UnsupportedProtocolVersion => "refused_version",
            Self::ClientIdentifierNotValid => "refused_client_id",
            Self::BadAuthenticationMethod => "refused_authentication_method",
            Self::PacketTooLarge => "refused_too_large",
            Self::AnswerTooLarge => "refused_answer_too_large",
            Self::TopicNameInvalid => "refused_topic",
            Self::TopicAliasInvalid => "refused_topic_alias",
            Self::QosNotSupported => "refused_qos2",
            Self::SessionTakenOver => "refused_taken_over",
            Self::KeepAliveTimeout => "refused_keep_alive",
            Self::ServerBusy => "refused_unavailable",
            Self::StorageFailed => "refused_storage",
            Self::ServerShuttingDown => "refused_shutting_down",
        }
    }

    /// MQTT 5's reason code (§2.4).
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::StorageFailed => 0x80,
            Self::MalformedPacket => 0x81,
            Self::ProtocolError | Self::ConnectTimeout => 0x82,
            Self::UnsupportedProtocolVersion => 0x84,
            Self::ClientIdentifierNotValid => 0x85,
            Self::ServerBusy => 0x89,
            Self::ServerShuttingDown => 0x8b,
            Self::BadAuthenticationMethod => 0x8c,
            Self::KeepAliveTimeout => 0x8d,
            Self::SessionTakenOver => 0x8e,
            Self::TopicNameInvalid => 0x90,
            Self::TopicAliasInvalid => 0x94,
            Self::PacketTooLarge | Self::AnswerTooLarge => 0x95,
            Self::QosNotSupported => 0x9b,
        }
    }

    /// The return code of MQTT 3.1.1's CONNACK (§3.2.2.3), where it has one.
    pub(crate) fn connack_v3(self) -> Option<u8> {
        match self {
            Self::UnsupportedProtocolVersion => Some(1),
            Self::ClientIdentifierNotValid => Some(2),
            Self::ServerBusy => Some(3),
            _ => None,
        }
    }
}
