//! The ledger: which packets were acknowledged, which arrived, which are dead letters. It holds the promise against what happened.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use pushline_sample::Push;

use crate::payloads;

/// Packets are known by their payloads, which a test makes unique.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    acknowledged: BTreeSet<String>,
    arrived: BTreeSet<String>,
    dead: BTreeSet<String>,
    /// Each `webhook-id` with the body that it came with first.
    messages: HashMap<String, Vec<u8>>,
    /// Packets that came in more than one message.
    twice: BTreeSet<String>,
    /// Ids that came with two bodies.
    altered: Vec<String>,
}

impl Ledger {
    /// A device has its acknowledgement.
    pub fn acknowledged(&self, payloads: impl IntoIterator<Item = String>) {
        self.book().acknowledged.extend(payloads);
    }

    /// A push was accepted. A repeated `webhook-id` is dropped, as Standard Webhooks tells a receiver to; the same id with another body is noted.
    pub fn arrived(&self, push: &Push) {
        self.arrived_as(push, payloads(push));
    }

    /// The same, with names of its packets that are shorter than their payloads.
    pub fn arrived_as(&self, push: &Push, packets: impl IntoIterator<Item = String>) {
        self.accepted(push.header("webhook-id"), &push.body, packets);
    }

    /// The same, of a push that came by another receiver.
    pub fn accepted(&self, id: &str, body: &[u8], packets: impl IntoIterator<Item = String>) {
        let mut book = self.book();
        if let Some(before) = book.messages.get(id) {
            if *before != body {
                book.altered.push(id.to_owned());
            }
            return;
        }
        book.messages.insert(id.to_owned(), body.to_vec());
        for payload in packets {
            if !book.arrived.insert(payload.clone()) {
                book.twice.insert(payload);
            }
        }
    }

    /// Dead letters were found.
    pub fn dead(&self, payloads: impl IntoIterator<Item = String>) {
        self.book().dead.extend(payloads);
    }

    /// Packets that were acknowledged and neither arrived nor are dead letters.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let book = self.book();
        book.acknowledged.iter().filter(|packet| !book.arrived.contains(*packet) && !book.dead.contains(*packet)).cloned().collect()
    }

    /// How many were acknowledged.
    #[must_use]
    pub fn count(&self) -> usize {
        self.book().acknowledged.len()
    }

    /// Packets that came in two messages: allowed only around a crash.
    #[must_use]
    pub fn twice(&self) -> usize {
        self.book().twice.len()
    }

    /// # Panics
    /// When anything is missing, or an id came with two bodies.
    pub fn check(&self) {
        let missing = self.missing();
        let book = self.book();
        assert!(
            missing.is_empty(),
            "{} of {} acknowledged packets are missing, such as {:?}",
            missing.len(),
            book.acknowledged.len(),
            &missing[..missing.len().min(5)]
        );
        assert!(book.altered.is_empty(), "ids that came with two bodies: {:?}", book.altered);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
