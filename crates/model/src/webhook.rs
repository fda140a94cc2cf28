//! A webhook: where a group's messages go, and how. One definition for the file, the API and the effective configuration: each field stands here
//! once, with its default and its range. The defaults are the document's numbers.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use crate::{
    ClientCredentials, CustomHeader, HeaderName, Invalid, Rate, Secret, Tls, TokenEndpointAuthMethod, Url,
    header::{self, HeaderTable},
    units::{CountIn, CountsIn, DurationIn, DurationsIn, HOUR, SizeIn},
};

/// The longest window that a webhook can have. The embedded queue begins its log time this much above the last record's at each start, so that
/// every window of the process before has ended (docs/delivery.md, Log time). The configuration refuses longer ones.
pub const LONGEST_WINDOW: Duration = Duration::from_secs(60);

/// A customer's endpoint and everything the customer may choose about it. Read by serde or made by [`Webhook::new`] and changed field by field, then
/// checked whole by [`Webhook::validate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// The name that groups refer to.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// A note for operators. Pushline doesn't use it.
    #[serde(default)]
    pub description: String,
    /// Where to POST.
    pub url: Url,
    /// The protocol to speak with the server.
    #[serde(default)]
    pub http_version: HttpVersion,
    /// Whose certificates to trust, and which certificate to show.
    #[serde(default, skip_serializing_if = "Tls::is_default")]
    pub tls: Tls,
    /// The credentials of each push.
    #[serde(default)]
    pub auth: Auth,
    /// Which of the two header names carries Basic, Bearer and OAuth 2.0 credentials.
    #[serde(default)]
    pub auth_headers: AuthHeaders,
    /// Added to each request, in this order.
    #[serde(default, with = "HeaderTable")]
    pub headers: Vec<CustomHeader>,
    /// Whether `"ICCID"` or `"Topic"` is sent along with the payload.
    #[serde(default)]
    pub send: Identify,
    /// Whether an ICCID of digits is a number.
    #[serde(default)]
    pub iccid: IccidForm,
    /// How a payload stands in the body.
    #[serde(default)]
    pub payload: PayloadForm,
    /// How long to wait for a response, from the request's first byte (document rule 2: 90 s).
    #[serde(default = "default::timeout", with = "DurationIn::<100, HOUR>")]
    pub timeout: Duration,
    /// How many attempts follow the first when nothing answers (document rule 2: 2).
    #[serde(default = "default::retries", with = "CountIn::<0, 100>")]
    pub retries: u32,
    /// How long to wait before each of them when the failure came fast. The last one stands for those that follow; a timeout is retried at once.
    #[serde(default = "default::retry_delays", with = "DurationsIn::<0, HOUR>")]
    pub retry_delays: Vec<Duration>,
    /// Statuses that are sent again like no response at all. Empty: the document's rule 3. A `Retry-After` that comes with one suspends the webhook.
    #[serde(default, with = "CountsIn::<300, 599>")]
    pub retry_on_status: Vec<u16>,
    /// Document rule 1: 1 s.
    #[serde(default = "default::window", with = "DurationIn::<10, { 1000 * LONGEST_WINDOW.as_secs() }>")]
    pub window: Duration,
    /// Document rule 1: 10.
    #[serde(default = "default::max_packets", with = "CountIn::<1, 1000>")]
    pub max_packets: usize,
    /// Bytes of a message's body; a packet larger than that goes alone.
    #[serde(default = "default::max_body_bytes", with = "SizeIn::<1024, { 64 << 20 }>")]
    pub max_body_bytes: usize,
    /// How many messages may be in flight.
    #[serde(default = "default::concurrency", with = "CountIn::<1, 1000>")]
    pub concurrency: usize,
    /// How often an attempt may start; `None`: as often as `concurrency` allows.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// Whether a group's messages may complete out of order.
    #[serde(default)]
    pub order: Order,
    /// Every message is an array, even that of a single packet.
    #[serde(default)]
    pub always_array: bool,
    /// How the body is packed. Its signature covers what is sent; its id doesn't depend on it.
    #[serde(default)]
    pub compression: Compression,
    /// Signs each attempt (Standard Webhooks, `v1`).
    #[serde(default)]
    pub secret: Option<Secret>,
    /// Sign each attempt in place of `secret` while a customer moves from one to the next: a receiver accepts any of the signatures.
    #[serde(default, deserialize_with = "secrets", skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Secret>,
}

/// The numbers of the document, and ours where it has none.
mod default {
    use std::time::Duration;

    pub(super) fn timeout() -> Duration {
        Duration::from_secs(90)
    }
    pub(super) fn retries() -> u32 {
        2
    }
    pub(super) fn retry_delays() -> Vec<Duration> {
        vec![Duration::from_secs(1), Duration::from_secs(5)]
    }
    pub(super) fn window() -> Duration {
        Duration::from_secs(1)
    }
    pub(super) fn max_packets() -> usize {
        10
    }
    pub(super) fn max_body_bytes() -> usize {
        1 << 20
    }
    pub(super) fn concurrency() -> usize {
        16
    }
    pub(super) fn api_key_header() -> crate::HeaderName {
        crate::HeaderName::new("X-API-Key").expect("letters and hyphens are a header's name")
    }
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name.is_empty() || name.chars().any(char::is_control) { Err(D::Error::custom(Invalid::WebhookName(name))) } else { Ok(name) }
}

/// At least one: an empty list would turn signing off without a word.
fn secrets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Secret>, D::Error> {
    let secrets = Vec::deserialize(deserializer)?;
    if secrets.is_empty() { Err(D::Error::custom("it is empty: leave it out to send unsigned messages")) } else { Ok(secrets) }
}

/// Which HTTP is spoken with a webhook's server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HttpVersion {
    /// With TLS, HTTP/2 where the server offers it (ALPN), else HTTP/1.1. Without TLS, HTTP/1.1.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// HTTP/1.1, whatever the server offers.
    #[serde(rename = "1.1")]
    Http1,
    /// HTTP/2 only; without TLS by prior knowledge (RFC 9113 §3.3).
    #[serde(rename = "2")]
    Http2,
}

/// The kinds of credentials. In a file and in JSON a table: `{ kind = "basic", username = "…", password = "…" }`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Auth {
    /// No Authorization.
    #[default]
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
    /// Access tokens of OAuth 2.0, carried as RFC 6750 says.
    #[serde(rename = "oauth2")]
    OAuth2(ClientCredentials),
}

/// [`Auth`] as it is read. Serde's own reading of tagged enums buffers the fields, and a refusal would lose its place.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthFields {
    kind: AuthKind,
    username: Option<String>,
    password: Option<Secret>,
    token: Option<Secret>,
    header: Option<HeaderName>,
    key: Option<Secret>,
    token_url: Option<Url>,
    client_id: Option<String>,
    client_secret: Option<Secret>,
    token_endpoint_auth_method: Option<TokenEndpointAuthMethod>,
    scope: Option<String>,
    audience: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AuthKind {
    None,
    Basic,
    Bearer,
    ApiKey,
    #[serde(rename = "oauth2")]
    OAuth2,
}

impl AuthKind {
    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::None => &["kind"],
            Self::Basic => &["kind", "username", "password"],
            Self::Bearer => &["kind", "token"],
            Self::ApiKey => &["kind", "header", "key"],
            Self::OAuth2 => &["kind", "token_url", "client_id", "client_secret", "token_endpoint_auth_method", "scope", "audience"],
        }
    }
}

impl<'de> Deserialize<'de> for Auth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = AuthFields::deserialize(deserializer)?;
        let AuthFields { kind, username, password, token, header, key, .. } = fields;
        let AuthFields { token_url, client_id, client_secret, token_endpoint_auth_method, scope, audience, .. } = fields;
        let given = [
            ("username", username.is_some()),
            ("password", password.is_some()),
            ("token", token.is_some()),
            ("header", header.is_some()),
            ("key", key.is_some()),
            ("token_url", token_url.is_some()),
            ("client_id", client_id.is_some()),
            ("client_secret", client_secret.is_some()),
            ("token_endpoint_auth_method", token_endpoint_auth_method.is_some()),
            ("scope", scope.is_some()),
            ("audience", audience.is_some()),
        ];
        if let Some((name, _)) = given.iter().find(|(name, is_given)| *is_given && !kind.fields().contains(name)) {
            return Err(D::Error::unknown_field(name, kind.fields()));
        }
        let missing = D::Error::missing_field;
        Ok(match kind {
            AuthKind::None => Self::None,
            AuthKind::Basic => Self::Basic {
                username: username.ok_or_else(|| missing("username"))?,
                password: password.ok_or_else(|| missing("password"))?,
            },
            AuthKind::Bearer => Self::Bearer { token: token.ok_or_else(|| missing("token"))? },
            AuthKind::ApiKey => {
                Self::ApiKey { header: header.unwrap_or_else(default::api_key_header), key: key.ok_or_else(|| missing("key"))? }
            }
            AuthKind::OAuth2 => Self::OAuth2(ClientCredentials {
                token_url: token_url.ok_or_else(|| missing("token_url"))?,
                client_id: client_id.ok_or_else(|| missing("client_id"))?,
                client_secret: client_secret.ok_or_else(|| missing("client_secret"))?,
                token_endpoint_auth_method: token_endpoint_auth_method.unwrap_or_default(),
                scope,
                audience,
            }),
        })
    }
}

/// The document's example writes `Authentication`; every HTTP server expects `Authorization`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthHeaders {
    /// Both names carry the credentials.
    #[default]
    Both,
    /// Only `Authorization` (RFC 9110 §11.6.2).
    Authorization,
    /// Only `Authentication`, as in the document.
    Authentication,
}

/// What identifies a packet in the body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identify {
    /// `"ICCID"`.
    #[default]
    Iccid,
    /// `"Topic"`, as published.
    Topic,
}

/// How an ICCID of digits is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IccidForm {
    /// A JSON number, digit for digit, when it matches `[1-9][0-9]{0,19}`.
    #[default]
    Number,
    /// Always a JSON string.
    String,
}

/// How a payload is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadForm {
    /// A JSON string; what isn't UTF-8 goes as base64 with `"PayloadEncoding": "base64"`.
    #[default]
    Text,
    /// Always base64, with `"PayloadEncoding": "base64"`.
    Base64,
    /// Embedded as it is when it parses as JSON, else as text.
    Json,
}

/// How a body is packed (`Content-Encoding`, RFC 9110 §8.4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// As it is.
    #[default]
    None,
    /// `gzip`.
    Gzip,
}

/// Within a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Messages start in arrival order and may complete in any.
    #[default]
    Arrival,
    /// One unsettled message at a time.
    Strict,
}

/// A field that is wrong in the light of the others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}{}: {problem}", part.map_or(String::new(), |part| format!(".{part}")))]
pub struct InvalidField {
    /// The webhook's field, as it is written.
    pub field: &'static str,
    /// The field of its table, such as the `token` of `auth`, where one is wrong.
    pub part: Option<&'static str>,
    /// What is wrong with it.
    pub problem: Invalid,
}

impl Webhook {
    /// A webhook with the document's defaults.
    #[must_use]
    pub fn new(name: &str, url: Url) -> Self {
        Self {
            name: name.to_owned(),
            description: String::new(),
            url,
            http_version: HttpVersion::default(),
            tls: Tls::default(),
            auth: Auth::default(),
            auth_headers: AuthHeaders::default(),
            headers: Vec::new(),
            send: Identify::default(),
            iccid: IccidForm::default(),
            payload: PayloadForm::default(),
            timeout: default::timeout(),
            retries: default::retries(),
            retry_delays: default::retry_delays(),
            retry_on_status: Vec::new(),
            window: default::window(),
            max_packets: default::max_packets(),
            max_body_bytes: default::max_body_bytes(),
            concurrency: default::concurrency(),
            rate: None,
            order: Order::default(),
            always_array: false,
            compression: Compression::default(),
            secret: None,
            secrets: Vec::new(),
        }
    }

    /// Checks what no single field can: credentials, and headers that would clash. Returns everything that is wrong; empty: the webhook is valid.
    #[must_use]
    pub fn validate(&self) -> Vec<InvalidField> {
        let whole = |field, problem| InvalidField { field, part: None, problem };
        let credentials = self.auth.validate().into_iter();
        let mut invalid: Vec<InvalidField> =
            credentials.map(|(part, problem)| InvalidField { part: Some(part), ..whole("auth", problem) }).collect();
        if self.secret.is_some() && !self.secrets.is_empty() {
            invalid.push(whole("secrets", Invalid::BothSecrets));
        }
        if let Err(problem) = self.tls.validate(self.url.is_https()) {
            invalid.push(whole("tls", problem));
        }
        let carriers = self.credential_headers();
        for (place, header) in self.headers.iter().enumerate() {
            let name = header.name();
            if self.headers[..place].iter().any(|earlier| earlier.name().is(name.as_str())) {
                let problem = Invalid::Duplicate { what: "header", name: name.as_str().to_owned() };
                invalid.push(whole("headers", problem));
            }
            if self.compression != Compression::None && name.is("Content-Encoding") {
                let problem = Invalid::HeaderName { name: name.as_str().to_owned(), reason: "compression sets it" };
                invalid.push(whole("headers", problem));
            }
            if carriers.iter().any(|carrier| name.is(carrier)) {
                let problem = Invalid::HeaderName { name: name.as_str().to_owned(), reason: "it carries this webhook's credentials" };
                invalid.push(whole("headers", problem));
            }
        }
        invalid
    }

    /// The secrets that sign each attempt, in the order of their signatures.
    pub fn signing_secrets(&self) -> impl Iterator<Item = &Secret> {
        self.secret.iter().chain(&self.secrets)
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

    /// The same webhook for a reader who may not see what customers keep secret: the URL's query, which often is a token, and the values of
    /// custom headers, which carry keys under names that aren't known beforehand. A [`Secret`] is never written anyway.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let auth = match &self.auth {
            Auth::OAuth2(credentials) => Auth::OAuth2(credentials.redacted()),
            other => other.clone(),
        };
        Self { url: self.url.redacted(), auth, headers: self.headers.iter().map(CustomHeader::redacted).collect(), ..self.clone() }
    }
}

impl Auth {
    /// Each field that is wrong, and what is wrong with it.
    fn validate(&self) -> Vec<(&'static str, Invalid)> {
        let is_text = |text: &str| !text.chars().any(char::is_control);
        let checks: [Option<(&'static str, Invalid)>; 2] = match self {
            Self::None => [None, None],
            Self::Basic { username, password } => [
                (username.contains(':') || !is_text(username)).then_some(("username", Invalid::BasicUser)),
                (!is_text(password.reveal())).then_some(("password", Invalid::Credential("password"))),
            ],
            Self::Bearer { token } => [credential("token", token), None],
            Self::ApiKey { header, key } => {
                // The rules of a custom header hold for this one too.
                [CustomHeader::new(header.as_str(), "").err().map(|problem| ("header", problem)), credential("key", key)]
            }
            Self::OAuth2(credentials) => return credentials.validate(),
        };
        checks.into_iter().flatten().collect()
    }
}

fn credential(field: &'static str, secret: &Secret) -> Option<(&'static str, Invalid)> {
    let is_credential = !secret.reveal().is_empty() && header::is_value(secret.reveal());
    (!is_credential).then_some((field, Invalid::Credential(field)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook() -> Webhook {
        Webhook::new("tokyo", "https://example.com/push".parse().unwrap())
    }

    fn oauth2(scope: Option<&str>) -> Auth {
        Auth::OAuth2(ClientCredentials {
            token_url: "https://id.example/token".parse().unwrap(),
            client_id: "c".into(),
            client_secret: Secret::new(Secret::HIDDEN),
            token_endpoint_auth_method: scope.map_or_else(TokenEndpointAuthMethod::default, |_| TokenEndpointAuthMethod::ClientSecretPost),
            scope: scope.map(str::to_owned),
            audience: scope.map(str::to_owned),
        })
    }

    fn read(json: &str) -> Result<Webhook, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_the_documents_numbers() {
        let webhook = webhook();
        assert_eq!((webhook.timeout, webhook.retries), (Duration::from_secs(90), 2));
        assert_eq!((webhook.window, webhook.max_packets), (Duration::from_secs(1), 10));
        assert_eq!(webhook.validate(), []);
        assert_eq!(read(r#"{"name":"tokyo","url":"https://example.com/push"}"#), Ok(webhook));
    }

    #[test]
    fn a_webhook_that_is_written_is_read_as_the_same() {
        let mut webhook = webhook();
        webhook.headers = vec![CustomHeader::new("Z", "1").unwrap(), CustomHeader::new("1_Area", "Tokyo").unwrap()];
        webhook.auth_headers = AuthHeaders::Authentication;
        webhook.http_version = HttpVersion::Http2;
        (webhook.send, webhook.iccid, webhook.payload, webhook.order) =
            (Identify::Topic, IccidForm::String, PayloadForm::Base64, Order::Strict);
        (webhook.timeout, webhook.retries, webhook.window) = (Duration::from_millis(1500), 0, LONGEST_WINDOW);
        webhook.retry_delays = vec![Duration::ZERO, Duration::from_hours(1)];
        webhook.retry_on_status = vec![429, 503];
        (webhook.rate, webhook.compression) = (Some("50/s".parse().unwrap()), Compression::Gzip);
        webhook.tls = Tls { ca_file: Some("/etc/ca.pem".into()), server_name: Some("b.example".into()), ..Tls::default() };
        (webhook.max_packets, webhook.max_body_bytes, webhook.concurrency, webhook.always_array) = (1000, 64 << 20, 1, true);
        // Secrets are never written, so the one that is read is what stands in their place.
        let hidden = || Secret::new(Secret::HIDDEN);
        webhook.secrets = vec![hidden(), hidden()];
        for auth in [
            Auth::None,
            Auth::Basic { username: "u".into(), password: hidden() },
            Auth::Bearer { token: hidden() },
            Auth::ApiKey { header: HeaderName::new("X-Key").unwrap(), key: hidden() },
            oauth2(None),
            oauth2(Some("read push")),
        ] {
            webhook.auth = auth;
            assert_eq!(read(&serde_json::to_string(&webhook).unwrap()).as_ref(), Ok(&webhook));
        }
    }

    #[test]
    fn a_custom_header_cannot_carry_the_credentials_too() {
        let mut webhook = webhook();
        webhook.headers = vec![CustomHeader::new("authorization", "mine").unwrap()];
        assert_eq!(webhook.validate(), []);
        webhook.auth = Auth::Bearer { token: Secret::new("t") };
        assert!(matches!(&webhook.validate()[..], [InvalidField { field: "headers", problem: Invalid::HeaderName { .. }, .. }]));
        webhook.auth_headers = AuthHeaders::Authentication;
        assert_eq!(webhook.validate(), []);
    }

    #[test]
    fn everything_that_is_wrong_is_found_at_once() {
        let mut webhook = webhook();
        let header = |name: &str| CustomHeader::new(name, "x").unwrap();
        webhook.headers = vec![header("A"), header("a"), header("Authorization")];
        webhook.auth = Auth::Bearer { token: Secret::new("") };
        (webhook.secret, webhook.secrets) = (Some(Secret::new("a")), vec![Secret::new("b")]);
        let fields: Vec<&str> = webhook.validate().iter().map(|invalid| invalid.field).collect();
        assert_eq!(fields, ["auth", "secrets", "headers", "headers"]);
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        for (field, says) in [
            (r#""name":"""#, "is not a webhook's name"),
            (r#""timeout":"0s""#, "0ms is out of range, expected 100ms to 1h"),
            (r#""retries":101"#, "101 is out of range, expected 0 to 100"),
            (r#""retry_delays":[]"#, "at least one duration"),
            (r#""retry_delays":["2h"]"#, "2h is out of range"),
            (r#""retry_on_status":[200]"#, "200 is out of range, expected 300 to 599"),
            (r#""window":"0s""#, "0ms is out of range, expected 10ms to 1m"),
            (r#""window":"61s""#, "61s is out of range, expected 10ms to 1m"),
            (r#""max_packets":0"#, "0 is out of range, expected 1 to 1000"),
            (r#""max_body_bytes":1"#, "1 is out of range, expected 1KiB to 64MiB"),
            (r#""rate":"50""#, "a rate is a whole number"),
            (r#""concurrency":0"#, "0 is out of range, expected 1 to 1000"),
            (r#""headers":{"Host":"x"}"#, "can't be a custom header"),
            (r#""secrets":[]"#, "it is empty: leave it out to send unsigned messages"),
            (r#""auth":{"kind":"basic","password":"p"}"#, "missing field `username`"),
            (r#""auth":{"kind":"bearer","password":"p","token":"t"}"#, "unknown field `password`"),
            (r#""auth":{"kind":"oauth2","token_url":"http://a.example/","client_id":"c"}"#, "missing field `client_secret`"),
            (r#""auth":{"kind":"oauth2","token":"t"}"#, "unknown field `token`"),
            (r#""auth":{"kind":"oauth2","token_endpoint_auth_method":"none"}"#, "expected `client_secret_basic` or `client_secret_post`"),
            (r#""compression":"br""#, "unknown variant `br`"),
            (r#""http_version":"3""#, "unknown variant `3`, expected one of `auto`, `1.1`, `2`"),
            (r#""tls":{"cert":"x"}"#, "unknown field `cert`"),
            (r#""tls":{"server_name":"a b"}"#, "is not the name of a server"),
            (r#""auth":{"kind":"digest"}"#, "unknown variant `digest`"),
            (r#""colour":1"#, "unknown field `colour`"),
        ] {
            let rest = if field.contains("name\":\"\"") { String::new() } else { r#""name":"w","#.to_owned() };
            let error = read(&format!(r#"{{{rest}"url":"http://a.example/",{field}}}"#)).unwrap_err();
            assert!(error.contains(says), "{field}: {error}");
        }
    }

    #[test]
    fn parts_of_tls_that_do_not_fit_together_are_refused() {
        let refused = |url: &str, tls: &str| {
            let webhook = read(&format!(r#"{{"name":"w","url":"{url}","tls":{tls}}}"#)).unwrap();
            webhook.validate().first().map(|invalid| (invalid.field, invalid.problem.to_string()))
        };
        let says = |url, tls, says: &str| refused(url, tls).is_some_and(|(field, problem)| field == "tls" && problem.contains(says));
        assert!(says("https://a.example/", r#"{"cert_file":"c.pem"}"#, "key_file"));
        assert!(says("https://a.example/", r#"{"key_file":"k.pem"}"#, "cert_file"));
        assert!(says("http://a.example/", r#"{"ca_file":"ca.pem"}"#, "https://"));
        assert_eq!(refused("http://a.example/", "{}"), None);
        assert_eq!(
            refused("https://a.example/", r#"{"ca_file":"ca.pem","cert_file":"c.pem","key_file":"k.pem","server_name":"B.example"}"#),
            None
        );
    }

    #[test]
    fn a_redacted_webhook_shows_neither_query_nor_header_values() {
        let mut webhook = webhook();
        webhook.url = "https://example.com/push?token=hush".parse().unwrap();
        webhook.headers = vec![CustomHeader::new("X-Key", "hush").unwrap()];
        let Auth::OAuth2(mut credentials) = oauth2(None) else { unreachable!() };
        (credentials.token_url, credentials.client_secret) = ("https://id.example/token?key=hush".parse().unwrap(), Secret::new("hush"));
        webhook.auth = Auth::OAuth2(credentials);
        let shown = serde_json::to_string(&webhook.redacted()).unwrap();
        assert!(shown.contains("X-Key") && shown.contains("/push?***") && !shown.contains("hush"), "{shown}");
    }

    #[test]
    fn credentials_that_cannot_stand_in_a_header_are_refused() {
        let refused = |auth| {
            let mut webhook = webhook();
            webhook.auth = auth;
            let invalid = webhook.validate();
            assert!(invalid.iter().all(|invalid| invalid.field == "auth"), "{invalid:?}");
            invalid.into_iter().map(|invalid| invalid.part.expect("a field of auth is wrong")).collect::<Vec<_>>()
        };
        let basic = |username: &str, password| Auth::Basic { username: username.into(), password: Secret::new(password) };
        assert_eq!(refused(basic("a:b", "x")), ["username"]);
        assert_eq!(refused(basic("a:b", "x\n")), ["username", "password"]);
        assert_eq!(refused(Auth::Bearer { token: Secret::new("a\nb") }), ["token"]);
        assert_eq!(refused(Auth::Bearer { token: Secret::new("") }), ["token"]);
        assert_eq!(refused(oauth2(Some(""))), ["scope", "audience"]);
        assert!(refused(oauth2(Some("a b"))).is_empty());
        assert_eq!(refused(Auth::ApiKey { header: HeaderName::new("Content-Type").unwrap(), key: Secret::new("") }), ["header", "key"]);
    }
}
