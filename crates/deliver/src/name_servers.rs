//! Whether the name servers of this machine answer at all: a lookup that failed is the name's fault only if they do.
//!
//! `getaddrinfo` gives one code for a name whose own servers fail and for a machine whose name servers are silent.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

/// Where the system's resolver reads its name servers (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How long all name servers have to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// As many as the system's resolver asks.
const MOST: usize = 3;

/// Asks for the name servers of the root, which every working name server knows (RFC 1035 §4.1): id, recursion desired, one question.
const QUERY: [u8; 17] = [0x70, 0x73, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// SERVFAIL: a server that can reach no other.
const SERVER_FAILURE: u8 = 2;

/// Blocks for at most three seconds. True too where the system's configuration can't be read.
pub(crate) fn answer() -> bool {
    fs::read_to_string(RESOLV_CONF).map_or(true, |text| any_answers(&configured(&text), PATIENCE))
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
    let deadline = Instant::now() + within;
    let each = within / u32::try_from(servers.len().max(1)).expect("at most three servers");
    servers.iter().any(|server| answers(*server, each.min(deadline.saturating_duration_since(Instant::now()))))
}

fn answers(server: SocketAddr, within: Duration) -> bool {
    let here: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let asked = || -> std::io::Result<bool> {
        let socket = UdpSocket::bind((here, 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(within.max(Duration::from_millis(1))))?;
        socket.send(&QUERY)?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer)?;
        Ok(length >= 12 && answer[..2] == QUERY[..2] && answer[3] & 0xf != SERVER_FAILURE)
    };
    asked().unwrap_or(false)
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
    fn name_servers_stand_where_the_system_has_them() {
        let text = "# one\nsearch example\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver 2001:db8::53 \nnameserver 192.0.2.54\noptions edns0";
        assert_eq!(configured(text), ["192.0.2.53:53", "[2001:db8::53]:53", "192.0.2.54:53"].map(|server| server.parse().unwrap()));
        assert_eq!(configured(""), ["127.0.0.1:53".parse().unwrap()]);
    }
}
