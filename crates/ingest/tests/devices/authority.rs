//! An authority of certificates for servers and devices.

use std::fs;

use pushline_ingest::ServerTlsFiles;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, date_time_ymd,
};

/// An authority with a server's certificate (`server.pem`, `server.key`), and clients' of these names.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new(clients: &[&str]) -> Self {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.distinguished_name.push(DnType::CommonName, "the devices' authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let (key, folder) = (KeyPair::generate().unwrap(), tempfile::tempdir().unwrap());
        fs::write(folder.path().join("ca.pem"), authority.self_signed(&key).unwrap().pem()).unwrap();
        let this = Self { issuer: Issuer::new(authority, key), folder };
        for (serial, name) in ["server"].iter().chain(clients).enumerate() {
            this.certificate(name, u64::try_from(serial).unwrap());
        }
        this.revoke(&[]);
        this
    }

    /// A certificate of this name. The one of `expired` has expired.
    fn certificate(&self, name: &str, serial: u64) {
        let (mut certificate, key) = (CertificateParams::new(["localhost".to_owned()]).unwrap(), KeyPair::generate().unwrap());
        certificate.distinguished_name.push(DnType::CommonName, name);
        if name == "expired" {
            certificate.not_after = date_time_ymd(2020, 1, 1);
        }
        certificate.serial_number = Some(SerialNumber::from(serial + 1));
        fs::write(self.path(&format!("{name}.pem")), certificate.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// Writes a revocation list with the clients of these places.
    pub(crate) fn revoke(&self, clients: &[u64]) {
        let revoked = |client: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(client + 2),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: clients.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        fs::write(self.path("crl.pem"), list.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn files(&self, has_clients: bool) -> ServerTlsFiles {
        ServerTlsFiles {
            cert_file: self.path("server.pem"),
            key_file: self.path("server.key"),
            client_ca_file: has_clients.then(|| self.path("ca.pem")),
            client_crl_file: has_clients.then(|| self.path("crl.pem")),
        }
    }

    /// The options of mosquitto's clients for TLS, with the certificate of this client.
    pub(crate) fn options(&self, client: Option<&str>) -> Vec<String> {
        let text = |name: &str| self.path(name).display().to_string();
        let mut options = vec!["--cafile".to_owned(), text("ca.pem")];
        if let Some(client) = client {
            options.extend(["--cert".to_owned(), text(&format!("{client}.pem")), "--key".to_owned(), text(&format!("{client}.key"))]);
        }
        options
    }
}
