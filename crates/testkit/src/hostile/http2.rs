//! A connection of HTTP/2 that plays a row, frame by frame.

use std::{collections::BTreeSet, io, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    time::{Instant, sleep, timeout_at},
};

use super::{
    Play,
    frames::{
        ACK, DATA, END_HEADERS, END_STREAM, FRAME, Frame, FrameReader, HEADERS, PING, SETTINGS, WINDOW_UPDATE, frame, section, setting,
    },
    http2_rows,
    step::{Player, Step},
    wire::{End, Wire},
};

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

pub(super) fn knows(play: &Play) -> bool {
    matches!(play.row.as_str(), "greets-at-once" | "speaks-http1" | "no-settings" | "stream-limit-0")
        || http2_rows::step(play, 1, 1, 1).is_some()
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
    /// The stream that is being answered.
    stream: u32,
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
        stream: 0,
        said_goaway: false,
    };
    while let Some(stream) = this.next_request().await? {
        this.requests += 1;
        let step = http2_rows::step(play, stream, this.requests, connection).unwrap_or(Step::Last(Vec::new(), End::Never));
        this.complete.remove(&stream);
        this.stream = stream;
        if let Some(end) = step.play(&mut this).await? {
            return Ok(end);
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

impl Player for Connection<'_> {
    fn wire(&mut self) -> &mut Wire {
        self.wire
    }

    async fn answer(&mut self, frames: &[u8]) -> io::Result<()> {
        self.open.remove(&self.stream);
        self.said_goaway |= self.play.row.starts_with("goaway-");
        send(self.wire, frames).await
    }

    /// Reads what comes meanwhile.
    async fn wait(&mut self, time: Duration) -> io::Result<()> {
        let until = Instant::now() + time;
        while let Ok(frame) = timeout_at(until, self.reader.next(self.wire)).await {
            match frame? {
                Some(frame) => self.take(frame).await?,
                None => sleep(until - Instant::now()).await,
            }
        }
        Ok(())
    }

    /// Sends as much as the client's windows permit, and reads what it permits more.
    async fn send_body(&mut self, status: &str, length: usize) -> io::Result<()> {
        let stream = self.stream;
        self.answer(&frame(HEADERS, END_HEADERS, stream, &section(status, &[]))).await?;
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
}
