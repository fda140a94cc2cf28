//! What the chart renders, committed, so that a change of a template shows what it does.

use super::{
    Mistakes,
    chart::{CHART, Set},
    files, keep, stem,
};

/// Dashboards and rules stand in the chart as they are: a snapshot has their first lines.
const LINES: usize = 6;

/// Compares each value set with its snapshot, or writes it.
pub(super) fn check(sets: &[Set], bless: bool) -> Result<Mistakes, String> {
    let mut mistakes = Vec::new();
    for set in sets {
        mistakes.extend(keep(&format!("{CHART}/snapshots/{}.yaml", set.name), &shortened(&set.rendered), bless)?);
    }
    let known = |name: &String| sets.iter().any(|set| set.name == *name);
    let left = files(&format!("{CHART}/snapshots"), "yaml")?.iter().map(|path| stem(path)).filter(|name| !known(name)).collect::<Vec<_>>();
    mistakes.extend(left.into_iter().map(|name| format!("snapshots/{name}.yaml belongs to no value set: remove it")));
    Ok(mistakes)
}

fn shortened(rendered: &str) -> String {
    let is_long = |document: &&str| document.contains("kind: PrometheusRule") || document.contains("-dashboard-");
    let short = |document: &str| -> String {
        let (start, body) = document.split_once("\nspec:").or_else(|| document.split_once("\ndata:")).unwrap_or((document, ""));
        let lines: Vec<&str> = body.lines().take(LINES).collect();
        format!("{start}\n# The first lines of {}:{}", body.lines().count(), lines.join("\n"))
    };
    let documents = rendered.split("\n---\n").map(|document| if is_long(&document) { short(document) } else { document.to_owned() });
    // A snapshot has no spaces at the ends of lines, as no file of the project has.
    let text = documents.collect::<Vec<_>>().join("\n---\n");
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dashboard_is_shortened_and_other_objects_are_not() {
        let long: String = (0..50).map(|number| format!("  line {number}\n")).collect();
        let rendered = format!("kind: ConfigMap\nname: a-dashboard-b\ndata:\n{long}\n---\nkind: ConfigMap\ndata: \n{long}");
        let short = shortened(&rendered);
        assert!(short.contains("# The first lines of 51:") && !short.contains("data: \n"));
        assert_eq!(short.matches("line 49").count(), 1);
    }
}
