//! The rows over HTTP/1.1.

use std::{io, time::Duration};

use tokio::{io::AsyncWriteExt, time::sleep};

use super::{
    Play,
    shared_rows::{self, Dialect},
    step::{Player, Step},
    wire::{End, Wire},
};
use crate::request::read_request;

/// A server's side of a connection.
struct Connection<'a>(&'a mut Wire);

/// How HTTP/1.1 says things.
struct Text;

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
        let step = step(play, requests).unwrap_or(Step::Last(Vec::new(), End::Never));
        if let Some(end) = step.play(&mut Connection(wire)).await? {
            return Ok(end);
        }
    }
    Ok(End::Close)
}

impl Player for Connection<'_> {
    fn wire(&mut self) -> &mut Wire {
        self.0
    }

    async fn answer(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    async fn wait(&mut self, time: Duration) -> io::Result<()> {
        sleep(time).await;
        Ok(())
    }

    async fn send_body(&mut self, status: &str, length: usize) -> io::Result<()> {
        if length == usize::MAX {
            self.answer(chunked(status).as_bytes()).await?;
            return self.0.flood(&format!("400\r\n{}\r\n", "x".repeat(1024)).repeat(16).into_bytes(), usize::MAX).await;
        }
        self.answer(format!("HTTP/1.1 {status} Said\r\nContent-Length: {length}\r\n\r\n").as_bytes()).await?;
        self.0.flood(&vec![b'x'; length], 1).await
    }
}

impl Dialect for Text {
    fn response(&self, status: &str, fields: &[(&str, &str)], body: &str) -> Vec<u8> {
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        response(status, &fields, body)
    }

    fn bodiless(&self, status: &str, fields: &[(&str, &str)]) -> Vec<u8> {
        self.response(status, fields, "")
    }

    fn interim(&self, status: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status} Soon\r\n\r\n").into_bytes()
    }

    fn broken_off(&self, status: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status} Said\r\nContent-Length: 1000\r\n\r\nnot all").into_bytes()
    }
}

/// A response of a status line, headers and a body, with the body's length.
fn response(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Said\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn chunked(status: &str) -> String {
    format!("HTTP/1.1 {status} Said\r\nTransfer-Encoding: chunked\r\n\r\n")
}

/// What the server does on a connection's n-th request. `None`: there is no such row.
fn step(play: &Play, request: usize) -> Option<Step> {
    let row = play.row.as_str();
    shared_rows::step(play, &Text, request).or_else(|| connection_or_headers(row)).or_else(|| length_or_body(row))
}

/// The tables *Connection*, and *Status line and headers*.
fn connection_or_headers(row: &str) -> Option<Step> {
    let answer = |text: &str| Step::Answer(text.into());
    let last = |text: &str, end| Step::Last(text.into(), end);
    Some(match row {
        "never-answers" => last("", End::Never),
        "closes-in-status" => last("HTTP/1.1 2", End::Close),
        "closes-after-status-line" => last("HTTP/1.1 200 OK\r\n", End::Close),
        "closes-in-headers" => last("HTTP/1.1 200 OK\r\nDate: today\r\nContent-Le", End::Close),
        "answers-and-closes" => Step::Last(response("200", "Connection: close\r\n", "ok"), End::Close),
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
        "space-before-colon" => Step::Answer(response("200", "Server : IIS\r\n", "ok")),
        "warning-in-headers" => Step::Answer(response("200", "PHP Warning in line 7\r\n", "ok")),
        "folded-header" => Step::Answer(response("200", "X-Folded: one\r\n  two\r\n", "ok")),
        "odd-header-of-an-error" => Step::Answer(response("500", "Server : IIS\r\n", "failed")),
        "100-then-nothing" => last("HTTP/1.1 100 Continue\r\n\r\n", End::Never),
        "status-101" => last("HTTP/1.1 101 Switching Protocols\r\nUpgrade: tea\r\nConnection: upgrade\r\n\r\n", End::Never),
        _ => return None,
    })
}

/// The tables *Length and body*, *Several messages* and *HTTP/2*, whose last row falls back.
fn length_or_body(row: &str) -> Option<Step> {
    let answer = |text: &str| Step::Answer(text.into());
    Some(match row {
        "bad-length" => answer("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"),
        "two-equal-lengths" => Step::Answer(response("200", "Content-Length: 2\r\n", "ok")),
        "two-different-lengths" => Step::Answer(response("200", "Content-Length: 1\r\n", "ok")),
        "length-and-chunked" => answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        "body-longer-than-length" => answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more"),
        "chunked-garbage" => Step::Answer((chunked("200") + "many\r\nok\r\n").into_bytes()),
        "chunked-garbage-of-an-error" => Step::Answer((chunked("500") + "many\r\nfailed\r\n").into_bytes()),
        "drips-error-body" => Step::Drip(b"HTTP/1.1 500 Failed\r\nContent-Length: 1000000\r\n\r\n".to_vec(), b"x".to_vec()),
        "204" => answer("HTTP/1.1 204 No Content\r\n\r\n"),
        "204-with-body" => Step::Answer(response("204", "", "hello")),
        "304-with-body" => Step::Answer(response("304", "", "hello")),
        "response-before-request-end" => Step::Last(Text.ok(), End::Never),
        "413-before-request-end" => Step::Last(response("413", "Connection: close\r\n", ""), End::Linger),
        "response-behind-the-end" => Step::Answer([Text.ok(), response("500", "", "")].concat()),
        "response-as-body-of-204" => {
            let body = String::from_utf8(response("500", "", "")).expect("it is ASCII");
            Step::Answer(response("204", "", &body))
        }
        "rst-http-1-1-required" => Step::Answer(Text.ok()),
        _ => return None,
    })
}
