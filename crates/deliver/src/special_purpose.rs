//! Special-purpose addresses: the ranges that hold no public host, and the forms of IPv6 that embed an IPv4 address. Pure.
//!
//! The table has every row of two registries of IANA, read on 2026-11-24, with what the registry calls "Globally Reachable":
//! <https://www.iana.org/assignments/iana-ipv4-special-registry> and <https://www.iana.org/assignments/iana-ipv6-special-registry>. It adds
//! multicast and the reserved ranges of the registries of address space (RFC 5771, RFC 4291 §2.4), what was withdrawn from the registries and
//! is still routed on some networks (RFC 4291 §2.5.5.1, RFC 3879, RFC 2765, RFC 4843), and the one public address that is a service of the machine's own
//! cloud (Azure).
//!
//! `special_purpose/libraries_test.rs` compares the table with CPython's `ipaddress` and Go's `net/netip`, and names each difference.

#[cfg(test)]
mod libraries_test;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::LazyLock,
};

use ipnet::IpNet;

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A host on the internet.
    Public,
    /// Something else, in words: "loopback (RFC 1122)".
    Special(&'static str),
    /// A packet to it may end up at an IPv4 address that stands in it.
    Embeds(Embedding),
}

/// Where an IPv6 address holds an IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Embedding {
    /// In its last 32 bits.
    Last,
    /// In the 32 bits behind the first 16.
    SixToFour,
    /// The server in the 32 bits behind the first 32, and the client in the last 32, each bit of it inverted (RFC 4380 §4).
    Teredo,
}

use Purpose::{Embeds, Public, Special};

/// The longest range that contains an address decides. An address in no range is public.
#[rustfmt::skip]
pub(crate) const TABLE: [(&str, Purpose); 54] = [
    ("0.0.0.0/8",           Special("this network (RFC 791)")),
    ("10.0.0.0/8",          Special("private use (RFC 1918)")),
    ("100.64.0.0/10",       Special("shared address space (RFC 6598)")),
    ("127.0.0.0/8",         Special("loopback (RFC 1122)")),
    ("168.63.129.16/32",    Special("a service of the Azure host")),
    ("169.254.0.0/16",      Special("link local (RFC 3927)")),
    ("172.16.0.0/12",       Special("private use (RFC 1918)")),
    ("192.0.0.0/24",        Special("IETF protocol assignments (RFC 6890)")),
    ("192.0.0.9/32",        Public), // Port Control Protocol Anycast (RFC 7723)
    ("192.0.0.10/32",       Public), // Traversal Using Relays around NAT Anycast (RFC 8155)
    ("192.0.2.0/24",        Special("documentation (RFC 5737)")),
    ("192.31.196.0/24",     Public), // AS112-v4 (RFC 7535)
    ("192.52.193.0/24",     Public), // AMT (RFC 7450)
    ("192.88.99.0/24",      Special("6to4 relay anycast (RFC 7526)")),
    ("192.168.0.0/16",      Special("private use (RFC 1918)")),
    ("192.175.48.0/24",     Public), // Direct Delegation AS112 Service (RFC 7534)
    ("198.18.0.0/15",       Special("benchmarking (RFC 2544)")),
    ("198.51.100.0/24",     Special("documentation (RFC 5737)")),
    ("203.0.113.0/24",      Special("documentation (RFC 5737)")),
    ("224.0.0.0/4",         Special("multicast (RFC 5771)")),
    ("240.0.0.0/4",         Special("reserved (RFC 1112)")),
    ("255.255.255.255/32",  Special("limited broadcast (RFC 8190)")),

    // RFC 4291 §2.4: public addresses are assigned from 2000::/3 only.
    ("::/3",                Special("reserved (RFC 4291)")),
    ("4000::/2",            Special("reserved (RFC 4291)")),
    ("8000::/1",            Special("reserved (RFC 4291)")),

    ("::/128",              Special("unspecified (RFC 4291)")),
    ("::1/128",             Special("loopback (RFC 4291)")),
    ("::/96",               Embeds(Embedding::Last)), // IPv4-compatible (RFC 4291 §2.5.5.1)
    ("::ffff:0:0/96",       Embeds(Embedding::Last)), // IPv4-mapped (RFC 4291 §2.5.5.2)
    ("::ffff:0:0:0/96",     Embeds(Embedding::Last)), // IPv4-translated (RFC 2765 §2.1)
    ("64:ff9b::/96",        Embeds(Embedding::Last)), // IPv4-IPv6 translation (RFC 6052)
    ("64:ff9b:1::/48",      Special("local IPv4-IPv6 translation (RFC 8215)")),
    ("100::/64",            Special("discard only (RFC 6666)")),
    ("100:0:0:1::/64",      Special("dummy prefix (RFC 9780)")),
    ("2001::/23",           Special("IETF protocol assignments (RFC 2928)")),
    ("2001::/32",           Embeds(Embedding::Teredo)), // RFC 4380
    ("2001:1::1/128",       Public), // Port Control Protocol Anycast (RFC 7723)
    ("2001:1::2/128",       Public), // Traversal Using Relays around NAT Anycast (RFC 8155)
    ("2001:1::3/128",       Public), // DNS-SD Service Registration Protocol Anycast (RFC 9665)
    ("2001:2::/48",         Special("benchmarking (RFC 5180)")),
    ("2001:3::/32",         Public), // AMT (RFC 7450)
    ("2001:4:112::/48",     Public), // AS112-v6 (RFC 7535)
    ("2001:10::/28",        Special("withdrawn ORCHID (RFC 4843)")),
    ("2001:20::/28",        Public), // ORCHIDv2 (RFC 7343)
    ("2001:30::/28",        Public), // Drone Remote ID Protocol Entity Tags (RFC 9374)
    ("2001:db8::/32",       Special("documentation (RFC 3849)")),
    ("2002::/16",           Embeds(Embedding::SixToFour)), // RFC 3056
    ("2620:4f:8000::/48",   Public), // Direct Delegation AS112 Service (RFC 7534)
    ("3fff::/20",           Special("documentation (RFC 9637)")),
    ("5f00::/16",           Special("segment routing (RFC 9602)")),
    ("fc00::/7",            Special("unique local (RFC 4193)")),
    ("fe80::/10",           Special("link local (RFC 4291)")),
    ("fec0::/10",           Special("withdrawn site local (RFC 3879)")),
    ("ff00::/8",            Special("multicast (RFC 4291)")),
];

static RANGES: LazyLock<Vec<(IpNet, Purpose)>> =
    LazyLock::new(|| TABLE.iter().map(|(range, purpose)| (range.parse().expect("each row has a range"), *purpose)).collect());

impl Purpose {
    /// What an address is for.
    pub(crate) fn of(address: IpAddr) -> Self {
        let containing = RANGES.iter().filter(|(range, _)| range.contains(&address));
        containing.max_by_key(|(range, _)| range.prefix_len()).map_or(Public, |(_, purpose)| *purpose)
    }
}

impl Embedding {
    /// The IPv4 addresses that an IPv6 address of this form holds.
    pub(crate) fn addresses(self, address: IpAddr) -> Vec<Ipv4Addr> {
        let IpAddr::V6(address) = address else { return Vec::new() };
        let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
        let [_, a, b, c, .., y, z] = address.segments();
        match self {
            Self::Last => vec![v4(y, z)],
            Self::SixToFour => vec![v4(a, b)],
            Self::Teredo => vec![v4(b, c), v4(!y, !z)],
        }
    }
}
