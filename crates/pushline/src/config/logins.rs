//! `jwt` and `login_endpoint` of a listener: who decides about clients that no file has.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use pushline_deliver::TlsFiles;
use pushline_ingest::{ClientConfigs, JwtAlgorithm, JwtOptions, LoginEndpointOptions};
use pushline_model::{
    Secret, Tls, Url,
    units::{CountIn, DAY, DurationIn, MINUTE, SECOND},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::values;

/// `jwt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Jwt {
    #[serde(deserialize_with = "values::path")]
    jwks_file: PathBuf,
    #[serde(default = "algorithms", deserialize_with = "some_algorithms")]
    algorithms: Vec<Algorithm>,
    #[serde(default)]
    issuer: Option<String>,
    #[serde(default)]
    audience: Option<String>,
    #[serde(default = "leeway", with = "DurationIn::<0, { 10 * MINUTE }>")]
    leeway: Duration,
    #[serde(default = "name_claim")]
    name_claim: String,
}

/// `login_endpoint`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoginEndpoint {
    #[serde(serialize_with = "redacted")]
    url: Url,
    #[serde(default)]
    token: Option<Secret>,
    /// How long a client waits for the decision.
    #[serde(default = "timeout", with = "DurationIn::<100, { 30 * SECOND }>")]
    timeout: Duration,
    #[serde(default = "concurrency", with = "CountIn::<1, 1000>")]
    concurrency: usize,
    /// How long a decision holds for the same login.
    #[serde(default = "remember", with = "DurationIn::<0, DAY>")]
    remember: Duration,
    #[serde(default, skip_serializing_if = "Tls::is_default")]
    tls: Tls,
}

/// One of `algorithms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Algorithm(JwtAlgorithm);

impl Serialize for Algorithm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Algorithm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

fn algorithms() -> Vec<Algorithm> {
    JwtAlgorithm::ALL.map(Algorithm).into()
}

fn some_algorithms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Algorithm>, D::Error> {
    let algorithms = Vec::deserialize(deserializer)?;
    if algorithms.is_empty() {
        return Err(D::Error::custom("it is empty: no token could be right; expected [\"RS256\", \"ES256\", \"EdDSA\"]"));
    }
    Ok(algorithms)
}

/// What stands behind a question mark often is a token.
fn redacted<S: Serializer>(url: &Url, serializer: S) -> Result<S::Ok, S::Error> {
    url.redacted().serialize(serializer)
}

fn leeway() -> Duration {
    Duration::from_secs(30)
}

fn name_claim() -> String {
    "sub".to_owned()
}

fn timeout() -> Duration {
    Duration::from_secs(5)
}

fn concurrency() -> usize {
    64
}

fn remember() -> Duration {
    Duration::from_mins(1)
}

impl Jwt {
    /// The same with its path resolved.
    pub(super) fn with_paths(self, resolve: &dyn Fn(&Path) -> PathBuf) -> Self {
        Self { jwks_file: resolve(&self.jwks_file), ..self }
    }

    pub(super) fn options(&self) -> JwtOptions {
        let Self { jwks_file, algorithms, issuer, audience, leeway, name_claim } = self.clone();
        JwtOptions { jwks_file, algorithms: algorithms.into_iter().map(|one| one.0).collect(), issuer, audience, leeway, name_claim }
    }
}

impl LoginEndpoint {
    /// The same with its paths resolved.
    pub(super) fn with_paths(self, resolve: &dyn Fn(&Path) -> PathBuf) -> Self {
        Self { tls: self.tls.with_paths(resolve), ..self }
    }

    pub(super) fn options(&self) -> LoginEndpointOptions {
        let tls = self.tls.clone();
        let configs = || {
            ClientConfigs::new(move || TlsFiles::read(&tls).and_then(|files| files.client_config(&tls)).map_err(|error| error.to_string()))
        };
        LoginEndpointOptions {
            url: self.url.clone(),
            token: self.token.clone(),
            tls: self.url.is_https().then(configs),
            timeout: self.timeout,
            concurrency: self.concurrency,
            remember: self.remember,
        }
    }

    /// What no single field can be wrong with.
    pub(super) fn mistake(&self) -> Option<String> {
        if !self.url.is_https() && !self.tls.is_default() {
            return Some("the URL begins with http://, so TLS isn't used: write https://".to_owned());
        }
        let pair = self.tls.validate_pair().err().map(|invalid| invalid.to_string());
        pair.or_else(|| TlsFiles::read(&self.tls).err().map(|error| error.to_string()))
    }
}
