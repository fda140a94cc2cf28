//! TLS of a listener: its certificate, the clients' certificates, and the revocation lists. The files are read again when they change.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio_rustls::TlsAcceptor;

use super::InvalidOption;

/// The files of a listener's TLS, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTlsFiles {
    /// The listener's certificate, followed by the intermediate ones.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
    /// The authorities of clients' certificates. With it, every client has to show one.
    pub client_ca_file: Option<PathBuf>,
    /// The authorities' revocation lists. A certificate whose authority has no list in the file is accepted.
    pub client_crl_file: Option<PathBuf>,
}

/// What the files held when they were read last.
pub(crate) struct ServerTls {
    files: ServerTlsFiles,
    state: ArcSwap<State>,
}

struct State {
    config: Arc<ServerConfig>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl ServerTls {
    /// Reads the files. It blocks.
    ///
    /// # Errors
    /// The first file that is of no use.
    pub(crate) fn read(files: ServerTlsFiles) -> Result<Self, InvalidOption> {
        let state = ArcSwap::from_pointee(State::read(&files)?);
        Ok(Self { files, state })
    }

    /// Reads the files again. New connections get what they hold; sessions of before aren't resumed. It blocks.
    ///
    /// # Errors
    /// The first file that is of no use: all stays as it was.
    pub(crate) fn read_again(&self) -> Result<(), InvalidOption> {
        self.state.store(Arc::new(State::read(&self.files)?));
        Ok(())
    }

    /// The files that are set.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let ServerTlsFiles { cert_file, key_file, client_ca_file, client_crl_file } = &self.files;
        [Some(cert_file), Some(key_file), client_ca_file.as_ref(), client_crl_file.as_ref()].into_iter().flatten().map(PathBuf::as_path)
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.state.load().config).into()
    }

    /// Whether a client that has shown these certificates would be let in now: its own is the first.
    pub(crate) fn is_accepted(&self, certificates: &[CertificateDer<'_>]) -> bool {
        match (&self.state.load().verifier, certificates) {
            (None, _) => true,
            (Some(verifier), [own, intermediates @ ..]) => verifier.verify_client_cert(own, intermediates, UnixTime::now()).is_ok(),
            (Some(_), []) => false,
        }
    }
}

impl State {
    fn read(files: &ServerTlsFiles) -> Result<Self, InvalidOption> {
        let in_field = |field| move |problem| InvalidOption { field, problem };
        let chain = certificates(&files.cert_file).map_err(in_field("tls.cert_file"))?;
        let key = PrivateKeyDer::from_pem_slice(&read(&files.key_file).map_err(in_field("tls.key_file"))?).map_err(|error| {
            in_field("tls.key_file")(format!(
                "{} holds no private key in PEM form; an encrypted one can't be read: {error}",
                files.key_file.display()
            ))
        })?;
        let verifier =
            files.client_ca_file.as_deref().map(|authorities| verifier(authorities, files.client_crl_file.as_deref())).transpose()?;
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for TLS 1.2 and 1.3");
        let builder = match &verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let config = builder.with_single_cert(chain, key).map_err(|error| {
            in_field("tls.key_file")(format!(
                "the key in {} can't be used with the certificate in {}: {error}",
                files.key_file.display(),
                files.cert_file.display()
            ))
        })?;
        Ok(Self { config: Arc::new(config), verifier })
    }
}

fn verifier(authorities: &Path, lists: Option<&Path>) -> Result<Arc<dyn ClientCertVerifier>, InvalidOption> {
    let invalid = |problem| InvalidOption { field: "tls.client_ca_file", problem };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authorities).map_err(invalid)? {
        roots
            .add(certificate)
            .map_err(|error| invalid(format!("a certificate in {} can't be an authority's: {error}", authorities.display())))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
    let lists = lists.map(revocation_lists).transpose()?.unwrap_or_default();
    builder
        .with_crls(lists)
        .allow_unknown_revocation_status()
        .build()
        .map_err(|error| InvalidOption { field: "tls.client_crl_file", problem: format!("the revocation lists can't be used: {error}") })
}

fn revocation_lists(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, InvalidOption> {
    let invalid = |problem| InvalidOption { field: "tls.client_crl_file", problem };
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&read(file).map_err(invalid)?).collect();
    match lists {
        Ok(lists) if lists.is_empty() => Err(invalid(format!("{} holds no revocation list in PEM form", file.display()))),
        Ok(lists) => Ok(lists),
        Err(error) => Err(invalid(format!("{} isn't PEM: {error}", file.display()))),
    }
}

/// One at least.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(format!("{} holds no certificate in PEM form", file.display())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("{} isn't PEM: {error}", file.display())),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| format!("can't read {}: {error}", file.display()))
}
