//! Logins with tokens, and by an HTTP end point, with real clients and real sockets.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64_simd::URL_SAFE_NO_PAD;
use pushline_ingest::{ClientConfigs, JwtAlgorithm, JwtOptions, LoginEndpointOptions};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;

use super::{
    authority::Authority,
    hostile::{Version, connect, text},
    listen, read_packet,
    security::{publish, refused},
};

/// An issuer of tokens.
struct Issuer(Ed25519KeyPair);

impl Issuer {
    fn new() -> Self {
        Self(Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref()).unwrap())
    }

    /// Writes the public key.
    fn write(&self, file: &Path) {
        let x = URL_SAFE_NO_PAD.encode_to_string(self.0.public_key().as_ref());
        let key = format!("{{\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"kid\": \"{}\", \"x\": \"{x}\"}}", &x[..4]);
        fs::write(file, format!("{{\"keys\": [{key}]}}")).unwrap();
    }

    /// A token of the device 897 of an organisation, which holds for this long from now on.
    fn token(&self, org: &str, holds: Duration) -> String {
        let x = URL_SAFE_NO_PAD.encode_to_string(self.0.public_key().as_ref());
        let exp = (SystemTime::now() + holds).duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let header = format!("{{\"alg\": \"EdDSA\", \"kid\": \"{}\"}}", &x[..4]);
        let claims = format!("{{\"sub\": \"897\", \"org\": \"{org}\", \"exp\": {exp}, \"iss\": \"us\", \"aud\": \"pushline\"}}");
        let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode_to_string(part)).join(".");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode_to_string(self.0.sign(signed.as_bytes())))
    }
}

fn jwt(file: &Path) -> JwtOptions {
    JwtOptions {
        jwks_file: file.into(),
        algorithms: JwtAlgorithm::ALL.into(),
        issuer: Some("us".into()),
        audience: Some("pushline".into()),
        leeway: Duration::ZERO,
        name_claim: "sub".into(),
    }
}

/// A CONNECT with a user name and a password.
fn login(version: Version, user: &str, password: &str) -> Vec<u8> {
    connect(version, 0xc2, b"", &[text(b"d"), text(user.as_bytes()), text(password.as_bytes())].concat())
}

const AN_HOUR: Duration = Duration::from_hours(1);

#[tokio::test]
async fn a_client_logs_in_with_a_token_and_publishes_what_it_claims_in_each_version() {
    let (dir, issuer) = (tempfile::tempdir().unwrap(), Issuer::new());
    let file = dir.path().join("jwks.json");
    issuer.write(&file);
    let listening = listen(|options| {
        options.jwt = Some(jwt(&file));
        options.allow_topics = vec!["{org}/{user}".parse().unwrap()];
    })
    .await;
    for version in ["mqttv311", "mqttv5"] {
        let with = |token: &str| ["-V", version, "-u", "unused", "-P", token].map(str::to_owned).to_vec();
        let right = with(&issuer.token("mti", AN_HOUR));
        assert_eq!(publish(listening.address, "mti/897", &right).await, (true, String::new()));
        publish(listening.address, "mti/898", &right).await;
        assert_eq!(refused(&listening)[0], "refused_not_authorized", "of another device");
        publish(listening.address, "x/897", &right).await;
        assert_eq!(refused(&listening)[0], "refused_not_authorized", "of another organisation");
        for (wrong, says) in [
            (issuer.token("mti", Duration::ZERO), "has expired"),
            (Issuer::new().token("mti", AN_HOUR), "no key"),
            ("secret".to_owned(), "isn't a token"),
        ] {
            let (is_let_in, said) = publish(listening.address, "mti/897", &with(&wrong)).await;
            assert!(!is_let_in && said.to_lowercase().contains("bad user name or password"), "{said}");
            let refusal = listening.clients.refused.last().remove(0);
            assert!(refusal.reason == "refused_password" && refusal.detail.contains(says), "{refusal:?}");
        }
    }
}

#[tokio::test]
async fn a_client_is_disconnected_when_its_token_expires_and_when_its_key_is_gone() {
    let (dir, issuer) = (tempfile::tempdir().unwrap(), Issuer::new());
    let file = dir.path().join("jwks.json");
    issuer.write(&file);
    let listening = listen(|options| options.jwt = Some(jwt(&file))).await;
    let connected = async |holds| {
        let mut stream = TcpStream::connect(listening.address).await.unwrap();
        stream.write_all(&login(Version::V5, "u", &issuer.token("mti", holds))).await.unwrap();
        assert_eq!(read_packet(&mut stream).await.unwrap().1[1], 0);
        stream
    };
    let mut short = connected(Duration::from_secs(2)).await;
    assert_eq!(read_packet(&mut short).await, Some((0xe0, vec![0x87, 0])));
    assert_eq!(read_packet(&mut short).await, None);
    assert!(refused(&listening).is_empty(), "it happens to every token");
    let mut long = connected(AN_HOUR).await;
    Issuer::new().write(&file);
    assert_eq!(read_packet(&mut long).await, Some((0xe0, vec![0x87, 0])));
    assert_eq!(refused(&listening), ["refused_not_authorized"]);
}

/// A server of HTTPS that answers each login with this text; empty, it closes the connection.
async fn end_point(authority: &Authority, answer: &str) -> (u16, watch::Sender<String>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let chain = vec![CertificateDer::from_pem_file(authority.path("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(authority.path("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap()));
    let (port, (sender, answers)) = (socket.local_addr().unwrap().port(), watch::channel(answer.to_owned()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let (acceptor, answers) = (acceptor.clone(), answers.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = [0; 4096];
                while let Ok(1..) = stream.read(&mut request).await {
                    let body = answers.borrow().clone();
                    if body.is_empty() {
                        return;
                    }
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    drop(stream.write_all(answer.as_bytes()).await);
                }
            });
        }
    });
    (port, sender)
}

fn trusting(authority: &Authority) -> ClientConfigs {
    let file = authority.path("ca.pem");
    ClientConfigs::new(move || {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&file).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions().unwrap();
        Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    })
}

#[tokio::test]
async fn an_end_point_decides_and_while_it_gives_no_decision_the_server_is_unavailable_in_each_version() {
    let authority = Authority::new(&[]);
    let (port, answers) = end_point(&authority, "").await;
    let listening = listen(|options| {
        options.login_endpoint = Some(LoginEndpointOptions {
            url: format!("https://localhost:{port}/logins").parse().unwrap(),
            token: None,
            tls: Some(trusting(&authority)),
            timeout: Duration::from_secs(30),
            concurrency: 4,
            remember: Duration::ZERO,
        });
    })
    .await;
    let connack = async |version| {
        let mut stream = TcpStream::connect(listening.address).await.unwrap();
        stream.write_all(&login(version, "gateway", "secret")).await.unwrap();
        (read_packet(&mut stream).await.unwrap().1[1], stream)
    };
    let unavailable = (connack(Version::V3).await.0, connack(Version::V5).await.0);
    assert_eq!(unavailable, (3, 0x88));
    let refusal = listening.clients.refused.last().remove(0);
    assert!(refusal.reason == "refused_login_unavailable" && refusal.detail.contains("localhost"), "{refusal:?}");
    assert_eq!((refusal.client_id.as_str(), refusal.user.as_deref(), refusal.times), ("d", Some("gateway"), 2));

    answers.send_replace("{\"allow\": false, \"reason\": \"not paid\"}".to_owned());
    let denied = (connack(Version::V3).await.0, connack(Version::V5).await.0);
    assert_eq!(denied, (4, 0x86));
    assert!(listening.clients.refused.last()[0].detail.contains("not paid"));

    answers.send_replace("{\"allow\": true, \"topics\": [\"mti/{user}\"], \"expires_in\": 2}".to_owned());
    let (accepted, mut stream) = connack(Version::V5).await;
    assert_eq!(accepted, 0);
    stream.write_all(b"\x32\x11\0\x0bmti/gateway\0\x07\0A\x32\x0b\0\x05mti/1\0\x08\0A").await.unwrap();
    assert_eq!(read_packet(&mut stream).await, Some((0x40, vec![0, 7])));
    assert_eq!(read_packet(&mut stream).await, Some((0x40, vec![0, 8, 0x87])));
    assert_eq!(read_packet(&mut stream).await, Some((0xe0, vec![0x87, 0])), "it has to log in again");
}
