//! The roles of a process.

use pushline_model::DescriptorUse;

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
    /// The command that starts it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Ingest => "ingest",
            Self::Deliver => "deliver",
        }
    }

    pub(crate) fn ingests(self) -> bool {
        self != Self::Deliver
    }

    pub(crate) fn delivers(self) -> bool {
        self != Self::Ingest
    }

    /// What its connections are for.
    pub(crate) fn descriptor_uses(self) -> &'static [DescriptorUse] {
        match self {
            Self::Run => &[DescriptorUse::Device, DescriptorUse::Push],
            Self::Ingest => &[DescriptorUse::Device],
            Self::Deliver => &[DescriptorUse::Push],
        }
    }
}
