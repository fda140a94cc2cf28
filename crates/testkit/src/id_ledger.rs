//! The ledger of ids: under which `webhook-id`s each stored packet came. It holds "one stored packet, one id" against what happened.
//!
//! Every push that reached a receiver counts, whatever the receiver answered: accepted, refused, hung or reset. Packets are known by their payloads:
//! a device that publishes a packet again gives it another payload, since a second PUBLISH makes a second record.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What reached the receivers of a test.
#[derive(Debug, Default)]
pub struct IdLedger(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    pushes: usize,
    last: Option<Instant>,
    messages: HashMap<String, Message>,
    /// The ids of each packet, in the order in which they came first.
    packets: BTreeMap<String, Vec<String>>,
    altered: BTreeSet<String>,
}

/// What an id stands for.
#[derive(Debug)]
struct Message {
    first: Instant,
    last: Instant,
    packets: Vec<String>,
    array: bool,
    body: u64,
    answers: Vec<Option<u16>>,
}

/// A push that reached a receiver.
#[derive(Debug, Clone, Copy)]
pub struct PushRecord<'a> {
    /// Its `webhook-id`.
    pub id: &'a str,
    /// Its body as it came.
    pub body: &'a [u8],
    /// The status that the receiver answers with; `None`: it hangs, or closes the connection.
    pub answer: Option<u16>,
}

/// One of the ids under which a packet came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The `webhook-id`.
    pub id: String,
    /// When the id came first.
    pub first: Instant,
    /// When the id came last.
    pub last: Instant,
    /// All packets of the message, in order.
    pub packets: Vec<String>,
    /// Whether the body is an array.
    pub array: bool,
    /// What each push under the id was answered with.
    pub answers: Vec<Option<u16>>,
}

/// A packet that came under more than one id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepeatedPacket {
    /// Its payload.
    pub packet: String,
    /// Two or more, in the order in which they came first.
    pub sightings: Vec<Sighting>,
}

impl IdLedger {
    /// Notes a push, with the names of its packets.
    pub fn note(&self, push: PushRecord<'_>, packets: &[String]) {
        let mut hasher = DefaultHasher::new();
        push.body.hash(&mut hasher);
        let (body, now, array) = (hasher.finish(), Instant::now(), push.body.first() == Some(&b'['));
        let mut book = self.book();
        book.pushes += 1;
        book.last = Some(now);
        if let Some(message) = book.messages.get_mut(push.id) {
            message.last = now;
            message.answers.push(push.answer);
            if message.body != body {
                book.altered.insert(push.id.to_owned());
            }
            return;
        }
        let message = Message { first: now, last: now, packets: packets.to_vec(), array, body, answers: vec![push.answer] };
        book.messages.insert(push.id.to_owned(), message);
        for packet in packets {
            book.packets.entry(packet.clone()).or_default().push(push.id.to_owned());
        }
    }

    /// How many pushes came, how many different ids, and how many different packets.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let book = self.book();
        (book.pushes, book.messages.len(), book.packets.len())
    }

    /// For how long no push has come; `None`: none ever came.
    #[must_use]
    pub fn quiet_for(&self) -> Option<Duration> {
        self.book().last.map(|last| last.elapsed())
    }

    /// All packets that came under more than one id.
    #[must_use]
    pub fn repeated(&self) -> Vec<RepeatedPacket> {
        let book = self.book();
        let several = book.packets.iter().filter(|(_, ids)| ids.len() > 1);
        several
            .map(|(packet, ids)| RepeatedPacket { packet: packet.clone(), sightings: ids.iter().map(|id| book.sighting(id)).collect() })
            .collect()
    }

    /// The ids under which one packet came, in the order in which they came first.
    #[must_use]
    pub fn sightings(&self, packet: &str) -> Vec<Sighting> {
        let book = self.book();
        book.packets.get(packet).into_iter().flatten().map(|id| book.sighting(id)).collect()
    }

    /// Ids that came with more than one body: a receiver that drops repeated ids would lose the difference.
    #[must_use]
    pub fn altered(&self) -> Vec<String> {
        self.book().altered.iter().cloned().collect()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn sighting(&self, id: &str) -> Sighting {
        let message = self.messages.get(id).expect("a packet names only ids that came");
        Sighting {
            id: id.to_owned(),
            first: message.first,
            last: message.last,
            packets: message.packets.clone(),
            array: message.array,
            answers: message.answers.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(ledger: &IdLedger, id: &str, body: &str, answer: Option<u16>, packets: &[&str]) {
        let packets: Vec<String> = packets.iter().map(|packet| (*packet).to_owned()).collect();
        ledger.note(PushRecord { id, body: body.as_bytes(), answer }, &packets);
    }

    #[test]
    fn a_packet_under_two_ids_is_found_whatever_was_answered() {
        let ledger = IdLedger::default();
        note(&ledger, "msg_1", "[a,b]", None, &["a", "b"]);
        note(&ledger, "msg_1", "[a,b]", Some(200), &["a", "b"]);
        note(&ledger, "msg_2", "{b}", Some(500), &["b"]);
        let repeated = ledger.repeated();
        assert_eq!(repeated.len(), 1);
        assert_eq!(repeated[0].packet, "b");
        let seen: Vec<_> = repeated[0].sightings.iter().map(|one| (one.id.as_str(), one.array, one.answers.clone())).collect();
        assert_eq!(seen, [("msg_1", true, vec![None, Some(200)]), ("msg_2", false, vec![Some(500)])]);
        assert_eq!(ledger.counts(), (3, 2, 2));
        assert_eq!(ledger.altered(), Vec::<String>::new());
    }

    #[test]
    fn an_id_that_comes_with_another_body_is_found() {
        let ledger = IdLedger::default();
        note(&ledger, "msg_1", "[a,b]", Some(200), &["a", "b"]);
        note(&ledger, "msg_1", "[a]", Some(200), &["a"]);
        assert_eq!(ledger.altered(), ["msg_1"]);
    }
}
