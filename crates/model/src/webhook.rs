//! A webhook: where a group's messages go, and how. The defaults are the document's numbers.

use std::time::Duration;

use crate::{CustomHeader, HeaderName, Invalid, Secret, Url, header};

/// A customer's endpoint and everything the customer may choose about it. Made by [`Webhook::new`], then changed field by
/// field, then checked whole by [`Webhook::validate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The name that groups refer to.
    pub name: String,
    /// For people.
    pub description: String,
    /// Where to POST.
    pub url: Url,
    /// How to prove who is pushing.
    pub auth: Auth,
    /// Which of the two header names carries Basic and Bearer credentials.
    pub auth_headers: AuthHeaders,
    /// Added to each request, in this order.
    pub headers: Vec<CustomHeader>,
    /// Whether `"ICCID"` or `"Topic"` is sent along with the payload.
    pub send: Identify,
    /// Whether an ICCID of digits is a number.
    pub iccid: IccidForm,
    /// How a payload stands in the body.
    pub payload: PayloadForm,
    /// How long to wait for a response, from the request's first byte (document rule 2: 90 s).
    pub timeout: Duration,
    /// How many attempts follow the first when nothing answers (document rule 2: 2).
    pub retries: u32,
    /// How long to wait before each of them when the failure came fast. The last one stands for those that follow; a timeout is retried at once.
    pub retry_delays: Vec<Duration>,
    /// Statuses that are sent again like no response at all. Empty: the document's rule 3.
    pub retry_on_status: Vec<u16>,
    /// Document rule 1: 1 s.
    pub window: Duration,
    /// Document rule 1: 10.
    pub max_packets: usize,
    /// Bytes of a message's body; a packet larger than that goes alone.
    pub max_body_bytes: usize,
    /// How many messages may be in flight.
    pub concurrency: usize,
    /// Whether a group's messages may complete out of order.
    pub order: Order,
    /// Every message is an array, even that of a single packet.
    pub always_array: bool,
    /// Signs each attempt (Standard Webhooks, `v1`).
    pub secret: Option<Secret>,
}

/// The four kinds of the configuration form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// No Authorization.
    None,
    /// RFC 7617.
    Basic {
        /// Without a colon.
        username: String,
        /// Any text without control characters.
        password: Secret,
    },
    /// RFC 6750.
    Bearer {
        /// The token.
        token: Secret,
    },
    /// A header of the customer's choice.
    ApiKey {
        /// `X-API-Key` by default.
        header: HeaderName,
        /// The key.
        key: Secret,
    },
}

/// The document's example writes `Authentication`; every HTTP server expects `Authorization`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthHeaders {
    /// Both names carry the credentials.
    Both,
    /// Only `Authorization` (RFC 9110 §11.6.2).
    Authorization,
    /// Only `Authentication`, as in the document.
    Authentication,
}

/// What identifies a packet in the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identify {
    /// `"ICCID"`.
    Iccid,
    /// `"Topic"`, as published.
    Topic,
}

/// How an ICCID of digits is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IccidForm {
    /// A JSON number, digit for digit, when it matches `[1-9][0-9]{0,19}`.
    Number,
    /// Always a JSON string.
    String,
}

/// How a payload is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadForm {
    /// A JSON string; what isn't UTF-8 goes as base64 with `"PayloadEncoding": "base64"`.
    Text,
    /// Always base64, with `"PayloadEncoding": "base64"`.
    Base64,
    /// Embedded as it is when it parses as JSON, else as text.
    Json,
}

/// Within a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Messages start in arrival order and may complete in any.
    Arrival,
    /// One unsettled message at a time.
    Strict,
}

impl Webhook {
    /// A webhook with the document's defaults.
    #[must_use]
    pub fn new(name: &str, url: Url) -> Self {
        Self {
            name: name.to_owned(),
            description: String::new(),
            url,
            auth: Auth::None,
            auth_headers: AuthHeaders::Both,
            headers: Vec::new(),
            send: Identify::Iccid,
            iccid: IccidForm::Number,
            payload: PayloadForm::Text,
            timeout: Duration::from_secs(90),
            retries: 2,
            retry_delays: vec![Duration::from_secs(1), Duration::from_secs(5)],
            retry_on_status: Vec::new(),
            window: Duration::from_secs(1),
            max_packets: 10,
            max_body_bytes: 1 << 20,
            concurrency: 16,
            order: Order::Arrival,
            always_array: false,
            secret: None,
        }
    }

    /// Checks what no single field can: ranges, credentials, and headers that would clash.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.validate_ranges()?;
        self.auth.validate()?;
        for (place, header) in self.headers.iter().enumerate() {
            let name = header.name();
            if self.headers[..place].iter().any(|earlier| earlier.name().is(name.as_str())) {
                return Err(Invalid::Twice { what: "header", name: name.as_str().to_owned() });
            }
            if self.credential_headers().iter().any(|carrier| name.is(carrier)) {
                return Err(Invalid::HeaderName { name: name.as_str().to_owned(), reason: "it carries this webhook's credentials" });
            }
        }
        if let Some(status) = self.retry_on_status.iter().find(|status| !(300..=599).contains(*status)) {
            return Err(Invalid::Option { field: "retry_on_status", given: status.to_string(), expected: "a status from 300 to 599" });
        }
        Ok(())
    }

    /// The names of the headers that carry this webhook's credentials.
    #[must_use]
    pub fn credential_headers(&self) -> Vec<&str> {
        match (&self.auth, self.auth_headers) {
            (Auth::None, _) => vec![],
            (Auth::ApiKey { header, .. }, _) => vec![header.as_str()],
            (_, AuthHeaders::Both) => vec!["Authorization", "Authentication"],
            (_, AuthHeaders::Authorization) => vec!["Authorization"],
            (_, AuthHeaders::Authentication) => vec!["Authentication"],
        }
    }

    fn validate_ranges(&self) -> Result<(), Invalid> {
        let refuse = |field, given: String, expected| Err(Invalid::Option { field, given, expected });
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        if self.name.is_empty() || self.name.chars().any(char::is_control) {
            return refuse("name", format!("{:?}", self.name), "a text without control characters");
        }
        if self.timeout < second / 10 || self.timeout > hour {
            return refuse("timeout", format!("{:?}", self.timeout), "100ms to 1h");
        }
        if self.retries > 100 {
            return refuse("retries", self.retries.to_string(), "0 to 100");
        }
        if self.retry_delays.is_empty() || self.retry_delays.iter().any(|delay| *delay > hour) {
            return refuse("retry_delays", format!("{:?}", self.retry_delays), "at least one delay, each at most 1h");
        }
        if self.window < second / 100 || self.window > hour {
            return refuse("window", format!("{:?}", self.window), "10ms to 1h");
        }
        if !(1..=1000).contains(&self.max_packets) {
            return refuse("max_packets", self.max_packets.to_string(), "1 to 1000");
        }
        if !(1024..=64 << 20).contains(&self.max_body_bytes) {
            return refuse("max_body_bytes", self.max_body_bytes.to_string(), "1KiB to 64MiB");
        }
        if !(1..=1000).contains(&self.concurrency) {
            return refuse("concurrency", self.concurrency.to_string(), "1 to 1000");
        }
        Ok(())
    }
}

impl Auth {
    fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::None => Ok(()),
            Self::Basic { username, password } => {
                if username.contains(':') || username.chars().any(char::is_control) {
                    return Err(Invalid::BasicUser);
                }
                if password.reveal().chars().any(char::is_control) {
                    return Err(Invalid::Credential("password"));
                }
                Ok(())
            }
            Self::Bearer { token } => credential("token", token),
            Self::ApiKey { header, key } => {
                // The rules of a custom header hold for this one too.
                CustomHeader::new(header.as_str(), "")?;
                credential("key", key)
            }
        }
    }
}

fn credential(what: &'static str, secret: &Secret) -> Result<(), Invalid> {
    if secret.reveal().is_empty() || !header::is_value(secret.reveal()) { Err(Invalid::Credential(what)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook() -> Webhook {
        Webhook::new("tokyo", "https://example.com/push".parse().unwrap())
    }

    #[test]
    fn the_defaults_are_the_documents_numbers() {
        let webhook = webhook();
        assert_eq!((webhook.timeout, webhook.retries), (Duration::from_secs(90), 2));
        assert_eq!((webhook.window, webhook.max_packets), (Duration::from_secs(1), 10));
        assert_eq!(webhook.validate(), Ok(()));
    }

    #[test]
    fn a_custom_header_cannot_carry_the_credentials_too() {
        let mut webhook = webhook();
        webhook.headers = vec![CustomHeader::new("authorization", "mine").unwrap()];
        assert_eq!(webhook.validate(), Ok(()));
        webhook.auth = Auth::Bearer { token: Secret::new("t") };
        assert!(matches!(webhook.validate(), Err(Invalid::HeaderName { .. })));
        webhook.auth_headers = AuthHeaders::Authentication;
        assert_eq!(webhook.validate(), Ok(()));
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_its_field() {
        let field = |change: fn(&mut Webhook)| {
            let mut webhook = webhook();
            change(&mut webhook);
            match webhook.validate() {
                Err(Invalid::Option { field, .. }) => field,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(field(|w| w.timeout = Duration::ZERO), "timeout");
        assert_eq!(field(|w| w.retry_delays.clear()), "retry_delays");
        assert_eq!(field(|w| w.max_packets = 0), "max_packets");
        assert_eq!(field(|w| w.concurrency = 0), "concurrency");
        assert_eq!(field(|w| w.max_body_bytes = 1), "max_body_bytes");
        assert_eq!(field(|w| w.window = Duration::ZERO), "window");
        assert_eq!(field(|w| w.retry_on_status = vec![200]), "retry_on_status");
    }

    #[test]
    fn credentials_that_cannot_stand_in_a_header_are_refused() {
        let refused = |auth| {
            let mut webhook = webhook();
            webhook.auth = auth;
            webhook.validate().is_err()
        };
        assert!(refused(Auth::Basic { username: "a:b".into(), password: Secret::new("x") }));
        assert!(refused(Auth::Bearer { token: Secret::new("a\nb") }));
        assert!(refused(Auth::Bearer { token: Secret::new("") }));
        assert!(refused(Auth::ApiKey { header: HeaderName::new("Content-Type").unwrap(), key: Secret::new("x") }));
    }
}
