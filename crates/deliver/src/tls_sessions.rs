//! TLS sessions to resume: a cache for each server name, so that as many are kept as there are endpoints. rustls' own keeps those of 32 servers.

use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;
use rustls::{
    NamedGroup,
    client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
};

/// The sessions of all server names. Names come from the configuration alone.
#[derive(Debug, Default)]
pub(crate) struct TlsSessions(Mutex<HashMap<ServerName<'static>, Arc<ClientSessionMemoryCache>>>);

impl TlsSessions {
    fn of(&self, name: &ServerName<'_>) -> Option<Arc<ClientSessionMemoryCache>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&name.to_owned()).cloned()
    }

    fn of_or_new(&self, name: &ServerName<'static>) -> Arc<ClientSessionMemoryCache> {
        let mut caches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(caches.entry(name.clone()).or_insert_with(|| Arc::new(ClientSessionMemoryCache::new(1))))
    }
}

impl ClientSessionStore for TlsSessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.of_or_new(&name).set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.of(name)?.kx_hint(name)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.of_or_new(&name).set_tls12_session(name, value);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.of(name)?.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        if let Some(cache) = self.of(name) {
            cache.remove_tls12_session(name);
        }
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.of_or_new(&name).insert_tls13_ticket(name, value);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.of(name)?.take_tls13_ticket(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_thousand_servers_is_kept_of_each() {
        let sessions = TlsSessions::default();
        let names: Vec<ServerName<'static>> = (0..1000).map(|number| ServerName::try_from(format!("h{number}.example")).unwrap()).collect();
        names.iter().for_each(|name| sessions.set_kx_hint(name.clone(), NamedGroup::X25519));
        assert!(names.iter().all(|name| sessions.kx_hint(name) == Some(NamedGroup::X25519)));
        assert_eq!(sessions.kx_hint(&ServerName::try_from("other.example").unwrap()), None);
    }
}
