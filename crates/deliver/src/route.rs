//! The way that a connection took: which address of its name, and which certificates. A connection whose way wouldn't be taken again takes no further
//! request.

use std::{net::IpAddr, sync::Arc};

use crate::{recent_addresses::RecentAddresses, tls::Identity};

/// The way of one connection. [`Network::is_current`](crate::Network) tells whether it would be taken again.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) host: Box<str>,
    /// The server's address, behind a proxy too.
    pub(crate) address: IpAddr,
    /// What is known of the host's addresses; `None`: it is an address itself.
    pub(crate) name: Option<Arc<RecentAddresses>>,
    /// With https: what the server was shown and how it was recognised, and as of which reading of its files.
    pub(crate) identity: Option<(Arc<Identity>, u64)>,
}
