//! The way that a connection took: which certificates. A connection whose way wouldn't be taken again takes no further
//! request.

use std::sync::Arc;

use crate::tls::Identity;

/// The way of one connection. [`Network::is_current`](crate::Network) tells whether it would be taken again.
#[derive(Debug)]
pub(crate) struct Route {
    /// With https: what the server was shown and how it was recognised, and as of which reading of its files.
    pub(crate) identity: Option<(Arc<Identity>, u64)>,
}
