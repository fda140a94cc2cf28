//! Runbooks: a page for each alert, with its headings, commands that a shell and Pushline can read, and words of the log that the source has.

use std::{collections::BTreeSet, path::Path, process::Command};

use super::{
    Mistakes,
    configuration::pushline,
    files,
    metrics::Metrics,
    root,
    rules::{self, Alert},
    stem, text,
    tools::output,
};

const FOLDER: &str = "deploy/runbooks";

/// Each page has them, in this order.
const HEADINGS: [&str; 5] = ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation", "## When it is over"];

pub(super) fn check() -> Result<Mistakes, String> {
    let (alerts, recorded) = rules::read()?;
    let (metrics, log, index) = (Metrics::read()?, source()?, text(&format!("{FOLDER}/README.md"))?);
    let pages: Vec<String> = files(FOLDER, "md")?.iter().map(|path| stem(path)).filter(|name| name != "README").collect();
    let mut mistakes: Mistakes = missing(&alerts, &pages).collect();
    for name in &pages {
        let page = text(&format!("{FOLDER}/{name}.md"))?;
        let mut found = headings(name, &page);
        found.extend(
            quotes(&page).into_iter().filter(|words| !log.contains(words.as_str())).map(|words| format!("{words:?} isn't in the source")),
        );
        found.extend(blocks(&page, "promql").iter().flat_map(|expression| metrics.unknown(expression, &recorded)));
        found.extend(commands(&page)?);
        if !index.contains(&format!("({name}.md)")) {
            found.push("README.md doesn't list it".to_owned());
        }
        mistakes.extend(found.into_iter().map(|mistake| format!("{name}: {mistake}")));
    }
    Ok(mistakes)
}

fn missing<'a>(alerts: &'a [Alert], pages: &'a [String]) -> impl Iterator<Item = String> + 'a {
    let without_page = alerts.iter().filter(|alert| !pages.contains(&alert.name)).map(|alert| format!("{} has no runbook", alert.name));
    let without_alert =
        pages.iter().filter(|page| !alerts.iter().any(|alert| alert.name == **page)).map(|page| format!("{page} is a runbook of no alert"));
    without_page.chain(without_alert)
}

fn headings(name: &str, page: &str) -> Vec<String> {
    let present: Vec<&str> = page.lines().filter(|line| line.starts_with("## ")).collect();
    let title = page.lines().next() == Some(&format!("# {name}"));
    if present == HEADINGS && title { Vec::new() } else { vec![format!("its headings are {present:?} below a title")] }
}

/// Lines that begin with `> ` are words of the log.
fn quotes(page: &str) -> Vec<String> {
    page.lines().filter_map(|line| line.strip_prefix("> ")).map(str::to_owned).collect()
}

/// Blocks of code in a language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let parts = page.split("\n```").skip(1).step_by(2);
    parts.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n').map(str::to_owned)).collect()
}

/// What a shell can't read, what Pushline's command line refuses, and paths that the admin server hasn't.
fn commands(page: &str) -> Result<Vec<String>, String> {
    let (mut mistakes, admin) = (Vec::new(), text("crates/pushline/src/admin.rs")?);
    for block in blocks(page, "sh") {
        let (readable, _, errors) = output(Command::new("bash").args(["-n", "-c", &block]))?;
        if !readable {
            mistakes.push(format!("a shell can't read {block:?}: {errors}"));
        }
        for line in block.lines() {
            if let Some(arguments) = line.strip_prefix("pushline ") {
                mistakes.extend(refused(arguments)?);
            }
            mistakes.extend(
                paths(line)
                    .into_iter()
                    .filter(|path| !admin.contains(&format!("\"{path}\"")))
                    .map(|path| format!("the admin server has no {path}")),
            );
        }
    }
    Ok(mistakes)
}

/// A command line that asks for help too is refused all the same when the rest can't be read.
fn refused(arguments: &str) -> Result<Option<String>, String> {
    let words = arguments
        .split(['|', '>', '&'])
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|word| word.trim_matches(['"', '\''].as_slice()));
    let (taken, _, errors) = output(pushline().args(words).arg("--help"))?;
    Ok((!taken).then(|| format!("pushline {arguments}: {errors}")))
}

/// Paths behind a port of the admin server.
fn paths(line: &str) -> Vec<String> {
    let behind = ["127.0.0.1:9090/", "127.0.0.1:9091/", "localhost:9090/"].iter().flat_map(|address| line.split(address).skip(1));
    behind.map(|rest| format!("/{}", rest.split(['?', ' ', '\'', '"']).next().unwrap_or_default())).collect()
}

/// All of Pushline's source, with texts over several lines joined as the compiler joins them.
fn source() -> Result<String, String> {
    let mut source = String::new();
    for name in ["pushline", "ingest", "queue", "deliver", "model"] {
        collect(&root().join("crates").join(name).join("src"), &mut source)?;
    }
    let lines: Vec<&str> = source.split("\\\n").collect();
    Ok(lines.iter().enumerate().map(|(at, line)| if at == 0 { line } else { line.trim_start() }).collect())
}

fn collect(folder: &Path, source: &mut String) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut paths: BTreeSet<_> = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(told)? {
        paths.insert(entry.map_err(told)?.path());
    }
    for path in paths {
        if path.is_dir() {
            collect(&path, source)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            source.push_str(&std::fs::read_to_string(&path).map_err(told)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str =
        "# A\n\n## Meaning\n\n> configuration reloaded\n\n```sh\ncurl -s 127.0.0.1:9090/readyz?a=b\n```\n\n```promql\nup\n```\n";

    #[test]
    fn quotes_blocks_and_paths_of_a_page_are_found() {
        assert_eq!(quotes(PAGE), ["configuration reloaded"]);
        assert_eq!(blocks(PAGE, "sh"), ["curl -s 127.0.0.1:9090/readyz?a=b"]);
        assert_eq!(blocks(PAGE, "promql"), ["up"]);
        assert_eq!(paths("curl -X POST '127.0.0.1:9091/losses/acknowledge' localhost:9090/a"), ["/losses/acknowledge", "/a"]);
        assert_eq!(headings("A", PAGE).len(), 1);
    }

    #[test]
    fn the_source_has_texts_that_are_broken_over_lines() {
        let source = source().unwrap();
        assert!(source.contains("configuration reloaded") && !source.contains("no line of any log says this ".trim_end()));
    }
}
