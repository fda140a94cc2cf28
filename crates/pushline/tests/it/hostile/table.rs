//! The tables of docs/hostile-receiver.md, read from the page itself.

use std::collections::BTreeSet;

use pushline_testkit::HostileProtocol;

const PAGE: &str = include_str!("../../../../../docs/hostile-receiver.md");

/// A cell of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) row: String,
    pub(super) protocol: HostileProtocol,
    pub(super) messages: usize,
    pub(super) at_once: bool,
    /// What the server does has a large body.
    pub(super) is_large: bool,
    pub(super) end: End,
    pub(super) attempts: usize,
    /// How many requests the server gets: at least, and at most.
    pub(super) sent: (usize, usize),
    /// Words of the cause.
    pub(super) cause: String,
}

/// How each message of a cell ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Accepted,
    Error(u64),
    /// With its class.
    NoResponse(String),
    Blocked,
}

/// The section with the rows that end otherwise in the long form.
const LONG_FORM: &str = "With the real timeout";

/// All cells that aren't empty, of the long form or of the ordinary one.
pub(super) fn cells(is_long: bool) -> Vec<Cell> {
    let (mut cells, mut in_place, mut section) = (Vec::new(), Vec::new(), "");
    let (mut reasons, mut used) = (BTreeSet::new(), BTreeSet::new());
    for line in PAGE.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title;
        }
        let columns: Vec<&str> = line.trim_matches('|').split(" |").map(str::trim).collect();
        if section == "Empty cells" && columns.len() == 2 && columns[0].len() == 1 {
            reasons.insert(columns[0]);
        }
        let [name, server, outcomes @ .., cause] = &columns[..] else { continue };
        if let (Some(row), Ok(outcomes)) = (name.strip_prefix('`'), <&[&str; 4]>::try_from(outcomes)) {
            for (protocol, text) in HostileProtocol::ALL.into_iter().zip(outcomes) {
                match text.strip_prefix('–') {
                    Some(reason) => drop(used.insert(reason)),
                    None => {
                        let cell = cell(section, row.trim_end_matches('`'), server, protocol, text, cause);
                        if section == LONG_FORM { &mut in_place } else { &mut cells }.push(cell);
                    }
                }
            }
        }
    }
    assert_eq!(used, reasons, "each empty cell has a reason, and each reason is needed");
    for cell in in_place {
        let replaced = cells.iter_mut().find(|other| other.row == cell.row && other.protocol == cell.protocol);
        let replaced = replaced.unwrap_or_else(|| panic!("{} stands only under {LONG_FORM}", cell.row));
        if is_long {
            *replaced = cell;
        }
    }
    cells
}

fn cell(section: &str, row: &str, server: &str, protocol: HostileProtocol, text: &str, cause: &str) -> Cell {
    let messages = if section.starts_with("Four messages") { 4 } else { 1 };
    let (outcome, sent) = text.split_once(" (").map_or((text, None), |(outcome, sent)| (outcome, sent.strip_suffix(" sent)")));
    let (end, attempts) = outcome.split_once(", ").unwrap_or_else(|| panic!("{row}: no number of attempts in {text:?}"));
    let attempts = attempts.parse().unwrap_or_else(|_| panic!("{row}: {text:?}"));
    let end = match end {
        "accepted" => End::Accepted,
        "blocked" => End::Blocked,
        "timeout" | "connect" | "tls" | "connection_lost" | "malformed" => End::NoResponse(end.to_owned()),
        error => {
            End::Error(error.strip_prefix("error ").and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{row}: {text:?}")))
        }
    };
    let never_comes = matches!(&end, End::Blocked) || matches!(&end, End::NoResponse(class) if class == "connect" || class == "tls");
    let sent = match sent {
        None if never_comes => (0, 0),
        None => (attempts, attempts),
        Some(sent) => {
            let number: usize = sent.trim_end_matches('+').parse().unwrap_or_else(|_| panic!("{row}: {text:?}"));
            (number, if sent.ends_with('+') { usize::MAX } else { number })
        }
    };
    let cause = cause.split(" / ").nth(usize::from(protocol.is_http2())).unwrap_or(cause).to_owned();
    let (is_large, at_once) = (server.contains("large body") || server.contains("body is large"), section.ends_with("at once"));
    let is_large = is_large || server.contains("a body of 1 MiB");
    Cell { row: row.to_owned(), protocol, messages, at_once, is_large, end, attempts, sent, cause }
}

#[test]
fn a_cell_of_the_page_is_read_as_the_page_explains_it() {
    let cells = cells(false);
    let find = |row: &str, protocol| cells.iter().find(|cell| cell.row == row && cell.protocol == protocol);
    let lost = find("rst-refused-stream", HostileProtocol::Http2).unwrap();
    assert_eq!((lost.end.clone(), lost.attempts, lost.sent), (End::NoResponse("connection_lost".into()), 3, (12, 12)));
    assert_eq!(lost.cause, "REFUSED_STREAM");
    let refused = find("refuses", HostileProtocol::Http1Tls).unwrap();
    assert_eq!((refused.attempts, refused.sent), (3, (0, 0)));
    let behind = find("response-behind-the-end", HostileProtocol::Http1).unwrap();
    assert_eq!((behind.end.clone(), behind.messages, behind.sent), (End::Accepted, 4, (4, usize::MAX)));
    assert_eq!(find("not-http", HostileProtocol::Http1).unwrap().cause, "begins with");
    assert_eq!(find("not-http", HostileProtocol::Http2).unwrap().cause, "HTTP/2");
    assert!(find("never-reads", HostileProtocol::Http2Tls).unwrap().is_large);
    assert!(find("wrong-name", HostileProtocol::Http1).is_none());
    let of_never_reads = |is_long| {
        let cells = self::cells(is_long);
        cells.iter().filter(|cell| cell.row == "never-reads" && cell.is_large).map(|cell| cell.end.clone()).collect::<Vec<_>>()
    };
    let [timeout, lost] = ["timeout", "connection_lost"].map(|class| End::NoResponse(class.into()));
    assert_eq!(of_never_reads(false), vec![timeout.clone(); 4]);
    assert_eq!(of_never_reads(true), [timeout.clone(), timeout, lost.clone(), lost]);
}
