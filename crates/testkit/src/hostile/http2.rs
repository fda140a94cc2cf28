//! The rows over HTTP/2, frame by frame.

use std::{collections::BTreeSet, io, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    time::{Instant, sleep, timeout_at},
};

use super::{
    Play,
    frames::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, FrameReader, HEADERS, PING, PRIORITY, PUSH_PROMISE, SETTINGS,
        WINDOW_UPDATE, frame, frame_header, goaway, integer, lines, reset, section, setting, text,
    },
    wire::{End, Wire},
};

/// How often a server that drips sends a byte.
const DRIP: Duration = Duration::from_millis(50);

/// How long the server that takes one stream at a time takes for it.
const BUSY: Duration = Duration::from_millis(100);

/// The largest frame that any client takes (RFC 9113 §4.2).
const FRAME: usize = 16 << 10;

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

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

/// What the server does when it has read a request.
enum Step {
    /// Sends these frames, and takes the next request.
    Answer(Vec<u8>),
    /// Sends these frames, and ends the connection.
    Last(Vec<u8>, End),
    /// Waits, then sends these frames.
    After(Duration, Vec<u8>),
    /// Sends the first, then the second as often as that until the client closes.
    Flood(Vec<u8>, Vec<u8>, usize),
    /// Sends the first, then the second for ever, now and then.
    Drip(Vec<u8>, Vec<u8>),
    /// Sends a status and a body of this many bytes, as fast as the client's windows permit.
    Body(&'static str, usize),
    /// Sends bytes below TLS.
    Raw(&'static [u8]),
}

pub(super) fn knows(play: &Play) -> bool {
    matches!(play.row.as_str(), "greets-at-once" | "speaks-http1" | "no-settings" | "stream-limit-0") || step(play, 1, 1, 1).is_some()
}

/// A connection: what it has read, and what the client permits.
struct Connection<'a> {
    wire: &'a mut Wire,
    play: &'a Play,
    reader: FrameReader,
    /// Streams that have begun and have no response yet.
    open: BTreeSet<u32>,
    /// Those of them whose request is complete.
    complete: BTreeSet<u32>,
    /// What the client takes on the connection, and on its one stream.
    windows: [i64; 2],
    /// The window of a new stream.
    initial_window: i64,
    requests: usize,
    said_goaway: bool,
}

/// Plays a row until its end.
pub(super) async fn play(wire: &mut Wire, play: &Play, connection: usize) -> io::Result<End> {
    let row = play.row.as_str();
    let mut reader = FrameReader::default();
    if row == "greets-at-once" {
        send(wire, b"220 mail.example ESMTP ready\r\n").await?;
        return Ok(End::Never);
    }
    if !reader.preface(wire).await? {
        return Ok(End::Close);
    }
    let settings = match row {
        "no-settings" => return Ok(End::Never),
        "stream-limit-0" => setting(MAX_CONCURRENT_STREAMS, 0),
        "stream-limit-1" => setting(MAX_CONCURRENT_STREAMS, 1),
        "window-zero" => setting(INITIAL_WINDOW_SIZE, 0),
        _ => Vec::new(),
    };
    send(wire, &frame(SETTINGS, 0, 0, &settings)).await?;
    let mut this = Connection {
        wire,
        play,
        reader,
        open: BTreeSet::new(),
        complete: BTreeSet::new(),
        windows: [65_535, 65_535],
        initial_window: 65_535,
        requests: 0,
        said_goaway: false,
    };
    while let Some(stream) = this.next_request().await? {
        this.requests += 1;
        let step = step(play, stream, this.requests, connection).unwrap_or(Step::Last(Vec::new(), End::Never));
        this.complete.remove(&stream);
        match step {
            Step::Answer(frames) => this.answer(stream, &frames).await?,
            Step::Last(frames, end) => {
                this.answer(stream, &frames).await?;
                return Ok(end);
            }
            Step::After(wait, frames) => {
                this.read_for(wait).await?;
                this.answer(stream, &frames).await?;
            }
            Step::Flood(first, more, times) => {
                this.answer(stream, &first).await?;
                this.wire.flood(&more, times).await?;
                return Ok(End::Close);
            }
            Step::Drip(first, more) => {
                this.answer(stream, &first).await?;
                this.wire.drip(&more, DRIP).await?;
                return Ok(End::Close);
            }
            Step::Body(status, length) => {
                this.answer(stream, &frame(HEADERS, END_HEADERS, stream, &section(status, &[]))).await?;
                this.send_body(stream, length).await?;
            }
            Step::Raw(bytes) => {
                this.wire.tcp().try_write(bytes)?;
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

impl Connection<'_> {
    /// The stream of the next request to be answered; `None` at the end of the connection.
    async fn next_request(&mut self) -> io::Result<Option<u32>> {
        let at_headers = self.play.answers_before_body();
        loop {
            let ready = if at_headers { &self.open } else { &self.complete };
            if let Some(stream) = ready.first() {
                return Ok(Some(*stream));
            }
            let Some(frame) = self.reader.next(self.wire).await? else { return Ok(None) };
            self.take(frame).await?;
        }
    }

    /// Reads what comes, for this long.
    async fn read_for(&mut self, time: Duration) -> io::Result<()> {
        let until = Instant::now() + time;
        while let Ok(frame) = timeout_at(until, self.reader.next(self.wire)).await {
            match frame? {
                Some(frame) => self.take(frame).await?,
                None => sleep(until - Instant::now()).await,
            }
        }
        Ok(())
    }

    async fn answer(&mut self, stream: u32, frames: &[u8]) -> io::Result<()> {
        self.open.remove(&stream);
        self.said_goaway |= self.play.row.starts_with("goaway-");
        send(self.wire, frames).await
    }

    /// Sends as much as the client's windows permit, and reads what it permits more.
    async fn send_body(&mut self, stream: u32, length: usize) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let permitted = usize::try_from(self.windows[0].min(self.windows[1])).unwrap_or(0);
            let next = left.min(FRAME).min(permitted);
            if next == 0 {
                let Some(frame) = self.reader.next(self.wire).await? else { return Ok(()) };
                self.take(frame).await?;
                continue;
            }
            left -= next;
            self.windows.iter_mut().for_each(|window| *window -= i64::try_from(next).expect("a frame is small"));
            let flags = if left == 0 { END_STREAM } else { 0 };
            send(self.wire, &frame(DATA, flags, stream, &vec![b'x'; next])).await?;
        }
        Ok(())
    }

    /// Takes note of a frame, and answers what must be answered.
    async fn take(&mut self, read: Frame) -> io::Result<()> {
        match read.kind {
            HEADERS => self.begin(&read),
            SETTINGS if !read.has(ACK) => {
                self.learn(&read.payload);
                send(self.wire, &frame(SETTINGS, ACK, 0, &[])).await?;
            }
            PING if !read.has(ACK) => send(self.wire, &frame(PING, ACK, 0, &read.payload)).await?,
            WINDOW_UPDATE => {
                let more = read.payload.first_chunk().map_or(0, |four| i64::from(u32::from_be_bytes(*four)));
                self.windows[usize::from(read.stream > 0)] += more;
            }
            DATA if !read.payload.is_empty() && self.play.row != "never-a-window-update" => {
                let more = u32::try_from(read.payload.len()).expect("a frame is small").to_be_bytes();
                let mut updates = frame(WINDOW_UPDATE, 0, 0, &more);
                if !read.has(END_STREAM) {
                    updates.extend(frame(WINDOW_UPDATE, 0, read.stream, &more));
                }
                send(self.wire, &updates).await?;
            }
            _ => {}
        }
        if matches!(read.kind, HEADERS | DATA) && read.has(END_STREAM) {
            self.complete.insert(read.stream);
        }
        Ok(())
    }

    fn begin(&mut self, headers: &Frame) {
        self.play.seen.request(None);
        self.windows[1] = self.initial_window;
        if self.said_goaway {
            self.play.seen.violation(format!("stream {} began after GOAWAY", headers.stream));
        }
        self.open.insert(headers.stream);
        if self.play.row == "stream-limit-1" && self.open.len() > 1 {
            self.play.seen.violation(format!("streams {:?} are open, and one is permitted", self.open));
        }
    }

    fn learn(&mut self, settings: &[u8]) {
        for one in settings.as_chunks::<6>().0 {
            if u16::from_be_bytes([one[0], one[1]]) == INITIAL_WINDOW_SIZE {
                self.initial_window = i64::from(u32::from_be_bytes([one[2], one[3], one[4], one[5]]));
            }
        }
    }
}

/// A response without a body.
fn status(stream: u32, status: &str, fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &section(status, fields))
}

/// A response with a body in one frame.
fn response(stream: u32, status: &str, fields: &[(&[u8], &[u8])], body: &str) -> Vec<u8> {
    [frame(HEADERS, END_HEADERS, stream, &section(status, fields)), frame(DATA, END_STREAM, stream, body.as_bytes())].concat()
}

/// What the server does on a connection's n-th request. `None`: there is no such row.
#[expect(clippy::too_many_lines, reason = "it is the table, a line for each row")]
fn step(play: &Play, stream: u32, request: usize, connection: usize) -> Option<Step> {
    let ok = || response(stream, "200", &[], "ok");
    let begun = |status: &str| frame(HEADERS, END_HEADERS, stream, &section(status, &[]));
    // A header section that goes on in CONTINUATION frames.
    let unfinished = |bytes: &[u8]| frame(HEADERS, END_STREAM, stream, bytes);
    let headers = |bytes: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, stream, bytes);
    let with = |name: &[u8], value: &[u8]| Step::Answer(status(stream, "200", &[(name, value)]));
    if let Some(code) = RESETS.iter().position(|row| *row == play.row) {
        let code = u32::try_from(code).expect("there are fourteen");
        return Some(Step::Answer(reset(stream, code)));
    }
    Some(match play.row.as_str() {
        // Connection
        "never-answers" | "never-a-window-update" | "window-zero" => Step::Answer(Vec::new()),
        "never-reads" => Step::Last(Vec::new(), End::Deaf),
        "answers-late" => Step::After(play.timeout / 3, ok()),
        "answers-too-late" => Step::After(play.timeout * 4 / 3, ok()),
        "closes-before-status" => Step::Last(Vec::new(), End::Close),
        "closes-in-status" => Step::Last(begun("200")[..10].to_vec(), End::Close),
        "closes-after-status-line" => Step::Last(unfinished(&section("200", &[])), End::Close),
        "closes-in-headers" => {
            let more = frame(CONTINUATION, END_HEADERS, stream, &lines(&[(b"x-more", b"and more")]));
            Step::Last([unfinished(&section("200", &[])), more[..14].to_vec()].concat(), End::Close)
        }
        "closes-in-body" => Step::Last([begun("200"), frame(DATA, 0, stream, b"not all")].concat(), End::Close),
        "closes-in-error-body" => Step::Last([begun("500"), frame(DATA, 0, stream, b"not all")].concat(), End::Close),
        "resets-after-reading" => Step::Last(Vec::new(), End::Reset),
        "answers-and-closes" => Step::Last([ok(), goaway(stream, 0)].concat(), End::Close),
        // Status line and headers
        "drips-headers" => {
            Step::Drip([frame_header(HEADERS, END_HEADERS | END_STREAM, stream, FRAME), section("200", &[])].concat(), b"\x40".to_vec())
        }
        "headers-without-end" => {
            let more = lines(&[(b"x-more".as_slice(), b"and more and more and more".as_slice()); 100]);
            Step::Flood(unfinished(&section("200", &[])), frame(CONTINUATION, 0, stream, &more), usize::MAX)
        }
        "gigabyte-of-headers" => {
            // A literal whose value is a gigabyte long.
            let begin = [section("200", &[]), vec![0], text(b"x-large"), integer(0, 7, 1 << 30)].concat();
            Step::Flood(unfinished(&begin), frame(CONTINUATION, 0, stream, &[b'x'; FRAME]), 64 << 10)
        }
        "not-http" => Step::Last(b"220 mail.example ESMTP ready\r\n".to_vec(), End::Never),
        "bad-status-line" => Step::Answer(status(stream, "2x0", &[])),
        "no-status" => Step::Answer(headers(&lines(&[(b"server", b"odd")]))),
        "status-099" => Step::Answer(status(stream, "099", &[])),
        "status-999" => Step::Answer(status(stream, "999", &[])),
        "non-ascii-name" => with("x-größe".as_bytes(), b"1"),
        "nul-in-header" => with(b"x-odd", b"a\0b"),
        "upper-case-name" => with(b"X-UPPER", b"1"),
        "connection-header" => with(b"connection", b"keep-alive"),
        "100-then-nothing" => Step::Answer(begun("100")),
        "103-then-200" => Step::Answer([begun("103"), ok()].concat()),
        "informational-flood" => Step::Flood(Vec::new(), begun("102").repeat(100), usize::MAX),
        "status-101" => Step::Answer(begun("101")),
        // Length and body
        "bad-length" => with(b"content-length", b"many"),
        "two-equal-lengths" => Step::Answer(response(stream, "200", &[(b"content-length", b"2"), (b"content-length", b"2")], "ok")),
        "two-different-lengths" => Step::Answer(response(stream, "200", &[(b"content-length", b"2"), (b"content-length", b"1")], "ok")),
        "body-longer-than-length" => Step::Answer(response(stream, "200", &[(b"content-length", b"2")], "ok and more")),
        "body-without-end" => Step::Body("200", usize::MAX),
        "error-body-without-end" => Step::Body("500", usize::MAX),
        "drips-error-body" => Step::Drip(begun("500"), frame(DATA, 0, stream, b"x")),
        "huge-error" => Step::Body("500", 10_000_000),
        "204" => Step::Answer(status(stream, "204", &[])),
        "204-with-body" => Step::Answer(response(stream, "204", &[(b"content-length", b"5")], "hello")),
        "304-with-body" => Step::Answer(response(stream, "304", &[(b"content-length", b"5")], "hello")),
        // RFC 9113 §8.1: a complete response before the request's end, and NO_ERROR.
        "response-before-request-end" => Step::Answer([ok(), reset(stream, 0)].concat()),
        "413-before-request-end" => Step::Last([status(stream, "413", &[]), reset(stream, 0), goaway(stream, 0)].concat(), End::Linger),
        "413-and-never-reads" => Step::Last(status(stream, "413", &[]), End::Deaf),
        // Statuses
        "301-to-private" => {
            let scheme = if play.protocol.is_tls() { "https" } else { "http" };
            let location = format!("{scheme}://{}/private", play.address);
            Step::Answer(status(stream, "301", &[(b"location", location.as_bytes())]))
        }
        "307-to-itself" => Step::Answer(status(stream, "307", &[(b"location", b"/push")])),
        "429" => Step::Answer(status(stream, "429", &[(b"retry-after", b"3600")])),
        code @ ("400" | "401" | "404" | "410" | "413" | "500" | "503") => Step::Answer(response(stream, code, &[], "no")),
        // Several messages
        "closes-on-second-request" if request > 1 => Step::Last(Vec::new(), End::Close),
        "resets-on-second-request" if request > 1 => Step::Last(Vec::new(), End::Reset),
        "closes-on-second-request" | "resets-on-second-request" => Step::Answer(ok()),
        "closes-behind-response" => Step::Last(ok(), End::Close),
        "stream-limit-1" => Step::After(BUSY, ok()),
        // HTTP/2
        "goaway-unprocessed" => Step::Answer(goaway(0, 0)),
        "goaway-unprocessed-once" if connection == 1 => Step::Answer(goaway(0, 0)),
        "rst-refused-stream-once" if request == 1 && connection == 1 => Step::Answer(reset(stream, REFUSED_STREAM)),
        "goaway-unprocessed-once" | "rst-refused-stream-once" => Step::Answer(ok()),
        "goaway-processed" => Step::Answer([goaway(stream, 0), ok()].concat()),
        "goaway-processed-closes" => Step::Last(goaway(stream, 0), End::Close),
        "goaway-calm" => Step::Last(goaway(stream, ENHANCE_YOUR_CALM), End::Close),
        "rst-after-status" => Step::Answer([begun("200"), reset(stream, 2)].concat()),
        "settings-flood" => Step::Flood(Vec::new(), frame(SETTINGS, 0, 0, &[]).repeat(100), usize::MAX),
        "ping-flood" => Step::Flood(Vec::new(), frame(PING, 0, 0, &[7; 8]).repeat(100), usize::MAX),
        "window-update-flood" => {
            let update = frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes());
            let priority = frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 15]);
            Step::Flood(Vec::new(), [update, priority].concat().repeat(100), usize::MAX)
        }
        "continuation-flood" => Step::Flood(unfinished(&section("200", &[])), frame(CONTINUATION, 0, stream, &[]).repeat(100), usize::MAX),
        "header-table-bomb" => {
            // The first line puts an entry into the table (RFC 7541 §6.2.1), at index 62; the others refer to it.
            let entry = [vec![0x40], text(b"x"), text(&[b'x'; 3000])].concat();
            Step::Answer(headers(&[section("200", &[]), entry, vec![0x80 | 62; 10_000]].concat()))
        }
        // RFC 7541 §6.3.
        "table-size-bomb" => Step::Answer(headers(&[integer(0x20, 5, 1 << 24), section("200", &[])].concat())),
        // Index 0 means nothing (RFC 7541 §6.1).
        "broken-compression" => Step::Answer(headers(&[section("200", &[]), vec![0x80; 8]].concat())),
        "frame-too-large" => Step::Flood(frame_header(DATA, 0, stream, 0xff_ffff), vec![b'x'; FRAME], 1024),
        "pushes" => {
            // `:method: GET`, `:scheme: https`, `:path: /` of the static table.
            let promised = [2u32.to_be_bytes().as_slice(), &[0x82, 0x87, 0x84]].concat();
            Step::Last(frame(PUSH_PROMISE, END_HEADERS, stream, &promised), End::Never)
        }
        "answers-another-stream" => Step::Last(status(stream + 2, "200", &[]), End::Never),
        "data-before-headers" => Step::Last([frame(DATA, 0, stream, b"ok"), ok()].concat(), End::Never),
        "empty-data-flood" => Step::Flood(begun("200"), frame(DATA, 0, stream, &[]).repeat(100), usize::MAX),
        "overruns-window" => Step::Flood(begun("200"), frame(DATA, 0, stream, &[b'x'; FRAME]), 1024),
        // TLS
        "garbage-record" => Step::Raw(b"\x17\x03\x03\0\x200123456789abcdef0123456789abcdef"),
        "no-close-notify" => Step::Last(ok(), End::Abrupt),
        "no-close-notify-before-status" => Step::Last(Vec::new(), End::Abrupt),
        _ => return None,
    })
}
