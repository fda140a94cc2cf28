//! `pushline dead-letters list`, and what all commands about dead letters share: which ones they select, and how they ask the admin server of a
//! running process.

use std::time::SystemTime;

use anyhow::{Context, bail};
use axum::http::{Method, StatusCode};
use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pushline_model::{Cause, GroupId, Invalid, MessageId, Offset, Organisation, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    admin_client::{self, HostPort},
    stdout::print,
};

/// The response header with the offset of the next page.
pub(crate) const NEXT: &str = "pushline-next";
/// The response header with the end that the next page keeps to. Dead letters that are written meanwhile, such as those of a replay that fails
/// again, belong to no page.
pub(crate) const END: &str = "pushline-end";

/// The admin server's paths of the two logs: dead letters of groups, then packets that matched no group.
pub(crate) const LOGS: [&str; 2] = ["/dead-letters", "/unrouted"];

/// Which dead letters, of which process.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// The admin server of the running process, by address or host name
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9090")]
    admin: HostPort,
    /// Only dead letters of this group (organisation/name)
    #[arg(long, value_parser = read_group)]
    group: Option<String>,
    /// Only dead letters with this cause: error_response, no_response, blocked_address, unrouted, no_webhook, expired, unreadable, too_large
    #[arg(long)]
    cause: Option<Cause>,
    /// Only dead letters written at this time or later, such as 2026-01-31T00:00:00Z or 2026-01-31T09:00+09:00
    #[arg(long, value_name = "TIME", value_parser = read_time)]
    since: Option<Timestamp>,
    /// Only dead letters written before this time
    #[arg(long, value_name = "TIME", value_parser = read_time)]
    until: Option<Timestamp>,
    /// Only the dead letter of this message (msg_…)
    #[arg(long, value_name = "ID")]
    message_id: Option<MessageId>,
}

/// Which dead letters are listed, and how.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    selection: Selection,
    /// Print one JSON object per packet and line
    #[arg(long)]
    json: bool,
}

/// A packet of a dead letter, as the admin server and `--json` write it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PacketLine {
    pub(crate) time: String,
    pub(crate) org: String,
    pub(crate) group: String,
    pub(crate) webhook: Option<String>,
    pub(crate) message_id: Option<String>,
    /// The packet's place in its message, from 0.
    pub(crate) index: usize,
    pub(crate) cause: String,
    pub(crate) status: Option<u16>,
    /// The first bytes of the server's response.
    pub(crate) response: String,
    /// The response's header.
    #[serde(default)]
    pub(crate) location: Option<String>,
    /// The response's header.
    #[serde(default)]
    pub(crate) retry_after: Option<String>,
    pub(crate) attempts: Vec<AttemptLine>,
    pub(crate) iccid: String,
    pub(crate) topic: String,
    pub(crate) received_at: String,
    /// Base64 (RFC 4648 §4).
    pub(crate) payload: String,
    pub(crate) replayed: bool,
}

/// An attempt to send the packet's message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AttemptLine {
    pub(crate) time: String,
    pub(crate) seconds: f64,
    pub(crate) status: Option<u16>,
    /// The class, such as `tls`.
    pub(crate) no_response: Option<String>,
    /// What exactly went wrong, for people.
    pub(crate) cause: Option<String>,
}

/// Reads an RFC 3339 time with any offset; seconds may be missing.
///
/// # Errors
/// What would be right.
pub(crate) fn read_time(text: &str) -> Result<Timestamp, String> {
    let time = text.parse::<jiff::Timestamp>().and_then(SystemTime::try_from);
    let problem = |_| format!("{text:?} isn't a time with an offset: write 2026-01-31T00:00:00Z or 2026-01-31T09:00:00+09:00");
    time.map(Timestamp::of).map_err(problem)
}

/// Reads a group of dead letters: `organisation/name`, or `organisation/` for unrouted packets of that organisation.
///
/// # Errors
/// It can't be one.
pub(crate) fn read_group(text: &str) -> Result<String, Invalid> {
    if !text.strip_suffix('/').is_some_and(Organisation::is_valid) {
        text.parse::<GroupId>()?;
    }
    Ok(text.to_owned())
}

/// Lists dead letters, then unrouted packets, page by page.
pub(crate) async fn list(options: &List) -> anyhow::Result<()> {
    for log in LOGS {
        let mut start = Some(PageStart::default());
        while let Some(from) = start {
            let (page, next) = options.selection.ask(Method::GET, log, from).await?;
            for line in page.lines() {
                if options.json {
                    print(format_args!("{line}\n"))?;
                } else {
                    print_line(&serde_json::from_str(line).context("the admin server's response isn't a list of dead letters")?)?;
                }
            }
            start = next;
        }
    }
    Ok(())
}

/// Where a page starts, and the end of the last page where an earlier one named it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PageStart {
    from: Offset,
    below: Option<Offset>,
}

impl Selection {
    /// Whether it selects all dead letters.
    pub(crate) fn is_all(&self) -> bool {
        self.group.is_none() && self.cause.is_none() && self.since.is_none() && self.until.is_none() && self.message_id.is_none()
    }

    /// Requests one page. Returns its body, and the start of the next page.
    pub(crate) async fn ask(&self, method: Method, path: &str, start: PageStart) -> anyhow::Result<(String, Option<PageStart>)> {
        let filters = [
            ("group", self.group.clone()),
            ("cause", self.cause.map(|cause| cause.to_string())),
            ("since", self.since.map(|time| time.to_string())),
            ("until", self.until.map(|time| time.to_string())),
            ("message_id", self.message_id.map(|id| id.to_string())),
            ("all", self.is_all().then(|| "true".to_owned())),
            ("from", Some(start.from.to_string())),
            ("below", start.below.map(|below| below.to_string())),
        ];
        let encoded = |(name, value): (&str, Option<String>)| Some(format!("{name}={}", utf8_percent_encode(&value?, NON_ALPHANUMERIC)));
        let query: Vec<String> = filters.into_iter().filter_map(encoded).collect();
        let admin = &self.admin;
        let response = admin_client::request(admin, method, &format!("{path}?{}", query.join("&"))).await?;
        let status = response.status();
        let offset = |name| response.headers().get(name).and_then(|offset| offset.to_str().ok()?.parse().ok());
        let next = offset(NEXT).map(|from| PageStart { from, below: offset(END) });
        let body = response.into_body();
        if status != StatusCode::OK {
            bail!("the admin server at {admin} responded {status}: {}", body.trim());
        }
        Ok((body, next))
    }
}

fn print_line(line: &PacketLine) -> anyhow::Result<()> {
    let group = if line.group.is_empty() { &visible(&line.topic) } else { &format!("{}/{}", line.org, line.group) };
    let payload = base64_simd::STANDARD.decode_to_vec(&line.payload).context("a dead letter's payload isn't base64")?;
    let status = line.status.map_or(String::new(), |status| format!(" {status}"));
    let attempts = match line.attempts.len() {
        0 => String::new(),
        1 => " after 1 attempt".to_owned(),
        many => format!(" after {many} attempts"),
    };
    // It may quote what a server sent.
    let why =
        line.attempts.last().and_then(|attempt| attempt.cause.as_deref()).map_or(String::new(), |cause| format!(" ({})", visible(cause)));
    print(format_args!(
        "{}  {group}  {}{status}{attempts}{why}  {} received {}  {:?}\n",
        line.time,
        line.cause,
        line.iccid,
        line.received_at,
        String::from_utf8_lossy(&payload)
    ))
}

/// Escapes control characters: a topic is any device's text, and a terminal obeys them.
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
    fn a_time_has_any_offset_and_may_lack_seconds_but_not_the_offset() {
        let expected = Timestamp::parse("2026-01-31T00:00:00Z");
        for text in ["2026-01-31T00:00:00Z", "2026-01-31T09:00:00+09:00", "2026-01-31T09:00+09:00", "2026-01-30T19:00:00.000-05:00"] {
            assert_eq!(read_time(text).ok(), expected, "{text}");
        }
        for text in ["2026-01-31T09:00:00", "2026-01-31", "09:00Z", "2026-02-30T00:00:00Z", "yesterday", ""] {
            assert!(read_time(text).is_err_and(|problem| problem.contains("+09:00")), "{text}");
        }
    }
}
