//! Attempts over HTTP/1.1: what a status decides, which connections are used again, and what a stale one costs (docs/responses.md).

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pushline_model::{NoResponse, Outcome, ResponseHeaders};
use tokio::{
    io::AsyncWriteExt,
    runtime::Handle,
    sync::{Barrier, mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

use crate::{Network, pool::IDLE};

use super::scripted_server::{
    ACCEPTED, OK, Server, advance, answers, attempt, beside_a_webhook_that_hangs, network, read_request, until_resting,
};

fn is_lost(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::NoResponse(NoResponse::ConnectionLost(_)))
}

#[tokio::test(start_paused = true)]
async fn a_2xx_counts_at_its_status_however_long_its_body_takes() {
    let server = Server::start(|_, mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nok").await.unwrap();
        pending().await
    })
    .await;
    let (endpoint, began) = (server.endpoint(|webhook| webhook.concurrency = 1), Instant::now());
    for _ in 0..3 {
        assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
    }
    assert_eq!(server.connections(), 3);
    assert!(began.elapsed() < Duration::from_secs(1), "the clock of the test stands still unless something waits for it");
}

#[tokio::test]
async fn an_error_response_keeps_2_kib_of_its_body_or_what_has_come_of_it() {
    for (sent, kept) in [(5000, 2048), (10, 10)] {
        let server = Server::start(move |_, mut stream| async move {
            read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 500 Oh\r\n\r\n").await.unwrap();
            stream.write_all(&vec![b'x'; sent]).await.unwrap();
            pending().await
        })
        .await;
        let outcome = attempt(&server.endpoint(|_| {}), true).await;
        assert_eq!(outcome, Outcome::ErrorResponse { status: 500, response: vec![b'x'; kept], headers: ResponseHeaders::default() });
    }
}

#[tokio::test]
async fn a_header_line_that_is_not_http_changes_nothing_about_a_status() {
    for odd in ["Server : IIS", "PHP Warning:  in line 0", "PHP Warning in line 0", "X-Trace: a\r\n  b", "X-Größe: 1", "Set-Cookie: a\u{1}"]
    {
        let answer = format!("HTTP/1.1 200 OK\r\n{odd}\r\nContent-Length: 0\r\n\r\n").leak();
        assert_eq!(attempt(&answers(answer.as_bytes()).await.endpoint(|_| {}), true).await, ACCEPTED, "{odd}");
    }
}

#[tokio::test]
async fn a_connection_is_used_again_only_where_the_end_of_its_response_is_certain() {
    let is_used_again = [
        ("204 No Content\r\n\r\n", true),
        ("204 No Content\r\nContent-Length: 0\r\n\r\n", true),
        ("200 OK\r\nContent-Length: 2\r\n\r\nok", true),
        ("200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", true),
        ("200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", true),
        ("500 Oh\r\nContent-Length: 2\r\n\r\noh", true),
        ("204 No Content\r\nContent-Length: 2\r\n\r\n", false),
        ("204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", false),
        ("304 Not Modified\r\nContent-Length: 2\r\n\r\n", false),
        ("200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false),
        ("200 OK\r\nContent-Length: 0\r\n\r\nmore", false),
        ("200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", false),
    ];
    for (answer, is_used_again) in is_used_again {
        let server = answers(format!("HTTP/1.1 {answer}").leak().as_bytes()).await;
        let network = network(10);
        let endpoint = server.endpoint_on(&network, |_| {});
        assert!(attempt(&endpoint, true).await.answered(), "{answer}");
        if is_used_again {
            until_resting(&network, 1).await;
        }
        assert!(attempt(&endpoint, true).await.answered(), "{answer}");
        assert_eq!(server.connections(), if is_used_again { 1 } else { 2 }, "{answer}");
    }
}

#[tokio::test]
async fn two_different_lengths_are_a_malformed_answer() {
    let server = answers(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n").await;
    let outcome = attempt(&server.endpoint(|_| {}), true).await;
    assert!(matches!(outcome, Outcome::NoResponse(NoResponse::Malformed(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_malformed_answer_is_quoted_where_its_first_line_is_malformed_and_its_body_never_is() {
    let cause = async |bytes| match attempt(&answers(bytes).await.endpoint(|webhook| webhook.retries = 0), true).await {
        Outcome::NoResponse(NoResponse::Malformed(cause)) => cause,
        other => panic!("{other:?}"),
    };
    assert!(cause(b"SSH-2.0-x\r\n\r\n").await.contains("begins with \"SSH-2.0-x\""));
    let of_a_length = cause(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n<html>").await;
    assert!(!of_a_length.contains("begins with"), "{of_a_length}");
}

#[tokio::test]
async fn the_first_stale_connection_empties_the_pool_and_its_message_goes_again_on_a_new_one() {
    let (both, stale) = (Arc::new(Barrier::new(2)), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&stale);
    let server = Server::start(move |number, mut stream| {
        let (both, stale) = (Arc::clone(&both), Arc::clone(&counted));
        async move {
            read_request(&mut stream).await;
            if number <= 2 {
                both.wait().await;
                stream.write_all(OK).await.unwrap();
                // The next request is read, and the connection closed without an answer.
                stale.fetch_add(usize::from(read_request(&mut stream).await), Ordering::Relaxed);
                return;
            }
            stream.write_all(OK).await.unwrap();
            while read_request(&mut stream).await {
                stream.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    let endpoint = server.endpoint(|_| {});
    let outcomes = tokio::join!(attempt(&endpoint, true), attempt(&endpoint, true));
    assert_eq!(outcomes, (ACCEPTED, ACCEPTED));
    assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
    assert_eq!(server.connections(), 3);
    let outcomes = tokio::join!(attempt(&endpoint, true), attempt(&endpoint, true));
    assert_eq!(outcomes, (ACCEPTED, ACCEPTED));
    assert_eq!((server.connections(), stale.load(Ordering::Relaxed)), (4, 1));
}

#[tokio::test]
async fn a_message_goes_again_once_at_the_most() {
    let server = Server::start(|number, mut stream| async move {
        read_request(&mut stream).await;
        if number == 1 {
            stream.write_all(OK).await.unwrap();
            read_request(&mut stream).await;
        }
    })
    .await;
    let endpoint = server.endpoint(|_| {});
    assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
    let outcome = attempt(&endpoint, true).await;
    assert!(is_lost(&outcome), "{outcome:?}");
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_kept_connection_that_ends_later_than_a_second_is_no_response() {
    let server = Server::start(|_, mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        read_request(&mut stream).await;
        sleep(Duration::from_millis(1100)).await;
    })
    .await;
    let endpoint = server.endpoint(|_| {});
    assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
    let outcome = attempt(&endpoint, true).await;
    assert!(is_lost(&outcome), "{outcome:?}");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_kept_connection_that_ends_in_a_response_is_no_response() {
    let server = Server::start(|_, mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 2").await.unwrap();
    })
    .await;
    let endpoint = server.endpoint(|_| {});
    assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
    let outcome = attempt(&endpoint, true).await;
    assert!(is_lost(&outcome), "{outcome:?}");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn the_rest_of_a_response_that_comes_with_the_next_request_is_no_answer_to_it() {
    let server = Server::start(|number, mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        if number == 1 && read_request(&mut stream).await {
            stream.write_all(b"ok").await.unwrap();
        }
        pending().await
    })
    .await;
    let endpoint = server.endpoint(|_| {});
    for _ in 0..2 {
        assert_eq!(attempt(&endpoint, true).await, Outcome::Accepted { status: 204 });
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_retry_goes_out_on_a_new_connection() {
    let server = answers(OK).await;
    let endpoint = server.endpoint(|_| {});
    for is_first in [true, true, false, true] {
        assert_eq!(attempt(&endpoint, is_first).await, ACCEPTED);
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_flood_of_interim_responses_ends_its_connection() {
    let server = Server::start(|_, mut stream| async move {
        read_request(&mut stream).await;
        let hint = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(1000));
        while stream.write_all(hint.as_bytes()).await.is_ok() {}
    })
    .await;
    let outcome = attempt(&server.endpoint(|_| {}), true).await;
    assert!(matches!(&outcome, Outcome::NoResponse(NoResponse::Malformed(why)) if why.contains("1 MiB")), "{outcome:?}");
}

#[tokio::test]
async fn a_connection_whose_responses_advance_may_carry_more_than_a_flood() {
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n{}", "x".repeat(60_000));
    let server = answers(response.leak().as_bytes()).await;
    let network = network(1);
    let endpoint = server.endpoint_on(&network, |_| {});
    for _ in 0..20 {
        assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
        until_resting(&network, 1).await;
    }
    assert_eq!(server.connections(), 1);
}

/// A server that answers each request with these bytes, and the numbers of the connections in the order in which they end.
async fn answers_and_tells_ends(bytes: Vec<u8>) -> (Server, mpsc::Receiver<usize>) {
    let (ended, ends) = mpsc::channel(10);
    let server = Server::start(move |number, mut stream| {
        let (bytes, ended) = (bytes.clone(), ended.clone());
        async move {
            while read_request(&mut stream).await && stream.write_all(&bytes).await.is_ok() {}
            ended.send(number).await.unwrap();
        }
    });
    (server.await, ends)
}

#[tokio::test]
async fn a_connection_whose_response_is_longer_than_64_kib_is_closed() {
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n{}", "x".repeat(200_000));
    let (server, mut ends) = answers_and_tells_ends(response.into_bytes()).await;
    let endpoint = server.endpoint(|_| {});
    assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
    assert_eq!(timeout(Duration::from_secs(30), ends.recv()).await, Ok(Some(1)));
}

#[tokio::test]
async fn as_many_responses_are_read_to_their_end_at_once_as_the_webhook_has_messages_in_flight() {
    let (server, mut ends) = answers_and_tells_ends(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n".to_vec()).await;
    let endpoint = server.endpoint(|webhook| webhook.concurrency = 1);
    for _ in 0..2 {
        assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
    }
    assert_eq!(ends.recv().await, Some(2), "the first is still read when the second is closed");
}

#[tokio::test]
async fn another_protocol_that_no_request_asked_for_is_a_malformed_answer() {
    let server = answers(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tea\r\nConnection: upgrade\r\n\r\n").await;
    let outcome = attempt(&server.endpoint(|_| {}), true).await;
    assert!(matches!(outcome, Outcome::NoResponse(NoResponse::Malformed(_))), "{outcome:?}");
}

#[tokio::test]
async fn of_webhooks_without_response_one_at_a_time_has_a_connection_of_a_host_that_may_have_two() {
    let server = Server::start(|number, mut stream| async move {
        while read_request(&mut stream).await {
            match number {
                1 | 2 => return,
                3 => pending().await,
                _ => drop(stream.write_all(OK).await),
            }
        }
    })
    .await;
    let network = network(2);
    let [one, other, healthy] = [(); 3].map(|()| server.endpoint_on(&network, |_| {}));
    for endpoint in [&one, &other] {
        let outcome = attempt(endpoint, true).await;
        assert!(is_lost(&outcome), "{outcome:?}");
    }
    tokio::select! {
        biased;
        _ = attempt(&one, true) => panic!("it has the connection that hangs"),
        _ = attempt(&other, true) => panic!("the other connection is for webhooks that answer"),
        outcome = async {
            while server.connections() < 3 {
                sleep(Duration::from_millis(2)).await;
            }
            attempt(&healthy, true).await
        } => assert_eq!(outcome, ACCEPTED),
    }
}

#[tokio::test]
async fn the_webhooks_of_a_host_share_its_connections_and_wait_for_them() {
    let server = answers(OK).await;
    let network = network(1);
    let endpoints = [(); 3].map(|()| server.endpoint_on(&network, |_| {}));
    let attempts = endpoints.iter().flat_map(|endpoint| [attempt(endpoint, true), attempt(endpoint, true)]);
    for outcome in futures_util::future::join_all(attempts).await {
        assert_eq!(outcome, ACCEPTED);
    }
    assert_eq!(server.connections(), 1);
    // A retry at the limit: the connection that rests gives way.
    assert_eq!(attempt(&endpoints[0], false).await, ACCEPTED);
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_retry_that_waits_at_the_limit_gets_the_next_connection_that_becomes_free() {
    let server = Server::start(|_, mut stream| async move {
        while read_request(&mut stream).await {
            sleep(Duration::from_millis(50)).await;
            drop(stream.write_all(OK).await);
        }
    })
    .await;
    let endpoint = server.endpoint_on(&network(1), |_| {});
    let outcomes = tokio::join!(attempt(&endpoint, true), attempt(&endpoint, false), attempt(&endpoint, true));
    assert_eq!(outcomes, (ACCEPTED, ACCEPTED, ACCEPTED));
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_webhook_that_hangs_leaves_connections_to_the_others_of_its_host() {
    beside_a_webhook_that_hangs(
        |_| {},
        |hangs, mut stream| async move {
            while read_request(&mut stream).await {
                if hangs {
                    pending::<()>().await;
                }
                drop(stream.write_all(OK).await);
            }
        },
    )
    .await;
}

#[tokio::test]
async fn a_connection_that_is_never_idle_is_not_used_again_once_it_is_ten_minutes_old() {
    let server = answers(OK).await;
    let endpoint = server.endpoint(|_| {});
    // It never rests long enough to be closed for that.
    for (minute, connections) in (0..22).map(|half| (half / 2, if half < 20 { 1 } else { 2 })) {
        assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
        assert_eq!(server.connections(), connections, "after {minute} minutes");
        advance(Duration::from_secs(30)).await;
    }
}

/// Whether a connection is closed once its server has answered with this header and it rested for a time, and for `more` time.
async fn is_closed_after(header: &str, rest: Duration, more: Duration) -> (bool, bool) {
    let answer = format!("HTTP/1.1 200 OK\r\n{header}Content-Length: 0\r\n\r\n");
    let server = answers(answer.leak().as_bytes()).await;
    let network = network(10);
    let endpoint = server.endpoint_on(&network, |_| {});
    assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
    let is_closed_in = async |time| {
        advance(time).await;
        network.pool().close_idle();
        network.pool().resting() == 0
    };
    (is_closed_in(rest).await, is_closed_in(more).await)
}

#[tokio::test]
async fn an_idle_connection_is_closed_before_its_server_closes_it() {
    // Far more than a busy machine takes.
    let more = Duration::from_secs(20);
    let at_most = Duration::from_secs(39);
    assert_eq!(is_closed_after("", IDLE - more, more).await, (false, true));
    assert_eq!(is_closed_after("Keep-Alive: max=100, Timeout = 40\r\n", at_most - more, more).await, (false, true));
    assert_eq!(is_closed_after("Keep-Alive: timeout=3600\r\n", IDLE - more, more).await, (false, true));
    assert_eq!(is_closed_after("Keep-Alive: timeout=soon\r\n", IDLE - more, more).await, (false, true));
    assert_eq!(is_closed_after("Keep-Alive: timeout=1\r\n", Duration::ZERO, more).await, (true, true));
}

#[tokio::test]
async fn a_connection_is_not_used_again_once_its_way_would_not_be_taken_again() {
    let server = answers(OK).await;
    let endpoint = server.endpoint(|webhook| webhook.url = format!("http://localhost:{}/push", server.port).parse().unwrap());
    assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
    endpoint.network.pool().retire(|route| route.address.is_loopback());
    assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
    assert_eq!(server.connections(), 1);
    endpoint.network.pool().retire(|_| false);
    assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
    assert_eq!(server.connections(), 2);
}

/// Looks after the connections until none rests.
async fn until_none_rests(network: &Network) {
    let none_rests = async {
        while network.pool().resting() > 0 {
            sleep(Duration::from_millis(2)).await;
            network.pool().close_idle();
        }
    };
    timeout(Duration::from_secs(10), none_rests).await.expect("the pool notices what its server did");
}

#[tokio::test]
async fn a_connection_that_its_server_ends_while_it_rests_is_closed_without_another_attempt() {
    for says_last in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"] {
        let (rests, resting) = oneshot::channel();
        let told = Mutex::new(Some(resting));
        let server = Server::start(move |_, mut stream| {
            let resting = told.lock().unwrap().take();
            async move {
                read_request(&mut stream).await;
                stream.write_all(OK).await.unwrap();
                resting.expect("there is one connection").await.unwrap();
                stream.write_all(says_last).await.unwrap();
                if !says_last.is_empty() {
                    // The client closes it.
                    assert!(!read_request(&mut stream).await);
                }
            }
        })
        .await;
        let network = network(10);
        let endpoint = server.endpoint_on(&network, |_| {});
        assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
        network.pool().close_idle();
        assert_eq!(network.pool().resting(), 1, "nothing has happened");
        rests.send(()).unwrap();
        until_none_rests(&network).await;
    }
}

#[tokio::test]
async fn a_response_that_has_arrived_whole_is_read_in_its_attempt_and_leaves_no_task() {
    // So that no task of an earlier server ends while those of the next are counted.
    let mut kept = Vec::new();
    for answer in [
        "200 OK\r\nContent-Length: 0\r\n\r\n",
        "200 OK\r\nContent-Length: 2\r\n\r\nok",
        "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        let server = answers(format!("HTTP/1.1 {answer}").leak().as_bytes()).await;
        let network = network(10);
        let endpoint = server.endpoint_on(&network, |_| {});
        let tasks = Handle::current().metrics().num_alive_tasks();
        assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
        assert_eq!(network.pool().resting(), 1, "{answer}");
        assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks + 1, "the server has a task for the connection, the client none");
        kept.push((server, endpoint));
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_goes_again_because_its_connection_was_stale_has_the_whole_time_again() {
    // The clock goes on by itself only where all tasks wait.
    let busy = tokio::spawn(async {
        loop {
            tokio::task::yield_now().await;
        }
    });
    let server = Server::start(|number, mut stream| async move {
        read_request(&mut stream).await;
        if number == 1 {
            stream.write_all(OK).await.unwrap();
            read_request(&mut stream).await;
            return tokio::time::advance(Duration::from_millis(900)).await;
        }
        tokio::time::advance(Duration::from_millis(900)).await;
        stream.write_all(OK).await.unwrap();
        pending().await
    })
    .await;
    let endpoint = server.endpoint(|webhook| webhook.timeout = Duration::from_secs(1));
    for _ in 0..2 {
        assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
    }
    assert_eq!(server.connections(), 2);
    busy.abort();
}
