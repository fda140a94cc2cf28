//! `GET /dead-letters` and `GET /unrouted`: pages of dead letters.
//!
//! `?group=…&cause=…&since=…&until=…&message_id=…` filter, `all=true` says that there is no filter. `from` and `below` bound the page by offsets,
//! `limit` by messages. The response has one JSON object a packet and line, and headers that say where the next page begins and ends.

use axum::{
    body::Body,
    http::{
        StatusCode,
        header::{HeaderName, HeaderValue},
    },
    response::Response,
};
use percent_encoding::percent_decode_str;
use pushline_model::{Invalid, MessageId};
use pushline_queue::{DeadLetters, Filter, Found, Page};

use super::response::text;
use crate::dead_letters::{AttemptLine, END, NEXT, PacketLine, read_group, read_time};

/// Messages of a page without `limit`.
const PAGE: usize = 100;

/// What a request selects.
#[derive(Debug, Default)]
pub(super) struct Query {
    pub(super) filter: Filter,
    /// `all=true`: no filter, on purpose.
    pub(super) all: bool,
    /// The first offset.
    pub(super) from: u64,
    /// The largest number of messages.
    pub(super) limit: usize,
}

/// Answers with a page.
pub(super) async fn list(log: &DeadLetters, query: &str) -> Response {
    let Query { filter, from, limit, .. } = match read_query(query) {
        Ok(read) => read,
        Err(problem) => return text(StatusCode::BAD_REQUEST, format!("{problem}\n")),
    };
    let page = match log.list(&filter, from, limit).await {
        Ok(page) => page,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", error.with_source())),
    };
    let mut body = Vec::new();
    for line in page.found.iter().flat_map(lines) {
        if let Err(error) = serde_json::to_writer(&mut body, &line) {
            return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"));
        }
        body.push(b'\n');
    }
    page_of(body, &page)
}

/// A page, and the bounds of the next one.
pub(super) fn page_of(body: impl Into<Body>, page: &Page) -> Response {
    let mut response = text(StatusCode::OK, body);
    let bounds = page.next.map(|next| [(NEXT, next), (END, page.end)]).into_iter().flatten();
    response.headers_mut().extend(bounds.map(|(name, offset)| (HeaderName::from_static(name), HeaderValue::from(offset))));
    response
}

/// Reads a query.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read_query(query: &str) -> Result<Query, String> {
    let mut read = Query { limit: PAGE, ..Query::default() };
    let filter = &mut read.filter;
    let mut names = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} has no value; write name=value"))?;
        if names.contains(&name) {
            return Err(format!("{name} is there twice: give it once"));
        }
        names.push(name);
        // A plus stands for itself, as in a time's offset.
        let value = percent_decode_str(value).decode_utf8().map_err(|_| format!("{value:?} isn't percent-encoded UTF-8"))?.into_owned();
        let number = || value.parse::<u64>().map_err(|_| format!("{name}={value} isn't a whole number"));
        match name {
            "group" => filter.group = Some(read_group(&value).map_err(|invalid| invalid.to_string())?),
            "cause" => filter.cause = Some(value.parse().map_err(|invalid: Invalid| invalid.to_string())?),
            "since" => filter.since = Some(read_time(&value)?),
            "until" => filter.until = Some(read_time(&value)?),
            "message_id" => {
                value.parse::<MessageId>().map_err(|invalid| invalid.to_string())?;
                filter.message_id = Some(value);
            }
            "all" if value == "true" => read.all = true,
            "all" => return Err(format!("all={value}: write all=true, or leave it out")),
            "from" => read.from = number()?,
            "below" => filter.below = Some(number()?),
            "limit" => read.limit = usize::try_from(number()?.clamp(1, 1000)).expect("a thousand fits"),
            _ => {
                return Err(format!(
                    "unknown parameter {name:?}: there are group, cause, since, until, message_id, all, from, below, limit"
                ));
            }
        }
    }
    if read.all && read.has_filter() {
        return Err("all=true is there beside a filter: give one of the two".to_owned());
    }
    Ok(read)
}

impl Query {
    /// Whether it selects less than all dead letters.
    pub(super) fn has_filter(&self) -> bool {
        self.filter != Filter { below: self.filter.below, ..Filter::default() }
    }
}

/// A line for each packet of a dead letter.
fn lines(found: &Found) -> impl Iterator<Item = PacketLine> {
    let dead_letter = &found.dead_letter;
    let (org, group) = dead_letter.group.split_once('/').unwrap_or((&dead_letter.group, ""));
    dead_letter.packets.iter().enumerate().map(move |(index, packet)| PacketLine {
        time: dead_letter.time.to_string(),
        org: org.to_owned(),
        group: group.to_owned(),
        webhook: dead_letter.webhook.clone(),
        message_id: dead_letter.message_id.clone(),
        index,
        cause: dead_letter.cause.to_string(),
        status: dead_letter.status,
        response: String::from_utf8_lossy(&dead_letter.response).into_owned(),
        location: dead_letter.headers.location.as_deref().map(str::to_owned),
        retry_after: dead_letter.headers.retry_after.as_deref().map(str::to_owned),
        attempts: dead_letter.attempts.iter().map(attempt).collect(),
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

#[cfg(test)]
mod tests {
    use pushline_model::{Cause, Timestamp};

    use super::*;

    #[test]
    fn a_query_is_read_as_it_was_written() {
        let Query { filter, from, limit, .. } = read_query("group=mti/line%201%20%23%40&cause=expired&from=7&limit=5").unwrap();
        assert_eq!((filter.group.as_deref(), filter.cause, from, limit), (Some("mti/line 1 #@"), Some(Cause::Expired), 7, 5));
        for time in ["2026-01-31T09:00:00%2B09:00", "2026-01-31T09:00:00+09:00", "2026-01-31T00:00:00Z"] {
            let filter = read_query(&format!("since={time}")).unwrap().filter;
            assert_eq!(filter.since, Timestamp::parse("2026-01-31T00:00:00Z"), "{time}");
        }
        let limit = |query| read_query(query).unwrap().limit;
        assert_eq!((limit("limit=0"), limit("limit=18446744073709551615")), (1, 1000));
        // Unrouted packets of an organisation belong to no group of it.
        assert_eq!(read_query("group=mti/").unwrap().filter.group.as_deref(), Some("mti/"));
    }

    #[test]
    fn a_query_that_cannot_be_meant_is_refused_with_what_would_be_right() {
        for (wrong, says) in [
            ("group", "name=value"),
            ("colour=red", "there are group, cause,"),
            ("cause=boredom", "there are error_response, no_response, blocked_address, unrouted, no_webhook, expired, unreadable"),
            ("since=yesterday", "+09:00"),
            ("from=x", "whole number"),
            ("group=%ff", "UTF-8"),
            ("group=x", "organisation/name"),
            ("group=", "organisation/name"),
            ("group=mti/a%26b", "1 to 20 letters"),
            ("message_id=x", "msg_ and 22"),
            ("cause=expired&cause=unrouted", "cause is there twice"),
            ("group=mti/a&group=mti/a", "group is there twice"),
            ("all=yes", "all=true"),
            ("all=true&cause=expired", "give one of the two"),
        ] {
            let problem = read_query(wrong).expect_err(wrong);
            assert!(problem.contains(says), "{wrong}: {problem}");
        }
    }
}
