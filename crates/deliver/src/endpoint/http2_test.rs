//! Attempts over HTTP/2: sharing, the server's limits, what goes again without counting, and how connections end. The servers speak frames
//! themselves (RFC 9113 §4): no library would let them.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pushline_model::{HttpVersion, MessageId, NoResponse, Outcome, Webhook};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::scripted_server::{ACCEPTED, Server, advance, attempt, beside_a_webhook_that_hangs, network, read_request};
use crate::{Egress, Network};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const NO_ERROR: u32 = 0;
const REFUSED_STREAM: u32 = 7;
const HTTP_1_1_REQUIRED: u32 = 13;

/// The server's side of a connection.
struct Frames<S>(S);

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    /// Begins a connection, with a limit of streams.
    async fn accept(stream: S, limit: u32) -> Self {
        Self::accept_with(stream, limit, 65535).await
    }

    /// Begins a connection, with a limit of streams and a window for each of them in bytes.
    async fn accept_with(mut stream: S, limit: u32, window: u32) -> Self {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut frames = Self(stream);
        let settings = [&[0, 3], &limit.to_be_bytes()[..], &[0, 4], &window.to_be_bytes()].concat();
        frames.send(SETTINGS, 0, 0, &settings).await;
        frames
    }

    /// How it ends is the client's business.
    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()[..]].concat();
        self.0.write_all(&[&head, payload].concat()).await.is_ok()
    }

    /// The next frame; `None` at the end of the connection.
    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind: head[3], flags: head[4], stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload })
    }

    /// The stream of the next request that has come whole.
    async fn request(&mut self) -> Option<u32> {
        loop {
            let frame = self.next().await?;
            match frame.kind {
                SETTINGS if frame.flags == 0 => _ = self.send(SETTINGS, 1, 0, &[]).await,
                PING if frame.flags == 0 => _ = self.send(PING, 1, 0, &frame.payload).await,
                DATA if frame.flags & 1 == 1 => return Some(frame.stream),
                _ => {}
            }
        }
    }

    /// `:status: 200` of HPACK's static table, as a whole response.
    async fn accepted(&mut self, stream: u32) {
        self.send(HEADERS, 5, stream, &[0x88]).await;
    }

    async fn reset(&mut self, stream: u32, code: u32) {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }
}

fn http2(webhook: &mut Webhook) {
    webhook.http_version = HttpVersion::Http2;
}

/// A server that refuses so many requests with RST_STREAM and accepts the others, and counts them.
async fn refuses(times: usize, code: u32) -> (Server, Arc<AtomicUsize>) {
    let requests = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&requests);
    let server = Server::start(move |_, stream| {
        let counted = Arc::clone(&counted);
        async move {
            let mut frames = Frames::accept(stream, 100).await;
            while let Some(stream) = frames.request().await {
                if counted.fetch_add(1, Ordering::Relaxed) < times {
                    frames.reset(stream, code).await;
                } else {
                    frames.accepted(stream).await;
                }
            }
        }
    })
    .await;
    (server, requests)
}

#[tokio::test]
async fn a_connection_that_cannot_be_opened_fails_only_the_attempt_that_opened_it() {
    let server = Server::start(|number, stream| async move {
        if number > 1 {
            let mut frames = Frames::accept(stream, 100).await;
            while let Some(stream) = frames.request().await {
                frames.accepted(stream).await;
            }
        }
    })
    .await;
    let endpoint = server.endpoint(http2);
    let outcomes = futures_util::future::join_all([(); 8].map(|()| attempt(&endpoint, true))).await;
    let failed = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::NoResponse(_))).count();
    let accepted = outcomes.iter().filter(|outcome| **outcome == ACCEPTED).count();
    assert_eq!((failed, accepted), (1, 7), "{outcomes:?}");
}

#[tokio::test]
async fn a_connection_that_takes_no_stream_any_more_gives_its_place_to_another() {
    let server = Server::start(|number, stream| async move {
        let mut frames = Frames::accept(stream, 100).await;
        while let Some(stream) = frames.request().await {
            if number == 1 {
                frames.send(SETTINGS, 0, 0, &[&[0, 3], &0_u32.to_be_bytes()[..]].concat()).await;
            }
            frames.accepted(stream).await;
        }
    })
    .await;
    let endpoint = server.endpoint_on(&network(1), http2);
    assert_eq!((attempt(&endpoint, true).await, attempt(&endpoint, true).await), (ACCEPTED, ACCEPTED));
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn the_webhooks_of_a_host_share_one_connection() {
    let (server, requests) = refuses(0, NO_ERROR).await;
    let network = network(10);
    let endpoints = [(); 2].map(|()| server.endpoint_on(&network, http2));
    let attempts = endpoints.iter().flat_map(|endpoint| [(); 8].map(|()| attempt(endpoint, true)));
    for outcome in futures_util::future::join_all(attempts).await {
        assert_eq!(outcome, ACCEPTED);
    }
    assert_eq!((server.connections(), requests.load(Ordering::Relaxed)), (1, 16));
}

#[tokio::test]
async fn beyond_the_limit_of_streams_messages_go_out_on_further_connections() {
    let (too_many, mut seen) = mpsc::channel(10);
    let server = Server::start(move |_, stream| {
        let too_many = too_many.clone();
        async move {
            let mut frames = Frames::accept(stream, 1).await;
            while let Some(stream) = frames.request().await {
                if let Ok(Some(Frame { kind: HEADERS, .. })) = timeout(Duration::from_millis(100), frames.next()).await {
                    too_many.try_send(()).unwrap();
                }
                frames.accepted(stream).await;
            }
        }
    })
    .await;
    let endpoint = server.endpoint_on(&network(3), http2);
    let attempts = [(); 9].map(|()| attempt(&endpoint, true));
    for outcome in futures_util::future::join_all(attempts).await {
        assert_eq!(outcome, ACCEPTED);
    }
    assert!((2..=3).contains(&server.connections()), "{}", server.connections());
    assert!(seen.try_recv().is_err(), "a second stream came while the first was open");
}

#[tokio::test]
async fn a_webhook_that_hangs_leaves_streams_to_the_others_of_its_host() {
    beside_a_webhook_that_hangs(http2, |hangs, stream| async move {
        let mut frames = Frames::accept(stream, 1).await;
        while let Some(stream) = frames.request().await {
            if hangs {
                pending::<()>().await;
            }
            frames.accepted(stream).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_is_ten_minutes_old_takes_no_further_stream() {
    let (server, _) = refuses(0, NO_ERROR).await;
    let endpoint = server.endpoint(http2);
    for (minute, connections) in (0..22).map(|half| (half / 2, if half < 20 { 1 } else { 2 })) {
        assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
        assert_eq!(server.connections(), connections, "after {minute} minutes");
        advance(Duration::from_secs(30)).await;
    }
}

/// What a server comes to that reads everything and answers no request, and pings or doesn't, within the webhook's timeout of 90 s.
async fn outcome_of_silence(answers_pings: bool) -> Outcome {
    let server = Server::start(move |_, stream| async move {
        let mut frames = Frames::accept(stream, 100).await;
        while let Some(frame) = frames.next().await {
            if answers_pings && frame.kind == PING {
                frames.send(PING, 1, 0, &frame.payload).await;
            }
        }
    })
    .await;
    let endpoint = server.endpoint(http2);
    endpoint.attempt(MessageId([7; 16]), "ABC".into(), true).await
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_no_ping_while_a_response_is_due_is_a_lost_connection_and_one_that_does_is_a_timeout() {
    let began = tokio::time::Instant::now();
    let outcome = outcome_of_silence(false).await;
    assert!(matches!(outcome, Outcome::NoResponse(NoResponse::ConnectionLost(_))), "{outcome:?}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert_eq!(outcome_of_silence(true).await, Outcome::NoResponse(NoResponse::Timeout));
}

#[tokio::test]
async fn a_connection_carries_a_hundred_streams_though_its_server_permits_more() {
    let requests = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&requests);
    let server = Server::start(move |_, stream| {
        let counted = Arc::clone(&counted);
        async move {
            let mut frames = Frames::accept(stream, 1000).await;
            while frames.request().await.is_some() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await;
    let endpoint = server.endpoint(http2);
    let all_came = async {
        while requests.load(Ordering::Relaxed) < 101 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        _ = futures_util::future::join_all([(); 101].map(|()| attempt(&endpoint, true))) => panic!("none is answered"),
        () = all_came => assert_eq!(server.connections(), 2),
    }
}

#[tokio::test]
async fn a_kept_connection_that_ends_at_its_next_request_costs_no_attempt() {
    let server = Server::start(|number, stream| async move {
        let mut frames = Frames::accept(stream, 100).await;
        let first = frames.request().await.unwrap();
        frames.accepted(first).await;
        if number == 1 {
            frames.request().await.unwrap();
            return;
        }
        pending().await
    })
    .await;
    let endpoint = server.endpoint(http2);
    assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
    assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_stream_that_was_not_processed_goes_again_three_times() {
    let (server, requests) = refuses(3, REFUSED_STREAM).await;
    assert_eq!(attempt(&server.endpoint(http2), true).await, ACCEPTED);
    assert_eq!(requests.load(Ordering::Relaxed), 4);
    let (server, requests) = refuses(4, REFUSED_STREAM).await;
    let outcome = attempt(&server.endpoint(http2), true).await;
    assert!(matches!(&outcome, Outcome::NoResponse(NoResponse::ConnectionLost(why)) if why.contains("REFUSED_STREAM")), "{outcome:?}");
    assert_eq!(requests.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn a_retry_whose_stream_is_refused_goes_again_on_its_own_connection_and_on_no_older_one() {
    let server = Server::start(|number, stream| async move {
        let mut frames = Frames::accept(stream, 100).await;
        let first = frames.request().await.unwrap();
        if number == 2 {
            frames.reset(first, REFUSED_STREAM).await;
            let again = frames.request().await.unwrap();
            frames.accepted(again).await;
        } else {
            frames.accepted(first).await;
        }
        pending().await
    })
    .await;
    let endpoint = server.endpoint(http2);
    assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
    assert_eq!(attempt(&endpoint, false).await, ACCEPTED);
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_stream_that_is_reset_for_another_reason_does_not_go_again() {
    for code in [NO_ERROR, 1, 2, 8, 11, 12] {
        let (server, requests) = refuses(1, code).await;
        let outcome = attempt(&server.endpoint(http2), true).await;
        assert!(matches!(&outcome, Outcome::NoResponse(NoResponse::ConnectionLost(_))), "{code}: {outcome:?}");
        assert_eq!(requests.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn a_stream_beyond_the_last_of_a_goaway_goes_again_and_one_below_is_answered() {
    let server = Server::start(|number, stream| async move {
        let mut frames = Frames::accept(stream, 100).await;
        let first = frames.request().await.unwrap();
        if number == 1 {
            let second = frames.request().await.unwrap();
            frames.send(GOAWAY, 0, 0, &[first.min(second).to_be_bytes(), NO_ERROR.to_be_bytes()].concat()).await;
            // Longer than a connection may take to say goodbye.
            tokio::time::sleep(Duration::from_secs(1)).await;
            frames.accepted(first.min(second)).await;
        } else {
            frames.accepted(first).await;
        }
        pending().await
    })
    .await;
    let endpoint = server.endpoint(http2);
    let outcomes = tokio::join!(attempt(&endpoint, true), attempt(&endpoint, true));
    assert_eq!(outcomes, (ACCEPTED, ACCEPTED));
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_server_that_requires_http_1_1_is_not_asked_for_it_by_prior_knowledge() {
    let (server, requests) = refuses(1, HTTP_1_1_REQUIRED).await;
    let outcome = attempt(&server.endpoint(http2), true).await;
    assert!(matches!(&outcome, Outcome::NoResponse(NoResponse::ConnectionLost(why)) if why.contains("HTTP/1.1")), "{outcome:?}");
    assert_eq!(requests.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_connection_whose_server_answers_without_taking_the_whole_body_takes_no_new_stream() {
    // How many bytes of a body the server takes of three.
    for (window, connections) in [(0, 3), (1, 3), (3, 1)] {
        let server = Server::start(move |_, stream| async move {
            let mut frames = Frames::accept_with(stream, 1, window).await;
            while let Some(frame) = frames.next().await {
                if frame.kind == HEADERS && window < 3 || frame.kind == DATA && window == 3 {
                    frames.accepted(frame.stream).await;
                }
            }
        })
        .await;
        let endpoint = server.endpoint(http2);
        for _ in 0..3 {
            assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
        }
        assert_eq!(server.connections(), connections, "{window}");
    }
}

/// A server of https that offers both protocols and resets each stream of HTTP/2 with HTTP_1_1_REQUIRED, and an endpoint that trusts it.
async fn requires_http1(change: impl FnOnce(&mut Webhook)) -> (Server, Arc<AtomicUsize>, super::Endpoint) {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let (acceptor, resets) = (TlsAcceptor::from(Arc::new(config)), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&resets);
    let server = Server::start(move |_, stream| {
        let (acceptor, resets) = (acceptor.clone(), Arc::clone(&counted));
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                let mut frames = Frames::accept(stream, 100).await;
                while let Some(stream) = frames.request().await {
                    resets.fetch_add(1, Ordering::Relaxed);
                    frames.reset(stream, HTTP_1_1_REQUIRED).await;
                }
            } else {
                while read_request(&mut stream).await {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
                }
            }
        }
    })
    .await;
    let egress = Egress::new(vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    let network = Network::believing(egress, [cert.der().clone()]).unwrap();
    let url = format!("https://localhost:{}/push", server.port).parse().unwrap();
    let endpoint = server.endpoint_on(&network, |webhook| {
        webhook.url = url;
        change(webhook);
    });
    (server, resets, endpoint)
}

#[tokio::test]
async fn a_server_that_offers_http2_and_requires_http_1_1_gets_that_from_then_on() {
    let (server, resets, endpoint) = requires_http1(|_| {}).await;
    for _ in 0..3 {
        assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
    }
    assert_eq!((server.connections(), resets.load(Ordering::Relaxed)), (2, 1));
}

#[tokio::test]
async fn a_webhook_may_ask_for_one_protocol_of_those_that_its_server_offers() {
    let (server, resets, endpoint) = requires_http1(|webhook| webhook.http_version = HttpVersion::Http1).await;
    assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
    assert_eq!((server.connections(), resets.load(Ordering::Relaxed)), (1, 0));
    let (_server, resets, endpoint) = requires_http1(http2).await;
    let outcome = attempt(&endpoint, true).await;
    assert!(matches!(&outcome, Outcome::NoResponse(NoResponse::ConnectionLost(why)) if why.contains("HTTP/1.1")), "{outcome:?}");
    assert_eq!(resets.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_connection_that_timed_out_takes_no_new_stream_and_its_socket_is_closed() {
    let (ended, mut has_ended) = mpsc::channel(10);
    let server = Server::start(move |number, stream| {
        let ended = ended.clone();
        async move {
            let mut frames = Frames::accept(stream, 100).await;
            while let Some(stream) = frames.request().await {
                if number > 1 {
                    frames.accepted(stream).await;
                }
            }
            ended.try_send(number).unwrap();
        }
    })
    .await;
    let endpoint = server.endpoint(|webhook| {
        http2(webhook);
        webhook.timeout = Duration::from_millis(300);
    });
    assert_eq!(attempt(&endpoint, true).await, Outcome::NoResponse(NoResponse::Timeout));
    assert_eq!(attempt(&endpoint, true).await, ACCEPTED);
    assert_eq!(timeout(Duration::from_secs(10), has_ended.recv()).await, Ok(Some(1)));
}

#[tokio::test]
async fn a_deaf_server_loses_its_connection_and_what_was_to_be_sent_on_it() {
    let (ended, mut has_ended) = mpsc::channel(10);
    let server = Server::start(move |_, stream| {
        let ended = ended.clone();
        async move {
            let mut frames = Frames::accept(stream, 100).await;
            // As much as HTTP/2 permits, so that the request fills the buffers of the sockets.
            frames.send(8, 0, 0, &0x7fff_0000_u32.to_be_bytes()).await;
            frames.send(SETTINGS, 0, 0, &[&[0, 4], &0x7fff_ffff_u32.to_be_bytes()[..]].concat()).await;
            let closed = async {
                while frames.send(6, 0, 0, &[0; 8]).await {
                    tokio::time::sleep(Duration::from_millis(20)).await
                }
            };
            closed.await;
            ended.try_send(()).unwrap();
        }
    })
    .await;
    let endpoint = server.endpoint(|webhook| {
        http2(webhook);
        webhook.timeout = Duration::from_millis(300);
    });
    let outcome = endpoint.attempt(MessageId([7; 16]), vec![b'x'; 32 << 20].into(), true).await;
    assert_eq!(outcome, Outcome::NoResponse(NoResponse::Timeout));
    assert_eq!(timeout(Duration::from_secs(10), has_ended.recv()).await, Ok(Some(())));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_permits_no_stream_took_no_connection() {
    let server = Server::start(|_, stream| async move {
        let mut frames = Frames::accept(stream, 0).await;
        frames.request().await;
    })
    .await;
    let outcome = endpoint_outcome(&server).await;
    assert!(matches!(&outcome, Outcome::NoResponse(NoResponse::Connect(why)) if why.contains("stream")), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_sends_no_settings_took_no_connection() {
    let server = Server::start(|_, stream| async move {
        let _held = stream;
        pending().await
    })
    .await;
    let outcome = endpoint_outcome(&server).await;
    assert!(matches!(&outcome, Outcome::NoResponse(NoResponse::Connect(why)) if why.contains("stream")), "{outcome:?}");
}

async fn endpoint_outcome(server: &Server) -> Outcome {
    server.endpoint(http2).attempt(MessageId([7; 16]), "ABC".into(), true).await
}

#[tokio::test]
async fn a_server_that_speaks_http_1_1_is_malformed_by_prior_knowledge() {
    let server = Server::start(|_, mut stream| async move {
        stream.read_exact(&mut [0; 24]).await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await.unwrap();
    })
    .await;
    let outcome = attempt(&server.endpoint(http2), true).await;
    assert!(matches!(&outcome, Outcome::NoResponse(NoResponse::Malformed(why)) if why.contains("HTTP/2")), "{outcome:?}");
}

#[tokio::test]
async fn a_flood_of_settings_or_pings_ends_its_connection() {
    for (kind, payload) in [(SETTINGS, vec![]), (6, vec![0; 8])] {
        let server = Server::start(move |_, stream| {
            let payload = payload.clone();
            async move {
                let (mut read, write) = stream.into_split();
                // What is sent back is read: else the client would stop to read, too.
                tokio::spawn(async move { while read.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {} });
                let mut frames = Frames(tokio::io::join(tokio::io::empty(), write));
                while frames.send(kind, 0, 0, &payload).await {}
            }
        })
        .await;
        let outcome = attempt(&server.endpoint(http2), true).await;
        assert!(matches!(&outcome, Outcome::NoResponse(NoResponse::Malformed(why)) if why.contains("1 MiB")), "{kind}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_server_may_send_little_before_it_is_read() {
    let (tell, mut told) = mpsc::channel(3);
    let server = Server::start(move |_, stream| {
        let tell = tell.clone();
        async move {
            let mut frames = Frames::accept(stream, 100).await;
            // One of them may be an acknowledgement.
            for _ in 0..3 {
                drop(tell.send(frames.next().await.unwrap()).await);
            }
            while let Some(stream) = frames.request().await {
                frames.accepted(stream).await;
            }
        }
    })
    .await;
    assert_eq!(attempt(&server.endpoint(http2), true).await, ACCEPTED);
    drop(server);
    let mut told = async |kind| loop {
        let frame = told.recv().await.expect("it is among the first three");
        if frame.kind == kind && frame.flags == 0 {
            return frame;
        }
    };
    let settings = told(SETTINGS).await;
    let update = told(WINDOW_UPDATE).await;
    assert_eq!(update.stream, 0);
    let setting = |name: u16| {
        let entry = settings.payload.chunks(6).find(|entry| entry[..2] == name.to_be_bytes());
        entry.map(|entry| u32::from_be_bytes(entry[2..].try_into().unwrap()))
    };
    assert_eq!(setting(4), Some(64 << 10), "of a stream's window");
    assert_eq!(setting(6), Some(128 << 10), "of a header section");
    assert_eq!(u32::from_be_bytes(update.payload.try_into().unwrap()) + 65535, 256 << 10, "of the connection's window");
}

#[tokio::test]
async fn a_retry_that_waits_at_the_limit_gets_the_place_of_the_first_connection_whose_streams_have_ended() {
    let (tell, mut told) = mpsc::channel(1);
    let server = Server::start(move |number, stream| {
        let tell = tell.clone();
        async move {
            let mut frames = Frames::accept(stream, 1).await;
            while let Some(stream) = frames.request().await {
                match number {
                    1 => {}
                    2 => {
                        let (answer, answered) = oneshot::channel();
                        tell.send(answer).await.unwrap();
                        answered.await.unwrap();
                        frames.accepted(stream).await;
                    }
                    _ => frames.accepted(stream).await,
                }
            }
        }
    })
    .await;
    let endpoint = server.endpoint_on(&network(2), http2);
    let answer_once_the_retry_waits = async {
        let answer = told.recv().await.unwrap();
        while !endpoint.sharer.host().is_awaited() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        answer.send(()).unwrap();
        pending::<()>().await;
    };
    let retry = async {
        while server.connections() < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        attempt(&endpoint, false).await
    };
    tokio::select! {
        biased;
        _ = attempt(&endpoint, true) => panic!("the first connection hangs"),
        () = answer_once_the_retry_waits => unreachable!("it goes on for ever"),
        outcomes = async { tokio::join!(attempt(&endpoint, true), retry) } => assert_eq!(outcomes, (ACCEPTED, ACCEPTED)),
    }
    assert_eq!(server.connections(), 3);
}
