//! The words of Pushline, for every other crate: packets, devices, groups, webhooks, messages, outcomes, dead letters,
//! and the [`Registry`] snapshot. Each noun that can be wrong is checked where it is made and nowhere else.
//!
//! No I/O, no clock, no tokio.

mod broker_url;
mod client_credentials;
mod dead_letter;
mod descriptors;
mod group;
mod header;
mod iccid;
mod outcome;
mod packet;
mod rate;
mod registry;
mod routing;
mod secret;
mod text;
mod time;
mod tls;
mod topics;
pub mod units;
mod url;
mod webhook;

pub use broker_url::BrokerUrl;
pub use client_credentials::{ClientCredentials, TokenEndpointAuthMethod};
pub use dead_letter::{Cause, DeadLetter, DeadPacket, RESPONSE_KEPT, RecordPlace};
pub use descriptors::{AcquireDescriptor, DescriptorBudget, DescriptorPermit, DescriptorUse};
pub use group::{GroupId, Organisation};
pub use header::{CustomHeader, HeaderName};
pub use iccid::Iccid;
pub use outcome::{Attempt, LocalFailure, LocalFailureKind, NoResponse, Outcome, ResponseHeaders};
pub use packet::{MessageId, Offset, Packet};
pub use rate::{ByteRate, Rate};
pub use registry::{Group, Registry, RegistryBuilder};
pub use routing::{Routed, route};
pub use secret::Secret;
pub use time::Timestamp;
pub use tls::Tls;
pub use topics::{InvalidPattern, TopicPattern};
pub use url::Url;
pub use webhook::{
    Auth, AuthHeaders, Compression, HttpVersion, IccidForm, Identify, InvalidField, LONGEST_WINDOW, Order, PayloadForm, Webhook,
};

/// Why a word was refused. The text names what was given and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// An ICCID is 1 to 20 letters or digits (E.118 allows 20 digits).
    #[error("{0:?} is not an ICCID: 1 to 20 letters or digits")]
    Iccid(String),
    /// An organisation is 1 to 8 letters or digits.
    #[error("{0:?} is not an organisation: 1 to 8 letters or digits")]
    Organisation(String),
    /// A group name is 1 to 20 letters, digits, `@$#._-` or spaces.
    #[error("{0:?} is not a group name: 1 to 20 letters, digits, spaces or any of @$#._-")]
    GroupName(String),
    /// A group key is `organisation/name`.
    #[error("{0:?} is not a group: write it as organisation/name")]
    GroupKey(String),
    /// The address of a webhook or of a token end point.
    #[error("{url:?} can't be requested: {reason}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// A broker's address.
    #[error("{url:?} is not an MQTT broker's URL: {reason}")]
    BrokerUrl {
        /// As it was given, without what may be a password.
        url: String,
        /// What is wrong with it, and what would be right.
        reason: &'static str,
    },
    /// A header's name is a token (RFC 9110 §5.6.2), and not one that Pushline sets itself.
    #[error("{name:?} can't be a custom header: {reason}")]
    HeaderName {
        /// As it was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A header's value (RFC 9110 §5.5) carries no CR, LF, NUL or other control character. The value isn't shown: it may be a secret.
    #[error("the value of header {name:?} holds a control character or begins or ends with white space")]
    HeaderValue {
        /// The header's name.
        name: String,
    },
    /// A Standard Webhooks secret: `whsec_` and base64 of 24 to 64 bytes. The secret isn't shown.
    #[error("a signing secret is whsec_ followed by base64 of 24 to 64 bytes")]
    SigningSecret,
    /// A webhook is signed by one secret, or by several.
    #[error("secret is there too: give one of the two")]
    BothSecrets,
    /// The name of a server, as a certificate has it.
    #[error("{0:?} is not the name of a server: a host name such as \"api.example.com\", or an address")]
    ServerName(String),
    /// The parts of a webhook's `tls` don't fit together.
    #[error("{0}")]
    Tls(&'static str),
    /// A user name of Basic authentication has no colon (RFC 7617 §2).
    #[error("a user name for basic authentication can't hold a colon or a control character")]
    BasicUser,
    /// Credentials that can't stand in a header. They aren't shown.
    #[error("a {0} can't be empty or hold control characters")]
    Credential(&'static str),
    /// A webhook's name is a text, so that a log line can show it.
    #[error("{0:?} is not a webhook's name: at least one character, and no control characters")]
    WebhookName(String),
    /// Two things of one name.
    #[error("duplicate {what} {name:?}")]
    Duplicate {
        /// The kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A cause of dead letters.
    #[error("there is no cause {0:?}: there are {causes}", causes = Cause::ALL.map(Cause::name).join(", "))]
    Cause(String),
    /// The text of a message id.
    #[error("{0:?} is not a message id: msg_ and 22 letters, digits, hyphens or underscores")]
    MessageId(String),
    /// A name that leads nowhere.
    #[error("there is no {what} {name:?}")]
    Missing {
        /// The kind of thing.
        what: &'static str,
        /// The name.
        name: String,
    },
}
