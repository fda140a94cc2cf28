//! The contract of sessions as tests. Every backend that keeps sessions calls [`all`].

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use pushline_model::{Packet, Timestamp};
use tokio::time::timeout;

use super::{HeldId, NEVER, OpenSession, OpenedSession, Session, SessionKey};
use crate::{
    AppendError, Kind, Queue, Record,
    conformance::{Open, PATIENCE, bounds, partition},
};

const EXPIRY: Duration = Duration::from_secs(300);

/// Every rule. `durable`: whether sessions are there when the queue is opened again. Each call of `fresh` returns a way to open a new, empty queue.
pub(crate) async fn all<'a>(fresh: &dyn Fn() -> Box<Open<'a>>, durable: bool) {
    tokio::join!(
        async { a_session_is_present_once_it_was_opened(&*fresh()().await).await },
        async { a_clean_start_discards_what_the_session_held(&*fresh()().await).await },
        async { an_id_is_held_from_its_packet_to_its_release(&*fresh()().await).await },
        async { an_older_owner_appends_nothing(&*fresh()().await).await },
        async { a_session_without_expiry_ends_with_its_connection(&*fresh()().await).await },
        async { a_session_expires_after_its_connection(&*fresh()().await).await },
        async { a_user_has_sessions_of_its_own(&*fresh()().await).await },
        async { no_more_sessions_are_kept_than_may_be(&*fresh()().await).await },
    );
    if durable {
        tokio::join!(async { what_is_held_survives_a_restart(&*fresh()).await }, async {
            the_expiry_of_an_open_session_runs_from_the_next_start(&*fresh()).await
        },);
    }
}

async fn a_session_is_present_once_it_was_opened(queue: &dyn Queue) {
    for (is_present, closes_first) in [(false, true), (true, false), (true, true), (true, true)] {
        let opened = open(queue, request("d", EXPIRY)).await;
        assert!(opened.is_present == is_present && opened.session.is_some(), "{opened:?}");
        if !closes_first {
            assert!(open(queue, request("d", EXPIRY)).await.is_present, "it is present while another connection has it");
        }
    }
}

async fn a_clean_start_discards_what_the_session_held(queue: &dyn Queue) {
    let session = owned(queue, "d").await;
    session.append(&[packet(&*session, 7)]).await.unwrap();
    let clean = open(queue, OpenSession { clean_start: true, ..request("d", EXPIRY) }).await;
    assert!(!clean.is_present && clean.held.is_empty(), "{clean:?}");
    drop(clean);
    let resumed = open(queue, request("d", EXPIRY)).await;
    assert!(resumed.is_present && resumed.held.is_empty(), "{resumed:?}");
}

async fn an_id_is_held_from_its_packet_to_its_release(queue: &dyn Queue) {
    let session = owned(queue, "d").await;
    let (seven, eight, nine) = (packet(&*session, 7), packet(&*session, 8), packet(&*session, 9));
    // A released id may come again in the same batch.
    session.append(&[seven, eight, release(&*session, 7), nine, seven, release(&*session, 8)]).await.unwrap();
    session.append(&[plain()]).await.unwrap();
    assert_eq!(held(queue, "d").await, [7, 9]);
    let session = owned(queue, "d").await;
    session.append(&[release(&*session, 9), release(&*session, 100)]).await.unwrap();
    assert_eq!(held(queue, "d").await, [7]);
    assert_eq!(held(queue, "other").await, [0; 0]);
}

async fn an_older_owner_appends_nothing(queue: &dyn Queue) {
    let first = owned(queue, "d").await;
    assert_eq!(first.taken_over().now_or_never(), None);
    // It is durable before the next owner has the session.
    let last = first.append(&[packet(&*first, 7)]);
    let second = open(queue, request("d", EXPIRY)).await;
    assert_eq!((last.await, second.held.iter().collect::<Vec<_>>()), (Ok(()), vec![7]));
    timeout(PATIENCE, first.taken_over()).await.expect("the second owner takes over");
    let end = bounds(&*partition(queue).await).await.end;
    assert_eq!(first.append(&[packet(&*first, 8)]).await, Err(AppendError::SessionTakenOver));
    assert_eq!(bounds(&*partition(queue).await).await.end, end);
    // The end of the first connection doesn't close the session of the second.
    first.set_expiry(Duration::ZERO);
    drop(first);
    let session = second.session.expect("it is kept");
    session.append(&[packet(&*session, 9)]).await.unwrap();
    assert_eq!(held(queue, "d").await, [7, 9]);
}

async fn a_session_without_expiry_ends_with_its_connection(queue: &dyn Queue) {
    let opened = open(queue, request("d", Duration::ZERO)).await;
    assert!(opened.session.is_none() && !opened.is_present, "{opened:?}");
    // One that exists goes on, and then it ends.
    let session = owned(queue, "d").await;
    session.append(&[packet(&*session, 7)]).await.unwrap();
    drop(session);
    let opened = open(queue, request("d", Duration::ZERO)).await;
    assert!(opened.is_present && opened.session.is_some() && opened.held.contains(7), "{opened:?}");
    drop(opened);
    assert!(!open(queue, request("d", Duration::ZERO)).await.is_present);
    // DISCONNECT can end it, too.
    owned(queue, "d").await.set_expiry(Duration::ZERO);
    assert!(!open(queue, request("d", EXPIRY)).await.is_present);
    // So does a clean start.
    let clean = open(queue, OpenSession { clean_start: true, ..request("d", Duration::ZERO) }).await;
    assert!(clean.session.is_none() && !clean.is_present, "{clean:?}");
    assert!(!open(queue, request("d", Duration::ZERO)).await.is_present);
}

async fn a_session_expires_after_its_connection(queue: &dyn Queue) {
    const SHORT: Duration = Duration::from_secs(1);
    for (client_id, expiry) in [("short", SHORT), ("long", EXPIRY), ("endless", NEVER)] {
        drop(open(queue, request(client_id, expiry)).await);
    }
    let open_one = open(queue, request("connected", SHORT)).await;
    tokio::time::sleep(SHORT + Duration::from_millis(100)).await;
    for (client_id, is_present) in [("short", false), ("long", true), ("endless", true), ("connected", true)] {
        assert_eq!(open(queue, request(client_id, SHORT)).await.is_present, is_present, "{client_id}");
    }
    drop(open_one);
}

async fn a_user_has_sessions_of_its_own(queue: &dyn Queue) {
    let of = |user| OpenSession { key: SessionKey { user, client_id: "d" }, ..request("d", EXPIRY) };
    let first = open(queue, of(Some("a"))).await;
    for user in [Some("b"), None] {
        assert!(!open(queue, of(user)).await.is_present);
    }
    assert_eq!(first.session.expect("it is kept").taken_over().now_or_never(), None);
    assert!(open(queue, of(Some("a"))).await.is_present);
}

async fn no_more_sessions_are_kept_than_may_be(queue: &dyn Queue) {
    let of = |client_id| OpenSession { max_sessions: 2, ..request(client_id, EXPIRY) };
    for (client_id, is_kept) in [("a", true), ("b", true), ("c", false), ("a", true), ("c", false)] {
        assert_eq!(open(queue, of(client_id)).await.session.is_some(), is_kept, "{client_id}");
    }
    drop(open(queue, OpenSession { clean_start: true, ..request("b", Duration::ZERO) }).await);
    assert!(open(queue, of("c")).await.session.is_some(), "one has gone");
}

async fn what_is_held_survives_a_restart(start: &Open<'_>) {
    {
        let queue = start().await;
        let (first, second) = (owned(&*queue, "first").await, owned(&*queue, "second").await);
        first.append(&[packet(&*first, 7), packet(&*first, 8)]).await.unwrap();
        second.append(&[packet(&*second, 7)]).await.unwrap();
        first.append(&[release(&*first, 8), packet(&*first, 9)]).await.unwrap();
        second.set_expiry(Duration::ZERO);
        drop((first, second));
        queue.close().await;
    }
    for _ in 0..2 {
        let queue = start().await;
        let (first, second) = (open(&*queue, request("first", EXPIRY)).await, open(&*queue, request("second", Duration::ZERO)).await);
        assert_eq!((first.is_present, first.held.iter().collect()), (true, vec![7, 9]));
        assert!(!second.is_present, "it ended with its connection");
        drop((first, second));
        queue.close().await;
    }
}

async fn the_expiry_of_an_open_session_runs_from_the_next_start(start: &Open<'_>) {
    let (expiry, clients) = (Duration::from_secs(2), ["a", "b"]);
    let mut left_open = Vec::new();
    {
        let queue = start().await;
        for client_id in clients {
            left_open.push(open(&*queue, request(client_id, expiry)).await);
        }
        tokio::time::sleep(expiry).await;
        queue.close().await;
    }
    let queue = start().await;
    assert!(open(&*queue, request("a", expiry)).await.is_present, "it was connected until the end");
    tokio::time::sleep(expiry + Duration::from_millis(100)).await;
    assert!(!open(&*queue, request("b", expiry)).await.is_present, "it has expired since the start");
    queue.close().await;
}

// --- helpers

fn request(client_id: &str, expiry: Duration) -> OpenSession<'_> {
    OpenSession { key: SessionKey { user: None, client_id }, clean_start: false, expiry, max_sessions: 1000 }
}

async fn open(queue: &dyn Queue, request: OpenSession<'_>) -> OpenedSession {
    timeout(PATIENCE, queue.sessions().open(request)).await.expect("a session is opened").unwrap()
}

async fn owned(queue: &dyn Queue, client_id: &str) -> Arc<dyn Session> {
    open(queue, request(client_id, EXPIRY)).await.session.expect("it is kept")
}

async fn held(queue: &dyn Queue, client_id: &str) -> Vec<u16> {
    open(queue, request(client_id, EXPIRY)).await.held.iter().collect()
}

fn packet(session: &dyn Session, packet_id: u16) -> Record<'static> {
    let held = Some(HeldId { session: session.id(), packet_id });
    let Record { kind: Kind::Packet { iccid, topic, .. }, .. } = plain() else { unreachable!("it is a packet") };
    Record { kind: Kind::Packet { iccid, topic, held }, ..plain() }
}

fn plain() -> Record<'static> {
    let packet = Packet { iccid: "1".parse().unwrap(), topic: "o/1", received_at: Timestamp(7), payload: b"ABC" };
    Record::packet("o/g", &packet)
}

fn release(session: &dyn Session, packet_id: u16) -> Record<'static> {
    Record::release(Timestamp(7), HeldId { session: session.id(), packet_id })
}
