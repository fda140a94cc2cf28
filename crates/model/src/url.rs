//! Where a webhook's messages go.

use std::{fmt, net::IpAddr, str::FromStr};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use url::{Host, Position, SyntaxViolation};

use crate::{Invalid, text::serde_as_text};

/// An `http` or `https` URL without user information or fragment (docs/document.md, Egress guard), as it goes over the wire: the host in
/// its ASCII form (IDNA), path and query percent-encoded.
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

/// ASCII characters that RFC 3986 allows in no path and no query. `url` leaves them as they are, and strict servers refuse them.
const UNWISE: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'[').add(b'\\').add(b']').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');

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

    /// The value of `Host` (RFC 9110 §7.2): the host, and the port where it isn't the scheme's own.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The request target in origin form (RFC 9112 §3.2.1): path and query, in ASCII.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        &self.path
    }

    /// The whole URL, in ASCII.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same URL with `***` as its query: what stands behind a question mark often is a token.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let without_query = |text: &str| text.split_once('?').map_or(text.to_owned(), |(front, _)| format!("{front}?***"));
        Self { text: without_query(&self.text), path: without_query(&self.path), ..self.clone() }
    }
}

impl FromStr for Url {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = |reason: &str| Invalid::Url { url: without_secrets(text), reason: reason.to_owned() };
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        if !scheme.is_some_and(|scheme| scheme == "http" || scheme == "https") {
            return Err(refuse("it begins with http:// or https://, such as https://host/path"));
        }
        check_authority(text).map_err(&refuse)?;
        let violation = std::cell::Cell::new(None);
        let note = |found| violation.set(violation.take().or(Some(found)));
        let url = url::Url::options()
            .syntax_violation_callback(Some(&note))
            .parse(text)
            .map_err(|error| refuse(&format!("{error}; write it as https://host/path")))?;
        if let Some(reason) = violation.take().and_then(refusal) {
            return Err(refuse(reason));
        }
        if url.fragment().is_some() {
            return Err(refuse("a fragment (#…) is never sent to a server, leave it out"));
        }
        let port = url.port_or_known_default().filter(|port| *port > 0).ok_or_else(|| refuse("a port is a number from 1 to 65535"))?;
        let host = match url.host().ok_or_else(|| refuse("it names no host"))? {
            Host::Domain(name) if !name.bytes().all(is_of_a_name) => {
                return Err(refuse("a host's name has letters, digits, dots, - and _"));
            }
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) => IpAddr::from(address).to_string(),
            Host::Ipv6(address) => IpAddr::from(address).to_string(),
        };
        if !is_a_dns_name(&url) {
            return Err(refuse("no such name can exist in DNS: 1 to 63 characters between two dots, 253 in all"));
        }
        let path = utf8_percent_encode(&url[Position::BeforePath..Position::AfterQuery], UNWISE).to_string();
        Ok(Self {
            https: url.scheme() == "https",
            host,
            port,
            authority: url[Position::BeforeHost..Position::AfterPort].to_owned(),
            text: format!("{}{path}", &url[..Position::BeforePath]),
            path,
        })
    }
}

/// Whether a byte is of a host's name, in its ASCII form. The `url` crate takes others, such as `{`, which RFC 3986 §3.2.2 doesn't.
fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_".contains(&byte)
}

/// Whether DNS could hold the host, where it is a name (RFC 1035 §2.3.4).
fn is_a_dns_name(url: &url::Url) -> bool {
    let Some(name) = url.domain() else { return true };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && name.split('.').all(|label| (1..=63).contains(&label.len()))
}

/// What the `url` crate would mend or describe in general words.
fn check_authority(text: &str) -> Result<(), &'static str> {
    let (_, rest) = text.split_once("://").ok_or("it begins with http:// or https://")?;
    let authority = rest.split(['/', '?', '#', '\\']).next().ok_or("it names no host")?;
    if authority.contains('@') {
        return Err("user and password don't belong in it, auth has fields for them");
    }
    if authority.is_empty() || authority.starts_with(':') {
        return Err("it names no host; write it as https://host/path");
    }
    if authority.starts_with('[') && authority.contains('%') {
        return Err("an IPv6 address with a zone (%…) belongs to one machine, leave the zone out");
    }
    // Between brackets colons belong to the address.
    let behind_host = if authority.starts_with('[') { authority.rsplit_once(']').map_or("", |(_, rest)| rest) } else { authority };
    let port = behind_host.split_once(':').map(|(_, port)| port);
    if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return Err("a port is a number from 1 to 65535");
    }
    Ok(())
}

/// The reason why a URL that the `url` crate would mend is refused; `None` where the mended form is what the writer meant.
fn refusal(violation: SyntaxViolation) -> Option<&'static str> {
    match violation {
        SyntaxViolation::Backslash => Some("a backslash doesn't belong in it, write / or %5C"),
        SyntaxViolation::C0SpaceIgnored => Some("it begins or ends with a space or a control character, leave it out"),
        SyntaxViolation::TabOrNewlineIgnored => Some("a tab or a line end doesn't belong in it, leave it out"),
        SyntaxViolation::ExpectedDoubleSlash => Some("two slashes follow the scheme: https://host/path"),
        SyntaxViolation::PercentDecode => Some("two hex digits follow a %, write %25 for the percent sign itself"),
        _ => None,
    }
}

/// The text without a password and without a query, which often is a token, for an error. The password goes first: it may hold a question mark.
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

serde_as_text!(Url, "a URL such as \"https://example.com/push\"");

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
        assert_eq!(parts("HTTPS://A.example:443/"), (true, "a.example".into(), 443, "a.example".into(), "/".into()));
        assert_eq!(parts("http://127.1/"), (false, "127.0.0.1".into(), 80, "127.0.0.1".into(), "/".into()));
        assert_eq!(parts("http://[::ffff:127.0.0.1]/").1, "::ffff:127.0.0.1");
    }

    #[test]
    fn a_url_outside_ascii_goes_out_in_ascii() {
        for (given, sent) in [
            ("http://a.example/käse?q=ü", "http://a.example/k%C3%A4se?q=%C3%BC"),
            ("http://a.example/東京", "http://a.example/%E6%9D%B1%E4%BA%AC"),
            ("http://a.example/k%C3%A4se?q=%c3%bc", "http://a.example/k%C3%A4se?q=%c3%bc"),
            ("https://münchen.example/push", "https://xn--mnchen-3ya.example/push"),
            ("https://MÜNCHEN.example/", "https://xn--mnchen-3ya.example/"),
            ("https://東京。example:8443/", "https://xn--1lqs71d.example:8443/"),
            ("http://a.example/a b?c d", "http://a.example/a%20b?c%20d"),
            ("http://a.example/{a}|[b]^`\"?{a}|[b]^`\"'", "http://a.example/%7Ba%7D%7C%5Bb%5D%5E%60%22?%7Ba%7D%7C%5Bb%5D%5E%60%22%27"),
            ("http://a.example/a;b=c,d!$&'()*+:@~-._", "http://a.example/a;b=c,d!$&'()*+:@~-._"),
        ] {
            let url: Url = given.parse().unwrap();
            assert_eq!(url.as_str(), sent);
            assert!(url.as_str().is_ascii() && http::uri::PathAndQuery::try_from(url.path_and_query()).is_ok(), "{url}");
            assert_eq!(url.as_str().parse::<Url>().unwrap(), url, "what was encoded once stays as it is");
        }
    }

    #[test]
    fn what_is_no_webhook_is_refused_with_the_remedy() {
        for (wrong, says) in [
            ("example.com/push", "begins with http"),
            ("ftp://a.example/", "begins with http"),
            ("http:a.example/", "begins with http"),
            ("http://u:hush@a.example/", "auth"),
            ("http://@a.example/", "auth"),
            ("http://u:hu?hush@a.example/", "http://***@a.example/"),
            ("ftp://a.example/push?token=hush", "a.example/push?***"),
            ("http://a..b/", "DNS"),
            ("http://.a/", "DNS"),
            ("http://a../", "DNS"),
            (&format!("http://{}.example/", "a".repeat(64)), "DNS"),
            (&format!("http://{}a/", "a.".repeat(127)), "DNS"),
            ("http://a.example/push?token=hush#x", "fragment"),
            ("http://a.example:0/", "port"),
            ("http://a.example:99999/", "port"),
            ("http://a.example:/", "port"),
            ("http://a.example:+80/", "port"),
            ("http://[::1]:x/", "port"),
            ("http://a.example/#x", "fragment"),
            ("http://a.example/#", "fragment"),
            ("http://[fe80::1%25eth0]/", "zone"),
            ("http://[fe80::1%eth0]/", "zone"),
            ("http://[::1/", "https://host/path"),
            ("http://a b/", "https://host/path"),
            ("http://`.example/", "letters, digits"),
            ("http://a.example{}/", "letters, digits"),
            ("http://xn--a/", "https://host/path"),
            ("http://", "https://host/path"),
            ("http:///push", "https://host/path"),
            ("http://:80/", "https://host/path"),
            ("", "https://host/path"),
            ("/push", "begins with http"),
            (" http://a.example/", "begins with http"),
            ("http://a.example/ ", "space"),
            ("http://a.example/a\nb", "line end"),
            ("http://a.example\\push", "backslash"),
            ("http://a.example/100%", "%25"),
            ("http://a.example/?q=%zz", "%25"),
        ] {
            let error = wrong.parse::<Url>().expect_err(wrong).to_string();
            assert!(error.contains(says), "{wrong:?}: {error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn a_redacted_url_hides_its_query() {
        let url: Url = "https://a.example/push?token=hush".parse().unwrap();
        assert_eq!(url.redacted().as_str(), "https://a.example/push?***");
        assert_eq!(url.redacted().path_and_query(), "/push?***");
        assert_eq!("https://a.example/".parse::<Url>().unwrap().redacted().as_str(), "https://a.example/");
    }
}
