//! TLS to servers: an identity for each `tls` that webhooks have, and the rustls client that is made of it.
//!
//! The files are read again when they change (`refresh`). From then on connections of the identity before aren't current: they take no further request.

mod files;
mod handshakes;
mod named_server;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use hashbrown::HashMap;
use metrics::gauge;
use pushline_model::Tls;
use rustls::{
    ClientConfig,
    client::Resumption,
    pki_types::{CertificateDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tracing::{error, info, warn};

use crate::{FileWatch, connection::Protocol, metrics::CERTIFICATE_EXPIRY};

pub use self::files::{CertificateExpiry, InvalidTlsFile, TlsFiles};
pub(crate) use self::handshakes::Handshakes;

/// How many sessions rustls keeps for each server, and counts for one when it is told how many to keep.
const SESSIONS_OF_A_SERVER: usize = 8;

/// The log warns of a certificate that expires within these times.
const WARN_BEFORE: [Duration; 4] = [Duration::from_hours(30 * 24), Duration::from_hours(7 * 24), Duration::from_hours(24), Duration::ZERO];

/// The identities of all webhooks. Each lives as long as an endpoint that has it.
#[derive(Debug)]
pub(crate) struct Identities {
    by_tls: Mutex<HashMap<Tls, Weak<Identity>>>,
    /// Root certificates that are trusted beside Mozilla's.
    more_roots: Vec<CertificateDer<'static>>,
    pub(crate) handshakes: Handshakes,
}

/// What a webhook shows and trusts. Connections belong to one.
pub(crate) struct Identity {
    tls: Tls,
    state: Mutex<State>,
    watch: Mutex<FileWatch>,
}

struct State {
    config: Arc<ClientConfig>,
    /// Which reading of the files this is.
    generation: u64,
    /// How many servers' sessions the cache holds.
    servers: usize,
    /// Why the files couldn't be read at the last look, if they couldn't.
    unread: Option<InvalidTlsFile>,
    expiry: Option<CertificateExpiry>,
    /// How many of [`WARN_BEFORE`] were logged.
    warned: usize,
}

impl Identities {
    pub(crate) fn new(more_roots: Vec<CertificateDer<'static>>) -> Self {
        Self { by_tls: Mutex::default(), more_roots, handshakes: Handshakes::default() }
    }

    /// The identity of one more endpoint. It reads the files of one that is new.
    ///
    /// # Errors
    /// A file that is of no use.
    pub(crate) fn of(&self, tls: &Tls) -> Result<Arc<Identity>, InvalidTlsFile> {
        let mut by_tls = self.lock();
        if let Some(identity) = by_tls.get(tls).and_then(Weak::upgrade) {
            identity.enlarge_cache(Arc::strong_count(&identity));
            return Ok(identity);
        }
        let (watch, files) = (FileWatch::new(files_of(tls)), TlsFiles::read(tls)?);
        let config = self.config(&files, 1);
        let state = State { config, generation: 0, servers: 1, unread: None, expiry: files.expiry, warned: 0 };
        let identity = Arc::new(Identity { tls: tls.clone(), state: Mutex::new(state), watch: Mutex::new(watch) });
        by_tls.retain(|_, identity| identity.strong_count() > 0);
        by_tls.insert(tls.clone(), Arc::downgrade(&identity));
        Ok(identity)
    }

    /// Reads files that have changed, and looks at what expires. It blocks.
    ///
    /// What can't be read, or is of no use, leaves the identity as it was.
    pub(crate) fn refresh(&self, now: SystemTime) {
        let identities: Vec<Arc<Identity>> = self.lock().values().filter_map(Weak::upgrade).collect();
        for identity in &identities {
            let mut watch = identity.watch.lock().unwrap_or_else(PoisonError::into_inner);
            if watch.look() && self.read_again(identity) {
                watch.judged();
            }
            identity.warn_of_expiry(now);
        }
        let first = identities.iter().filter_map(|identity| identity.lock().expiry.as_ref().map(|expiry| expiry.at)).min();
        if let Some(first) = first {
            let seconds = first.duration_since(now).map_or_else(|past| -past.duration().as_secs_f64(), |left| left.as_secs_f64());
            gauge!(CERTIFICATE_EXPIRY).set(seconds);
        }
    }

    /// Returns whether the files' contents were judged.
    fn read_again(&self, identity: &Identity) -> bool {
        let shown = identity.tls.cert_file.as_ref().or(identity.tls.ca_file.as_ref()).map(|file| tracing::field::display(file.display()));
        let read = TlsFiles::read(&identity.tls);
        let mut state = identity.lock();
        let unread_before = state.unread.take();
        match read {
            Ok(files) => {
                state.config = self.config(&files, state.servers);
                state.generation += 1;
                (state.expiry, state.warned) = (files.expiry, 0);
                info!(file = shown, "certificates read again: new connections use them, and open ones take no further request");
                true
            }
            Err(error) => {
                if error.was_read || unread_before.as_ref() != Some(&error) {
                    error!(file = shown, %error, "certificates not read again: the old ones stay in effect");
                }
                let was_read = error.was_read;
                state.unread = Some(error).filter(|error| !error.was_read);
                was_read
            }
        }
    }

    fn config(&self, files: &TlsFiles, servers: usize) -> Arc<ClientConfig> {
        let mut config = files.client_config_trusting(&self.more_roots);
        config.resumption = Resumption::in_memory_sessions(SESSIONS_OF_A_SERVER * servers);
        Arc::new(config)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Tls, Weak<Identity>>> {
        self.by_tls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Identity {
    /// A handshake with a server, which is offered these protocols (ALPN). Returns which generation of the identity the connection is of.
    ///
    /// # Errors
    /// Why it failed; a name that can't stand in a certificate is invalid input.
    pub(crate) async fn handshake(&self, host: &str, offers: &[Protocol], stream: TcpStream) -> (u64, io::Result<TlsStream<TcpStream>>) {
        let (config, generation) = {
            let state = self.lock();
            (Arc::clone(&state.config), state.generation)
        };
        let name = self.tls.server_name.as_deref().unwrap_or(host);
        let handshake = match ServerName::try_from(name.to_owned()) {
            Ok(name) => {
                let offers = offers.iter().map(|protocol| protocol.alpn().to_vec()).collect();
                TlsConnector::from(config).with_alpn(offers).connect(name, stream).await
            }
            Err(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name} can't be the name of a certificate"))),
        };
        (generation, handshake)
    }

    /// Whether a connection of this generation may take another request.
    pub(crate) fn is_current(&self, generation: u64) -> bool {
        self.lock().generation == generation
    }

    /// Lets the session cache hold sessions of this many servers. It grows to twice the size each time, since growing loses what it holds.
    fn enlarge_cache(&self, servers: usize) {
        let mut state = self.lock();
        if servers > state.servers {
            state.servers = servers.next_power_of_two();
            let mut config = ClientConfig::clone(&state.config);
            config.resumption = Resumption::in_memory_sessions(SESSIONS_OF_A_SERVER * state.servers);
            state.config = Arc::new(config);
        }
    }

    fn warn_of_expiry(&self, now: SystemTime) {
        let mut state = self.lock();
        let Some(expiry) = &state.expiry else { return };
        let left = expiry.at.duration_since(now).unwrap_or_default();
        let due = WARN_BEFORE.iter().filter(|before| left <= **before).count();
        if due > state.warned {
            warn!("{}: replace the file, and Pushline reads it", expiry.describe(now));
            state.warned = due;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("tls", &self.tls).field("generation", &self.lock().generation).finish_non_exhaustive()
    }
}

fn files_of(tls: &Tls) -> Vec<PathBuf> {
    [&tls.ca_file, &tls.cert_file, &tls.key_file].into_iter().flatten().cloned().collect()
}
