//! A webhook's `tls`: whose certificates to trust, and which certificate to show.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use url::Host;

use crate::Invalid;

/// What differs from the default: Mozilla's root certificates, no client certificate, and the URL's host as the server's name.
///
/// It is part of what tells connections apart: two webhooks share connections only if they are equal in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM: the certificates of the authorities to trust in place of Mozilla's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// PEM: the client certificate, followed by the intermediate ones.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// PEM: the client certificate's private key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// The name to ask for and to find in the server's certificate, in place of the URL's host.
    #[serde(default, deserialize_with = "server_name")]
    pub server_name: Option<String>,
}

/// A host name in its ASCII form, or an address.
fn server_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(deserializer)?;
    match Host::parse(&name) {
        Ok(Host::Domain(name)) => Ok(Some(name)),
        Ok(Host::Ipv4(address)) => Ok(Some(address.to_string())),
        Ok(Host::Ipv6(address)) => Ok(Some(address.to_string())),
        Err(_) => Err(D::Error::custom(Invalid::ServerName(name))),
    }
}

impl Tls {
    /// Whether nothing differs from the default.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The same with each path resolved.
    #[must_use]
    pub fn with_paths(self, resolve: impl Fn(&Path) -> PathBuf) -> Self {
        let resolve = |path: Option<PathBuf>| path.map(|path| resolve(&path));
        Self { ca_file: resolve(self.ca_file), cert_file: resolve(self.cert_file), key_file: resolve(self.key_file), ..self }
    }

    /// What no single field can be wrong with: a certificate without its key.
    ///
    /// # Errors
    /// [`Invalid::Tls`].
    pub fn validate_pair(&self) -> Result<(), Invalid> {
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => Err(Invalid::Tls("cert_file needs key_file beside it")),
            (None, Some(_)) => Err(Invalid::Tls("key_file needs cert_file beside it")),
            _ => Ok(()),
        }
    }

    /// The same, and a table that an `http` URL doesn't use.
    pub(crate) fn validate(&self, is_https: bool) -> Result<(), Invalid> {
        self.validate_pair()?;
        if !is_https && !self.is_default() {
            return Err(Invalid::Tls("the URL begins with http://, so TLS isn't used: write https://"));
        }
        Ok(())
    }
}
