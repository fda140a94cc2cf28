//! The customers' servers. Each push is noted before it is answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use pushline_testkit::{Arrival, IdLedger, Ledger, PushRecord, ScriptedReceiver};
use tokio::time::sleep;

use super::Customer;

/// How a server answers, by chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Accepts at once.
    Answers,
    /// Accepts after a while, now and then after the attempt has timed out.
    AnswersSlowly,
    /// Answers 503, 500 or nothing at all now and then.
    Fails,
    /// Keeps one push in four for ever.
    Hangs,
}

/// What stands above the manner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mode {
    Usual,
    /// Keeps every push for ever.
    Down,
    /// Accepts every push at once.
    Healed,
}

/// A customer's server.
pub(super) struct Server {
    receiver: ScriptedReceiver,
    mode: Arc<AtomicU8>,
}

enum Answer {
    Status(u16),
    Close,
    Never,
}

impl Server {
    pub(super) async fn start(customer: &Customer, ledger: &Arc<Ledger>, ids: &Arc<IdLedger>) -> Self {
        let mode = Arc::new(AtomicU8::new(Mode::Usual as u8));
        let (manner, current) = (customer.manner, Arc::clone(&mode));
        let (ledger, ids) = (Arc::clone(ledger), Arc::clone(ids));
        let receiver = ScriptedReceiver::start(move |Arrival { id, payloads, body, .. }| {
            let (delay, answer) = decide(manner, current.load(Ordering::Relaxed));
            let status = match answer {
                Answer::Status(status) => Some(status),
                Answer::Close | Answer::Never => None,
            };
            let packets: Vec<String> = payloads.iter().map(|payload| short(payload).to_owned()).collect();
            ids.note(PushRecord { id: &id, body: &body, answer: status }, &packets);
            if status.is_some_and(|status| status < 300) {
                ledger.accepted(&id, &body, packets);
            }
            async move {
                sleep(delay).await;
                match answer {
                    Answer::Status(status) => Some(status),
                    Answer::Close => None,
                    Answer::Never => std::future::pending().await,
                }
            }
        });
        Self { receiver: receiver.await, mode }
    }

    pub(super) fn url(&self) -> String {
        self.receiver.url()
    }

    pub(super) fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }
}

/// What tells a packet from the others: large ones have a filling.
fn short(payload: &str) -> &str {
    payload.split(" x").next().unwrap_or(payload)
}

fn decide(manner: Manner, mode: u8) -> (Duration, Answer) {
    let accept = (Duration::ZERO, Answer::Status(200));
    if mode == Mode::Healed as u8 {
        return accept;
    }
    if mode == Mode::Down as u8 {
        return (Duration::ZERO, Answer::Never);
    }
    match (manner, fastrand::u32(0..20)) {
        (Manner::Answers, _) => accept,
        (Manner::AnswersSlowly, _) => (Duration::from_millis(fastrand::u64(30..350)), Answer::Status(200)),
        (Manner::Fails, 0..5) => (Duration::ZERO, Answer::Status(503)),
        (Manner::Fails, 5..7) => (Duration::ZERO, Answer::Status(500)),
        (Manner::Fails, 7..10) => (Duration::from_millis(fastrand::u64(0..50)), Answer::Close),
        (Manner::Hangs, 0..5) => (Duration::ZERO, Answer::Never),
        (Manner::Fails | Manner::Hangs, _) => (Duration::from_millis(fastrand::u64(0..20)), Answer::Status(200)),
    }
}
