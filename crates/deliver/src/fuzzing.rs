//! What the fuzz targets call (fuzz/README.md): an attempt on a server that sends these bytes, through a pipe in memory, to its [`Outcome`].
//!
//! Each entry panics where something is wrong: the process panics, an outcome is none that a server can cause, or a request isn't what the
//! webhook says. The clock is tokio's paused one, so a wait takes no time, and a server that hangs is a timeout at once.

use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use pushline_lanes::suspends_for;
use pushline_model::{
    Auth, CustomHeader, DescriptorBudget, DescriptorUse, MessageId, NoResponse, Outcome, RESPONSE_KEPT, Secret, Timestamp, Webhook,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, WriteHalf, copy, duplex, sink, split},
    time::{Duration, Instant, sleep, timeout},
};

use crate::{
    Egress, Network,
    connection::{self, Deadline, Protocol, Transport},
    endpoint::Endpoint,
    pool::{Checkout, ConnectionPermit, RequestPermit},
    request::HeaderCaseCache,
    route::Route,
    stream::TlsRefusal,
};

/// A target: what it does with an input.
pub type Target = fn(&[u8]);

/// All targets, by the names of their folders in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 4] =
    [("http1_response", http1_response), ("http2_response", http2_response), ("url", url), ("headers", headers)];

/// How much the pipe holds in each direction, in bytes.
const PIPE: usize = 16 << 10;

const BODY: &[u8] = b"{\"Payload\":\"x\"}";

/// The longest cause, in bytes. A cause quotes what a server sent, in part.
const LONGEST_CAUSE: usize = 512;

/// More than a server may send without advancing a response, in bytes.
const FLOOD: usize = 3 << 20;

/// Longer than any attempt, a ping or a goodbye takes.
const STAYS: Duration = Duration::from_secs(600);

/// Longer than the rest of a response is read once its outcome is known.
const DRAINED: Duration = Duration::from_secs(30);

/// The longest suspension.
const AN_HOUR: Duration = Duration::from_hours(1);

/// An empty SETTINGS frame (RFC 9113 §6.5), with which a server of HTTP/2 begins.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// A server of HTTP/1.1: the first byte of the input is its [`Manner`], the rest is what it sends.
pub fn http1_response(input: &[u8]) {
    response(Protocol::Http1, input);
}

/// A server of HTTP/2, as [`http1_response`]. It sends SETTINGS first, unless the first byte's highest bit is set.
pub fn http2_response(input: &[u8]) {
    response(Protocol::Http2, input);
}

/// A webhook with this URL: if the configuration takes it, its request is what it says.
pub fn url(input: &[u8]) {
    let Some(url) = std::str::from_utf8(input).ok().and_then(|text| text.parse().ok()) else { return };
    request(&Webhook::new("w", url));
}

/// A webhook whose bearer token is the first line, and whose other lines are headers: a name, a colon and a value each. If the configuration
/// takes it, its request is what it says.
pub fn headers(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n').map(String::from_utf8_lossy);
    let mut webhook = Webhook::new("w", "http://a.example/push".parse().expect("it is a URL"));
    if let Some(token) = lines.next().filter(|token| !token.is_empty()) {
        webhook.auth = Auth::Bearer { token: Secret::new(&token) };
    }
    for line in lines.take(16) {
        let header = line.split_once(':').and_then(|(name, value)| CustomHeader::new(name, value).ok());
        webhook.headers.extend(header);
    }
    request(&webhook);
}

/// How a server sends its bytes.
#[derive(Clone, Copy)]
struct Manner {
    /// What it sends before the request.
    begin: &'static [u8],
    /// How many bytes it writes at a time.
    at_a_time: usize,
    /// It sends them again and again, [`FLOOD`] bytes at the most.
    repeats: bool,
    /// It keeps the connection when it has sent them.
    stays: bool,
}

impl Manner {
    fn of(protocol: Protocol, byte: u8) -> Self {
        let begin = if protocol == Protocol::Http2 && byte & 0x80 == 0 { SETTINGS } else { b"" };
        Self { begin, at_a_time: usize::from(byte & 0x1f) + 1, repeats: byte & 0x20 > 0, stays: byte & 0x40 > 0 }
    }
}

fn response(protocol: Protocol, input: &[u8]) {
    let Some((first, bytes)) = input.split_first() else { return };
    let mut webhook = Webhook::new("w", "http://a.example/push".parse().expect("it is a URL"));
    // Of every status the `Retry-After` counts.
    webhook.retry_on_status = (100..1000).collect();
    let manner = Manner::of(protocol, *first);
    let outcome = attempt(&webhook, protocol, async |far: DuplexStream| send(far, manner, bytes).await);
    check(&outcome);
    let wall = Timestamp::parse("1994-11-06T08:49:07Z").expect("it is a time");
    assert!(suspends_for(&webhook, &outcome, wall).is_none_or(|wait| wait <= AN_HOUR), "{outcome:?}");
}

/// The server's end: it sends how it begins, and the bytes once a request has come; then it closes, or waits for the client to. It reads meanwhile.
///
/// A client of HTTP/2 sends no request before the server has begun; if the server begins with nothing, the bytes follow the client's first.
async fn send(mut far: DuplexStream, manner: Manner, bytes: &[u8]) {
    let mut arrived = Vec::new();
    if far.write_all(manner.begin).await.is_err() {
        return;
    }
    while arrived.is_empty() || !manner.begin.is_empty() && !arrived.ends_with(BODY) {
        let Ok(1..) = far.read_buf(&mut arrived).await else { return };
    }
    let (mut read, mut write) = split(far);
    let send = async {
        // The client may have closed.
        let sent = write_all(&mut write, manner, bytes).await;
        if sent.is_err() || !manner.stays {
            drop(write.shutdown().await);
        }
    };
    // An idle connection has no end of its own.
    let closed = async { drop(timeout(STAYS, copy(&mut read, &mut sink())).await) };
    tokio::join!(send, closed);
}

async fn write_all(write: &mut WriteHalf<DuplexStream>, manner: Manner, bytes: &[u8]) -> io::Result<()> {
    if !manner.repeats {
        for block in bytes.chunks(manner.at_a_time) {
            write.write_all(block).await?;
        }
        return Ok(());
    }
    // Short ones are written together: a million writes take too long.
    let block = bytes.repeat(PIPE / bytes.len().max(1) + 1);
    for _ in 0..FLOOD / block.len().max(PIPE) {
        write.write_all(&block).await?;
    }
    Ok(())
}

/// An outcome that a server can cause, and a cause that may stand in a log.
fn check(outcome: &Outcome) {
    match outcome {
        Outcome::Accepted { status } => assert!((200..300).contains(status), "{outcome:?}"),
        Outcome::ErrorResponse { status, response, .. } => {
            assert!(!(200..300).contains(status) && *status != 101, "{outcome:?}");
            assert!(response.len() <= RESPONSE_KEPT, "{outcome:?}");
        }
        Outcome::NoResponse(why) => {
            assert!(!matches!(why, NoResponse::Dns(_)), "{outcome:?}");
            assert!(!why.cause().is_empty() && why.cause().len() <= LONGEST_CAUSE, "{outcome:?}");
            assert!(!why.cause().chars().any(char::is_control), "{outcome:?}");
        }
        Outcome::BlockedAddress { .. } | Outcome::LocalFailure(_) => assert!(outcome.answered(), "no server causes {outcome:?}"),
    }
}

/// Sends a webhook's request to a server that accepts it, and compares what arrived with what the webhook says.
fn request(webhook: &Webhook) {
    if !webhook.validate().is_empty() {
        return;
    }
    let mut arrived = Vec::new();
    let outcome = attempt(webhook, Protocol::Http1, async |mut far: DuplexStream| {
        while !arrived.ends_with(BODY) && far.read_buf(&mut arrived).await.is_ok_and(|read| read > 0) {}
        drop(far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await);
    });
    assert_eq!(outcome, Outcome::Accepted { status: 204 });
    let head = arrived.strip_suffix(BODY).and_then(|head| head.strip_suffix(b"\r\n\r\n")).expect("a header section and the body arrived");
    let lines: Vec<&[u8]> = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
    assert_eq!(lines[0], format!("POST {} HTTP/1.1", webhook.url.path_and_query()).as_bytes());
    assert!(lines[0].iter().all(|byte| byte.is_ascii_graphic() || *byte == b' '));
    assert_eq!(lines[0].iter().filter(|byte| **byte == b' ').count(), 2);
    let has = |line: String| lines.iter().filter(|one| one.trim_ascii_end() == line.trim_end().as_bytes()).count();
    assert_eq!(has(format!("Host: {}", webhook.url.authority())), 1);
    assert_eq!(has(format!("Content-Length: {}", BODY.len())), 1);
    for header in &webhook.headers {
        assert!(has(format!("{}: {}", header.name(), header.value())) > 0, "{header:?}");
    }
    // Host, Content-Type, Content-Length, webhook-id, webhook-timestamp.
    let own = 5 + usize::from(!webhook.headers.iter().any(|header| header.name().is("User-Agent"))) + webhook.credential_headers().len();
    assert_eq!(lines.len(), 1 + own + webhook.headers.len(), "{:?}", String::from_utf8_lossy(head));
}

/// One attempt through a pipe in memory, to its outcome.
fn attempt(webhook: &Webhook, protocol: Protocol, server: impl AsyncFnOnce(DuplexStream)) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("it needs no resources");
    runtime.block_on(async {
        let (near, far) = duplex(PIPE);
        let (outcome, ()) = tokio::join!(through(near, webhook, protocol), server(far));
        sleep(DRAINED).await;
        outcome
    })
}

async fn through(near: DuplexStream, webhook: &Webhook, protocol: Protocol) -> Outcome {
    static NETWORK: OnceLock<Arc<Network>> = OnceLock::new();
    let network = NETWORK.get_or_init(|| Network::new(Egress::new(vec![])).expect("TLS can be set up"));
    let endpoint = Endpoint::new(Arc::new(webhook.clone()), Arc::clone(network), &mut HeaderCaseCache::default());
    let endpoint = endpoint.expect("a request can be made of each webhook that the configuration takes");
    let permit = DescriptorBudget::unlimited().try_acquire(DescriptorUse::Push).expect("it is unlimited");
    let route = Route { host: "a.example".into(), address: Ipv4Addr::LOCALHOST.into(), name: None, identity: None };
    let transport =
        Transport { stream: near, route, refusal: TlsRefusal::default(), permit, connection_permit: ConnectionPermit::of_none() };
    let opened = connection::open(transport, protocol, Instant::now() + Duration::from_secs(10)).await;
    let connection = match opened {
        Ok(connection) => connection,
        Err(why) => return Outcome::NoResponse(why),
    };
    let mut deadline = Deadline::new(webhook.timeout);
    let sent = endpoint
        .send(Checkout { permit: RequestPermit::of_none(), connection }, MessageId([7; 16]), Bytes::from_static(BODY), &mut deadline)
        .await;
    sent.unwrap_or_else(|error| Outcome::NoResponse(error.into()))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use pushline_model::ResponseHeaders;

    use super::*;

    #[test]
    fn every_input_of_the_corpus_ends_in_an_outcome() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (name, target) in TARGETS {
            let inputs: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(!inputs.is_empty(), "{name} has no corpus");
            for input in inputs {
                // An input that fails is the last one that is printed.
                println!("{}", input.display());
                target(&fs::read(&input).unwrap());
            }
        }
    }

    /// What comes of a server that sends bytes in this manner.
    fn outcome(protocol: Protocol, manner: u8, bytes: &[u8]) -> Outcome {
        let webhook = Webhook::new("w", "http://a.example/push".parse().unwrap());
        attempt(&webhook, protocol, async |far: DuplexStream| send(far, Manner::of(protocol, manner), bytes).await)
    }

    #[test]
    fn a_response_reaches_its_outcome_through_the_pipe() {
        let said = |bytes: &[u8]| outcome(Protocol::Http1, 2, bytes);
        assert_eq!(said(b"HTTP/1.1 204 No Content\r\n\r\n"), Outcome::Accepted { status: 204 });
        let refused = Outcome::ErrorResponse { status: 401, response: b"who?".to_vec(), headers: ResponseHeaders::default() };
        assert_eq!(said(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\nwho?"), refused);
        assert!(matches!(said(b"220 mail.example\r\n"), Outcome::NoResponse(NoResponse::Malformed(_))));
        // `:status: 204` is index 9 of the static table.
        let response = [0, 0, 1, 1, 5, 0, 0, 0, 1, 0x89];
        assert_eq!(outcome(Protocol::Http2, 0x1f, &response), Outcome::Accepted { status: 204 });
    }

    #[test]
    fn a_server_that_stays_silent_is_a_timeout_and_one_that_repeats_itself_for_ever_a_flood() {
        let why = |protocol, manner, bytes: &[u8]| match outcome(protocol, manner, bytes) {
            Outcome::NoResponse(why) => why.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(why(Protocol::Http1, 0x40, b"HTTP/1.1 100 Continue\r\n\r\n").starts_with("timeout"));
        assert!(why(Protocol::Http1, 0x20, b"HTTP/1.1 102 Processing\r\n\r\n").contains("1 MiB"));
        // PING, and an acknowledged one that nothing asked for.
        for flags in [0, 1] {
            assert!(why(Protocol::Http2, 0x20, &[0, 0, 8, 6, flags, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]).contains("1 MiB"), "{flags}");
        }
        assert!(why(Protocol::Http2, 0xc0, b"").starts_with("connect: "), "no SETTINGS");
    }
}
