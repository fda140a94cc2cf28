//! The addresses of this machine's own network interfaces, for the egress guard: what listens on them may trust every process of this machine.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How old the list may be.
const KEPT: Duration = Duration::from_secs(5);

/// The addresses, read from the system again when they are asked for and old.
#[derive(Debug, Default)]
pub(crate) struct OwnAddresses(Mutex<Option<(Instant, Arc<HashSet<IpAddr>>)>>);

impl OwnAddresses {
    /// Where the system doesn't tell them, those that it told last.
    pub(crate) fn get(&self) -> Arc<HashSet<IpAddr>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, addresses)) = &*kept
            && read.elapsed() < KEPT
        {
            return Arc::clone(addresses);
        }
        let before = kept.take().map(|(_, addresses)| addresses);
        let addresses = match if_addrs::get_if_addrs() {
            Ok(interfaces) => Arc::new(interfaces.iter().map(if_addrs::Interface::ip).collect()),
            Err(_) => before.unwrap_or_default(),
        };
        *kept = Some((Instant::now(), Arc::clone(&addresses)));
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn loopback_is_one_of_them_and_the_list_is_read_again_when_it_is_old() {
        let addresses = OwnAddresses::default();
        let first = addresses.get();
        assert!(first.contains(&IpAddr::from([127, 0, 0, 1])));
        assert!(Arc::ptr_eq(&first, &addresses.get()));
        tokio::time::advance(KEPT).await;
        assert!(!Arc::ptr_eq(&first, &addresses.get()));
    }
}
