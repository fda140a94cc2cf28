//! The files of a webhook's `tls`: reading them, what is wrong with one, and when what they hold expires.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pushline_model::{Timestamp, Tls};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::named_server::NamedServer;

/// The first second of the year 10000: no certificate is valid then (RFC 5280 §4.1.2.5).
const END_OF_TIME: Duration = Duration::from_secs(253_402_300_800);

/// What the files of one `tls` hold.
#[derive(Debug)]
pub struct TlsFiles {
    /// The authorities to trust in place of Mozilla's.
    pub(crate) roots: Option<RootCertStore>,
    /// The client certificate with its key.
    pub(crate) certificate: Option<Arc<CertifiedKey>>,
    /// What expires first.
    pub expiry: Option<CertificateExpiry>,
}

/// When a file needs to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateExpiry {
    /// The file.
    pub file: PathBuf,
    /// When the certificate in it expires.
    pub at: SystemTime,
}

/// A file that is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tls.{field}: {problem}")]
pub struct InvalidTlsFile {
    /// The field of `tls` that names it.
    pub field: &'static str,
    /// What is wrong with it, and what would be right.
    pub problem: String,
    /// Whether its contents were read. If not, nothing is known about them, and reading it again may succeed.
    pub was_read: bool,
}

/// What is wrong with a file, without the field that names it.
struct Problem {
    problem: String,
    was_read: bool,
}

impl TlsFiles {
    /// Reads the files. It blocks.
    ///
    /// # Errors
    /// The first file that can't be read or holds something else, or a key that doesn't belong to its certificate.
    pub fn read(tls: &Tls) -> Result<Self, InvalidTlsFile> {
        let mut expiries = Vec::new();
        let roots = tls.ca_file.as_deref().map(|file| roots(file, &mut expiries)).transpose()?;
        let certificate = match (&tls.cert_file, &tls.key_file) {
            (Some(chain), Some(key)) => Some(Arc::new(certified_key(chain, key, &mut expiries)?)),
            _ => None,
        };
        Ok(Self { roots, certificate, expiry: expiries.into_iter().min_by_key(|expiry| expiry.at) })
    }

    /// The client of a `tls` with these files, for a protocol other than HTTP. Where `tls` names the server, the certificate must be for that name,
    /// whichever the caller dials.
    ///
    /// # Errors
    /// `ca_file` holds no authority.
    pub fn client_config(&self, tls: &Tls) -> Result<Arc<ClientConfig>, InvalidTlsFile> {
        let mut config = self.client_config_trusting(&[]);
        if let Some(name) = &tls.server_name {
            let named = NamedServer::new(self.trusted(&[]), name).map_err(|problem| InvalidTlsFile {
                field: "server_name",
                problem,
                was_read: true,
            })?;
            config.dangerous().set_certificate_verifier(Arc::new(named));
        }
        Ok(Arc::new(config))
    }

    /// A client that trusts more authorities where `ca_file` names none.
    pub(crate) fn client_config_trusting(&self, more_roots: &[CertificateDer<'static>]) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for TLS 1.2 and 1.3")
            .with_root_certificates(self.trusted(more_roots));
        match &self.certificate {
            Some(certificate) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(certificate)))),
            None => builder.with_no_client_auth(),
        }
    }

    fn trusted(&self, more_roots: &[CertificateDer<'static>]) -> RootCertStore {
        self.roots.clone().unwrap_or_else(|| {
            let mut roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
            roots.add_parsable_certificates(more_roots.iter().cloned());
            roots
        })
    }
}

impl CertificateExpiry {
    /// For people: "/etc/pushline/client.pem expires at 2027-01-01T00:00:00.0000000Z", or "expired".
    #[must_use]
    pub fn describe(&self, now: SystemTime) -> String {
        let verb = if self.at <= now { "expired" } else { "expires" };
        format!("the certificate in {} {verb} at {}", self.file.display(), Timestamp::of(self.at))
    }
}

/// A rotation has the old and the new authority in one file: the file is of use until the last of them expires.
fn roots(file: &Path, expiries: &mut Vec<CertificateExpiry>) -> Result<RootCertStore, InvalidTlsFile> {
    let invalid = |problem: Problem| problem.of("ca_file");
    let certificates = certificates(file).map_err(invalid)?;
    let last = certificates.iter().filter_map(expires_at).max();
    expiries.extend(last.map(|at| CertificateExpiry { file: file.to_owned(), at }));
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let problem = |error| Problem::contents(format!("a certificate in {} can't be an authority's: {error}", file.display()));
        roots.add(certificate).map_err(|error| invalid(problem(error)))?;
    }
    Ok(roots)
}

fn certified_key(chain: &Path, key: &Path, expiries: &mut Vec<CertificateExpiry>) -> Result<CertifiedKey, InvalidTlsFile> {
    let certificates = certificates(chain).map_err(|problem| problem.of("cert_file"))?;
    let first = certificates.iter().filter_map(expires_at).min();
    expiries.extend(first.map(|at| CertificateExpiry { file: chain.to_owned(), at }));
    let invalid = |problem: Problem| problem.of("key_file");
    let private_key = PrivateKeyDer::from_pem_slice(&read(key).map_err(invalid)?).map_err(|error| {
        invalid(Problem::contents(match error {
            pem::Error::NoItemsFound => format!("{} holds no private key in PEM form; an encrypted one can't be read", key.display()),
            error => format!("{} isn't PEM: {error}", key.display()),
        }))
    })?;
    CertifiedKey::from_der(certificates, private_key, &default_provider()).map_err(|error| {
        invalid(Problem::contents(match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("the key in {} doesn't belong to the certificate in {}", key.display(), chain.display())
            }
            error => format!("the key in {} can't be used: {error}", key.display()),
        }))
    })
}

impl Problem {
    fn contents(problem: String) -> Self {
        Self { problem, was_read: true }
    }

    fn of(self, field: &'static str) -> InvalidTlsFile {
        InvalidTlsFile { field, problem: self.problem, was_read: self.was_read }
    }
}

/// One at least.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(Problem::contents(format!("{} holds no certificate in PEM form", file.display())))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(Problem::contents(format!("{} isn't PEM: {error}", file.display()))),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Problem> {
    fs::read(file).map_err(|error| Problem { problem: format!("can't read {}: {error}", file.display()), was_read: false })
}

/// When a certificate expires. webpki tells it only of one that has expired, and checks that before all else, so it is asked about the end of time.
fn expires_at(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let at = UnixTime::since_unix_epoch(END_OF_TIME);
    match certificate.verify_for_usage(&[], &[], &[], at, webpki::KeyUsage::client_auth(), None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => Some(UNIX_EPOCH + Duration::from_secs(not_after.as_secs())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a certificate `NAME.pem` that is valid until this year, and its key `NAME.key`, for each name.
    fn folder(names: &[(&str, i32)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, until) in names {
            let mut params = rcgen::CertificateParams::new([(*name).to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(*until, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            fs::write(folder.path().join(format!("{name}.pem")), params.self_signed(&key).unwrap().pem()).unwrap();
            fs::write(folder.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        folder
    }

    fn tls(folder: &tempfile::TempDir, [ca, cert, key]: [&str; 3]) -> Tls {
        let file = |name: &str| Some(folder.path().join(name)).filter(|_| !name.is_empty());
        Tls { ca_file: file(ca), cert_file: file(cert), key_file: file(key), server_name: None }
    }

    #[test]
    fn a_file_that_is_of_no_use_is_named_with_its_field_and_the_reason() {
        let folder = folder(&[("a", 2090), ("b", 2090)]);
        fs::write(folder.path().join("text"), "no PEM").unwrap();
        for (files, field, says) in [
            (["missing", "", ""], "ca_file", "No such file"),
            (["text", "", ""], "ca_file", "holds no certificate"),
            (["a.key", "", ""], "ca_file", "holds no certificate"),
            (["", "text", "a.key"], "cert_file", "holds no certificate"),
            (["", "a.pem", "missing"], "key_file", "No such file"),
            (["", "a.pem", "a.pem"], "key_file", "holds no private key"),
            (["", "a.pem", "b.key"], "key_file", "doesn't belong to the certificate"),
        ] {
            let invalid = TlsFiles::read(&tls(&folder, files)).unwrap_err();
            assert!(invalid.field == field && invalid.problem.contains(says), "{files:?}: {invalid}");
            assert_eq!(invalid.was_read, says != "No such file", "{files:?}");
        }
    }

    #[test]
    fn what_expires_first_is_known_and_a_file_of_authorities_lasts_as_long_as_the_last() {
        let folder = folder(&[("a", 2060), ("b", 2050), ("c", 2090)]);
        let year = |files| {
            let expiry = TlsFiles::read(&tls(&folder, files)).unwrap().expiry?;
            Some((expiry.file.file_name()?.to_str()?.to_owned(), Timestamp::of(expiry.at).to_string()[..4].to_owned()))
        };
        assert_eq!(year(["", "", ""]), None);
        assert_eq!(year(["a.pem", "c.pem", "c.key"]), Some(("a.pem".into(), "2060".into())));
        assert_eq!(year(["c.pem", "b.pem", "b.key"]), Some(("b.pem".into(), "2050".into())));
        let both = ["a", "b"].map(|name| fs::read_to_string(folder.path().join(format!("{name}.pem"))).unwrap()).concat();
        fs::write(folder.path().join("both.pem"), both).unwrap();
        assert_eq!(year(["both.pem", "", ""]), Some(("both.pem".into(), "2060".into())));
    }
}
