//! The rows over HTTP/1.1.

use std::{io, time::Duration};

use tokio::{io::AsyncWriteExt, time::sleep};

use super::{
    Play,
    wire::{End, Wire},
};
use crate::request::read_request;

/// How often a server that drips sends a byte.
const DRIP: Duration = Duration::from_millis(50);

/// What the server does when it has read a request.
enum Step {
    /// Sends this, and reads the next request.
    Answer(Vec<u8>),
    /// Sends this, and ends the connection.
    Last(Vec<u8>, End),
    /// Does this first.
    After(Duration, Vec<u8>),
    /// Sends the first, then the second as often as that until the client closes.
    Flood(Vec<u8>, Vec<u8>, usize),
    /// Sends the first, then the second for ever, now and then.
    Drip(Vec<u8>, Vec<u8>),
    /// Sends bytes below TLS.
    Raw(&'static [u8]),
}

pub(super) fn knows(play: &Play) -> bool {
    matches!(play.row.as_str(), "greets-at-once" | "speaks-http1") || step(play, 1).is_some()
}

/// Plays a row until its end.
pub(super) async fn play(wire: &mut Wire, play: &Play) -> io::Result<End> {
    match play.row.as_str() {
        "greets-at-once" => wire.write_all(b"220 mail.example ESMTP ready\r\n").await?,
        "speaks-http1" => {
            wire.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await?;
            return Ok(End::Linger);
        }
        _ => {}
    }
    let mut requests = 0;
    let with_body = !play.answers_before_body();
    while let Some((id, _)) = read_request(wire, with_body).await? {
        requests += 1;
        play.seen.request(Some(id));
        match step(play, requests).unwrap_or(Step::Last(Vec::new(), End::Never)) {
            Step::Answer(bytes) => send(wire, &bytes).await?,
            Step::Last(bytes, end) => {
                send(wire, &bytes).await?;
                return Ok(end);
            }
            Step::After(wait, bytes) => {
                sleep(wait).await;
                send(wire, &bytes).await?;
            }
            Step::Flood(first, more, times) => {
                send(wire, &first).await?;
                wire.flood(&more, times).await?;
                return Ok(End::Close);
            }
            Step::Drip(first, more) => {
                send(wire, &first).await?;
                wire.drip(&more, DRIP).await?;
                return Ok(End::Close);
            }
            Step::Raw(bytes) => {
                wire.tcp().try_write(bytes)?;
                return Ok(End::Never);
            }
        }
    }
    Ok(End::Close)
}

async fn send(wire: &mut Wire, bytes: &[u8]) -> io::Result<()> {
    wire.write_all(bytes).await?;
    wire.flush().await
}

/// A response of a status line, headers and a body, with the body's length.
fn response(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Said\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn ok() -> Vec<u8> {
    response("200", "", "ok")
}

/// What the server does on a connection's n-th request. `None`: there is no such row.
fn step(play: &Play, request: usize) -> Option<Step> {
    let answer = |text: &str| Step::Answer(text.into());
    let last = |text: &str, end| Step::Last(text.into(), end);
    let chunked = |status: &str| format!("HTTP/1.1 {status} Said\r\nTransfer-Encoding: chunked\r\n\r\n");
    let a_chunk = || format!("400\r\n{}\r\n", "x".repeat(1024)).repeat(16).into_bytes();
    Some(match play.row.as_str() {
        // Connection
        "never-answers" => last("", End::Never),
        "never-reads" => last("", End::Deaf),
        "answers-late" => Step::After(play.timeout / 3, ok()),
        "answers-too-late" => Step::After(play.timeout * 4 / 3, ok()),
        "closes-before-status" => last("", End::Close),
        "closes-in-status" => last("HTTP/1.1 2", End::Close),
        "closes-after-status-line" => last("HTTP/1.1 200 OK\r\n", End::Close),
        "closes-in-headers" => last("HTTP/1.1 200 OK\r\nDate: today\r\nContent-Le", End::Close),
        "closes-in-body" => last("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nnot all", End::Close),
        "closes-in-error-body" => last("HTTP/1.1 500 Failed\r\nContent-Length: 1000\r\n\r\nnot all", End::Close),
        "resets-after-reading" => last("", End::Reset),
        "answers-and-closes" => Step::Last(response("200", "Connection: close\r\n", "ok"), End::Close),
        // Status line and headers
        "drips-headers" => Step::Drip(b"HTTP/1.1 200 OK\r\nX-Slow: ".to_vec(), b"x".to_vec()),
        "headers-without-end" => {
            Step::Flood(b"HTTP/1.1 200 OK\r\n".to_vec(), b"X-More: and more and more and more\r\n".repeat(100), usize::MAX)
        }
        "gigabyte-of-headers" => Step::Flood(b"HTTP/1.1 200 OK\r\nX-Large: ".to_vec(), vec![b'x'; 64 << 10], 16 << 10),
        "not-http" => answer("220 mail.example ESMTP ready\r\n"),
        "http-0.9" => last("<html><body>ok</body></html>\n", End::Close),
        "http-1.0" => last("HTTP/1.0 200 OK\r\n\r\nok", End::Close),
        "bad-status-line" => answer("HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n"),
        "no-status" => answer("Content-Length: 0\r\n\r\n"),
        "status-099" => Step::Answer(response("099", "", "")),
        "status-999" => Step::Answer(response("999", "", "")),
        "space-before-colon" => Step::Answer(response("200", "Server : IIS\r\n", "ok")),
        "warning-in-headers" => Step::Answer(response("200", "PHP Warning in line 7\r\n", "ok")),
        "folded-header" => Step::Answer(response("200", "X-Folded: one\r\n  two\r\n", "ok")),
        "non-ascii-name" => Step::Answer(response("200", "X-Größe: 1\r\n", "ok")),
        "odd-header-of-an-error" => Step::Answer(response("500", "Server : IIS\r\n", "failed")),
        "nul-in-header" => Step::Answer(response("200", "X-Odd: a\0b\r\n", "ok")),
        "upper-case-name" => Step::Answer(response("200", "X-UPPER: 1\r\n", "ok")),
        "connection-header" => Step::Answer(response("200", "Connection: keep-alive\r\n", "ok")),
        "100-then-nothing" => last("HTTP/1.1 100 Continue\r\n\r\n", End::Never),
        "103-then-200" => Step::Answer([b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".to_vec(), ok()].concat()),
        "informational-flood" => Step::Flood(Vec::new(), b"HTTP/1.1 102 Processing\r\n\r\n".repeat(100), usize::MAX),
        "status-101" => last("HTTP/1.1 101 Switching Protocols\r\nUpgrade: tea\r\nConnection: upgrade\r\n\r\n", End::Never),
        // Length and body
        "bad-length" => answer("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"),
        "two-equal-lengths" => Step::Answer(response("200", "Content-Length: 2\r\n", "ok")),
        "two-different-lengths" => Step::Answer(response("200", "Content-Length: 1\r\n", "ok")),
        "length-and-chunked" => answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        "body-longer-than-length" => answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more"),
        "chunked-garbage" => Step::Answer((chunked("200") + "many\r\nok\r\n").into_bytes()),
        "chunked-garbage-of-an-error" => Step::Answer((chunked("500") + "many\r\nfailed\r\n").into_bytes()),
        "body-without-end" => Step::Flood(chunked("200").into_bytes(), a_chunk(), usize::MAX),
        "error-body-without-end" => Step::Flood(chunked("500").into_bytes(), a_chunk(), usize::MAX),
        "drips-error-body" => Step::Drip(b"HTTP/1.1 500 Failed\r\nContent-Length: 1000000\r\n\r\n".to_vec(), b"x".to_vec()),
        "huge-error" => Step::Flood(b"HTTP/1.1 500 Failed\r\nContent-Length: 10000000\r\n\r\n".to_vec(), vec![b'x'; 10_000_000], 1),
        "204" => answer("HTTP/1.1 204 No Content\r\n\r\n"),
        "204-with-body" => Step::Answer(response("204", "", "hello")),
        "304-with-body" => Step::Answer(response("304", "", "hello")),
        "response-before-request-end" => Step::Last(ok(), End::Never),
        "413-before-request-end" => Step::Last(response("413", "Connection: close\r\n", ""), End::Linger),
        "413-and-never-reads" => Step::Last(response("413", "", ""), End::Deaf),
        // Statuses
        "301-to-private" => Step::Answer(response("301", &format!("Location: http://{}/private\r\n", play.address), "")),
        "307-to-itself" => Step::Answer(response("307", "Location: /push\r\n", "")),
        "429" => Step::Answer(response("429", "Retry-After: 3600\r\n", "")),
        status @ ("400" | "401" | "404" | "410" | "413" | "500" | "503") => Step::Answer(response(status, "", "no")),
        // Several messages
        "closes-on-second-request" if request > 1 => last("", End::Close),
        "resets-on-second-request" if request > 1 => last("", End::Reset),
        "closes-on-second-request" | "resets-on-second-request" => Step::Answer(ok()),
        "closes-behind-response" => Step::Last(ok(), End::Close),
        "response-behind-the-end" => Step::Answer([ok(), response("500", "", "")].concat()),
        "response-as-body-of-204" => {
            let body = String::from_utf8(response("500", "", "")).expect("it is ASCII");
            Step::Answer(response("204", "", &body))
        }
        // HTTP/2 that falls back, and TLS
        "rst-http-1-1-required" => Step::Answer(ok()),
        "garbage-record" => Step::Raw(b"\x17\x03\x03\0\x200123456789abcdef0123456789abcdef"),
        "no-close-notify" => Step::Last(ok(), End::Abrupt),
        "no-close-notify-before-status" => last("", End::Abrupt),
        _ => return None,
    })
}
