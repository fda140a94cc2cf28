//! Whether the name servers of this machine work: a lookup that failed is the name's fault only if they do.
//!
//! `getaddrinfo` gives one code for a name whose own servers fail, for a machine whose name servers are silent, and for one that they refuse to serve.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

/// Where the system's resolver reads its name servers (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How long all name servers have to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long they have to refuse a name that the system couldn't look up.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(1);

/// As many as the system's resolver asks.
const MOST: usize = 3;

/// Asks for the name servers of the root, which every working name server knows (RFC 1035 §4.1): id, recursion desired, one question.
const QUERY: [u8; 17] = [0x70, 0x73, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// The identifier of a query. The socket is connected, so no other server's answer arrives.
const ID: [u8; 2] = [QUERY[0], QUERY[1]];

/// SERVFAIL: a server that can reach no other.
const SERVER_FAILURE: u8 = 2;

/// FORMERR, NOTIMP, REFUSED: a server that looks up nothing for this machine.
const REFUSALS: [u8; 3] = [1, 4, 5];

/// Blocks for at most three seconds. True too where the system's configuration can't be read.
pub(crate) fn answer() -> bool {
    fs::read_to_string(RESOLV_CONF).map_or(true, |text| any_answers(&configured(&text), PATIENCE))
}

/// Whether the name servers refuse to look this name up, which is no fault of the name. Blocks for at most a second. False where the system's
/// configuration can't be read.
pub(crate) fn refuse(host: &str) -> bool {
    fs::read_to_string(RESOLV_CONF).is_ok_and(|text| all_refuse(&configured(&text), host, REFUSAL_PATIENCE))
}

/// The servers that the resolver asks; without any it asks one on this machine.
fn configured(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        // A zone (fe80::1%eth0) can't be dialled from here.
        words.next()?.parse::<IpAddr>().ok()
    };
    let mut servers: Vec<SocketAddr> = text.lines().filter_map(address).map(|address| SocketAddr::new(address, 53)).take(MOST).collect();
    if servers.is_empty() {
        servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53));
    }
    servers
}

fn any_answers(servers: &[SocketAddr], within: Duration) -> bool {
    ask_each(servers, &QUERY, within).any(|code| code.is_some_and(|code| code != SERVER_FAILURE))
}

/// One at least refuses, and none does anything else.
fn all_refuse(servers: &[SocketAddr], host: &str, within: Duration) -> bool {
    let Some(query) = query(host) else { return false };
    let mut answers = ask_each(servers, &query, within).flatten().peekable();
    answers.peek().is_some() && answers.all(|code| REFUSALS.contains(&code))
}

/// The response code of each server (RFC 1035 §4.1.1), asked one after the other. `None`: it didn't answer in time.
fn ask_each(servers: &[SocketAddr], query: &[u8], within: Duration) -> impl Iterator<Item = Option<u8>> {
    let deadline = Instant::now() + within;
    let each = within / u32::try_from(servers.len().max(1)).expect("at most three servers");
    servers.iter().map(move |server| ask(*server, query, each.min(deadline.saturating_duration_since(Instant::now()))).ok())
}

fn ask(server: SocketAddr, query: &[u8], within: Duration) -> io::Result<u8> {
    let here: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((here, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(within.max(Duration::from_millis(1))))?;
    socket.send(query)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    if length >= 12 && answer[..2] == ID { Ok(answer[3] & 0xf) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Asks for a name's IPv4 addresses (RFC 1035 §4.1.2). `None`: no query can hold the name.
fn query(host: &str) -> Option<Vec<u8>> {
    let mut query = QUERY[..12].to_vec();
    for label in host.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        query.push(length);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    Some(query)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A name server that answers one query with this code.
    fn server(code: u8) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut query = [0; 512];
            let (length, client) = socket.recv_from(&mut query).unwrap();
            (query[2], query[3]) = (0x81, 0x80 | code);
            socket.send_to(&query[..length], client).unwrap();
        });
        address
    }

    #[test]
    fn a_name_server_answers_unless_it_is_silent_or_reaches_no_other() {
        let within = Duration::from_secs(5);
        assert!(any_answers(&[server(0)], within));
        assert!(any_answers(&[server(5)], within), "one that refuses works");
        assert!(!any_answers(&[server(2)], within));
        assert!(any_answers(&[server(2), server(0)], within));
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(!any_answers(&[silent.local_addr().unwrap()], Duration::from_millis(20)));
    }

    #[test]
    fn name_servers_that_refuse_a_name_are_told_from_those_that_fail_for_it() {
        let within = Duration::from_secs(5);
        let refuse = |codes: &[u8]| all_refuse(&codes.iter().map(|code| server(*code)).collect::<Vec<_>>(), "a.example", within);
        assert!(refuse(&[5]) && refuse(&[4, 1]));
        assert!(!refuse(&[2]) && !refuse(&[3]) && !refuse(&[0]) && !refuse(&[5, 2]));
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let silent = silent.local_addr().unwrap();
        assert!(all_refuse(&[silent, server(5)], "a.example", Duration::from_millis(500)));
        assert!(!all_refuse(&[silent], "a.example", Duration::from_millis(20)), "the servers of the name may be silent, too");
        assert_eq!(query("a.bc.").unwrap()[12..], *b"\x01a\x02bc\x00\x00\x01\x00\x01");
        assert_eq!(query(&"x".repeat(64)), None);
    }

    #[test]
    fn name_servers_stand_where_the_system_has_them() {
        let text = "# one\nsearch example\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver 2001:db8::53 \nnameserver 192.0.2.54\noptions edns0";
        assert_eq!(configured(text), ["192.0.2.53:53", "[2001:db8::53]:53", "192.0.2.54:53"].map(|server| server.parse().unwrap()));
        assert_eq!(configured(""), ["127.0.0.1:53".parse().unwrap()]);
    }
}
