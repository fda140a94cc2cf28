//! `GET /devices`, `GET /devices/refused` and `POST /devices/disconnect`: who is connected, who was refused and why.
//!
//! `/devices?after=…&limit=…` is a page of the connected clients in the order of their client ids: a JSON object a line. The next page begins behind the
//! last client id. `/devices/refused` has the last hundred refusals, the newest first. `/devices/disconnect?client_id=…` or `?user=…` disconnects.

use std::{borrow::Cow, net::IpAddr, net::SocketAddr};

use axum::{http::StatusCode, response::Response};
use percent_encoding::percent_decode_str;
use pushline_ingest::{Clients, Selection};
use serde::Serialize;

use super::response::text;

/// Clients of a page without `limit`, and at most.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;

/// A connected client.
#[derive(Serialize)]
struct DeviceLine<'a> {
    client_id: &'a str,
    user: Option<&'a str>,
    address: SocketAddr,
    since: String,
    last_seen: String,
}

/// A client that was refused or closed, once or several times for the same reason.
#[derive(Serialize)]
struct RefusedLine<'a> {
    client_id: &'a str,
    user: Option<&'a str>,
    address: IpAddr,
    reason: &'a str,
    topic: Option<&'a str>,
    detail: &'a str,
    first: String,
    last: String,
    times: u64,
}

/// Answers with a page of the connected clients.
pub(super) fn list(clients: &Clients, query: &str) -> Response {
    let page = || {
        let (mut after, mut limit) = (None, PAGE);
        for (name, value) in parameters(query)? {
            match name {
                "after" => after = Some(value),
                "limit" => limit = value.parse().map_err(|_| format!("limit={value} isn't a whole number"))?,
                _ => return Err(format!("unknown parameter {name:?}: there are after, limit")),
            }
        }
        Ok(clients.devices.page(after.as_deref(), limit.clamp(1, LARGEST_PAGE)))
    };
    match page() {
        Ok(devices) => lines(devices.iter().map(|device| DeviceLine {
            client_id: &device.client_id,
            user: device.user.as_deref(),
            address: device.address,
            since: device.since.to_string(),
            last_seen: device.last_seen.to_string(),
        })),
        Err(problem) => text(StatusCode::BAD_REQUEST, format!("{problem}\n")),
    }
}

/// Answers with the last refusals.
pub(super) fn refused(clients: &Clients) -> Response {
    lines(clients.refused.last().iter().map(|refusal| RefusedLine {
        client_id: &refusal.client_id,
        user: refusal.user.as_deref(),
        address: refusal.address,
        reason: refusal.reason.trim_start_matches("refused_"),
        topic: refusal.topic.as_deref(),
        detail: &refusal.detail,
        first: refusal.first.to_string(),
        last: refusal.last.to_string(),
        times: refusal.times,
    }))
}

/// Disconnects the clients that a query selects.
pub(super) fn disconnect(clients: &Clients, query: &str) -> Response {
    let selection = || match &parameters(query)?[..] {
        [("client_id", id)] => Ok(Selection::ClientId(id.clone().into_owned())),
        [("user", user)] => Ok(Selection::User(user.clone().into_owned())),
        _ => Err("expected client_id=… or user=…".to_owned()),
    };
    match selection() {
        Ok(selection) => text(StatusCode::OK, format!("disconnected {} clients\n", clients.devices.disconnect(&selection))),
        Err(problem) => text(StatusCode::BAD_REQUEST, format!("{problem}\n")),
    }
}

fn lines(items: impl Iterator<Item = impl Serialize>) -> Response {
    let mut body = Vec::new();
    for item in items {
        if let Err(error) = serde_json::to_writer(&mut body, &item) {
            return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"));
        }
        body.push(b'\n');
    }
    text(StatusCode::OK, body)
}

fn parameters(query: &str) -> Result<Vec<(&str, Cow<'_, str>)>, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} has no value; write name=value"))?;
            let value = percent_decode_str(value).decode_utf8().map_err(|_| format!("{value:?} isn't percent-encoded UTF-8"))?;
            Ok((name, value))
        })
        .collect()
}
