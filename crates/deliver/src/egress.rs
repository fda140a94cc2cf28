//! The egress guard: which addresses may be dialled (docs/document.md, Egress guard). Customers name the hosts, and must not reach the operator's own
//! network. The sender asks the guard for each address that a name has, and dials the address that the guard has seen, not the name. Pure.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{proxy::Proxy, special_purpose::Purpose};

/// The addresses that may be dialled: all public ones but this machine's own, and the ranges that the operator lists. Beside that, by which way.
#[derive(Debug, Clone, Default)]
pub struct Egress {
    allow: Vec<IpNet>,
    /// The address of this machine that connections come from.
    pub(crate) source_address: Option<IpAddr>,
    /// The proxy that connections go through.
    pub(crate) proxy: Option<Proxy>,
}

/// Addresses that no public registry knows and a webhook may not reach.
#[derive(Debug, Default)]
pub(crate) struct OffLimits {
    /// This machine's own. The operator may allow them.
    pub(crate) own: Arc<HashSet<IpAddr>>,
    /// The egress proxy's. Nothing allows them: a proxy trusts every client that reaches it.
    pub(crate) proxy: Vec<IpAddr>,
}

/// Why an address may not be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is the egress proxy's. No option permits it.
    Proxy,
    /// What it is, such as "loopback (RFC 1122)". `[egress] allow` may permit it.
    Range(&'static str),
}

impl Egress {
    /// With the ranges that the operator lists.
    #[must_use]
    pub fn new(allow: Vec<IpNet>) -> Self {
        Self { allow, ..Self::default() }
    }

    /// The same with connections from an address of this machine.
    #[must_use]
    pub fn dialling_from(self, source_address: IpAddr) -> Self {
        Self { source_address: Some(source_address), ..self }
    }

    /// The same with connections through a proxy.
    #[must_use]
    pub fn through(self, proxy: Proxy) -> Self {
        Self { proxy: Some(proxy), ..self }
    }

    /// Why an address may not be dialled; `None`: it may.
    ///
    /// Of a form that embeds IPv4 addresses, each of those must be permitted.
    pub(crate) fn refusal(&self, address: IpAddr, off_limits: &OffLimits) -> Option<Refusal> {
        let purpose = Purpose::of(address);
        let embedded = if let Purpose::Embeds(form) = purpose { form.addresses(address) } else { Vec::new() };
        let is_proxy = |address: IpAddr| off_limits.proxy.contains(&address);
        if is_proxy(address) || embedded.iter().any(|v4| is_proxy(IpAddr::V4(*v4))) {
            return Some(Refusal::Proxy);
        }
        if self.allow.iter().any(|range| range.contains(&address)) {
            return None;
        }
        if off_limits.own.contains(&address) {
            return Some(Refusal::Range("this machine's own address"));
        }
        if let Purpose::Special(what) = purpose {
            return Some(Refusal::Range(what));
        }
        embedded.into_iter().find_map(|v4| self.refusal(v4.into(), off_limits))
    }
}

impl Refusal {
    /// What the address is.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Proxy => "the egress proxy",
            Self::Range(what) => what,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(egress: &Egress, address: &str) -> Option<&'static str> {
        let own = ["1.2.3.4", "2606:4700::42"].map(|own| own.parse().unwrap());
        let off_limits = OffLimits { own: Arc::new(HashSet::from(own)), proxy: vec!["10.0.0.9".parse().unwrap()] };
        egress.refusal(address.parse().unwrap(), &off_limits).map(Refusal::what)
    }

    #[test]
    fn what_is_public_may_be_dialled() {
        for public in [
            "1.1.1.1",
            "93.184.215.14",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "168.63.129.15",
            "192.0.0.9",
            "2606:4700::1111",
            "2001:200::1",
            "2001:1::1",
            "2001:3::1",
            "2001:20::1",
            "64:ff9b::101:101",
            "2002:101:101::1",
            "2001:0:101:101::fefe:fefe",
        ] {
            assert_eq!(refusal(&Egress::default(), public), None, "{public}");
        }
    }

    #[test]
    fn what_is_not_public_may_not_in_any_form() {
        for (private, what) in [
            ("0.0.0.0", "this network"),
            ("0.1.2.3", "this network"),
            ("10.1.2.3", "private use"),
            ("100.64.0.1", "shared address space"),
            ("127.0.0.1", "loopback"),
            ("168.63.129.16", "Azure"),
            ("169.254.169.254", "link local"),
            ("172.31.255.255", "private use"),
            ("192.0.0.1", "IETF protocol assignments"),
            ("192.0.2.1", "documentation"),
            ("192.168.1.1", "private use"),
            ("198.19.255.255", "benchmarking"),
            ("224.0.0.1", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "broadcast"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::7f00:1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:10.0.0.1", "private use"),
            ("::ffff:0:127.0.0.1", "loopback"),
            ("2002:7f00:1::1", "loopback"),
            ("2002:a9fe:a9fe::", "link local"),
            ("64:ff9b::7f00:1", "loopback"),
            ("64:ff9b:1::1", "local IPv4-IPv6 translation"),
            ("2001:0:7f00:1::fefe:fefe", "loopback"),
            ("2001:0:101:101::80ff:fffe", "loopback"),
            ("2001:1::4", "IETF protocol assignments"),
            ("2001:2::1", "benchmarking"),
            ("100::1", "discard only"),
            ("100:0:0:1::1", "dummy prefix"),
            ("2001:db8::1", "documentation"),
            ("3fff::1", "documentation"),
            ("5f00::1", "segment routing"),
            ("4000::1", "reserved"),
            ("fc00::1", "unique local"),
            ("fd00:ec2::254", "unique local"),
            ("fe80::1", "link local"),
            ("fec0::1", "site local"),
            ("ff02::1", "multicast"),
        ] {
            let refusal = refusal(&Egress::default(), private);
            assert!(refusal.is_some_and(|refusal| refusal.contains(what)), "{private}: {refusal:?}");
        }
    }

    #[test]
    fn this_machines_own_addresses_may_not_be_dialled_in_any_form() {
        for own in
            ["1.2.3.4", "2606:4700::42", "::ffff:1.2.3.4", "::1.2.3.4", "2002:102:304::1", "64:ff9b::1.2.3.4", "2001:0:102:304::fefe:fefe"]
        {
            assert_eq!(refusal(&Egress::default(), own), Some("this machine's own address"), "{own}");
        }
        assert_eq!(refusal(&Egress::new(vec!["1.2.3.4/32".parse().unwrap()]), "1.2.3.4"), None);
    }

    #[test]
    fn the_egress_proxy_may_not_be_dialled_though_its_range_is_allowed() {
        let egress = Egress::new(vec!["10.0.0.0/8".parse().unwrap(), "::/0".parse().unwrap()]);
        for proxy in ["10.0.0.9", "::ffff:10.0.0.9", "64:ff9b::10.0.0.9"] {
            assert_eq!(refusal(&egress, proxy), Some("the egress proxy"), "{proxy}");
        }
        assert_eq!(refusal(&egress, "10.0.0.8"), None);
    }

    #[test]
    fn the_operator_may_allow_a_range() {
        let egress = Egress::new(vec!["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        for allowed in ["127.0.0.1", "::ffff:127.0.0.1", "fd00::1"] {
            assert_eq!(refusal(&egress, allowed), None, "{allowed}");
        }
        for other in ["10.0.0.1", "::1", "fe80::1", "::ffff:10.0.0.1"] {
            assert!(refusal(&egress, other).is_some(), "{other}");
        }
    }
}
