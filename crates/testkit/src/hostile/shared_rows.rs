//! The rows that mean the same over HTTP/1.1 and HTTP/2: only their bytes differ.

use super::{Play, step::Step, wire::End};

/// How a protocol says what these rows say.
pub(super) trait Dialect {
    /// A whole response.
    fn response(&self, status: &str, fields: &[(&str, &str)], body: &str) -> Vec<u8>;

    /// A whole response without a body.
    fn bodiless(&self, status: &str, fields: &[(&str, &str)]) -> Vec<u8>;

    /// An interim response.
    fn interim(&self, status: &str) -> Vec<u8>;

    /// A response that breaks off in its body.
    fn broken_off(&self, status: &str) -> Vec<u8>;

    fn ok(&self) -> Vec<u8> {
        self.response("200", &[], "ok")
    }
}

/// What the server does on a connection's n-th request. `None`: the row isn't one of these.
pub(super) fn step(play: &Play, said: &impl Dialect, request: usize) -> Option<Step> {
    connection(play, said).or_else(|| response(play, said)).or_else(|| several_messages(play, said, request)).or_else(|| tls(play, said))
}

fn connection(play: &Play, said: &impl Dialect) -> Option<Step> {
    Some(match play.row.as_str() {
        "never-reads" => Step::Last(Vec::new(), End::Deaf),
        "answers-late" => Step::After(play.timeout / 3, said.ok()),
        "answers-too-late" => Step::After(play.timeout * 4 / 3, said.ok()),
        "closes-before-status" => Step::Last(Vec::new(), End::Close),
        "closes-in-body" => Step::Last(said.broken_off("200"), End::Close),
        "closes-in-error-body" => Step::Last(said.broken_off("500"), End::Close),
        "resets-after-reading" => Step::Last(Vec::new(), End::Reset),
        _ => return None,
    })
}

fn response(play: &Play, said: &impl Dialect) -> Option<Step> {
    Some(match play.row.as_str() {
        "status-099" => Step::Answer(said.bodiless("099", &[])),
        "status-999" => Step::Answer(said.bodiless("999", &[])),
        "non-ascii-name" => Step::Answer(said.bodiless("200", &[("x-größe", "1")])),
        "nul-in-header" => Step::Answer(said.bodiless("200", &[("x-odd", "a\0b")])),
        "upper-case-name" => Step::Answer(said.bodiless("200", &[("X-UPPER", "1")])),
        "connection-header" => Step::Answer(said.bodiless("200", &[("connection", "keep-alive")])),
        "103-then-200" => Step::Answer([said.interim("103"), said.ok()].concat()),
        "informational-flood" => Step::Flood(Vec::new(), said.interim("102").repeat(100), usize::MAX),
        "body-without-end" => Step::Body("200", usize::MAX),
        "error-body-without-end" => Step::Body("500", usize::MAX),
        "huge-error" => Step::Body("500", 10_000_000),
        "413-and-never-reads" => Step::Last(said.bodiless("413", &[]), End::Deaf),
        "301-to-private" => {
            let scheme = if play.protocol.is_tls() { "https" } else { "http" };
            Step::Answer(said.bodiless("301", &[("location", &format!("{scheme}://{}/private", play.address))]))
        }
        "307-to-itself" => Step::Answer(said.bodiless("307", &[("location", "/push")])),
        "429" => Step::Answer(said.bodiless("429", &[("retry-after", "3600")])),
        status @ ("400" | "401" | "404" | "410" | "413" | "500" | "503") => Step::Answer(said.response(status, &[], "no")),
        _ => return None,
    })
}

fn several_messages(play: &Play, said: &impl Dialect, request: usize) -> Option<Step> {
    Some(match play.row.as_str() {
        "closes-on-second-request" if request > 1 => Step::Last(Vec::new(), End::Close),
        "resets-on-second-request" if request > 1 => Step::Last(Vec::new(), End::Reset),
        "closes-on-second-request" | "resets-on-second-request" => Step::Answer(said.ok()),
        "closes-behind-response" => Step::Last(said.ok(), End::Close),
        _ => return None,
    })
}

fn tls(play: &Play, said: &impl Dialect) -> Option<Step> {
    Some(match play.row.as_str() {
        "garbage-record" => Step::Raw(b"\x17\x03\x03\0\x200123456789abcdef0123456789abcdef"),
        "no-close-notify" => Step::Last(said.ok(), End::Abrupt),
        "no-close-notify-before-status" => Step::Last(Vec::new(), End::Abrupt),
        _ => return None,
    })
}
