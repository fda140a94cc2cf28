//! TLS between a client and a server, of which Pushline is one: a certificate of one run, in a folder.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::protocol::Version;

/// Where the certificate of the server is, which its clients trust.
pub(crate) fn certificate_file(folder: &Path) -> PathBuf {
    folder.join("server.pem")
}

pub(crate) fn key_file(folder: &Path) -> PathBuf {
    folder.join("server.key")
}

/// Makes a certificate for 127.0.0.1.
pub(crate) fn write_certificate(folder: &Path) -> Result<()> {
    let (certificate, key) = (CertificateParams::new(["127.0.0.1".to_owned()])?, KeyPair::generate()?);
    std::fs::write(certificate_file(folder), certificate.self_signed(&key)?.pem())?;
    std::fs::write(key_file(folder), key.serialize_pem())?;
    Ok(())
}

/// What the server shows.
pub(crate) fn acceptor(folder: &Path, version: Version) -> Result<TlsAcceptor> {
    let (certificate, key) = (CertificateDer::from_pem_file(certificate_file(folder))?, PrivateKeyDer::from_pem_file(key_file(folder))?);
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions()?;
    let mut config = config.with_no_client_auth().with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![version.name().into()];
    Ok(Arc::new(config).into())
}

/// What the bare client trusts.
pub(crate) fn connector(folder: &Path, version: Version) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate_file(folder))?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions()?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![version.name().into()];
    Ok(Arc::new(config).into())
}
