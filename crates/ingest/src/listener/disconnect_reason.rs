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
    /// The topic name is empty, or contains a wildcard.
    TopicNameInvalid,
    /// The client used a topic alias, and CONNACK allowed none.
    TopicAliasInvalid,
    /// The client has more packets in flight than the Receive Maximum of CONNACK (§3.3.4).
    ReceiveMaximumExceeded,
    /// The user is unknown, or the password or token is wrong or missing.
    BadUserNameOrPassword,
    /// The login end point gave no decision.
    ServerUnavailable,
    /// The client's token, or the login end point's decision, holds no more.
    LoginExpired,
    /// The client may not publish to the topic, isn't let in any more, or has the client id of another user.
    NotAuthorized,
    /// An operator has disconnected the client.
    AdministrativeAction,
    /// The listener or the client's address has as many connections as it may.
    TooManyConnections,
    /// Too many connections haven't sent CONNECT yet.
    TooManyHandshakes,
    /// The wills of the listener's clients use their budget up.
    TooManyWills,
    /// A connection of a load balancer doesn't begin with a header of the PROXY protocol.
    NoProxyHeader,
    TlsFailed,
    WebSocketFailed,
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
            Self::ReceiveMaximumExceeded => "refused_receive_maximum",
            Self::BadUserNameOrPassword => "refused_password",
            Self::ServerUnavailable => "refused_login_unavailable",
            Self::LoginExpired => "refused_login_expired",
            Self::NotAuthorized => "refused_not_authorized",
            Self::AdministrativeAction => "refused_by_operator",
            Self::TooManyConnections => "refused_connections",
            Self::TooManyHandshakes => "refused_handshakes",
            Self::TooManyWills => "refused_wills",
            Self::NoProxyHeader => "refused_proxy_header",
            Self::TlsFailed => "refused_tls",
            Self::WebSocketFailed => "refused_websocket",
            Self::SessionTakenOver => "refused_taken_over",
            Self::KeepAliveTimeout => "refused_keep_alive",
            Self::ServerBusy => "refused_unavailable",
            Self::StorageFailed => "refused_storage",
            Self::ServerShuttingDown => "refused_shutting_down",
        }
    }

    /// What is wrong, and what to do where an operator can do anything: for the log.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::MalformedPacket => "the bytes aren't MQTT, or break its format",
            Self::ProtocolError => "MQTT doesn't allow this packet here",
            Self::ConnectTimeout => "no CONNECT came within ten seconds",
            Self::UnsupportedProtocolVersion => "the version of MQTT isn't 3.1, 3.1.1 or 5",
            Self::ClientIdentifierNotValid => "the client id is empty without a clean session, or longer than max_client_id_bytes",
            Self::BadAuthenticationMethod => "the client asks for enhanced authentication, which the listener doesn't have",
            Self::PacketTooLarge => "the packet is larger than the listener takes",
            Self::AnswerTooLarge => "the answer is larger than the client's own Maximum Packet Size",
            Self::TopicNameInvalid => "the topic name is empty, or contains a wildcard",
            Self::TopicAliasInvalid => "the client used a topic alias, and CONNACK allowed none",
            Self::ReceiveMaximumExceeded => "the client has more packets in flight than receive_maximum",
            Self::BadUserNameOrPassword => "the user is unknown, or the password is wrong or missing",
            Self::ServerUnavailable => "the login end point gave no decision",
            Self::LoginExpired => "the login has expired: the client has to log in again",
            Self::NotAuthorized => "the topic rules, the certificates or the users don't allow it",
            Self::AdministrativeAction => "an operator has disconnected the client",
            Self::TooManyConnections => "too many connections: max_connections or max_connections_per_address",
            Self::TooManyHandshakes => "too many connections haven't sent CONNECT yet: max_handshakes",
            Self::TooManyWills => "the wills of all clients are larger than max_will_bytes allows",
            Self::NoProxyHeader => "the connection doesn't begin with a header of the PROXY protocol",
            Self::TlsFailed => "the TLS handshake failed",
            Self::WebSocketFailed => "the WebSocket handshake failed",
            Self::SessionTakenOver => "another connection with the same client id took over",
            Self::KeepAliveTimeout => "the client was silent for one and a half times its keep-alive",
            Self::ServerBusy => "storage is away or slow, or too many passwords wait to be checked",
            Self::StorageFailed => "the queue couldn't store what the client sent",
            Self::ServerShuttingDown => "the process is shutting down",
        }
    }

    /// Whether the log and the list of refusals have it. The others happen to every client at times.
    pub(crate) fn is_reported(self) -> bool {
        !matches!(self, Self::KeepAliveTimeout | Self::LoginExpired | Self::ServerShuttingDown)
    }

    /// MQTT 5's reason code (§2.4).
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::StorageFailed | Self::NoProxyHeader | Self::TlsFailed | Self::WebSocketFailed => 0x80,
            Self::MalformedPacket => 0x81,
            Self::ProtocolError | Self::ConnectTimeout => 0x82,
            Self::UnsupportedProtocolVersion => 0x84,
            Self::ClientIdentifierNotValid => 0x85,
            Self::BadUserNameOrPassword => 0x86,
            Self::NotAuthorized | Self::LoginExpired => 0x87,
            Self::ServerUnavailable => 0x88,
            Self::ServerBusy | Self::TooManyHandshakes => 0x89,
            Self::ServerShuttingDown => 0x8b,
            Self::BadAuthenticationMethod => 0x8c,
            Self::KeepAliveTimeout => 0x8d,
            Self::SessionTakenOver => 0x8e,
            Self::TopicNameInvalid => 0x90,
            Self::ReceiveMaximumExceeded => 0x93,
            Self::TopicAliasInvalid => 0x94,
            Self::PacketTooLarge | Self::AnswerTooLarge => 0x95,
            Self::TooManyConnections | Self::TooManyWills => 0x97,
            Self::AdministrativeAction => 0x98,
        }
    }

    /// The return code of MQTT 3.1.1's CONNACK (§3.2.2.3), where it has one.
    pub(crate) fn connack_v3(self) -> Option<u8> {
        match self {
            Self::UnsupportedProtocolVersion => Some(1),
            Self::ClientIdentifierNotValid => Some(2),
            Self::ServerUnavailable | Self::ServerBusy | Self::TooManyWills => Some(3),
            Self::BadUserNameOrPassword => Some(4),
            Self::NotAuthorized => Some(5),
            _ => None,
        }
    }
}
