//! Where a webhook's messages go.

use std::{fmt, str::FromStr};

use crate::Invalid;

/// An `http` or `https` URL without user information or fragment (DESIGN.md, *Egress guard*).
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    text: String,
    https: bool,
    /// Without the brackets of an IPv6 literal.
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Url {
    /// Whether the connection is TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// The host to dial: a name or an address; an IPv6 literal stands here without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port to dial: the one given, else 80 or 443.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What `Host` says (RFC 9110 §7.2): the host, and the port when one was given.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The request target in origin form (RFC 9112 §3.2.1): path and query.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        &self.path
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Url {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = |reason: &str| Invalid::Url { url: without_secrets(text), reason: reason.to_owned() };
        if text.contains('#') {
            return Err(refuse("a fragment (#…) is never sent to a server, leave it out"));
        }
        let uri: http::Uri = text.parse().map_err(|error| refuse(&format!("{error}; write it as https://host/path")))?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(refuse("it begins with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| refuse("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(refuse("user and password don't belong in it, use auth = { kind = \"basic\", … }"));
        }
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(refuse("it names no host"));
        }
        let port = match authority.as_str().rsplit_once(']').map_or(authority.as_str(), |(_, rest)| rest).split_once(':') {
            None => {
                if https {
                    443
                } else {
                    80
                }
            }
            Some((_, port)) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(refuse("a port is a number from 1 to 65535")),
            },
        };
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
        Ok(Self { https, host: host.to_owned(), port, authority: authority.as_str().to_owned(), path, text: text.to_owned() })
    }
}

/// A password someone put in the URL doesn't go into a log, nor what stands behind a question mark, which often is a token. The password goes first: it may
/// hold a question mark.
fn without_secrets(text: &str) -> String {
    let text = match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}://***{}", &text[..scheme], &text[at..]),
        _ => text.to_owned(),
    };
    text.split_once('?').map_or(text.clone(), |(front, _)| format!("{front}?***"))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (bool, String, u16, String, String) {
        let url: Url = text.parse().unwrap();
        (url.is_https(), url.host().into(), url.port(), url.authority().into(), url.path_and_query().into())
    }

    #[test]
    fn a_url_says_what_to_dial_and_what_to_ask_for() {
        assert_eq!(parts("https://a.example/push?x=1"), (true, "a.example".into(), 443, "a.example".into(), "/push?x=1".into()));
        assert_eq!(parts("http://127.0.0.1:8080"), (false, "127.0.0.1".into(), 8080, "127.0.0.1:8080".into(), "/".into()));
        assert_eq!(parts("http://[::1]:81/a"), (false, "::1".into(), 81, "[::1]:81".into(), "/a".into()));
        assert_eq!(parts("http://a.example?x"), (false, "a.example".into(), 80, "a.example".into(), "/?x".into()));
    }

    #[test]
    fn what_is_no_webhook_is_refused_with_the_remedy() {
        for (wrong, says) in [
            ("example.com/push", "http"),
            ("ftp://a.example/", "begins with http"),
            ("http://u:hush@a.example/", "auth"),
            ("http://u:hu?hush@a.example/", "http://***@a.example/"),
            ("ftp://a.example/push?token=hush", "a.example/push?***"),
            ("http://a.example/push?token=hush#x", "fragment"),
            ("http://a.example:0/", "port"),
            ("http://a.example:99999/", "port"),
            ("http://a.example/#x", "fragment"),
            ("http://", "https://host/path"),
            ("", "https://host/path"),
            ("/push", "begins with http"),
        ] {
            let error = wrong.parse::<Url>().unwrap_err().to_string();
            assert!(error.contains(says), "{wrong:?}: {error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }
}
