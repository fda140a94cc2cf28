//! Certificates of an authority of its own: a server's for `localhost`, and a client's.

use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// Writes them into a folder as PEM: `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`, and `server-with-key.pem` in one.
pub(super) fn write(folder: &Path) -> Result<(), rcgen::Error> {
    let file = |name: &str, text: &str| fs::write(folder.join(name), text).expect("the folder is writable");
    // Each its own name: OpenSSL takes a certificate whose issuer has its own name for self-signed.
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(DnType::CommonName, "Pushline's authority for tests");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate()?;
    file("ca.pem", &authority.self_signed(&key)?.pem());
    let issuer = Issuer::new(authority, key);
    for (name, subject) in [("server", "localhost"), ("client", "pushline")] {
        let (mut certificate, key) = (CertificateParams::new([subject.to_owned()])?, KeyPair::generate()?);
        certificate.distinguished_name.push(DnType::CommonName, subject);
        let certificate = certificate.signed_by(&key, &issuer)?.pem();
        file(&format!("{name}.pem"), &certificate);
        file(&format!("{name}.key"), &key.serialize_pem());
        file(&format!("{name}-with-key.pem"), &(certificate + &key.serialize_pem()));
    }
    Ok(())
}
