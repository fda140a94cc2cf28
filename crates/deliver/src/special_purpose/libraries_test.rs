//! The table beside what CPython's `ipaddress` and Go's `net/netip` say of the same addresses: the boundaries of each range.
//!
//! Neither library is asked at run time. They differ from the registry, and from each other by their version; each difference is named here.

use std::{io::Write, net::IpAddr, process::Command};

use super::*;

/// Prints, for each address of a line, whether it is public: not private and not multicast.
const PYTHON: &str = "
import ipaddress, sys
for line in sys.stdin:
    a = ipaddress.ip_address(line.strip())
    print(a.is_global and not a.is_multicast)
";

/// Go has no notion of a public address; this is what programs put together of what it has.
const GO: &str = r#"
package main

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		a := netip.MustParseAddr(lines.Text()).Unmap()
		if a.IsGlobalUnicast() && !a.IsPrivate() {
			fmt.Println("True")
		} else {
			fmt.Println("False")
		}
	}
}
"#;

/// Ranges where Python calls an address public and the table doesn't, with the reason.
const ONLY_PYTHON_CALLS_PUBLIC: [(&str, &str); 15] = [
    ("168.63.129.16/32", "it is a public address, of Azure's own"),
    ("192.0.0.0/24", "before 3.12.4 only parts of the range are known"),
    ("192.88.99.0/24", "withdrawn, and reachable as far as the registry tells"),
    ("64:ff9b:1::/48", "before 3.12.4 the range isn't known"),
    ("::/3", "what IANA hasn't assigned counts as public"),
    ("4000::/2", "what IANA hasn't assigned counts as public"),
    ("8000::/1", "what IANA hasn't assigned counts as public"),
    ("::/96", "the embedded address isn't looked at"),
    ("::ffff:0:0:0/96", "the embedded address isn't looked at"),
    ("64:ff9b::/96", "the embedded address isn't looked at"),
    ("100:0:0:1::/64", "the range of 2025 isn't known"),
    ("3fff::/20", "before 3.14 the range of 2024 isn't known"),
    ("5f00::/16", "the range of 2024 isn't known"),
    ("2002::/16", "before 3.12.4 the range isn't known, and the embedded address isn't looked at"),
    ("fec0::/10", "withdrawn"),
];

/// Ranges where the table calls an address public and Python doesn't, with the reason.
const ONLY_THE_TABLE_CALLS_PUBLIC: [(&str, &str); 12] = [
    ("192.0.0.9/32", "before 3.12.4 exceptions of the registry aren't known"),
    ("192.0.0.10/32", "before 3.12.4 exceptions of the registry aren't known"),
    ("::ffff:0:0/96", "before 3.13 the whole range counts as private"),
    ("2001::/32", "Teredo counts as private; the table looks at the embedded addresses"),
    ("2002::/16", "from 3.12.4 on the range counts as private; the table looks at the embedded address"),
    ("2001:1::1/128", "before 3.12.4 exceptions of the registry aren't known"),
    ("2001:1::2/128", "before 3.12.4 exceptions of the registry aren't known"),
    ("2001:1::3/128", "the exception of 2025 isn't known"),
    ("2001:3::/32", "before 3.12.4 exceptions of the registry aren't known"),
    ("2001:4:112::/48", "before 3.12.4 exceptions of the registry aren't known"),
    ("2001:20::/28", "before 3.12.4 exceptions of the registry aren't known"),
    ("2001:30::/28", "before 3.12.4 exceptions of the registry aren't known"),
];

/// Ranges that Go knows: RFC 1918, RFC 4193, loopback, link local, multicast, unspecified, 255.255.255.255. It knows no other row.
const GO_KNOWS: [&str; 11] = [
    "10.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
];

/// The address before each range, its first, its last and the one behind it.
fn boundaries() -> Vec<IpAddr> {
    let around = |(range, _): &(IpNet, Purpose)| match range {
        IpNet::V4(range) => {
            let (first, last) = (u32::from(range.network()), u32::from(range.broadcast()));
            [first.saturating_sub(1), first, last, last.saturating_add(1)].map(|bits| IpAddr::V4(bits.into()))
        }
        IpNet::V6(range) => {
            let (first, last) = (u128::from(range.network()), u128::from(range.broadcast()));
            [first.saturating_sub(1), first, last, last.saturating_add(1)].map(|bits| IpAddr::V6(bits.into()))
        }
    };
    RANGES.iter().flat_map(around).collect()
}

/// Whether a host may stand at the address by the table, with every embedded address looked at.
fn is_public(address: IpAddr) -> bool {
    match Purpose::of(address) {
        Purpose::Public => true,
        Purpose::Special(_) => false,
        Purpose::Embeds(form) => form.addresses(address).into_iter().all(|v4| is_public(v4.into())),
    }
}

/// The row that decides about an address.
fn row(address: IpAddr) -> Option<&'static str> {
    let containing = TABLE.iter().filter(|(range, _)| range.parse::<IpNet>().is_ok_and(|range| range.contains(&address)));
    containing.max_by_key(|(range, _)| range.parse::<IpNet>().map_or(0, |range| range.prefix_len())).map(|(range, _)| *range)
}

/// What a program answers to each address. `None`: it isn't installed.
fn ask(program: &mut Command, addresses: &[IpAddr]) -> Option<Vec<bool>> {
    let lines: String = addresses.iter().map(|address| format!("{address}\n")).collect();
    let mut asked = tempfile::tempfile().unwrap();
    asked.write_all(lines.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut asked).unwrap();
    let Ok(output) = program.stdin(asked).output() else {
        eprintln!("{:?} isn't installed: not compared with it", program.get_program());
        return None;
    };
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<bool> = answers.lines().map(|line| line == "True").collect();
    assert_eq!(answers.len(), addresses.len(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(answers)
}

#[test]
fn cpythons_ipaddress_differs_only_where_it_is_named() {
    let addresses = boundaries();
    let Some(answers) = ask(Command::new("python3").args(["-c", PYTHON]), &addresses) else { return };
    for (address, is_public_there) in addresses.into_iter().zip(answers) {
        let differs_by = match (is_public(address), is_public_there) {
            (false, true) => &ONLY_PYTHON_CALLS_PUBLIC[..],
            (true, false) => &ONLY_THE_TABLE_CALLS_PUBLIC[..],
            _ => continue,
        };
        let row = row(address).unwrap_or("no row");
        assert!(differs_by.iter().any(|(range, _)| *range == row), "{address} ({row}): public in Python: {is_public_there}");
    }
}

#[test]
fn gos_netip_calls_special_only_what_the_table_does_and_knows_the_rows_that_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("main.go");
    std::fs::write(&program, GO).unwrap();
    let addresses = boundaries();
    let Some(answers) = ask(Command::new("go").arg("run").arg(&program), &addresses) else { return };
    for (address, is_public_there) in addresses.into_iter().zip(answers) {
        let row = row(address).unwrap_or("no row");
        if !is_public_there {
            assert!(!is_public(address), "{address} ({row}): Go says that it is special");
        } else if GO_KNOWS.contains(&row) {
            panic!("{address} ({row}): Go is said to know it");
        }
    }
}

#[test]
fn a_range_stands_in_the_table_once_and_begins_where_it_says() {
    for (place, (range, _)) in TABLE.iter().enumerate() {
        let net: IpNet = range.parse().unwrap();
        assert_eq!(net, net.trunc(), "{range}");
        assert!(TABLE[..place].iter().all(|(other, _)| other != range), "{range}");
    }
}
