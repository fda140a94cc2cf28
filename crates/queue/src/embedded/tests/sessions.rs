//! Sessions on the embedded queue: over crashes at any write, and over segments that are deleted.

use std::collections::BTreeMap;

use proptest::prelude::*;
use pushline_model::Packet;

use super::{faults::FaultyFileSystem, *};
use crate::{HeldId, OpenSession, OpenedSession, Session, SessionKey};

const CLIENTS: [&str; 3] = ["a", "b", "c"];

async fn open_session(queue: &Embedded, client_id: &str, expiry: Duration) -> Result<OpenedSession, AppendError> {
    let key = SessionKey { user: None, client_id };
    queue.sessions().open(OpenSession { key, clean_start: false, expiry, max_sessions: 10_000 }).await
}

const LONG: Duration = Duration::from_secs(1000);

async fn owned(queue: &Embedded, client_id: &str) -> (Arc<dyn Session>, Vec<u16>) {
    let opened = open_session(queue, client_id, LONG).await.unwrap();
    (opened.session.unwrap(), opened.held.iter().collect())
}

/// A packet at QoS 2, or its release.
async fn change(session: &dyn Session, packet_id: u16, holds: bool) -> Result<(), AppendError> {
    let held = HeldId { session: session.id(), packet_id };
    let packet = Packet { iccid: "1".parse().unwrap(), topic: "o/1", received_at: Timestamp(7), payload: &[0; 300] };
    let record = if holds { Record::held_packet("o/g", &packet, Some(held)) } else { Record::release(Timestamp(7), held) };
    session.append(&[record]).await
}

/// Fills some segments, and lets them be deleted.
async fn pass_segments(queue: &Embedded) {
    let payload = [0; 1000];
    for _ in 0..30 {
        queue.append(&[record("o/g", &payload)]).await.unwrap();
    }
    let end = queue.partition.log.range().end;
    partition(queue).save(checkpoint(end), end).await.unwrap();
}

fn start_of(queue: &Embedded) -> Offset {
    queue.partition.log.range().start
}

#[tokio::test]
async fn what_a_session_holds_outlives_the_segments_that_it_was_in() {
    let disk = FaultyFileSystem::new();
    let queue = open_on(&disk, 0).unwrap();
    let (session, held) = owned(&queue, "a").await;
    assert_eq!(held, [0; 0]);
    change(&*session, 7, true).await.unwrap();
    change(&*session, 8, true).await.unwrap();
    change(&*session, 7, false).await.unwrap();
    pass_segments(&queue).await;
    assert!(start_of(&queue) > 4, "the segment was deleted");
    kill(queue);
    let queue = open_on(&disk, 0).unwrap();
    assert!(open_session(&queue, "a", LONG).await.unwrap().is_present);
    assert_eq!(owned(&queue, "a").await.1, [8]);
    kill(queue);
}

#[tokio::test]
async fn sessions_are_saved_anew_only_where_the_log_has_grown_by_more_than_they_are() {
    let disk = FaultyFileSystem::new();
    let queue = open_on(&disk, 0).unwrap();
    for number in 0..1000 {
        drop(open_session(&queue, &format!("client {number}"), LONG).await.unwrap());
    }
    pass_segments(&queue).await;
    let covered = start_of(&queue);
    assert!(covered > 0, "the first save covers what came before");
    pass_segments(&queue).await;
    assert_eq!(start_of(&queue), covered, "a save takes 28 kB, and the segments since then fewer than twice that");
    pass_segments(&queue).await;
    pass_segments(&queue).await;
    assert!(start_of(&queue) > covered);
    kill(queue);
    let queue = open_on(&disk, 0).unwrap();
    for number in [0, 500, 999] {
        assert!(open_session(&queue, &format!("client {number}"), LONG).await.unwrap().is_present);
    }
    kill(queue);
}

/// Spoils a file of saved sessions.
fn spoil(disk: &FaultyFileSystem, name: &str) {
    disk.open(&Path::new("/q").join(name)).unwrap().write_at(b"x", 20).unwrap();
}

#[tokio::test]
async fn saved_sessions_that_can_not_be_used_are_refused_with_advice() {
    let disk = FaultyFileSystem::new();
    let queue = open_on(&disk, 0).unwrap();
    let (session, _) = owned(&queue, "a").await;
    for id in 1..5 {
        change(&*session, id, true).await.unwrap();
        pass_segments(&queue).await;
    }
    kill(queue);
    let refusal = |disk: &FaultyFileSystem| {
        let error = open_on(disk, 0).err().map(|error| error.to_string());
        error.filter(|error| error.contains("sessions.a and sessions.b in /q can't be used")).unwrap()
    };
    // The older one alone needs records that were deleted.
    let newest = if saves(&disk, "sessions.a") > saves(&disk, "sessions.b") { "sessions.a" } else { "sessions.b" };
    spoil(&disk, newest);
    assert!(refusal(&disk).contains("no longer has the records"));
    let other = if newest == "sessions.a" { "sessions.b" } else { "sessions.a" };
    spoil(&disk, other);
    assert!(refusal(&disk).contains("neither can be read"));
    // An operator moves them away.
    for name in [newest, other] {
        disk.remove(&Path::new("/q").join(name)).unwrap();
    }
    let queue = open_on(&disk, 0).unwrap();
    assert!(!open_session(&queue, "a", LONG).await.unwrap().is_present);
    kill(queue);
}

/// The number of the save in a file.
fn saves(disk: &FaultyFileSystem, name: &str) -> u64 {
    let mut number = [0; 8];
    disk.open(&Path::new("/q").join(name)).unwrap().read_at(&mut number, 16).unwrap();
    u64::from_le_bytes(number)
}

#[tokio::test]
async fn saved_sessions_of_another_log_are_refused() {
    let disk = FaultyFileSystem::new();
    let queue = open_on(&disk, 0).unwrap();
    let (session, _) = owned(&queue, "a").await;
    change(&*session, 7, true).await.unwrap();
    pass_segments(&queue).await;
    kill(queue);
    let segments = disk.names(Path::new("/q/packets")).unwrap();
    for path in segments.iter().map(|name| Path::new("/q/packets").join(name)).chain(["/q/checkpoint.a".into(), "/q/checkpoint.b".into()]) {
        disk.remove(&path).unwrap();
    }
    let error = open_on(&disk, 0).unwrap_err();
    assert!(matches!(error, QueueError::SessionsUnusable { .. }), "{error}");
}

#[derive(Debug, Clone)]
enum Step {
    /// A packet at QoS 2, or its release.
    Change {
        client: usize,
        packet_id: u16,
        holds: bool,
    },
    /// Another connection.
    Reopen(usize),
    PassSegments,
    Restart,
    /// The machine dies after some writes.
    Crash {
        client: usize,
        after: u64,
        seed: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..CLIENTS.len(), 1..6_u16, any::<bool>()).prop_map(|(client, packet_id, holds)| Step::Change { client, packet_id, holds }),
        1 => (0..CLIENTS.len()).prop_map(Step::Reopen),
        2 => Just(Step::PassSegments),
        1 => Just(Step::Restart),
        2 => (0..CLIENTS.len(), 0..12_u64, any::<u64>()).prop_map(|(client, after, seed)| Step::Crash { client, after, seed }),
    ]
}

/// What each client's session holds: ids with whether they are held, for certain.
type Expected = [BTreeMap<u16, bool>; 3];

async fn check(queue: &Embedded, expected: &mut Expected) -> Vec<Arc<dyn Session>> {
    let mut sessions = Vec::new();
    for (client, expected) in CLIENTS.iter().zip(expected) {
        let (session, held) = owned(queue, client).await;
        for (id, is_held) in &*expected {
            assert_eq!(held.contains(id), *is_held, "{client} {id}: {held:?}");
        }
        // What was in doubt isn't any more.
        *expected = (1..6).map(|id| (id, held.contains(&id))).collect();
        sessions.push(session);
    }
    sessions
}

async fn schedule(steps: Vec<Step>) {
    let disk = FaultyFileSystem::new();
    let mut queue = open_on(&disk, 0).unwrap();
    let mut expected: Expected = std::array::from_fn(|_| (1..6).map(|id| (id, false)).collect());
    let mut sessions = check(&queue, &mut expected).await;
    for step in steps {
        match step {
            Step::Change { client, packet_id, holds } => {
                change(&*sessions[client], packet_id, holds).await.unwrap();
                expected[client].insert(packet_id, holds);
            }
            Step::Reopen(client) => sessions[client] = owned(&queue, CLIENTS[client]).await.0,
            Step::PassSegments => pass_segments(&queue).await,
            Step::Restart => {
                sessions.clear();
                queue.close().await;
                drop(queue);
                queue = open_on(&disk, 0).unwrap();
            }
            Step::Crash { client, after, seed } => {
                disk.die_after(after);
                for packet_id in [1, 2, 3, 4, 5].into_iter().cycle() {
                    let holds = !expected[client].get(&packet_id).is_some_and(|is_held| *is_held);
                    if change(&*sessions[client], packet_id, holds).await.is_err() {
                        // It is in doubt.
                        expected[client].remove(&packet_id);
                        break;
                    }
                    expected[client].insert(packet_id, holds);
                    let end = queue.partition.log.range().end;
                    drop(partition(&queue).save(checkpoint(end), end).await);
                }
                sessions.clear();
                drop(queue);
                disk.crash(seed);
                queue = open_on(&disk, 0).unwrap_or_else(|error| panic!("a crash is no corruption: {error}"));
            }
        }
        if sessions.is_empty() {
            sessions = check(&queue, &mut expected).await;
        }
    }
    check(&queue, &mut expected).await;
}

proptest! {
    #[test]
    fn what_a_session_holds_survives_any_crash_at_any_write(steps in prop::collection::vec(step(), 1..30)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(schedule(steps));
    }
}
