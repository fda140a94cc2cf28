//! Dashboards: what a Grafana needs to take them as they are, what an operator needs to read them, and that they show every metric.

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

use super::{
    Mistakes,
    chart::CHART,
    files,
    metrics::Metrics,
    promql::selectors,
    rules::{self, Alert},
    stem,
    tools::output,
    tree::{all, at, list, string},
};

/// Metrics on no panel, each with the reason.
const NOT_SHOWN: &[(&str, &str)] = &[
    ("pushline_queue_unsettled_packets_at_start", "a part of the sum of all packets, which tests add up"),
    ("pushline_checkpoint_saves_total", "pushline_checkpoint_age_seconds shows when none are saved"),
    ("process_virtual_memory_bytes", "address space says nothing about memory"),
    ("process_virtual_memory_max_bytes", "the same"),
];

/// Grafana's grid has this many columns.
const COLUMNS: u64 = 24;

/// Variables of Grafana, and a value of each for promtool.
const VARIABLES: [(&str, &str); 4] = [("$__rate_interval", "5m"), ("$__range", "1h"), ("$__interval", "1m"), ("$webhook", "w")];

pub(super) fn check() -> Result<Mistakes, String> {
    let (alerts, recorded) = rules::read()?;
    let metrics = Metrics::read()?;
    let (mut mistakes, mut expressions) = (Vec::new(), Vec::new());
    for path in files(&format!("{CHART}/files/dashboards"), "json")? {
        let name = stem(&path);
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let dashboard: Value = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut found = of_dashboard(&name, &dashboard);
        for panel in panels(&dashboard) {
            let own =
                of_panel(panel, &alerts).into_iter().chain(targets(panel).flat_map(|expression| metrics.unknown(expression, &recorded)));
            found.extend(own.map(|mistake| format!("{:?}: {mistake}", string(&panel["title"]))));
        }
        found.extend(overlaps(&dashboard));
        mistakes.extend(found.into_iter().map(|mistake| format!("{name}: {mistake}")));
        expressions.extend(all(&dashboard, "expr").into_iter().map(|expression| string(expression).to_owned()));
    }
    mistakes.extend(not_shown(&metrics, &expressions, &recorded));
    mistakes.extend(ungrammatical(&expressions)?);
    Ok(mistakes)
}

/// All panels but the titles of rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let of_rows = list(&dashboard["panels"]).iter().flat_map(|panel| list(&panel["panels"]));
    list(&dashboard["panels"]).iter().chain(of_rows).filter(|panel| panel["type"] != "row").collect()
}

fn targets(panel: &Value) -> impl Iterator<Item = &str> {
    list(&panel["targets"]).iter().map(|target| string(&target["expr"]))
}

fn of_dashboard(name: &str, dashboard: &Value) -> Mistakes {
    let variables = list(at(dashboard, "templating.list"));
    let has_datasource = variables
        .iter()
        .any(|variable| variable["type"] == "datasource" && variable["name"] == "datasource" && variable["query"] == "prometheus");
    let links: BTreeSet<&str> = list(&dashboard["links"]).iter().map(|link| string(&link["url"])).collect();
    let others = ["overview", "customers", "queue", "process"].into_iter().filter(|other| *other != name);
    let is_linked = |other: &str| links.iter().any(|link| link.contains(&format!("/d/pushline-{other}")));
    let unlinked: Vec<&str> = others.filter(|other| !is_linked(other)).collect();
    let ids: Vec<u64> = panels(dashboard).iter().filter_map(|panel| panel["id"].as_u64()).collect();
    let conditions = [
        (dashboard["uid"] == format!("pushline-{name}").as_str(), "its uid isn't pushline- and its name"),
        (dashboard["id"].is_null(), "it has an id, which belongs to one Grafana"),
        (dashboard["__inputs"].is_null(), "it has __inputs, which provisioning doesn't fill"),
        (dashboard["editable"] == false, "it is editable, and a change would be lost"),
        (has_datasource, "it has no variable datasource"),
        (!list(at(dashboard, "annotations.list")).is_empty(), "it has no annotations"),
        (unlinked.is_empty(), "it doesn't link to the other dashboards"),
        (ids.iter().collect::<BTreeSet<_>>().len() == panels(dashboard).len(), "two panels have one id, or one has none"),
    ];
    conditions.into_iter().filter(|(holds, _)| !holds).map(|(_, what)| what.to_owned()).collect()
}

fn of_panel(panel: &Value, alerts: &[Alert]) -> Mistakes {
    if panel["type"] == "text" {
        return Vec::new();
    }
    let description = string(&panel["description"]);
    let foreign = all(panel, "datasource").into_iter().any(|source| source["uid"] != "${datasource}" && source["uid"] != "-- Dashboard --");
    let fixed = targets(panel).any(|expression| expression.contains("rate(") && !expression.contains("[$__rate_interval]"));
    let wide = panel["gridPos"]["x"].as_u64().zip(panel["gridPos"]["w"].as_u64()).is_none_or(|(x, width)| x + width > COLUMNS);
    let other_jobs = targets(panel).flat_map(selectors).any(|selector| !selector.matchers.iter().any(|(label, _)| label == "job"));
    let conditions = [
        (!description.ends_with('.'), "it has no description"),
        (foreign || panel["datasource"].is_null(), "its datasource isn't the variable"),
        (fixed, "a rate isn't over $__rate_interval"),
        (wide, "it is beyond the grid"),
        (other_jobs, "it doesn't select $job"),
        (
            string(&panel["fieldConfig"]["defaults"]["unit"]).is_empty() && panel["type"] != "table" && panel["type"] != "alertlist",
            "it has no unit",
        ),
    ];
    let mut mistakes: Mistakes = conditions.into_iter().filter(|(holds, _)| *holds).map(|(_, what)| what.to_owned()).collect();
    mistakes.extend(thresholds(panel, alerts));
    mistakes
}

/// A threshold has the number of an alert that the description names.
fn thresholds(panel: &Value, alerts: &[Alert]) -> Mistakes {
    let description = string(&panel["description"]);
    let named =
        || alerts.iter().filter(|alert| description.split(|letter: char| !letter.is_ascii_alphanumeric()).any(|word| word == alert.name));
    let numbers: Vec<f64> = named().flat_map(|alert| numbers(&alert.expression)).collect();
    let unknown: Vec<&str> = description
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|word| word.starts_with("Pushline") && word.len() > 8)
        .filter(|word| !alerts.iter().any(|alert| alert.name == *word))
        .collect();
    let steps = list(at(panel, "fieldConfig.defaults.thresholds.steps")).iter().filter_map(|step| step["value"].as_f64());
    let other = steps.filter(|step| !numbers.iter().any(|number| (number - step).abs() < 1e-9));
    let mistakes = other.map(|step| format!("the threshold {step} is in no alert that the description names"));
    mistakes.chain(unknown.iter().map(|word| format!("{word} is no alert"))).collect()
}

/// The numbers of an expression; with 0 where it compares with more than 0, and 1 for a comparison with 1.
fn numbers(expression: &str) -> Vec<f64> {
    let words = expression.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '.'));
    words.filter_map(|word| word.parse().ok()).collect()
}

/// Two panels never cover each other.
fn overlaps(dashboard: &Value) -> Mistakes {
    let place = |panel: &&Value| {
        let of = |key: &str| panel["gridPos"][key].as_u64().unwrap_or_default();
        (of("x"), of("y"), of("w"), of("h"), string(&panel["title"]).to_owned())
    };
    let places: Vec<_> = list(&dashboard["panels"]).iter().map(|panel| place(&panel)).collect();
    let cover = |a: &(u64, u64, u64, u64, String), b: &(u64, u64, u64, u64, String)| {
        a.0 < b.0 + b.2 && b.0 < a.0 + a.2 && a.1 < b.1 + b.3 && b.1 < a.1 + a.3
    };
    let pairs = places.iter().enumerate().flat_map(|(at, a)| places[at + 1..].iter().map(move |b| (a, b)));
    pairs.filter(|(a, b)| cover(a, b)).map(|(a, b)| format!("{:?} and {:?} overlap", a.4, b.4)).collect()
}

/// Metrics that no panel shows, directly or by a recording rule, and exceptions that are none.
fn not_shown(metrics: &Metrics, expressions: &[String], recorded: &BTreeSet<String>) -> Mistakes {
    let rules = rules::recorded_expressions().unwrap_or_default();
    let by_rules = expressions.iter().flat_map(|expression| selectors(expression)).filter(|selector| recorded.contains(&selector.name));
    let behind: Vec<&String> = by_rules.filter_map(|selector| rules.get(&selector.name)).collect();
    let series = expressions.iter().chain(behind).flat_map(|expression| selectors(expression));
    let shown: BTreeSet<String> = series.filter_map(|selector| metrics.family(&selector.name).map(str::to_owned)).collect();
    let exempt = |name: &str| NOT_SHOWN.iter().any(|(exempt, _)| *exempt == name);
    let hidden = metrics.names().filter(|name| !shown.contains(*name) && !exempt(name)).map(|name| format!("{name} is on no panel"));
    let needless =
        NOT_SHOWN.iter().filter(|(name, _)| shown.contains(*name)).map(|(name, _)| format!("{name} is on a panel and named as not"));
    hidden.chain(needless).collect()
}

/// promtool reads every expression as a rule.
fn ungrammatical(expressions: &[String]) -> Result<Mistakes, String> {
    let plain = |expression: &String| {
        VARIABLES.iter().fold(expression.clone(), |text, (variable, value)| text.replace(variable, value)).replace('$', "")
    };
    let rules: Vec<Value> = expressions
        .iter()
        .enumerate()
        .map(|(number, expression)| serde_json::json!({"record": format!("panel:{number}"), "expr": plain(expression)}))
        .collect();
    let file = std::env::temp_dir().join(format!("pushline-panels-{}.yml", std::process::id()));
    std::fs::write(&file, serde_json::json!({"groups": [{"name": "panels", "rules": rules}]}).to_string())
        .map_err(|error| format!("{}: {error}", file.display()))?;
    let checked = output(Command::new("promtool").args(["check", "rules", "--lint=none"]).arg(&file));
    // Nothing depends on its end.
    let _ = std::fs::remove_file(&file);
    let (readable, told, errors) = checked?;
    Ok(if readable { Vec::new() } else { vec![format!("promtool: {told}{errors}")] })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_dashboard_that_a_grafana_would_refuse_or_an_operator_would_curse_is_found() {
        assert_eq!(of_dashboard("a", &json!({"id": 1, "__inputs": [], "panels": [{"type": "stat"}]})).len(), 8);
        let panel = json!({"type": "stat", "title": "p", "gridPos": {"x": 20, "w": 5}, "targets": [{"expr": "rate(pushline_panics_total[5m])"}],
            "fieldConfig": {"defaults": {"thresholds": {"steps": [{"value": null}, {"value": 7}]}}}, "description": "PushlineNothing"});
        assert_eq!(of_panel(&panel, &[]).len(), 8, "{:?}", of_panel(&panel, &[]));
        let place = |x: u64| json!({"title": "p", "gridPos": {"x": x, "y": 0, "w": 6, "h": 4}});
        assert_eq!(overlaps(&json!({"panels": [place(0), place(5), place(12)]})).len(), 1);
    }
}
