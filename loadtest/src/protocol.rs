//! What a client and the receiver speak with each other.

use std::fmt;

use anyhow::{Result, bail};

/// A version of HTTP, over plain TCP or TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub(crate) version: Version,
    pub(crate) is_tls: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    /// By ALPN over TLS, else by prior knowledge.
    Http2,
}

impl Protocol {
    pub(crate) const PLAIN_HTTP1: Self = Self { version: Version::Http1, is_tls: false };

    /// Each version, plain and over TLS.
    pub(crate) const ALL: [Self; 4] = [
        Self::PLAIN_HTTP1,
        Self { version: Version::Http1, is_tls: true },
        Self { version: Version::Http2, is_tls: false },
        Self { version: Version::Http2, is_tls: true },
    ];

    pub(crate) fn scheme(self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match (self.version, self.is_tls) {
            (Version::Http1, false) => "HTTP/1.1",
            (Version::Http1, true) => "HTTP/1.1, TLS",
            (Version::Http2, false) => "HTTP/2",
            (Version::Http2, true) => "HTTP/2, TLS",
        })
    }
}

impl Version {
    /// As ALPN has it (RFC 7301 §6), and the receiver's arguments.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }

    pub(crate) fn of_name(name: &str) -> Result<Self> {
        match name {
            "http/1.1" => Ok(Self::Http1),
            "h2" => Ok(Self::Http2),
            _ => bail!("{name:?} is no version of HTTP"),
        }
    }
}
