//! Alerts and recording rules: promtool reads and tests them, each alert fires and doesn't fire in a test, and says what an operator needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

use super::{
    Mistakes,
    chart::CHART,
    metrics::Metrics,
    promql::selectors,
    root, text,
    tools::output,
    tree::{all, documents, list, string},
};

/// Where a page about an alert and a dashboard are, until the chart's values say it.
pub(super) const RUNBOOKS: &str = "https://example.com/runbooks/";
const DASHBOARDS: &str = "https://example.com/grafana/d/";

const TESTS: &str = "deploy/prometheus/rules_test.yml";

/// An alert.
pub(super) struct Alert {
    pub(super) name: String,
    pub(super) expression: String,
    rule: Value,
}

/// All alerts, and the names of all recording rules.
///
/// # Errors
/// The file can't be read.
pub(super) fn read() -> Result<(Vec<Alert>, BTreeSet<String>), String> {
    let file = documents(&text(&format!("{CHART}/files/rules.yml"))?)?.pop().ok_or("rules.yml is empty")?;
    let rules: Vec<&Value> = list(&file["groups"]).iter().flat_map(|group| list(&group["rules"])).collect();
    let alert = |rule: &&Value| {
        let name = rule["alert"].as_str()?.to_owned();
        Some(Alert { name, expression: string(&rule["expr"]).to_owned(), rule: (*rule).clone() })
    };
    let recorded = rules.iter().filter_map(|rule| rule["record"].as_str().map(str::to_owned)).collect();
    Ok((rules.iter().filter_map(alert).collect(), recorded))
}

/// The expression of each recording rule.
///
/// # Errors
/// The file can't be read.
pub(super) fn recorded_expressions() -> Result<BTreeMap<String, String>, String> {
    let file = documents(&text(&format!("{CHART}/files/rules.yml"))?)?;
    let rules = file.iter().flat_map(|file| list(&file["groups"])).flat_map(|group| list(&group["rules"]));
    Ok(rules.filter_map(|rule| Some((rule["record"].as_str()?.to_owned(), string(&rule["expr"]).to_owned()))).collect())
}

pub(super) fn check() -> Result<Mistakes, String> {
    let (alerts, recorded) = read()?;
    let metrics = Metrics::read()?;
    let mut mistakes = promtool()?;
    mistakes.extend(alerts.iter().flat_map(|alert| incomplete(alert).into_iter().map(|what| format!("{}: {what}", alert.name))));
    let expressions = all_expressions()?;
    mistakes.extend(expressions.iter().flat_map(|expression| metrics.unknown(expression, &recorded)));
    mistakes.extend(expressions.iter().flat_map(|expression| elsewhere(expression)));
    mistakes.extend(untested(&alerts)?);
    Ok(mistakes)
}

fn all_expressions() -> Result<Vec<String>, String> {
    let file = documents(&text(&format!("{CHART}/files/rules.yml"))?)?;
    Ok(file.iter().flat_map(|file| all(file, "expr")).map(|expression| string(expression).to_owned()).collect())
}

/// The chart writes the release's own job and namespace in place of `job="pushline"`.
fn elsewhere(expression: &str) -> Vec<String> {
    let own = |name: &str, matchers: &[(String, Vec<String>)]| {
        name.contains(':') || matchers.iter().any(|(label, values)| label == "job" && values == &["pushline"])
    };
    let others = selectors(expression).into_iter().filter(|selector| !own(&selector.name, &selector.matchers));
    others.map(|selector| format!("{} without job=\"pushline\" sees other releases: {expression}", selector.name)).collect()
}

fn promtool() -> Result<Mistakes, String> {
    let mut mistakes = Vec::new();
    for (what, arguments) in [("check", vec!["check", "rules", "--lint-fatal"]), ("test", vec!["test", "rules"])] {
        let mut promtool = Command::new("promtool");
        promtool.args(arguments).arg(root().join(if what == "test" { TESTS.to_owned() } else { format!("{CHART}/files/rules.yml") }));
        let (passed, told, errors) = output(&mut promtool)?;
        if !passed {
            mistakes.push(format!("promtool {what} rules: {told}{errors}"));
        }
    }
    Ok(mistakes)
}

/// What an alert lacks.
fn incomplete(alert: &Alert) -> Vec<String> {
    let annotations = &alert.rule["annotations"];
    let mut lacks = Vec::new();
    if !["page", "ticket", "customer"].contains(&string(&alert.rule["labels"]["severity"])) {
        lacks.push("severity is none of page, ticket, customer".to_owned());
    }
    for needed in ["summary", "effect"] {
        if !string(&annotations[needed]).ends_with('.') {
            lacks.push(format!("{needed} is no sentence"));
        }
    }
    if string(&annotations["runbook_url"]) != format!("{RUNBOOKS}{}.md", alert.name) {
        lacks.push("runbook_url isn't its runbook's".to_owned());
    }
    let dashboard = string(&annotations["dashboard_url"]).strip_prefix(DASHBOARDS).unwrap_or_default();
    let uid = dashboard.split(['?', '/']).next().unwrap_or_default();
    if !uid.strip_prefix("pushline-").is_some_and(|name| root().join(format!("{CHART}/files/dashboards/{name}.json")).exists()) {
        lacks.push(format!("dashboard_url leads to {uid:?}, which is no dashboard"));
    }
    lacks
}

/// Alerts that no test sees fire, or that no test sees silent.
fn untested(alerts: &[Alert]) -> Result<Mistakes, String> {
    let mut seen: BTreeMap<String, [bool; 2]> = BTreeMap::new();
    for file in documents(&text(TESTS)?)? {
        for test in all(&file, "alert_rule_test").into_iter().flat_map(list) {
            let fires = !list(&test["exp_alerts"]).is_empty();
            seen.entry(string(&test["alertname"]).to_owned()).or_default()[usize::from(fires)] = true;
        }
    }
    let of = |alert: &Alert| match seen.get(&alert.name).copied().unwrap_or_default() {
        [true, true] => None,
        [_, false] => Some(format!("{}: no test sees it fire", alert.name)),
        [false, _] => Some(format!("{}: no test sees it silent", alert.name)),
    };
    Ok(alerts.iter().filter_map(of).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_alert_that_lacks_everything_is_told_so() {
        let rule = json!({"alert": "A", "labels": {"severity": "loud"}, "annotations": {"summary": "no sentence"}});
        let alert = Alert { name: "A".into(), expression: String::new(), rule };
        assert_eq!(incomplete(&alert).len(), 5);
    }

    #[test]
    fn an_expression_that_sees_other_releases_is_found() {
        assert_eq!(elsewhere("up{job=\"pushline\"} + pushline:a"), Vec::<String>::new());
        assert_eq!(elsewhere("up + pushline_lanes{job=\"x\"}").len(), 2);
    }
}
