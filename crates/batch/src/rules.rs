//! What decides how a group's records are cut into messages, besides the log itself (docs/delivery.md, Cut rules).

use std::time::Duration;

use pushline_model::{IccidForm, Identify, PayloadForm, Webhook};
use sha2::{Digest, Sha256};

/// Part of each hash: it changes when the format of bodies or the rules of cutting do, for then the same records make other messages.
const FORMAT: u8 = 1;

/// The fields of a webhook that decide which records share a message, and the bytes of its body. Its address, headers, credentials, timeouts and
/// retries are none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutRules {
    /// How long a window is, in log time.
    pub window: Duration,
    /// Packets in a message, at most.
    pub max_packets: usize,
    /// Bytes of a message's body, at most; a longer packet goes alone.
    pub max_body_bytes: usize,
    /// Whether a message of a single packet is an array, too.
    pub always_array: bool,
    /// What identifies a packet.
    pub send: Identify,
    /// How an ICCID of digits is written.
    pub iccid: IccidForm,
    /// How a payload is written.
    pub payload: PayloadForm,
}

impl CutRules {
    /// Those of a webhook.
    #[must_use]
    pub fn of(webhook: &Webhook) -> Self {
        Self {
            window: webhook.window,
            max_packets: webhook.max_packets,
            max_body_bytes: webhook.max_body_bytes,
            always_array: webhook.always_array,
            send: webhook.send,
            iccid: webhook.iccid,
            payload: webhook.payload,
        }
    }

    /// Stands for the rules in a checkpoint: two rules that cut differently have two hashes.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hash = Sha256::new();
        for number in [self.window.as_nanos(), self.max_packets as u128, self.max_body_bytes as u128] {
            hash.update(number.to_be_bytes());
        }
        let (send, iccid) = (u8::from(self.send == Identify::Topic), u8::from(self.iccid == IccidForm::String));
        let payload = match self.payload {
            PayloadForm::Text => 0,
            PayloadForm::Base64 => 1,
            PayloadForm::Json => 2,
        };
        hash.update([FORMAT, u8::from(self.always_array), send, iccid, payload]);
        let digest = hash.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        u64::from_be_bytes(first)
    }

    /// Whether a message is an array, decided here and nowhere else (document rule 1): a single packet goes as an object only if it is alone in its
    /// window.
    ///
    /// `goes_on`: the window stays open after this message, so more may follow. `cut_from`: another message of the window came before.
    #[must_use]
    pub fn is_array(&self, packets: usize, cut_from: bool, goes_on: bool) -> bool {
        // A webhook that takes one packet a message gets objects: no window holds a message of more.
        self.always_array || packets > 1 || self.max_packets > 1 && (cut_from || goes_on)
    }
}
