//! Why an endpoint gave no response, for people: made from the typed errors of the libraries. Pure.

use std::{
    error::Error,
    io::{self, ErrorKind},
    time::{Duration, UNIX_EPOCH},
};

use pushline_model::{NoResponse, Timestamp};
use rustls::{AlertDescription, CertificateError, PeerIncompatible, pki_types::UnixTime};

/// How much of an odd line is quoted, in bytes.
const QUOTED: usize = 60;

/// Of a TLS handshake that failed.
pub(crate) fn of_handshake(error: &io::Error) -> NoResponse {
    NoResponse::Tls(match (rustls_error(error), error.kind()) {
        (Some(error), _) => tls(error).into(),
        (None, ErrorKind::UnexpectedEof) => "the server closed the connection during the handshake".into(),
        (None, ErrorKind::ConnectionReset) => "the server reset the connection during the handshake".into(),
        (None, _) => format!("the handshake failed: {error}").into(),
    })
}

/// Of a request that failed. `answer`: what the server sent, where hyper has taken none of it.
pub(crate) fn of_request(error: &hyper::Error, answer: &[u8]) -> NoResponse {
    if error.is_parse_too_large() {
        return NoResponse::Malformed("the answer's header section is too large: more than 128 KiB or 256 headers".into());
    }
    if error.is_parse() || error.is_parse_status() {
        let told = malformed_status_line(answer).unwrap_or_else(|| format!("the answer isn't HTTP/1.1: {error}"));
        return NoResponse::Malformed(told.into());
    }
    if let Some(error) = h2_error(error) {
        return of_http2(error);
    }
    if error.is_timeout() {
        return NoResponse::ConnectionLost("the server answered no HTTP/2 ping within 20 s".into());
    }
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        // HTTP/2 only: the library says so of a connection that ended.
        Some(source) if source.kind() == ErrorKind::BrokenPipe && source.get_ref().is_some() => of_early_end(),
        Some(source) => of_io(source),
        None if error.is_incomplete_message() => of_early_end(),
        None => NoResponse::ConnectionLost(error.to_string().into()),
    }
}

/// HTTP/2's own error, where that is the cause.
pub(crate) fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    error.source()?.downcast_ref()
}

/// Of a connection that the server closed.
pub(crate) fn of_early_end() -> NoResponse {
    NoResponse::ConnectionLost("the server closed the connection before a status arrived".into())
}

/// Of a stream or a connection of HTTP/2 that failed (RFC 9113 §5.4).
fn of_http2(error: &h2::Error) -> NoResponse {
    if let Some(source) = error.get_io() {
        // The library says so of a connection that ended.
        return if source.kind() == ErrorKind::BrokenPipe { of_early_end() } else { of_io(source) };
    }
    let reason = error.reason().unwrap_or(h2::Reason::INTERNAL_ERROR);
    if error.is_library() {
        return NoResponse::Malformed(format!("the answer isn't HTTP/2: {reason:?} ({error})").into());
    }
    NoResponse::ConnectionLost(match error.is_go_away() {
        true => format!("the server ended the connection before a status arrived: GOAWAY {reason:?}").into(),
        false => format!("the server reset the stream before a status arrived: {reason:?}").into(),
    })
}

fn of_io(source: &io::Error) -> NoResponse {
    // With TLS 1.3 a server refuses a client only once the handshake is over.
    if let Some(error) = rustls_error(source) {
        return NoResponse::Tls(tls(error).into());
    }
    NoResponse::ConnectionLost(match source.kind() {
        ErrorKind::ConnectionReset => "the server reset the connection before a status arrived".into(),
        ErrorKind::BrokenPipe => "the server closed the connection while the request was sent".into(),
        _ => format!("the connection broke before a status arrived: {source}").into(),
    })
}

/// Of a server that spoke before a request was sent.
pub(crate) fn of_greeting(unread: &[u8]) -> Option<NoResponse> {
    malformed_status_line(unread).map(|told| NoResponse::Malformed(told.into()))
}

/// Of a server that refused the client with an alert once the handshake was over.
pub(crate) fn of_refusal(error: &rustls::Error) -> NoResponse {
    NoResponse::Tls(tls(error).into())
}

/// A response whose status is 101.
pub(crate) fn of_switching_protocols() -> NoResponse {
    NoResponse::Malformed("the server answered 101 (Switching Protocols), which no request asked for".into())
}

fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn tls(error: &rustls::Error) -> String {
    use rustls::Error as E;
    match error {
        E::InvalidCertificate(why) => certificate(why),
        E::AlertReceived(AlertDescription::ProtocolVersion)
        | E::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => "protocol version: the server speaks neither TLS 1.2 nor TLS 1.3".into(),
        E::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "the server speaks none of the protocols that it was offered (ALPN)".into()
        }
        E::AlertReceived(AlertDescription::UnrecognisedName) => "the server doesn't know the host name (alert unrecognized_name)".into(),
        E::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server requires a client certificate: set tls.cert_file and tls.key_file".into()
        }
        // Servers verify no other certificate than the client's. With TLS 1.2 some of them say so where there is none.
        E::AlertReceived(
            alert @ (AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied),
        ) => format!("the server refuses the client certificate, or misses one (alert {alert:?})"),
        E::AlertReceived(alert) => format!("the server refused the handshake with the alert {alert:?}"),
        E::PeerIncompatible(why) => format!("no common TLS parameters: {why:?}"),
        E::InvalidMessage(_) => "what the server sent isn't TLS: the port may speak plain HTTP".into(),
        E::NoCertificatesPresented => "the server sent no certificate".into(),
        other => format!("the handshake failed: {other}"),
    }
}

fn certificate(error: &CertificateError) -> String {
    use CertificateError as C;
    match error {
        C::UnknownIssuer => {
            "certificate of an unknown issuer: it isn't signed by a public authority, or the server omits the intermediate certificate"
                .into()
        }
        C::Expired => "the certificate has expired".into(),
        C::ExpiredContext { not_after, .. } => format!("the certificate expired at {}", at(*not_after)),
        C::NotValidYet => "the certificate isn't valid yet".into(),
        C::NotValidYetContext { not_before, .. } => format!("the certificate isn't valid before {}", at(*not_before)),
        C::NotValidForName => "the certificate is for another name".into(),
        C::NotValidForNameContext { expected, presented } => {
            let presented: Vec<&str> = presented.iter().take(3).map(|name| plain(name)).collect();
            let names = if presented.is_empty() { "no name at all".to_owned() } else { presented.join(", ") };
            format!("the certificate is for {names}, not for {}", expected.to_str())
        }
        C::Revoked => "the certificate is revoked".into(),
        C::BadSignature => "the certificate's signature is wrong".into(),
        C::BadEncoding => "the certificate can't be read".into(),
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => "the certificate isn't one for servers".into(),
        C::Other(other) => match other.0.downcast_ref() {
            Some(webpki::Error::CaUsedAsEndEntity) => {
                "the server's certificate is an authority's (CA:TRUE), as many self-signed ones are: it can't be a server's too, even where tls.ca_file lists it; give the server a certificate with CA:FALSE"
                    .into()
            }
            Some(webpki::Error::UnsupportedCertVersion) => "the certificate's format is too old: X.509 version 3 is needed".into(),
            _ => format!("the certificate is invalid: {other}"),
        },
        other => format!("the certificate is invalid: {other}"),
    }
}

fn at(time: UnixTime) -> Timestamp {
    Timestamp::of(UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}

/// `DnsName("a.example")` without its wrapping.
fn plain(name: &str) -> &str {
    name.split('"').nth(1).unwrap_or(name)
}

/// What a response begins with instead of a status line (RFC 9112 §4). `None`: it has one.
fn malformed_status_line(head: &[u8]) -> Option<String> {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let status_line = lines.find(|line| !line.is_empty())?;
    (!is_status_line(status_line)).then(|| format!("the answer begins with {} instead of an HTTP/1.1 status line", quoted(status_line)))
}

fn is_status_line(line: &[u8]) -> bool {
    let Some((version, rest)) = line.strip_prefix(b"HTTP/1.").and_then(|rest| rest.split_first()) else { return false };
    let Some(status) = rest.strip_prefix(b" ").and_then(|rest| rest.get(..3)) else { return false };
    matches!(version, b'0' | b'1') && status.iter().all(u8::is_ascii_digit) && matches!(rest.get(4), None | Some(b' '))
}

fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"{}", bytes[..bytes.len().min(QUOTED)].escape_ascii(), if bytes.len() > QUOTED { "…" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_answer_is_quoted_where_it_is_malformed() {
        let said = |head: &str| malformed_status_line(head.as_bytes()).unwrap_or_default();
        assert_eq!(said("SSH-2.0-OpenSSH_9.6\r\n"), "the answer begins with \"SSH-2.0-OpenSSH_9.6\" instead of an HTTP/1.1 status line");
        assert_eq!(said("HTTP/2 200 OK\r\n\r\n"), "the answer begins with \"HTTP/2 200 OK\" instead of an HTTP/1.1 status line");
        assert_eq!(said("HTTP/1.1 20 OK\r\n\r\n"), "the answer begins with \"HTTP/1.1 20 OK\" instead of an HTTP/1.1 status line");
        assert_eq!(said("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"), "");
        assert_eq!(said(""), "", "the library has taken the head, and what it refuses lies in there");
    }

    #[test]
    fn what_a_server_sent_moves_no_cursor_and_is_quoted_in_part() {
        let said = malformed_status_line(&[b"\x1b[2J\"".as_slice(), &[b'x'; 1000]].concat()).unwrap();
        assert!(said.contains(r#""\x1b[2J\"xxx"#) && said.len() < 200, "{said}");
    }
}
