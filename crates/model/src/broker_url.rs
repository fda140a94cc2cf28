//! Where an MQTT broker is.

use std::{fmt, str::FromStr};

use url::Host;

use crate::{Invalid, text::serde_as_text};

/// `mqtt://host:port`, or `mqtts://host:port` for TLS. Without a port it is 1883, with TLS 8883.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BrokerUrl {
    text: String,
    tls: bool,
    /// Without the brackets of an IPv6 literal.
    host: String,
    port: u16,
}

impl BrokerUrl {
    /// Whether the connection is TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The host to dial: a name or an address; an IPv6 literal stands here without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port to dial.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for BrokerUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // What stands before an @ may be a password.
        let shown = text.rsplit_once('@').map_or(text.to_owned(), |(_, host)| format!("***@{host}"));
        let refuse = |reason| Invalid::BrokerUrl { url: shown.clone(), reason };
        let (tls, authority) = match text.split_once("://") {
            Some(("mqtt", authority)) => (false, authority),
            Some(("mqtts", authority)) => (true, authority),
            _ => return Err(refuse("it begins with mqtt:// or mqtts://, such as mqtt://host:1883")),
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains('@') {
            return Err(refuse("user and password don't belong in it: username = …, password = …"));
        }
        if authority.contains(['/', '?', '#']) {
            return Err(refuse("nothing stands behind the port"));
        }
        // Between brackets colons belong to the address.
        let host_end = authority.rfind(']').map_or_else(|| authority.find(':').unwrap_or(authority.len()), |bracket| bracket + 1);
        let (host, port) = authority.split_at(host_end);
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| refuse("a port is a number from 1 to 65535"))?,
            None if port.is_empty() => {
                if tls {
                    8883
                } else {
                    1883
                }
            }
            None => return Err(refuse("a port is a number from 1 to 65535")),
        };
        let host = match Host::parse(host) {
            Ok(Host::Domain(name)) => name,
            Ok(Host::Ipv4(address)) => address.to_string(),
            Ok(Host::Ipv6(address)) => address.to_string(),
            Err(_) => return Err(refuse("it names no host")),
        };
        Ok(Self { text: text.to_owned(), tls, host, port })
    }
}

serde_as_text!(BrokerUrl, "the URL of an MQTT broker such as \"mqtt://host:1883\"");

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_read_with_its_port_and_with_or_without_tls() {
        for (text, tls, host, port) in [
            ("mqtt://broker.example", false, "broker.example", 1883),
            ("mqtt://broker.example:1884/", false, "broker.example", 1884),
            ("mqtts://broker.example", true, "broker.example", 8883),
            ("mqtts://[2001:db8::7]:1", true, "2001:db8::7", 1),
            ("mqtt://[::1]", false, "::1", 1883),
            ("mqtt://10.0.0.5:65535", false, "10.0.0.5", 65535),
        ] {
            let url: BrokerUrl = text.parse().unwrap();
            assert_eq!((url.is_tls(), url.host(), url.port()), (tls, host, port), "{text}");
            assert_eq!(url.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_broker_is_refused_with_the_reason_and_without_a_password() {
        for (text, reason) in [
            ("http://a.example/", "begins with mqtt://"),
            ("broker:1883", "begins with mqtt://"),
            ("mqtt://u:hush@broker", "username = "),
            ("mqtt://broker/topic", "behind the port"),
            ("mqtt://broker:0", "1 to 65535"),
            ("mqtt://broker:x", "1 to 65535"),
            ("mqtt://[::1]1883", "1 to 65535"),
            ("mqtt://", "no host"),
            ("mqtt://a b", "no host"),
        ] {
            let error = text.parse::<BrokerUrl>().unwrap_err().to_string();
            assert!(error.contains(reason) && !error.contains("hush"), "{text}: {error}");
        }
    }
}
