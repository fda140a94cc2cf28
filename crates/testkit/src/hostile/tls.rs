//! A hostile server's certificates, and the rows about handshakes.

use std::{io, ops::Range, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, sink},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig, SupportedProtocolVersion,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer},
        server::WebPkiClientVerifier,
        version::{TLS12, TLS13},
    },
};

use super::{HostileProtocol, wire::Wire};

/// The rows whose server never comes to the request. The others are valid over TLS.
const ROWS: [&str; 13] = [
    "wrong-name",
    "expired",
    "not-yet-valid",
    "unknown-authority",
    "stalled-handshake",
    "closes-in-handshake",
    "resets-in-handshake",
    "not-tls",
    "old-version",
    "old-version-alert",
    "other-protocol",
    "client-certificate-wanted-1.2",
    "client-certificate-wanted-1.3",
];

/// The years in which a usual certificate is valid.
const VALID: Range<i32> = 2020..2090;

/// How long a server that refused a client waits for it to close.
const LINGER: Duration = Duration::from_secs(5);

pub(super) fn knows(row: &str) -> bool {
    ROWS.contains(&row)
}

/// An authority of certificates, made for a test.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl CertificateAuthority {
    /// Makes one.
    ///
    /// # Panics
    /// When no key can be made.
    #[must_use]
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("no names are valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Certificates refer to their authority by name.
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", fastrand::u64(..)));
        set_years(&mut params, VALID);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.self_signed(&key).expect("a key signs its own certificate");
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Self { issuer: Issuer::new(params, key), certificate: der, pem }
    }

    /// Its own certificate, for a `ca_file`.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a name and its key, for a `cert_file` and a `key_file`.
    ///
    /// # Panics
    /// When the name isn't valid.
    #[must_use]
    pub fn pem_pair(&self, name: &str) -> (String, String) {
        let (certificate, key) = self.sign(name, VALID);
        (certificate.pem(), key.serialize_pem())
    }

    fn sign(&self, name: &str, valid: Range<i32>) -> (Certificate, KeyPair) {
        let mut params = CertificateParams::new([name.to_owned()]).expect("the name is valid");
        set_years(&mut params, valid);
        let key = KeyPair::generate().expect("a key can be made");
        (params.signed_by(&key, &self.issuer).expect("an authority signs"), key)
    }

    fn certificate(&self, name: &str, valid: Range<i32>) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let (certificate, key) = self.sign(name, valid);
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key that was made is valid");
        (certificate.der().clone(), key)
    }
}

impl Default for CertificateAuthority {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority").finish_non_exhaustive()
    }
}

fn set_years(params: &mut CertificateParams, valid: Range<i32>) {
    (params.not_before, params.not_after) = (date_time_ymd(valid.start, 1, 1), date_time_ymd(valid.end, 1, 1));
}

/// What happens on a connection before HTTP.
#[derive(Clone)]
pub(super) enum Handshake {
    /// Nothing: plain.
    Plain,
    /// TLS.
    Accept(TlsAcceptor),
    /// What comes is read, and nothing is sent.
    Stall,
    /// Once the ClientHello has come: these bytes, and the connection is closed.
    Answer(&'static [u8]),
    /// Once the ClientHello has come, the connection is reset.
    Reset,
}

impl Handshake {
    pub(super) fn of(row: &str, protocol: HostileProtocol, authority: &CertificateAuthority) -> Self {
        if !protocol.is_tls() {
            return Self::Plain;
        }
        let both: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
        let accept = |certified, versions, verified| Self::Accept(acceptor(row, protocol, certified, versions, verified));
        match row {
            "wrong-name" => accept(authority.certificate("other.example", VALID), both, None),
            "expired" => accept(authority.certificate("127.0.0.1", 2020..2021), both, None),
            "not-yet-valid" => accept(authority.certificate("127.0.0.1", 2080..2090), both, None),
            "unknown-authority" => accept(CertificateAuthority::new().certificate("127.0.0.1", VALID), both, None),
            "client-certificate-wanted-1.2" => accept(authority.certificate("127.0.0.1", VALID), &[&TLS12], Some(authority)),
            "client-certificate-wanted-1.3" => accept(authority.certificate("127.0.0.1", VALID), &[&TLS13], Some(authority)),
            "stalled-handshake" => Self::Stall,
            "closes-in-handshake" => Self::Answer(b""),
            "resets-in-handshake" => Self::Reset,
            "not-tls" => Self::Answer(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
            // A record of TLS 1.0 with a ServerHello of TLS 1.0 (RFC 2246 §7.4.1.3): random bytes, no session, TLS_RSA_WITH_AES_128_CBC_SHA.
            "old-version" => Self::Answer(b"\x16\x03\x01\0\x2a\x02\0\0\x26\x03\x010123456789abcdef0123456789abcdef\0\0\x2f\0"),
            // Fatal alerts (RFC 8446 §6): protocol_version, no_application_protocol.
            "old-version-alert" => Self::Answer(b"\x15\x03\x01\0\x02\x02\x46"),
            "other-protocol" => Self::Answer(b"\x15\x03\x03\0\x02\x02\x78"),
            _ => accept(authority.certificate("127.0.0.1", VALID), both, None),
        }
    }

    /// Returns the connection and whether it speaks HTTP/2, or `None` where that was all.
    pub(super) async fn run(&self, mut stream: TcpStream) -> io::Result<Option<(Wire, bool)>> {
        match self {
            Self::Plain => {
                let mut first = [0; 3];
                let read = stream.peek(&mut first).await?;
                Ok(Some((Wire::Plain(stream), first[..read] == *b"PRI")))
            }
            Self::Accept(acceptor) => match acceptor.accept(stream).into_fallible().await {
                Ok(stream) => {
                    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    Ok(Some((Wire::Tls(Box::new(stream)), is_http2)))
                }
                Err((_, mut stream)) => {
                    drop(timeout(LINGER, copy(&mut stream, &mut sink())).await);
                    Ok(None)
                }
            },
            Self::Stall => copy(&mut stream, &mut sink()).await.map(|_| None),
            Self::Answer(bytes) => {
                read_some(&mut stream).await?;
                stream.write_all(bytes).await?;
                stream.shutdown().await?;
                drop(timeout(LINGER, copy(&mut stream, &mut sink())).await);
                Ok(None)
            }
            Self::Reset => {
                read_some(&mut stream).await?;
                stream.set_zero_linger()?;
                Ok(None)
            }
        }
    }
}

/// A ClientHello is smaller.
async fn read_some(stream: &mut TcpStream) -> io::Result<()> {
    stream.read_buf(&mut Vec::with_capacity(16 << 10)).await.map(drop)
}

fn acceptor(
    row: &str,
    protocol: HostileProtocol,
    (certificate, key): (CertificateDer<'static>, PrivateKeyDer<'static>),
    versions: &[&'static SupportedProtocolVersion],
    clients_of: Option<&CertificateAuthority>,
) -> TlsAcceptor {
    let provider = Arc::new(default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions).expect("ring speaks them");
    let config = match clients_of {
        None => config.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.certificate.clone()).expect("it is a certificate");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("there is a root");
            config.with_client_cert_verifier(verifier)
        }
    };
    let mut config = config.with_single_cert(vec![certificate], key).expect("the key is the certificate's");
    config.alpn_protocols = match (protocol.is_http2(), row) {
        (true, "rst-http-1-1-required") => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        (true, _) => vec![b"h2".to_vec()],
        (false, _) => vec![b"http/1.1".to_vec()],
    };
    TlsAcceptor::from(Arc::new(config))
}
