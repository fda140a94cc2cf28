//! The rows that only HTTP/2 has, or plays in a way of its own.

use std::time::Duration;

use super::{
    Play,
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, FRAME, HEADERS, PING, PRIORITY, PUSH_PROMISE, SETTINGS, WINDOW_UPDATE, frame,
        frame_header, goaway, integer, lines, reset, section, text,
    },
    shared_rows::{self, Dialect},
    step::Step,
    wire::End,
};

/// How long the server that takes one stream at a time takes for it.
const BUSY: Duration = Duration::from_millis(100);

const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

/// The names of RFC 9113 §7 in its order, as the rows are named.
const RESETS: [&str; 14] = [
    "rst-no-error",
    "rst-protocol-error",
    "rst-internal-error",
    "rst-flow-control-error",
    "rst-settings-timeout",
    "rst-stream-closed",
    "rst-frame-size-error",
    "rst-refused-stream",
    "rst-cancel",
    "rst-compression-error",
    "rst-connect-error",
    "rst-enhance-your-calm",
    "rst-inadequate-security",
    "rst-http-1-1-required",
];

/// How HTTP/2 says things on this stream.
struct Frames(u32);

impl Dialect for Frames {
    /// The body comes in one frame.
    fn response(&self, status: &str, fields: &[(&str, &str)], body: &str) -> Vec<u8> {
        [frame(HEADERS, END_HEADERS, self.0, &lines_of(status, fields)), frame(DATA, END_STREAM, self.0, body.as_bytes())].concat()
    }

    fn bodiless(&self, status: &str, fields: &[(&str, &str)]) -> Vec<u8> {
        self.headers(&lines_of(status, fields))
    }

    fn interim(&self, status: &str) -> Vec<u8> {
        self.begun(status)
    }

    fn broken_off(&self, status: &str) -> Vec<u8> {
        [self.begun(status), frame(DATA, 0, self.0, b"not all")].concat()
    }
}

impl Frames {
    /// A response of which more is to come.
    fn begun(&self, status: &str) -> Vec<u8> {
        frame(HEADERS, END_HEADERS, self.0, &section(status, &[]))
    }

    /// A header section that goes on in CONTINUATION frames.
    fn unfinished(&self, bytes: &[u8]) -> Vec<u8> {
        frame(HEADERS, END_STREAM, self.0, bytes)
    }

    /// A header section that is all of a response.
    fn headers(&self, bytes: &[u8]) -> Vec<u8> {
        frame(HEADERS, END_HEADERS | END_STREAM, self.0, bytes)
    }
}

fn lines_of(status: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let fields: Vec<(&[u8], &[u8])> = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    section(status, &fields)
}

/// What the server does on a connection's n-th request. `None`: there is no such row.
pub(super) fn step(play: &Play, stream: u32, request: usize, connection: usize) -> Option<Step> {
    let said = Frames(stream);
    if let Some(code) = RESETS.iter().position(|row| *row == play.row) {
        let code = u32::try_from(code).expect("there are fourteen");
        return Some(Step::Answer(reset(stream, code)));
    }
    let row = play.row.as_str();
    shared_rows::step(play, &said, request)
        .or_else(|| connection_or_headers(row, &said))
        .or_else(|| length_or_body(row, &said))
        .or_else(|| streams(row, &said, request, connection))
        .or_else(|| floods(row, &said))
        .or_else(|| frames(row, &said))
}

/// The tables *Connection*, and *Status line and headers*.
fn connection_or_headers(row: &str, said: &Frames) -> Option<Step> {
    let stream = said.0;
    Some(match row {
        "never-answers" | "never-a-window-update" | "window-zero" => Step::Answer(Vec::new()),
        "closes-in-status" => Step::Last(said.begun("200")[..10].to_vec(), End::Close),
        "closes-after-status-line" => Step::Last(said.unfinished(&section("200", &[])), End::Close),
        "closes-in-headers" => {
            let more = frame(CONTINUATION, END_HEADERS, stream, &lines(&[(b"x-more", b"and more")]));
            Step::Last([said.unfinished(&section("200", &[])), more[..14].to_vec()].concat(), End::Close)
        }
        "answers-and-closes" => Step::Last([said.ok(), goaway(stream, 0)].concat(), End::Close),
        "drips-headers" => {
            Step::Drip([frame_header(HEADERS, END_HEADERS | END_STREAM, stream, FRAME), section("200", &[])].concat(), b"\x40".to_vec())
        }
        "headers-without-end" => {
            let more = lines(&[(b"x-more".as_slice(), b"and more and more and more".as_slice()); 100]);
            Step::Flood(said.unfinished(&section("200", &[])), frame(CONTINUATION, 0, stream, &more), usize::MAX)
        }
        "gigabyte-of-headers" => {
            // A literal whose value is a gigabyte long.
            let begin = [section("200", &[]), vec![0], text(b"x-large"), integer(0, 7, 1 << 30)].concat();
            Step::Flood(said.unfinished(&begin), frame(CONTINUATION, 0, stream, &[b'x'; FRAME]), 64 << 10)
        }
        "not-http" => Step::Last(b"220 mail.example ESMTP ready\r\n".to_vec(), End::Never),
        "bad-status-line" => Step::Answer(said.bodiless("2x0", &[])),
        "no-status" => Step::Answer(said.headers(&lines(&[(b"server", b"odd")]))),
        "100-then-nothing" => Step::Answer(said.begun("100")),
        "status-101" => Step::Answer(said.begun("101")),
        _ => return None,
    })
}

/// The table *Length and body*.
fn length_or_body(row: &str, said: &Frames) -> Option<Step> {
    let stream = said.0;
    Some(match row {
        "bad-length" => Step::Answer(said.bodiless("200", &[("content-length", "many")])),
        "two-equal-lengths" => Step::Answer(said.response("200", &[("content-length", "2"), ("content-length", "2")], "ok")),
        "two-different-lengths" => Step::Answer(said.response("200", &[("content-length", "2"), ("content-length", "1")], "ok")),
        "body-longer-than-length" => Step::Answer(said.response("200", &[("content-length", "2")], "ok and more")),
        "drips-error-body" => Step::Drip(said.begun("500"), frame(DATA, 0, stream, b"x")),
        "204" => Step::Answer(said.bodiless("204", &[])),
        "204-with-body" => Step::Answer(said.response("204", &[("content-length", "5")], "hello")),
        "304-with-body" => Step::Answer(said.response("304", &[("content-length", "5")], "hello")),
        // RFC 9113 §8.1: a complete response before the request's end, and NO_ERROR.
        "response-before-request-end" => Step::Answer([said.ok(), reset(stream, 0)].concat()),
        "413-before-request-end" => Step::Last([said.bodiless("413", &[]), reset(stream, 0), goaway(stream, 0)].concat(), End::Linger),
        _ => return None,
    })
}

/// Of the table *HTTP/2*: what becomes of streams.
fn streams(row: &str, said: &Frames, request: usize, connection: usize) -> Option<Step> {
    let stream = said.0;
    Some(match row {
        "stream-limit-1" => Step::After(BUSY, said.ok()),
        "goaway-unprocessed" => Step::Answer(goaway(0, 0)),
        "goaway-unprocessed-once" if connection == 1 => Step::Answer(goaway(0, 0)),
        "rst-refused-stream-once" if request == 1 && connection == 1 => Step::Answer(reset(stream, REFUSED_STREAM)),
        "goaway-unprocessed-once" | "rst-refused-stream-once" => Step::Answer(said.ok()),
        "goaway-processed" => Step::Answer([goaway(stream, 0), said.ok()].concat()),
        "goaway-processed-closes" => Step::Last(goaway(stream, 0), End::Close),
        "goaway-calm" => Step::Last(goaway(stream, ENHANCE_YOUR_CALM), End::Close),
        "rst-after-status" => Step::Answer([said.begun("200"), reset(stream, 2)].concat()),
        _ => return None,
    })
}

/// Of the table *HTTP/2*: frames without end.
fn floods(row: &str, said: &Frames) -> Option<Step> {
    let stream = said.0;
    Some(match row {
        "settings-flood" => Step::Flood(Vec::new(), frame(SETTINGS, 0, 0, &[]).repeat(100), usize::MAX),
        "ping-flood" => Step::Flood(Vec::new(), frame(PING, 0, 0, &[7; 8]).repeat(100), usize::MAX),
        "window-update-flood" => {
            let update = frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes());
            let priority = frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 15]);
            Step::Flood(Vec::new(), [update, priority].concat().repeat(100), usize::MAX)
        }
        "continuation-flood" => {
            Step::Flood(said.unfinished(&section("200", &[])), frame(CONTINUATION, 0, stream, &[]).repeat(100), usize::MAX)
        }
        "empty-data-flood" => Step::Flood(said.begun("200"), frame(DATA, 0, stream, &[]).repeat(100), usize::MAX),
        "overruns-window" => Step::Flood(said.begun("200"), frame(DATA, 0, stream, &[b'x'; FRAME]), 1024),
        _ => return None,
    })
}

/// Of the table *HTTP/2*: frames that no client expects.
fn frames(row: &str, said: &Frames) -> Option<Step> {
    let stream = said.0;
    Some(match row {
        "header-table-bomb" => {
            // The first line puts an entry into the table (RFC 7541 §6.2.1), at index 62; the others refer to it.
            let entry = [vec![0x40], text(b"x"), text(&[b'x'; 3000])].concat();
            Step::Answer(said.headers(&[section("200", &[]), entry, vec![0x80 | 62; 10_000]].concat()))
        }
        // RFC 7541 §6.3.
        "table-size-bomb" => Step::Answer(said.headers(&[integer(0x20, 5, 1 << 24), section("200", &[])].concat())),
        // Index 0 means nothing (RFC 7541 §6.1).
        "broken-compression" => Step::Answer(said.headers(&[section("200", &[]), vec![0x80; 8]].concat())),
        "frame-too-large" => Step::Flood(frame_header(DATA, 0, stream, 0xff_ffff), vec![b'x'; FRAME], 1024),
        "pushes" => {
            // `:method: GET`, `:scheme: https`, `:path: /` of the static table.
            let promised = [2u32.to_be_bytes().as_slice(), &[0x82, 0x87, 0x84]].concat();
            Step::Last(frame(PUSH_PROMISE, END_HEADERS, stream, &promised), End::Never)
        }
        "answers-another-stream" => Step::Last(Frames(stream + 2).bodiless("200", &[]), End::Never),
        "data-before-headers" => Step::Last([frame(DATA, 0, stream, b"ok"), said.ok()].concat(), End::Never),
        _ => return None,
    })
}
