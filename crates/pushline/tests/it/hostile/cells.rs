//! Each cell of docs/hostile-receiver.md against a real process: all of them at once, with a webhook and a server each.

use std::{collections::HashMap, fmt::Write, fs, time::Duration};

use pushline_testkit::{CertificateAuthority, DeadLetterLine, Gateway, HostileProtocol, HostileServer, Pushline, folder};
use tokio::time::{Instant, sleep};

use super::table::{Cell, End, cells};
use crate::{BINARY, amount, group, packets, webhook};

/// Larger than what two sockets hold, in bytes.
const LARGE: usize = 6 << 20;

/// How long after its last attempt a connection may take to be gone.
const CLOSING: Duration = Duration::from_secs(10);

/// A cell with its server; one of the rows has none.
struct Played {
    name: String,
    cell: Cell,
    server: Option<HostileServer>,
}

#[tokio::test]
async fn each_cell_of_the_hostile_receivers_table_has_its_outcome_cause_and_number_of_attempts() {
    let (timeout, is_long) = (Duration::from_secs(amount(3, 90) as u64), amount(0, 1) == 1);
    let (dir, authority) = (folder(), CertificateAuthority::new());
    let ca_file = dir.path().join("authority.pem");
    fs::write(&ca_file, authority.pem()).unwrap();
    let delays = if is_long { "" } else { "retry_delays = [\"50ms\", \"100ms\"]\n" };
    let (mut played, mut webhooks, mut groups) = (Vec::new(), String::new(), String::new());
    for cell in cells(is_long) {
        let name = format!("{}.{}", cell.row, cell.protocol);
        let server = match cell.row.as_str() {
            "forbidden-address" => None,
            row => Some(HostileServer::start(row, cell.protocol, timeout, &authority).await),
        };
        let scheme = if cell.protocol.is_tls() { "https" } else { "http" };
        let url = server.as_ref().map_or_else(|| format!("{scheme}://[::ffff:169.254.169.254]/"), HostileServer::url);
        let mut options = format!("timeout = \"{}s\"\nmax_packets = 1\nmax_body_bytes = \"8MiB\"\n{delays}", timeout.as_secs());
        if !cell.at_once {
            options += "concurrency = 1\n";
        }
        if cell.protocol == HostileProtocol::Http2 {
            options += "http_version = \"2\"\n";
        }
        if cell.protocol.is_tls() && cell.row != "unknown-authority" {
            writeln!(options, "tls = {{ ca_file = {ca_file:?} }}").unwrap();
        }
        webhooks += &webhook(&name, &url, &options);
        groups += &group(&format!("o{}", played.len()), "g", &name);
        played.push(Played { name, cell, server });
    }
    let configuration = Pushline::configuration(&format!("[metrics]\nper_webhook = true\n{webhooks}{groups}"))
        .replace("[[mqtt.listeners]]\n", "[[mqtt.listeners]]\nmax_payload_bytes = \"8MiB\"\n");
    let pushline = Pushline::start(BINARY, dir.path(), &configuration).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    for (number, Played { cell, .. }) in played.iter().enumerate() {
        let body = if cell.is_large { LARGE } else { 10 };
        gateway.publish(&packets(&format!("o{number}/1"), (0..cell.messages).map(|_| vec![b'x'; body]))).await.unwrap();
    }
    let messages: usize = played.iter().map(|played| played.cell.messages).sum();
    until_settled(&pushline, messages, timeout).await;

    let dead_letters = pushline.dead_letters("dead-letters").await;
    let mut by_webhook: HashMap<&str, Vec<&DeadLetterLine>> = HashMap::new();
    for letter in &dead_letters {
        by_webhook.entry(letter.webhook.as_deref().unwrap_or_default()).or_default().push(letter);
    }
    let metrics = pushline.metrics().await;
    let mut wrong = Vec::new();
    for one in &played {
        let letters = by_webhook.remove(one.name.as_str()).unwrap_or_default();
        let label = format!("webhook=\"{}\"", one.name);
        let of_it = |key: &str| key.starts_with("pushline_webhook_attempts_total{") && key.contains(&label);
        let attempts: f64 = metrics.iter().filter(|(key, _)| of_it(key)).map(|(_, count)| count).sum();
        let faults = faults(one, &letters, attempts);
        wrong.extend(faults.into_iter().map(|fault| format!("{}: {fault}", one.name)));
    }
    wrong.extend(left_open(&played).await);
    assert!(wrong.is_empty(), "{} faults in {} cells:\n{}\n{}", wrong.len(), played.len(), wrong.join("\n"), pushline.log());
}

/// Waits until so many messages of one packet each have settled, for three timeouts and more.
async fn until_settled(pushline: &Pushline, messages: usize, timeout: Duration) {
    let deadline = Instant::now() + timeout * 3 + Duration::from_secs(120);
    loop {
        let delivered = pushline.metric("pushline_packets_delivered_total", "").await;
        let settled = delivered + pushline.metric("pushline_packets_dead_lettered_total", "").await;
        if settled == messages as f64 {
            return;
        }
        assert!(Instant::now() < deadline, "{settled} of {messages} messages have settled:\n{}", pushline.log());
        sleep(Duration::from_millis(200)).await;
    }
}

/// What isn't as the cell says.
fn faults(Played { cell, server, .. }: &Played, letters: &[&DeadLetterLine], attempts: f64) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |is_right: bool, fault: String| {
        if !is_right {
            faults.push(fault);
        }
    };
    let ends: Vec<End> = letters.iter().map(|letter| end_of(letter)).collect();
    let expected = if cell.end == End::Accepted { vec![] } else { vec![cell.end.clone(); cell.messages] };
    let causes: Vec<&String> = letters.iter().flat_map(|letter| &letter.no_responses).map(|(_, cause)| cause).collect();
    check(ends == expected, format!("{ends:?} instead of {:?}; {causes:?}", cell.end));
    check(attempts == cell.attempts as f64, format!("{attempts} attempts instead of {}; {causes:?}", cell.attempts));
    if ends == expected {
        let is_told = causes.iter().all(|cause| cause.contains(&cell.cause));
        check(is_told, format!("no cause {:?}: {causes:?}", cell.cause));
    }
    if matches!(cell.row.as_str(), "huge-error" | "error-body-without-end") {
        let kept: Vec<usize> = letters.iter().map(|letter| letter.response.len()).collect();
        check(kept == [2048], format!("the dead letter keeps {kept:?} bytes of the response"));
    }
    if let Some(server) = server {
        let (sent, (least, most)) = (server.requests(), cell.sent);
        check((least..=most).contains(&sent), format!("{sent} requests instead of {:?}", cell.sent));
        check(server.ids().len() <= cell.messages, format!("{} ids for {} messages", server.ids().len(), cell.messages));
        check(server.violations().is_empty(), format!("{:?}", server.violations()));
    }
    faults
}

/// How a message ended, and all its attempts without response.
fn end_of(letter: &DeadLetterLine) -> End {
    let mut classes: Vec<&str> = letter.no_responses.iter().map(|(class, _)| class.as_str()).collect();
    classes.dedup();
    match letter.cause.as_str() {
        "error_response" => End::Error(letter.status.unwrap_or_default()),
        "blocked_address" => End::Blocked,
        _ => End::NoResponse(classes.join(", ")),
    }
}

/// Servers to which connections are left that may not be.
async fn left_open(played: &[Played]) -> Vec<String> {
    let deadline = Instant::now() + CLOSING;
    loop {
        let open = connections_by_port();
        let too_many = played.iter().filter_map(|Played { name, cell, server }| {
            let permitted = match &cell.end {
                End::Accepted | End::Error(_) => cell.messages,
                // Only the stream may have failed, on a connection that is of use.
                End::NoResponse(class) if cell.protocol.is_http2() && matches!(class.as_str(), "connection_lost" | "malformed") => {
                    cell.attempts
                }
                End::NoResponse(_) | End::Blocked => 0,
            };
            let count = open.get(&server.as_ref()?.address().port()).copied().unwrap_or_default();
            (count > permitted).then(|| format!("{name}: {count} connections are left open"))
        });
        let too_many: Vec<String> = too_many.collect();
        if too_many.is_empty() || Instant::now() > deadline {
            return too_many;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// How many connections to each port this machine's clients have open (proc(5), `/proc/net/tcp`).
fn connections_by_port() -> HashMap<u16, usize> {
    let mut counts = HashMap::new();
    for line in fs::read_to_string("/proc/net/tcp").unwrap().lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (remote, state) = (fields[2], fields[3]);
        // ESTABLISHED, CLOSE_WAIT.
        if matches!(state, "01" | "08") {
            let port = remote.split_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok()).unwrap();
            *counts.entry(port).or_default() += 1;
        }
    }
    counts
}
