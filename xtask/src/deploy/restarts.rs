//! Which changes of the configuration restart which pods: those that a running process can't take over, and no others.

use std::collections::BTreeMap;

use super::{
    Mistakes,
    chart::Chart,
    tree::{at, documents, string},
};

const BASE: &str = "[queue]\nkind = \"kafka\"\n[queue.kafka]\nbrokers = \"a:1\"\n[mqtt.listener]\ntopics = [\"{org}/{iccid}\"]\n[[webhooks]]\nname = \"w\"\nurl = \"https://a.example/\"\n";

/// What is replaced in the configuration by what, and the roles that have to restart for it.
const CHANGES: [(&str, &str, &[&str]); 4] = [
    ("https://a.example/", "https://b.example/", &[]),
    ("[[webhooks]]", "[[groups]]\norg = \"o\"\nname = \"n\"\n[[webhooks]]", &[]),
    ("{org}/{iccid}", "a/{org}/{iccid}", &["ingest"]),
    ("a:1", "b:1", &["deliver", "ingest"]),
];

/// Renders a cluster before and after each change.
pub(super) fn check(chart: &Chart<'_>) -> Result<Mistakes, String> {
    let before = hashes(chart, BASE)?;
    let mut mistakes = Vec::new();
    for (from, to, wanted) in CHANGES {
        let after = hashes(chart, &BASE.replacen(from, to, 1))?;
        let restarted: Vec<&str> =
            before.iter().filter(|(role, hash)| after.get(*role) != Some(hash)).map(|(role, _)| role.as_str()).collect();
        if restarted != wanted || before.len() != 2 {
            mistakes.push(format!("{from:?} to {to:?} restarts {restarted:?} and should restart {wanted:?}"));
        }
    }
    Ok(mistakes)
}

/// The hash of each role.
fn hashes(chart: &Chart<'_>, config: &str) -> Result<BTreeMap<String, String>, String> {
    let indented: String = config.lines().map(|line| format!("  {line}\n")).collect();
    let objects = documents(&chart.render(&format!("mode: cluster\nconfig: |\n{indented}"))?)?;
    let of = |template: &serde_json::Value| {
        let metadata = &template["metadata"];
        let role = string(&metadata["labels"]["app.kubernetes.io/component"]).to_owned();
        (role, string(&metadata["annotations"]["pushline/restart-hash"]).to_owned())
    };
    Ok(objects.iter().map(|object| at(object, "spec.template")).filter(|template| template.is_object()).map(of).collect())
}
