//! What an attempt holds, and for how long: its body and its file descriptor.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use pushline_model::{DescriptorBudget, DescriptorUse, LocalFailure, LocalFailureKind, MessageId, NoResponse, Outcome};
use tokio::{
    io::AsyncWriteExt,
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    Endpoint,
    scripted_server::{ACCEPTED, OK, Server, answers, attempt, read_request},
};
use crate::{Egress, Network};

/// More than the buffers of two sockets take.
const LARGE: usize = 32 << 20;

/// A body that is counted while it is held.
struct Counted(Arc<AtomicUsize>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        static BYTES: [u8; LARGE] = [b'x'; LARGE];
        &BYTES
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A server that sends this on each connection once its request has begun, and never reads. The endpoint's attempts have 300 ms.
async fn deaf(says: &'static [u8]) -> (Server, Endpoint) {
    let server = Server::start(move |_, mut stream| async move {
        stream.peek(&mut [0]).await.unwrap();
        stream.write_all(says).await.unwrap();
        pending().await
    })
    .await;
    let endpoint = server.endpoint(|webhook| webhook.timeout = Duration::from_millis(300));
    (server, endpoint)
}

/// The outcomes of three attempts, and how many of their bodies are held once none is, or once a while has passed.
async fn three_attempts(endpoint: &Endpoint) -> (Vec<Outcome>, usize) {
    let (bodies, mut outcomes) = (Arc::<AtomicUsize>::default(), Vec::new());
    for _ in 0..3 {
        bodies.fetch_add(1, Ordering::Relaxed);
        let body = Bytes::from_owner(Counted(Arc::clone(&bodies)));
        outcomes.push(endpoint.attempt(MessageId([7; 16]), body, true).await);
    }
    let none_is_held = async {
        while bodies.load(Ordering::Relaxed) > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    drop(timeout(Duration::from_secs(2), none_is_held).await);
    (outcomes, bodies.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_connection_whose_server_answers_without_reading_ends_with_its_attempt() {
    let (_server, endpoint) = deaf(OK).await;
    assert_eq!(three_attempts(&endpoint).await, (vec![ACCEPTED; 3], 0));
    assert_eq!(endpoint.network.pool().resting(), 0);
}

#[tokio::test]
async fn a_connection_whose_server_says_nothing_ends_with_its_attempt() {
    let (_server, endpoint) = deaf(b"").await;
    assert_eq!(three_attempts(&endpoint).await, (vec![Outcome::NoResponse(NoResponse::Timeout); 3], 0));
}

fn network(descriptors: &Arc<DescriptorBudget>) -> Arc<Network> {
    Network::within(Egress::new(vec!["127.0.0.0/8".parse().unwrap()]), Arc::clone(descriptors), 10).unwrap()
}

#[tokio::test]
async fn an_idle_connection_gives_way_to_a_push_to_another_endpoint() {
    let network = network(&DescriptorBudget::of(0, 1));
    let servers = [answers(OK).await, answers(OK).await];
    let [first, second] = servers.each_ref().map(|server| server.endpoint_on(&network, |_| {}));
    for endpoint in [&first, &second, &first, &first] {
        assert_eq!(timeout(Duration::from_secs(5), attempt(endpoint, true)).await, Ok(ACCEPTED));
    }
}

#[tokio::test]
async fn a_connection_is_not_kept_while_another_attempt_waits_for_its_descriptor() {
    let network = network(&DescriptorBudget::of(0, 1));
    let (came, mut requests) = mpsc::channel(1);
    let told = Arc::clone(&network);
    let slow = Server::start(move |_, mut stream| {
        let (came, network) = (came.clone(), Arc::clone(&told));
        async move {
            while read_request(&mut stream).await {
                came.send(()).await.unwrap();
                while !network.is_short_of_descriptors() {
                    sleep(Duration::from_millis(2)).await;
                }
                stream.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    let other = answers(OK).await;
    let [slow, other] = [&slow, &other].map(|server| server.endpoint_on(&network, |_| {}));
    let waits = async {
        requests.recv().await.unwrap();
        attempt(&other, true).await
    };
    let both = async { tokio::join!(attempt(&slow, true), waits) };
    assert_eq!(timeout(Duration::from_secs(5), both).await, Ok((ACCEPTED, ACCEPTED)));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_finds_no_descriptor_is_a_local_failure_and_the_next_one_that_does_goes_out() {
    let descriptors = DescriptorBudget::of(0, 1);
    let network = network(&descriptors);
    let server = answers(OK).await;
    let endpoint = server.endpoint_on(&network, |_| {});
    let held = descriptors.try_acquire(DescriptorUse::Push).unwrap();
    let outcome = attempt(&endpoint, true).await;
    assert!(matches!(outcome, Outcome::LocalFailure(LocalFailure { kind: LocalFailureKind::FileDescriptors, .. })), "{outcome:?}");
    assert!(network.local_failures().reason().is_some());
    drop(held);
    tokio::time::resume();
    assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
}

#[tokio::test]
async fn an_attempt_is_small_since_each_is_copied_into_a_task() {
    let server = answers(OK).await;
    let endpoint = server.endpoint(|_| {});
    let bytes = size_of_val(&endpoint.attempt(MessageId([7; 16]), "ABC".into(), true));
    assert!(bytes <= 4 << 10, "{bytes}");
}
