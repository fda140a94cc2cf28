//! The network policy's ranges are made from the egress guard's table, and permit no address that the guard refuses.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};
use serde_json::Value;

use super::{
    Mistakes,
    chart::{CHART, Set},
    keep, text,
    tree::{at, list, name, string},
};

/// The guard's table.
const TABLE: &str = "crates/deliver/src/special_purpose.rs";

/// The one way to embed an IPv4 address that networks of today use on the wire (RFC 6052). The policy refuses the others, where the guard looks inside.
const TRANSLATED: &str = "64:ff9b::/96";

/// A row: a range, and whether its addresses are public.
type Row = (IpNet, bool);

/// A range that is permitted, and the ranges in it that aren't.
struct Block {
    range: IpNet,
    except: Vec<IpNet>,
}

/// Compares the chart's ranges with the table, or writes them.
///
/// # Errors
/// They differ.
pub(super) fn keep_ranges(bless: bool) -> Result<(), String> {
    let blocks = blocks(&rows(&text(TABLE)?)?)?;
    let mut file = format!(
        "# Made from {TABLE} by cargo xtask deploy --bless: what the egress guard permits, as blocks of a NetworkPolicy.\nblocks:\n"
    );
    for Block { range, except } in blocks {
        file.push_str(&format!("  - cidr: {range}\n"));
        if !except.is_empty() {
            file.push_str("    except:\n");
            except.iter().for_each(|range| file.push_str(&format!("      - {range}\n")));
        }
    }
    keep(&format!("{CHART}/files/egress-ranges.yaml"), &file, bless)?.map_or(Ok(()), Err)
}

/// The table's rows: a range, and `Public` or anything else.
fn rows(source: &str) -> Result<Vec<Row>, String> {
    let row = |line: &str| {
        let (range, rest) = line.trim().strip_prefix("(\"")?.split_once('"')?;
        Some((range.parse().ok()?, rest.trim_start_matches(',').trim_start().starts_with("Public)")))
    };
    let table = source.split("pub(crate) const TABLE").nth(1).and_then(|rest| rest.split("\n];").next());
    let rows: Vec<Row> = table.ok_or("the egress guard's table isn't where it was")?.lines().filter_map(row).collect();
    if rows.len() < 40 { Err(format!("only {} rows of the egress guard's table can be read", rows.len())) } else { Ok(rows) }
}

/// Ranges inside a range, without those inside one another.
fn inside<'a>(outer: IpNet, rows: impl Iterator<Item = &'a Row> + Clone) -> Vec<IpNet> {
    let within = rows.map(|(range, _)| *range).filter(|range| *range != outer && outer.contains(range));
    let within: Vec<IpNet> = within.collect();
    within.iter().filter(|range| !within.iter().any(|other| other != *range && other.contains(*range))).copied().collect()
}

/// Everything but the special ranges, the public ranges inside those, and addresses of IPv4 behind a translation.
fn blocks(rows: &[Row]) -> Result<Vec<Block>, String> {
    let special = rows.iter().filter(|(_, is_public)| !is_public);
    let everything = ["0.0.0.0/0", "::/0"].map(|range| range.parse::<IpNet>().expect("a range"));
    let is_in_special = |range: &IpNet| special.clone().any(|(outer, _)| outer != range && outer.contains(range));
    let public = rows.iter().filter(|(range, is_public)| *is_public && is_in_special(range)).map(|(range, _)| *range);
    let of = |range: IpNet| Block { range, except: inside(range, special.clone()) };
    let mut blocks: Vec<Block> = everything.into_iter().chain(public).map(of).collect();
    let of_ipv4: Vec<Block> = blocks.iter().filter(|block| block.range.addr().is_ipv4()).map(translated).collect::<Result<_, _>>()?;
    blocks.extend(of_ipv4);
    Ok(blocks)
}

/// The same block behind a translation.
fn translated(block: &Block) -> Result<Block, String> {
    let prefix: Ipv6Net = TRANSLATED.parse().expect("a range");
    let of = |range: &IpNet| match range {
        IpNet::V4(range) => {
            let address = u128::from(prefix.addr()) | u128::from(u32::from(range.addr()));
            Ipv6Net::new(address.into(), 96 + range.prefix_len()).map(IpNet::V6).map_err(|error| error.to_string())
        }
        IpNet::V6(range) => Err(format!("{range} isn't of IPv4")),
    };
    Ok(Block { range: of(&block.range)?, except: block.except.iter().map(of).collect::<Result<_, _>>()? })
}

/// Compares each rendered policy with the guard, at the borders of every row and of what the configuration allows.
pub(super) fn check(sets: &[Set]) -> Result<Mistakes, String> {
    let rows = rows(&text(TABLE)?)?;
    let mut mistakes = Vec::new();
    for set in sets {
        let config: toml::Table = set.config().parse().map_err(|error| format!("{}: {error}", set.name))?;
        let proxied = config.get("egress").is_some_and(|egress| egress.get("proxy").is_some());
        let allowed = allowed(&config);
        for policy in set.of_kind("NetworkPolicy") {
            let pushes = policy["metadata"]["labels"]["app.kubernetes.io/component"] != "ingest" && !proxied;
            let blocks = permitted(policy);
            let wrong = addresses(&rows, &allowed).into_iter().filter(|address| {
                let guard = pushes && (is_public(&rows, *address) || allowed.iter().any(|range| range.contains(address)));
                blocks.iter().any(|block| block.permits(*address)) != guard
            });
            mistakes.extend(wrong.map(|address| format!("{}: {} and the egress guard differ on {address}", set.name, name(policy))));
        }
    }
    Ok(mistakes)
}

fn allowed(config: &toml::Table) -> Vec<IpNet> {
    let list = config.get("egress").and_then(|egress| egress.get("allow")).and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let range = |text: &str| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    list.iter().filter_map(|value| range(value.as_str()?)).collect()
}

/// The blocks of the rule to webhooks: the one with the whole internet. Rules to Kafka, brokers and a proxy have narrow ranges of their own.
fn permitted(policy: &Value) -> Vec<Block> {
    let range = |text: &Value| string(text).parse::<IpNet>().ok();
    let block = |peer: &Value| {
        let block = &peer["ipBlock"];
        Some(Block { range: range(&block["cidr"])?, except: list(&block["except"]).iter().filter_map(range).collect() })
    };
    let is_wide = |rule: &&Value| list(&rule["to"]).iter().any(|peer| at(peer, "ipBlock.cidr") == "0.0.0.0/0");
    let rules = list(at(policy, "spec.egress")).iter().filter(is_wide);
    rules.flat_map(|rule| list(&rule["to"]).iter().filter_map(block)).collect()
}

impl Block {
    fn permits(&self, address: IpAddr) -> bool {
        self.range.contains(&address) && !self.except.iter().any(|range| range.contains(&address))
    }
}

/// As the guard decides: the longest range counts; of a translated address the one inside.
fn is_public(rows: &[Row], address: IpAddr) -> bool {
    let translated: Ipv6Net = TRANSLATED.parse().expect("a range");
    let inner = |address: IpAddr| match address {
        IpAddr::V6(address) if translated.contains(&address) => {
            let [.., high, low] = address.segments();
            IpAddr::V4((u32::from(high) << 16 | u32::from(low)).into())
        }
        other => other,
    };
    let address = inner(address);
    let containing = rows.iter().filter(|(range, _)| range.contains(&address));
    containing.max_by_key(|(range, _)| range.prefix_len()).is_none_or(|(_, is_public)| *is_public)
}

/// The first and the last address of each range, and their neighbours; those of IPv4 behind the translation too.
fn addresses(rows: &[Row], allowed: &[IpNet]) -> Vec<IpAddr> {
    let step = |address: IpAddr, by: i8| match address {
        IpAddr::V4(address) => IpAddr::V4(u32::from(address).wrapping_add_signed(by.into()).into()),
        IpAddr::V6(address) => IpAddr::V6(u128::from(address).wrapping_add_signed(by.into()).into()),
    };
    let borders = |range: &IpNet| [step(range.network(), -1), range.network(), range.broadcast(), step(range.broadcast(), 1)];
    let prefix: Ipv6Net = TRANSLATED.parse().expect("a range");
    let behind = |address: IpAddr| match address {
        IpAddr::V4(address) => vec![IpAddr::V4(address), IpAddr::V6((u128::from(prefix.addr()) | u128::from(u32::from(address))).into())],
        other => vec![other],
    };
    rows.iter().map(|(range, _)| range).chain(allowed).flat_map(borders).flat_map(behind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<Row> {
        rows(&text(TABLE).unwrap()).unwrap()
    }

    #[test]
    fn the_blocks_permit_what_the_guard_permits_and_nothing_else() {
        let rows = table();
        let blocks = blocks(&rows).unwrap();
        for address in addresses(&rows, &[]) {
            assert_eq!(blocks.iter().any(|block| block.permits(address)), is_public(&rows, address), "{address}");
        }
        let names = ["8.8.8.8", "10.1.2.3", "192.0.0.9", "2606:4700::1", "fd00::1", "64:ff9b::808:808", "64:ff9b::a00:1", "::ffff:8.8.8.8"];
        let permitted = names.map(|address| blocks.iter().any(|block| block.permits(address.parse().unwrap())));
        assert_eq!(permitted, [true, false, true, true, false, true, false, false]);
    }

    #[test]
    fn a_table_that_can_not_be_read_is_a_mistake() {
        assert!(rows("").is_err() && rows("pub(crate) const TABLE = [\n(\"10.0.0.0/8\", Public),\n];").is_err());
    }
}
