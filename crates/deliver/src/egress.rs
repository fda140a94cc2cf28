//! The egress guard: which addresses may be dialled. Customers name the hosts, and must not reach the operator's own network.
//! The sender asks it for each address right before it dials that address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The addresses that may be dialled: all public ones, and the ranges that the operator lists.
#[derive(Debug, Clone, Default)]
pub struct Egress {
    allow: Vec<IpNet>,
}

/// The ranges of IANA's IPv4 special-purpose registry that hold no public address.
const BLOCKED_V4: [(Ipv4Addr, u8); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// The ranges of IANA's IPv6 special-purpose registry that hold no public address. Of forms that embed an IPv4 address, that address is checked.
const BLOCKED_V6: [(Ipv6Addr, u8); 10] = [
    (Ipv6Addr::UNSPECIFIED, 128),
    (Ipv6Addr::LOCALHOST, 128),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

impl Egress {
    /// With the ranges that the operator lists.
    #[must_use]
    pub fn new(allow: Vec<IpNet>) -> Self {
        Self { allow }
    }

    /// Whether an address may be dialled.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        self.is_allowed(address)
            || match address {
                IpAddr::V4(v4) => !is_blocked_v4(v4),
                IpAddr::V6(v6) => !is_blocked_v6(v6) && embedded_v4(v6).into_iter().flatten().all(|v4| self.permits(v4.into())),
            }
    }

    fn is_allowed(&self, address: IpAddr) -> bool {
        self.allow.iter().any(|range| range.contains(&address))
    }
}

fn is_blocked_v4(address: Ipv4Addr) -> bool {
    BLOCKED_V4.iter().any(|&(range, length)| Ipv4Net::new_assert(range, length).contains(&address))
}

fn is_blocked_v6(address: Ipv6Addr) -> bool {
    BLOCKED_V6.iter().any(|&(range, length)| Ipv6Net::new_assert(range, length).contains(&address))
}

/// The IPv4 addresses that a packet to this IPv6 address may end up at.
fn embedded_v4(address: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match address.segments() {
        // v4-compatible (RFC 4291 §2.5.5.1), v4-mapped (§2.5.5.2), v4-translated (RFC 2765), NAT64 (RFC 6052)
        [0, 0, 0, 0, 0, 0 | 0xffff, a, b] | [0, 0, 0, 0, 0xffff, 0, a, b] | [0x64, 0xff9b, 0, 0, 0, 0, a, b] => [v4(a, b), None],
        // 6to4 (RFC 3056)
        [0x2002, a, b, ..] => [v4(a, b), None],
        // Teredo (RFC 4380): the server, and the client's address with every bit turned
        [0x2001, 0, a, b, .., c, d] => [v4(a, b), v4(!c, !d)],
        _ => [None, None],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(address: &str) -> bool {
        Egress::default().permits(address.parse().unwrap())
    }

    #[test]
    fn what_is_public_may_be_dialled() {
        for public in
            ["1.1.1.1", "93.184.215.14", "172.15.0.1", "172.32.0.1", "100.63.0.1", "2606:4700::1111", "64:ff9b::101:101", "2002:101:101::1"]
        {
            assert!(permits(public), "{public}");
        }
    }

    #[test]
    fn what_is_not_public_may_not_in_any_form() {
        for private in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "::ffff:0:127.0.0.1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2001:0:7f00:1::1",
            "2001:0:101:101::80ff:fffe",
            "100::1",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!permits(private), "{private}");
        }
    }

    #[test]
    fn the_operator_may_allow_a_range() {
        let egress = Egress::new(vec!["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        for allowed in ["127.0.0.1", "::ffff:127.0.0.1", "fd00::1"] {
            assert!(egress.permits(allowed.parse().unwrap()), "{allowed}");
        }
        for other in ["10.0.0.1", "::1", "fe80::1", "::ffff:10.0.0.1"] {
            assert!(!egress.permits(other.parse().unwrap()), "{other}");
        }
    }
}
