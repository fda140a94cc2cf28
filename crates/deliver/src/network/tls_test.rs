//! TLS on real sockets: whom Pushline trusts, what it shows, and why an attempt failed. Each server notes what it saw.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use pushline_model::{Auth, ClientCredentials, MessageId, Outcome, Secret, TokenEndpointAuthMethod, Webhook};
use rustls::{
    HandshakeKind, ServerConfig, SupportedProtocolVersion,
    pki_types::PrivateKeyDer,
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{endpoint::Endpoint, request::HeaderCaseCache};

/// An authority, or a certificate that one has signed.
struct Certified {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    key: Vec<u8>,
    key_pem: String,
}

/// What a server is like.
struct Server<'a> {
    shows: &'a Certified,
    /// Whose client certificates it requires.
    requires: Option<&'a Certified>,
    alpn: &'a [u8],
    version: &'static SupportedProtocolVersion,
    keeps_connections: bool,
}

/// What a server saw of each connection whose handshake ended well: the client's certificate, and whether the session was resumed.
type Seen = Arc<Mutex<Vec<(Option<CertificateDer<'static>>, bool)>>>;

impl Certified {
    /// A certificate of a name that is valid in these years. `by`: self-signed without.
    fn of(name: &str, years: std::ops::Range<i32>, by: Option<&Self>) -> Self {
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(years.start, 1, 1), rcgen::date_time_ymd(years.end, 1, 1));
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        if name == "authority" {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = match by {
            Some(by) => params.signed_by(&key, &by.issuer).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        let (der, key_pem) = (key.serialize_der(), key.serialize_pem());
        Self { certificate, issuer: rcgen::Issuer::new(params, key), key: der, key_pem }
    }

    fn signed(name: &str, by: &Self) -> Self {
        Self::of(name, 2020..2090, Some(by))
    }

    fn authority() -> Self {
        Self::of("authority", 2020..2090, None)
    }

    fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    /// Writes `NAME.pem` and `NAME.key`.
    fn write(&self, folder: &Path, name: &str) -> (Option<PathBuf>, Option<PathBuf>) {
        let files = [("pem", self.certificate.pem()), ("key", self.key_pem.clone())].map(|(kind, text)| {
            let file = folder.join(format!("{name}.{kind}"));
            fs::write(&file, text).unwrap();
            Some(file)
        });
        files.into()
    }
}

impl<'a> Server<'a> {
    fn of(shows: &'a Certified) -> Self {
        Self { shows, requires: None, alpn: b"http/1.1", version: &TLS13, keeps_connections: false }
    }

    /// It answers each request with 204.
    async fn start(self) -> (SocketAddr, Seen) {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[self.version]).unwrap();
        let builder = match self.requires {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.der()).unwrap();
                builder.with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap())
            }
        };
        let key = PrivateKeyDer::try_from(self.shows.key.clone()).unwrap();
        let mut config = builder.with_single_cert(vec![self.shows.der()], key).unwrap();
        config.alpn_protocols = vec![self.alpn.to_vec()];
        config.session_storage = rustls::server::ServerSessionMemoryCache::new(4096);
        let (acceptor, listener) = (tokio_rustls::TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let (address, seen, keeps) = (listener.local_addr().unwrap(), Seen::default(), self.keeps_connections);
        let notes = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, notes) = (acceptor.clone(), Arc::clone(&notes));
                tokio::spawn(async move {
                    // A client that doesn't trust the certificate closes the connection.
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let session = stream.get_ref().1;
                    let certificate = session.peer_certificates().map(|chain| chain[0].clone().into_owned());
                    notes.lock().unwrap().push((certificate, session.handshake_kind() == Some(HandshakeKind::Resumed)));
                    let close = if keeps { "" } else { "Connection: close\r\n" };
                    let mut request = Vec::new();
                    while stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {
                        if request.ends_with(b"ABC") {
                            request.clear();
                            stream.write_all(format!("HTTP/1.1 204 No Content\r\n{close}\r\n").as_bytes()).await.unwrap();
                            if !keeps {
                                return stream.shutdown().await.unwrap();
                            }
                        }
                    }
                });
            }
        });
        (address, seen)
    }
}

/// A network that trusts these certificates beside Mozilla's, and whose names all lead to this machine.
fn network(trusted: &[&Certified]) -> Arc<Network> {
    let egress = Egress::new(vec!["127.0.0.0/8".parse().unwrap()]);
    let mut network = Arc::into_inner(Network::believing(egress, trusted.iter().map(|root| root.der())).unwrap()).unwrap();
    network.lookups = Lookups::by(|_| Ok(vec![([127, 0, 0, 1], 0).into()]), 8);
    Arc::new(network)
}

fn endpoint(network: &Arc<Network>, host: &str, address: SocketAddr, tls: Tls) -> Endpoint {
    let mut webhook = Webhook::new("w", format!("https://{host}:{}/push", address.port()).parse().unwrap());
    webhook.tls = tls;
    Endpoint::new(Arc::new(webhook), Arc::clone(network), &mut HeaderCaseCache::default()).unwrap()
}

async fn attempt(endpoint: &Endpoint) -> Outcome {
    endpoint.attempt(MessageId([7; 16]), "ABC".into(), true).await
}

#[track_caller]
fn assert_refused(outcome: &Outcome, cause: &str) {
    assert!(matches!(outcome, Outcome::NoResponse(NoResponse::Tls(told)) if told.contains(cause)), "{outcome:?} instead of {cause:?}");
}

const ACCEPTED: Outcome = Outcome::Accepted { status: 204 };

#[tokio::test]
async fn https_is_spoken_to_a_server_that_proves_its_name_and_a_refusal_says_why() {
    let of = |name, years| Certified::of(name, years, None);
    let (http, other) = (b"http/1.1".as_slice(), b"h3".as_slice());
    let expected = [
        (of("localhost", 2020..2090), true, http, None),
        (of("localhost", 2020..2090), false, http, Some("unknown issuer")),
        (of("other.example", 2020..2090), true, http, Some("the certificate is for other.example, not for localhost")),
        (of("localhost", 2020..2021), true, http, Some("the certificate expired at 2021-01-01")),
        (of("localhost", 2080..2090), true, http, Some("the certificate isn't valid before 2080-01-01")),
        (of("localhost", 2020..2090), true, other, Some("speaks none of the protocols")),
    ];
    for (shown, is_trusted, alpn, cause) in expected {
        let (address, _) = Server { alpn, ..Server::of(&shown) }.start().await;
        let trusted = if is_trusted { vec![&shown] } else { vec![] };
        let outcome = attempt(&endpoint(&network(&trusted), "localhost", address, Tls::default())).await;
        match cause {
            None => assert_eq!(outcome, ACCEPTED),
            Some(cause) => assert_refused(&outcome, cause),
        }
    }
}

#[tokio::test]
async fn an_authority_of_the_customers_own_replaces_the_public_ones_and_the_name_may_be_another() {
    let (folder, authority, public) = (tempfile::tempdir().unwrap(), Certified::authority(), Certified::of("localhost", 2020..2090, None));
    let (own, _) = authority.write(folder.path(), "ca");
    let tls = Tls { ca_file: own, server_name: Some("inside.example".into()), ..Tls::default() };
    let network = network(&[&public]);
    let (address, _) = Server::of(&Certified::signed("inside.example", &authority)).start().await;
    assert_eq!(attempt(&endpoint(&network, "localhost", address, tls.clone())).await, ACCEPTED);
    assert_refused(&attempt(&endpoint(&network, "localhost", address, Tls::default())).await, "unknown issuer");
    let (address, _) = Server::of(&public).start().await;
    let tls = Tls { server_name: None, ..tls };
    assert_refused(&attempt(&endpoint(&network, "localhost", address, tls.clone())).await, "unknown issuer");
    let (address, _) = Server::of(&authority).start().await;
    assert_refused(
        &attempt(&endpoint(&network, "localhost", address, tls)).await,
        "can't be a server's too, even where tls.ca_file lists it",
    );
}

#[tokio::test]
async fn an_authoritys_own_certificate_is_no_servers_even_where_the_authority_is_trusted() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Certified::authority());
    let (ca_file, _) = authority.write(folder.path(), "ca");
    let (address, _) = Server::of(&authority).start().await;
    let outcome = attempt(&endpoint(&network(&[]), "localhost", address, Tls { ca_file, ..Tls::default() })).await;
    assert_refused(&outcome, "it can't be a server's too, even where tls.ca_file lists it");
}

#[tokio::test]
async fn an_access_token_is_fetched_with_the_webhooks_tls_but_for_the_name_of_its_server() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Certified::authority());
    let (ca_file, _) = authority.write(folder.path(), "ca");
    let client = Certified::signed("client", &authority);
    let (cert_file, key_file) = client.write(folder.path(), "client");
    let shown = Certified::signed("localhost", &authority);
    let (address, seen) = Server { requires: Some(&authority), ..Server::of(&shown) }.start().await;
    let mut webhook = Webhook::new("w", "https://api.example/".parse().unwrap());
    webhook.tls = Tls { ca_file, cert_file, key_file, server_name: Some("inside.example".into()) };
    webhook.auth = Auth::OAuth2(ClientCredentials {
        token_url: format!("https://localhost:{}/token", address.port()).parse().unwrap(),
        client_id: "c".into(),
        client_secret: Secret::new("ABC"),
        token_endpoint_auth_method: TokenEndpointAuthMethod::default(),
        scope: Some("ABC".into()),
        audience: None,
    });
    let outcome = attempt(&Endpoint::new(Arc::new(webhook), network(&[]), &mut HeaderCaseCache::default()).unwrap()).await;
    assert!(matches!(&outcome, Outcome::NoResponse(NoResponse::Token(why)) if why.contains("HTTP status 204")), "{outcome:?}");
    assert_eq!(seen.lock().unwrap()[0].0, Some(client.der()));
}

#[tokio::test]
async fn a_refused_client_certificate_is_told_as_that_though_it_is_refused_after_the_handshake() {
    let (folder, authority, other) = (tempfile::tempdir().unwrap(), Certified::authority(), Certified::authority());
    let shown = Certified::of("localhost", 2020..2090, None);
    let tls = |client: &Certified, name: &str| {
        let (cert_file, key_file) = client.write(folder.path(), name);
        Tls { cert_file, key_file, ..Tls::default() }
    };
    let expired = Certified::of("client", 2020..2021, Some(&authority));
    let good = Certified::signed("client", &authority);
    for version in [&TLS12, &TLS13] {
        let (address, seen) = Server { requires: Some(&authority), version, ..Server::of(&shown) }.start().await;
        let network = network(&[&shown]);
        // Whether the request or the alert is first differs from time to time.
        for _ in 0..20 {
            let attempted = async |tls| attempt(&endpoint(&network, "localhost", address, tls)).await;
            assert_refused(&attempted(Tls::default()).await, "requires a client certificate");
            assert_refused(&attempted(tls(&Certified::signed("client", &other), "other")).await, "refuses the client certificate");
            assert_refused(&attempted(tls(&expired, "expired")).await, "refuses the client certificate");
        }
        assert_eq!(seen.lock().unwrap().len(), 0);
        assert_eq!(attempt(&endpoint(&network, "localhost", address, tls(&good, "good"))).await, ACCEPTED);
        assert_eq!(seen.lock().unwrap()[0].0, Some(good.der()));
    }
}

#[tokio::test]
async fn certificates_are_read_again_when_their_files_change_and_the_server_sees_the_new_one() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Certified::authority());
    let (shown, [first, second]) = (Certified::of("localhost", 2020..2090, None), [0, 1].map(|_| Certified::signed("client", &authority)));
    let (address, seen) = Server { requires: Some(&authority), keeps_connections: true, ..Server::of(&shown) }.start().await;
    let (cert_file, key_file) = first.write(folder.path(), "client");
    let network = network(&[&shown]);
    let endpoint = endpoint(&network, "localhost", address, Tls { cert_file: cert_file.clone(), key_file, ..Tls::default() });
    let look = || {
        network.identities.refresh(SystemTime::now());
        network.pool().retire(|route| network.is_current(route));
    };
    let certificates = || seen.lock().unwrap().iter().map(|(certificate, _)| certificate.clone().unwrap()).collect::<Vec<_>>();
    look();
    for _ in 0..2 {
        assert_eq!(attempt(&endpoint).await, ACCEPTED);
    }
    assert_eq!(certificates(), [first.der()], "a connection is used again");
    // Half of the change, and rubbish: the old certificate stays in effect.
    fs::write(cert_file.unwrap(), second.certificate.pem()).unwrap();
    (0..3).for_each(|_| look());
    assert_eq!((attempt(&endpoint).await, certificates()), (ACCEPTED, vec![first.der()]));
    second.write(folder.path(), "client");
    look();
    assert_eq!(
        (attempt(&endpoint).await, certificates()),
        (ACCEPTED, vec![first.der()]),
        "files that were written just now may be half written"
    );
    look();
    for _ in 0..2 {
        assert_eq!((attempt(&endpoint).await, certificates()), (ACCEPTED, vec![first.der(), second.der()]));
    }
}

#[tokio::test]
async fn sessions_of_as_many_servers_as_there_are_endpoints_are_resumed() {
    const SERVERS: usize = 80;
    let shown = Certified::of("*.test.example", 2020..2090, None);
    for version in [&TLS12, &TLS13] {
        let (address, seen) = Server { version, ..Server::of(&shown) }.start().await;
        let network = network(&[&shown]);
        let endpoints: Vec<Endpoint> =
            (0..SERVERS).map(|number| endpoint(&network, &format!("{number}.test.example"), address, Tls::default())).collect();
        for round in 0..2 {
            for endpoint in &endpoints {
                assert_eq!(attempt(endpoint).await, ACCEPTED);
            }
            let resumed = seen.lock().unwrap().drain(..).filter(|(_, is_resumed)| *is_resumed).count();
            assert_eq!(resumed, round * SERVERS);
        }
    }
}

#[tokio::test]
async fn webhooks_with_an_equal_tls_share_an_identity_and_others_share_none() {
    let (folder, network) = (tempfile::tempdir().unwrap(), network(&[]));
    let (ca_file, _) = Certified::authority().write(folder.path(), "ca");
    let identity = |tls: &Tls| network.identities.of(tls).unwrap();
    let own = Tls { ca_file, ..Tls::default() };
    let [default, first, second] = [&Tls::default(), &own, &own].map(identity);
    assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &default));
}

/// A name that moves to another server: connections to the old one take no further request once a lookup shows it.
#[tokio::test]
async fn a_connection_is_drained_when_its_address_has_left_its_name() {
    let shown = Certified::of("localhost", 2020..2090, None);
    let (address, seen) = Server { keeps_connections: true, ..Server::of(&shown) }.start().await;
    let moved = Arc::new(AtomicUsize::new(1));
    let last = Arc::clone(&moved);
    let mut network = Arc::into_inner(network(&[&shown])).unwrap();
    network.lookups = Lookups::by(move |_| Ok(vec![([127, 0, 0, u8::try_from(last.load(Ordering::Relaxed)).unwrap()], 0).into()]), 8);
    let endpoint = endpoint(&Arc::new(network), "localhost", address, Tls::default());
    let pass = async |seconds| {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
    };
    for _ in 0..4 {
        assert_eq!(attempt(&endpoint).await, ACCEPTED);
        pass(20).await;
    }
    assert_eq!(seen.lock().unwrap().len(), 1, "the name has the address still");
    // Nothing listens there.
    moved.store(2, Ordering::Relaxed);
    pass(15).await;
    let mut outcome = attempt(&endpoint).await;
    for _ in 0..100 {
        if outcome != ACCEPTED {
            break;
        }
        // The lookup before may have ended late, by the clock that jumps: then the next one is due later.
        pass(1).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        outcome = attempt(&endpoint).await;
    }
    assert!(matches!(outcome, Outcome::NoResponse(NoResponse::Connect(_))), "{outcome:?}");
}
