//! What is wrong with a text that isn't TOML. The `toml` crate has one message for all keys; where it doesn't name the key, this does.

use toml::de::{DeTable, DeValue, Error};

/// The mistake, with the key it is about and, for a second definition, the line of the first. `root` is what could be read.
pub(super) fn problem(error: &Error, text: &str, root: &DeTable<'_>, line: impl Fn(usize) -> usize) -> String {
    let at = error.span().and_then(|span| Some((span.start, text.get(..span.start)?, text.get(span)?)));
    // The library has no kinds of errors. A message that it words otherwise is shown as it is.
    match (error.message(), at) {
        ("duplicate key", Some((offset, before, key))) => {
            let key = key.trim_matches(['"', '\'']);
            // The library drops the first of two tables: its header is looked for.
            let header = || before.lines().position(|line| line.trim() == format!("[{key}]")).map(|index| index + 1);
            let first = last_before(root, key, offset).map(line).or_else(header);
            format!("duplicate key {key:?}{}", first.map_or(String::new(), |first| format!(" (first defined in line {first})")))
        }
        (message, Some((_, before, _))) if message.starts_with("key with no value") => {
            let key = before.rsplit('\n').next().unwrap_or(before).trim();
            format!("{key:?} has no value: write {key} = …")
        }
        (message, _) => message.to_owned(),
    }
}

/// Where a key of this name stands last before an offset. In the table of a second definition that is the first.
fn last_before(table: &DeTable<'_>, name: &str, offset: usize) -> Option<usize> {
    let within = |value: &DeValue<'_>| match value {
        DeValue::Table(table) => last_before(table, name, offset),
        DeValue::Array(items) => items.iter().filter_map(|item| last_before(item.get_ref().as_table()?, name, offset)).max(),
        _ => None,
    };
    let found = table.iter().map(|(key, value)| {
        let start = key.span().start;
        let is_it = **key.get_ref() == *name && start < offset;
        is_it.then_some(start).max(within(value.get_ref()))
    });
    found.max().flatten()
}
