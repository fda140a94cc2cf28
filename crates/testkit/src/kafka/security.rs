//! The listener for tests of TLS and passwords: SASL_SSL beside the plain one, with an authority of its own.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

const USER: &str = "pushline";
const PASSWORD: &str = "only-for-tests";

/// How a client gets in by the SASL_SSL listener.
#[derive(Debug, Clone)]
pub struct KafkaSecurity {
    /// The listener: `host:port`.
    pub brokers: String,
    /// The authority that signed the broker's certificate, PEM.
    pub ca_file: PathBuf,
    /// Who may come in.
    pub user: &'static str,
    /// With which password.
    pub password: &'static str,
}

impl KafkaSecurity {
    /// Makes an authority and a certificate for 127.0.0.1 and localhost in a folder.
    pub(crate) fn create(folder: &Path, listener: SocketAddr) -> Self {
        let this = Self { brokers: listener.to_string(), ca_file: folder.join("ca.pem"), user: USER, password: PASSWORD };
        let (authority, chain) = certificates().expect("certificates can be made");
        fs::write(&this.ca_file, authority).expect("the folder is writable");
        fs::write(server_file(folder), chain).expect("the folder is writable");
        this
    }

    /// What librdkafka needs, for the mechanism `PLAIN` or `SCRAM-SHA-256`.
    #[must_use]
    pub fn properties(&self, mechanism: &str) -> Vec<(String, String)> {
        let ca = self.ca_file.display().to_string();
        let all = [
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", &ca),
            ("sasl.mechanism", mechanism),
            ("sasl.username", self.user),
            ("sasl.password", self.password),
        ];
        all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

/// What the broker needs besides the listener itself. Who comes in by the plain listener may do everything.
pub(crate) fn settings(folder: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("ssl.keystore.type", "PEM".into()),
        ("ssl.keystore.location", server_file(folder).display().to_string()),
        ("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256".into()),
        ("listener.name.sasl_ssl.plain.sasl.jaas.config", jaas("plain.Plain", &format!("user_{USER}=\"{PASSWORD}\""))),
        ("listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config", jaas("scram.Scram", "")),
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer".into()),
        ("super.users", "User:ANONYMOUS".into()),
        ("allow.everyone.if.no.acl.found", "true".into()),
    ]
}

/// What formatting a broker's folder needs: SCRAM's users are kept there.
pub(crate) fn scram_user() -> String {
    format!("SCRAM-SHA-256=[name={USER},password={PASSWORD}]")
}

fn jaas(module: &str, options: &str) -> String {
    format!("org.apache.kafka.common.security.{module}LoginModule required {options};")
}

/// Key and certificate in one file.
fn server_file(folder: &Path) -> PathBuf {
    folder.join("server.pem")
}

/// The authority's certificate; the server's key and certificate.
fn certificates() -> Result<(String, String), rcgen::Error> {
    // Each its own name: OpenSSL takes a certificate whose issuer has its own name for self-signed.
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(DnType::CommonName, "Pushline's authority for tests");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate()?;
    let certificate = authority.self_signed(&key)?.pem();
    let issuer = Issuer::new(authority, key);
    let server_key = KeyPair::generate()?;
    let mut server = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    server.distinguished_name.push(DnType::CommonName, "Kafka for tests");
    Ok((certificate, server_key.serialize_pem() + &server.signed_by(&server_key, &issuer)?.pem()))
}
