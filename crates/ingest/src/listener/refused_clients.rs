//! The clients that were refused or closed: the last hundred for operators, and a line in the log, once and then at most every minute.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use pushline_model::Timestamp;
use tracing::warn;

use super::DisconnectReason;

/// How many are kept.
const KEPT: usize = 100;

/// A client that is refused for the same reason again is logged again after this time.
const LOGGED_EVERY: Duration = Duration::from_mins(1);

/// How many lines the log gets in a second, for all refused clients together.
const LINES_A_SECOND: u32 = 10;

/// The longest text of a client that is kept, in characters.
const LONGEST_TEXT: usize = 100;

/// What is known of a client that is refused.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) user: Option<&'a str>,
    pub(crate) address: IpAddr,
    pub(crate) reason: DisconnectReason,
    /// Of the packet at fault.
    pub(crate) topic: Option<&'a str>,
    /// What is wrong, and which option allows it, where that says more than the reason.
    pub(crate) detail: &'a str,
}

/// A client that was refused or closed, once or several times for the same reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedClient {
    /// Empty where no CONNECT could be read.
    pub client_id: String,
    /// The user name, or the name in the certificate.
    pub user: Option<String>,
    /// Where it connected from.
    pub address: IpAddr,
    /// As the metrics' label `result` names it.
    pub reason: &'static str,
    /// The topic of the last packet at fault.
    pub topic: Option<String>,
    /// What is wrong, and what would be right.
    pub detail: String,
    /// The first and the last time.
    pub first: Timestamp,
    /// The last time.
    pub last: Timestamp,
    /// How often.
    pub times: u64,
}

/// The last refusals of a process.
#[derive(Debug, Default)]
pub struct RefusedClients(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The newest is the last.
    kept: VecDeque<(RefusedClient, Instant)>,
    /// When the second began in which lines are counted, and how many it has.
    second: Option<Instant>,
    lines: u32,
    /// How many refusals had no line since the last one.
    unlogged: u64,
}

/// What the log gets.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    /// How often this client was refused for this reason.
    times: u64,
    /// How many refusals had no line.
    unlogged: u64,
}

impl RefusedClients {
    /// Keeps a refusal, and logs it unless the log has had enough.
    pub(crate) fn report(&self, refused: &Refused<'_>, at: Timestamp, now: Instant) {
        let line = self.0.lock().unwrap_or_else(PoisonError::into_inner).keep(refused, at, now);
        if let Some(Line { times, unlogged }) = line {
            let Refused { client_id, user, address, reason, topic, detail } = refused;
            let reason = reason.label().trim_start_matches("refused_");
            warn!(client = shorten(client_id), user, %address, reason, topic = topic.map(shorten), times, unlogged, "client refused: {detail}");
        }
    }

    /// The last refusals, the newest first.
    #[must_use]
    pub fn last(&self) -> Vec<RefusedClient> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.kept.iter().rev().map(|(refusal, _)| refusal.clone()).collect()
    }
}

impl State {
    fn keep(&mut self, refused: &Refused<'_>, at: Timestamp, now: Instant) -> Option<Line> {
        let (client_id, reason) = (shorten(refused.client_id), refused.reason.label());
        let is_same =
            |(kept, _): &(RefusedClient, Instant)| kept.reason == reason && kept.client_id == client_id && kept.address == refused.address;
        let before = self.kept.iter().position(is_same).and_then(|at| self.kept.remove(at));
        let (first, times) = before.as_ref().map_or((at, 1), |(before, _)| (before.first, before.times + 1));
        let is_due = before.as_ref().is_none_or(|(_, logged)| now.duration_since(*logged) >= LOGGED_EVERY);
        let is_logged = is_due && self.has_line(now);
        let logged = if is_logged { now } else { before.map_or(now, |(_, logged)| logged) };
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        let refusal = RefusedClient {
            client_id: client_id.to_owned(),
            user: refused.user.map(|user| shorten(user).to_owned()),
            address: refused.address,
            reason,
            topic: refused.topic.map(|topic| shorten(topic).to_owned()),
            detail: refused.detail.to_owned(),
            first,
            last: at,
            times,
        };
        self.kept.push_back((refusal, logged));
        if is_logged {
            return Some(Line { times, unlogged: std::mem::take(&mut self.unlogged) });
        }
        self.unlogged += 1;
        None
    }

    /// Takes a line of this second, if it has one left.
    fn has_line(&mut self, now: Instant) -> bool {
        if self.second.is_none_or(|second| now.duration_since(second) >= Duration::from_secs(1)) {
            (self.second, self.lines) = (Some(now), 0);
        }
        self.lines += 1;
        self.lines <= LINES_A_SECOND
    }
}

/// The beginning of a client's text.
pub(super) fn shorten(text: &str) -> &str {
    text.char_indices().nth(LONGEST_TEXT).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(client_id: &str) -> Refused<'_> {
        Refused {
            client_id,
            user: None,
            address: [127, 0, 0, 1].into(),
            reason: DisconnectReason::PacketTooLarge,
            topic: Some("mti/1"),
            detail: "too large",
        }
    }

    #[test]
    fn a_client_that_comes_again_is_logged_once_a_minute_with_how_often() {
        let (mut state, began) = (State::default(), Instant::now());
        let mut keep = |seconds| state.keep(&refused("d"), Timestamp(seconds), began + Duration::from_secs(seconds));
        assert_eq!(keep(0), Some(Line { times: 1, unlogged: 0 }));
        assert_eq!((keep(1), keep(59)), (None, None));
        assert_eq!(keep(60), Some(Line { times: 4, unlogged: 2 }));
        assert_eq!(keep(61), None);
        let kept = &state.kept[0].0;
        assert_eq!((state.kept.len(), kept.times, kept.first, kept.last), (1, 5, Timestamp(0), Timestamp(61)));
    }

    #[test]
    fn many_clients_fill_neither_the_list_nor_the_log() {
        let (refused_clients, now) = (RefusedClients::default(), Instant::now());
        let mut lines = 0;
        for number in 0..1000 {
            let client_id = format!("{number}{}", "x".repeat(1000));
            lines += usize::from(refused_clients.0.lock().unwrap().keep(&refused(&client_id), Timestamp(number), now).is_some());
        }
        assert_eq!(lines, 10);
        let last = refused_clients.last();
        assert_eq!((last.len(), last[0].last, last[99].last), (100, Timestamp(999), Timestamp(900)));
        assert_eq!(last[0].client_id.len(), LONGEST_TEXT);
        let line = refused_clients.0.lock().unwrap().keep(&refused("d"), Timestamp(1000), now + Duration::from_secs(1));
        assert_eq!(line, Some(Line { times: 1, unlogged: 990 }));
    }
}
