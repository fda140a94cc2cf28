//! `pushline dead-letters list`, and the admin address's side of it. Between them: one JSON object a packet and line, and a header that says
//! where the next page begins.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Empty, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    client::conn::http1,
    header::{HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use pushline_model::{Cause, Offset, Timestamp};
use pushline_queue::{DeadLetters, Filter, Found, Page};
use serde::Serialize;
use tokio::net::TcpStream;

use crate::{answer::text, print};

/// Messages in a page, if not told otherwise.
const PAGE: usize = 100;

/// The header that carries the offset of the next page, and the one with the end that the next page is to keep to: dead letters that are
/// written meanwhile, such as those of a replay that fails again, belong to no page.
const NEXT: &str = "pushline-next";
const END: &str = "pushline-end";

/// Which ones, of which process.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The admin address of the running process
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
    /// Of this group: organisation/name
    #[arg(long)]
    group: Option<String>,
    /// With this cause: error_response, no_response, blocked_address, unrouted, no_webhook, expired, unreadable
    #[arg(long)]
    cause: Option<Cause>,
    /// Written at this time (2026-01-31T00:00:00Z) or later
    #[arg(long, value_name = "TIME", value_parser = timestamp)]
    since: Option<Timestamp>,
    /// Written before this time
    #[arg(long, value_name = "TIME", value_parser = timestamp)]
    until: Option<Timestamp>,
    /// Of this message: msg_…
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
}

/// Which ones, and how.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    which: Which,
    /// One JSON object a packet and line
    #[arg(long)]
    json: bool,
}

/// A packet of a dead letter, as `--json` prints it.
#[derive(Debug, Serialize, serde::Deserialize)]
struct Line {
    time: String,
    org: String,
    group: String,
    webhook: Option<String>,
    message_id: Option<String>,
    index: usize,
    cause: String,
    status: Option<u16>,
    response: String,
    attempts: Vec<AttemptLine>,
    iccid: String,
    topic: String,
    received_at: String,
    /// Base64 (RFC 4648 §4).
    payload: String,
    replayed: bool,
}

#[derive(Debug, Serialize, serde::Deserialize)]
struct AttemptLine {
    time: String,
    seconds: f64,
    status: Option<u16>,
    /// The class, such as `tls`.
    no_response: Option<String>,
    /// What exactly went wrong, for people.
    cause: Option<String>,
}

fn timestamp(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| format!("{text:?} is no time such as 2026-01-31T00:00:00Z"))
}

// === the admin address's side ===

/// Answers `GET /dead-letters?group=…&cause=…&since=…&until=…&from=…&below=…&limit=…`.
pub(crate) async fn answer(log: &DeadLetters, query: &str) -> Response<Full<Bytes>> {
    let (filter, from, limit) = match read_query(query) {
        Ok(asked) => asked,
        Err(problem) => return text(StatusCode::BAD_REQUEST, format!("{problem}\n")),
    };
    let page = match log.list(&filter, from, limit).await {
        Ok(page) => page,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    };
    let mut body = Vec::new();
    for found in &page.found {
        for line in lines(found) {
            if let Err(error) = serde_json::to_writer(&mut body, &line) {
                return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"));
            }
            body.push(b'\n');
        }
    }
    page_of(body, &page)
}

/// A page, and where the next one begins and ends.
pub(crate) fn page_of(body: impl Into<Bytes>, page: &Page) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, body);
    let bounds = page.next.map(|next| [(NEXT, next), (END, page.end)]).into_iter().flatten();
    response.headers_mut().extend(bounds.map(|(name, offset)| (HeaderName::from_static(name), HeaderValue::from(offset))));
    response
}

/// The filter, where to begin, and how many.
pub(crate) fn read_query(query: &str) -> Result<(Filter, u64, usize), String> {
    let (mut filter, mut from, mut limit) = (Filter::default(), 0, PAGE);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} has no ="))?;
        let value = percent_decoded(value).ok_or_else(|| format!("{value:?} isn't percent-encoded UTF-8"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name}={value} is no whole number"));
        match name {
            "group" => filter.group = Some(value),
            "cause" => filter.cause = Some(value.parse().map_err(|invalid: pushline_model::Invalid| invalid.to_string())?),
            "since" => filter.since = Some(timestamp(&value)?),
            "until" => filter.until = Some(timestamp(&value)?),
            "message_id" => filter.message_id = Some(value),
            "from" => from = number()?,
            "below" => filter.below = Some(number()?),
            "limit" => limit = usize::try_from(number()?).unwrap_or(usize::MAX).clamp(1, 1000),
            _ => return Err(format!("{name:?} isn't known: group, cause, since, until, message_id, from, below, limit")),
        }
    }
    Ok((filter, from, limit))
}

fn percent_decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            rest = after;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn percent_encoded(text: &str) -> String {
    let byte = |byte: u8| {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(byte).collect()
}

fn lines(found: &Found) -> impl Iterator<Item = Line> {
    let letter = &found.dead_letter;
    let (org, group) = letter.group.split_once('/').unwrap_or((&letter.group, ""));
    letter.packets.iter().enumerate().map(move |(index, packet)| Line {
        time: letter.time.to_string(),
        org: org.to_owned(),
        group: group.to_owned(),
        webhook: letter.webhook.clone(),
        message_id: letter.message_id.clone(),
        index,
        cause: letter.cause.to_string(),
        status: letter.status,
        response: String::from_utf8_lossy(&letter.response).into_owned(),
        attempts: letter.attempts.iter().map(attempt).collect(),
        iccid: packet.iccid.clone(),
        topic: packet.topic.clone(),
        received_at: packet.received_at.to_string(),
        payload: base64_simd::STANDARD.encode_to_string(&packet.payload),
        replayed: found.replayed,
    })
}

fn attempt(attempt: &pushline_model::Attempt) -> AttemptLine {
    AttemptLine {
        time: attempt.at.to_string(),
        seconds: attempt.took.as_secs_f64(),
        status: attempt.status,
        no_response: attempt.no_response.as_ref().map(|why| why.name().to_owned()),
        cause: attempt.no_response.as_ref().map(|why| why.cause().to_owned()),
    }
}

// === the command ===

/// The logs, as the admin address names them: dead letters of groups, then what no group wanted.
pub(crate) const LOGS: [&str; 2] = ["/dead-letters", "/unrouted"];

/// Lists dead letters, then unrouted, page by page.
pub(crate) async fn list(options: &List) -> anyhow::Result<()> {
    for log in LOGS {
        let mut place = Some(Place::default());
        while let Some(here) = place {
            let (page, next) = options.which.ask(Method::GET, log, here).await?;
            for line in page.lines() {
                if options.json {
                    print(format_args!("{line}\n"))?;
                } else {
                    print_line(&serde_json::from_str(line).context("the process answered something else")?)?;
                }
            }
            place = next;
        }
    }
    Ok(())
}

/// A page's place: where it begins, and where it ends if the first one said so.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    from: Offset,
    below: Option<Offset>,
}

impl Which {
    /// Whether it names anything at all.
    pub(crate) fn is_all(&self) -> bool {
        self.group.is_none() && self.cause.is_none() && self.since.is_none() && self.until.is_none() && self.message_id.is_none()
    }

    /// One page of an answer, and the place of the next.
    pub(crate) async fn ask(&self, method: Method, path: &str, place: Place) -> anyhow::Result<(String, Option<Place>)> {
        let filters = [
            ("group", self.group.clone()),
            ("cause", self.cause.map(|cause| cause.to_string())),
            ("since", self.since.map(|time| time.to_string())),
            ("until", self.until.map(|time| time.to_string())),
            ("message_id", self.message_id.clone()),
            ("from", Some(place.from.to_string())),
            ("below", place.below.map(|below| below.to_string())),
        ];
        let query: Vec<String> =
            filters.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", percent_encoded(&value?)))).collect();
        let admin = self.admin;
        let stream = TcpStream::connect(admin).await.with_context(|| format!("can't reach a running Pushline at {admin} (--admin)"))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(format!("{path}?{}", query.join("&")));
        let response = sender.send_request(request.header("host", admin.to_string()).body(Empty::<Bytes>::new())?).await?;
        let status = response.status();
        let offset = |name| response.headers().get(name).and_then(|offset| offset.to_str().ok()?.parse().ok());
        let next = offset(NEXT).map(|from| Place { from, below: offset(END) });
        let body = String::from_utf8(response.into_body().collect().await?.to_bytes().into())?;
        connection.abort();
        if status != StatusCode::OK {
            bail!("{admin} answered {status}: {}", body.trim());
        }
        Ok((body, next))
    }
}

fn print_line(line: &Line) -> anyhow::Result<()> {
    let group = if line.group.is_empty() { &visible(&line.topic) } else { &format!("{}/{}", line.org, line.group) };
    let payload = base64_simd::STANDARD.decode_to_vec(&line.payload).unwrap_or_default();
    let status = line.status.map_or(String::new(), |status| format!(" {status}"));
    let tries = match line.attempts.len() {
        0 => String::new(),
        1 => " after 1 attempt".to_owned(),
        many => format!(" after {many} attempts"),
    };
    // It may quote what a server sent.
    let why =
        line.attempts.last().and_then(|attempt| attempt.cause.as_deref()).map_or(String::new(), |cause| format!(" ({})", visible(cause)));
    print(format_args!(
        "{}  {group}  {}{status}{tries}{why}  {} received {}  {:?}\n",
        line.time,
        line.cause,
        line.iccid,
        line.received_at,
        String::from_utf8_lossy(&payload)
    ))
}

/// A topic is any device's text, and a terminal obeys control characters.
fn visible(text: &str) -> String {
    let escaped = |character: char| character.escape_default().to_string();
    text.chars().map(|character| if character.is_control() { escaped(character) } else { character.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_moves_no_cursor() {
        assert_eq!(visible("mti/\u{1b}[2J\u{9b}2J\r\nline \"1\" é"), "mti/\\u{1b}[2J\\u{9b}2J\\r\\nline \"1\" é");
    }

    #[test]
    fn a_query_is_read_as_it_was_written() {
        let group = "mti/line 1 & more%";
        let (filter, from, limit) = read_query(&format!("group={}&cause=expired&from=7&limit=5", percent_encoded(group))).unwrap();
        assert_eq!((filter.group.as_deref(), filter.cause, from, limit), (Some(group), Some(Cause::Expired), 7, 5));
        for wrong in ["group", "colour=red", "cause=boredom", "since=yesterday", "from=x", "group=%4"] {
            assert!(read_query(wrong).is_err(), "{wrong}");
        }
    }
}
