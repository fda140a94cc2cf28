//! Ports for servers that stop and start again.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpListener},
    sync::{Mutex, PoisonError},
};

/// A free port of 127.0.0.1. It isn't one of those that the system hands out, so it is still free when the server starts again.
///
/// # Panics
/// Never: there are infinitely many tries.
#[must_use]
pub fn free_port() -> u16 {
    /// A server binds its port only later: no other of this process may draw it meanwhile.
    static DRAWN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok() && drawn.insert(*port);
    std::iter::repeat_with(|| fastrand::u16(12_000..32_000)).find(free).expect("there are infinitely many tries")
}
