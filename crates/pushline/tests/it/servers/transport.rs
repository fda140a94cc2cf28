//! How a webhook speaks to a server.

use super::site::Site;

/// A protocol, over plain TCP, TLS, or TLS with a client certificate that the server demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Http1,
    Http1Tls,
    Http1Certificate,
    /// By prior knowledge.
    Http2,
    /// By ALPN.
    Http2Tls,
    Http2Certificate,
}

impl Transport {
    pub(super) fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Http2Tls | Self::Http2Certificate)
    }

    pub(super) fn is_tls(self) -> bool {
        !matches!(self, Self::Http1 | Self::Http2)
    }

    pub(super) fn wants_client_certificate(self) -> bool {
        matches!(self, Self::Http1Certificate | Self::Http2Certificate)
    }

    /// The last two arguments of the programs in `origins/`.
    pub(super) fn arguments(self) -> [&'static str; 2] {
        let security = match (self.is_tls(), self.wants_client_certificate()) {
            (false, _) => "plain",
            (true, false) => "tls",
            (true, true) => "certificate",
        };
        [if self.is_http2() { "http2" } else { "http1" }, security]
    }

    /// What the server offers by ALPN, in its order of preference.
    pub(super) fn alpn(self) -> &'static [&'static str] {
        if self.is_http2() { &["h2", "http/1.1"] } else { &["http/1.1"] }
    }

    /// Where the webhook pushes.
    pub(super) fn url(self, port: u16) -> String {
        format!("{}://localhost:{port}/push.php", if self.is_tls() { "https" } else { "http" })
    }

    /// The webhook's options.
    pub(super) fn options(self, site: &Site) -> String {
        let (ca, client, key) = (site.file("ca.pem"), site.file("client.pem"), site.file("client.key"));
        match self {
            Self::Http1 => String::new(),
            Self::Http2 => "http_version = \"2\"".into(),
            Self::Http1Tls | Self::Http2Tls => format!("tls = {{ ca_file = \"{ca}\" }}"),
            Self::Http1Certificate | Self::Http2Certificate => {
                format!("tls = {{ ca_file = \"{ca}\", cert_file = \"{client}\", key_file = \"{key}\" }}")
            }
        }
    }
}
