//! The roles of a process.

/// What a process does of a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// All of it.
    Run,
    /// MQTT to the queue.
    Ingest,
    /// The queue to the webhooks.
    Deliver,
}

impl Role {
    pub(crate) fn ingests(self) -> bool {
        self != Self::Deliver
    }

    pub(crate) fn delivers(self) -> bool {
        self != Self::Ingest
    }
}
