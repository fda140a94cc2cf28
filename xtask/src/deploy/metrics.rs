//! The metrics of docs/metrics.md, and whether an expression names only what is there.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    promql::{Selector, grouping_labels, selectors},
    text,
};

/// Labels that a scrape adds: the PodMonitor's, or those of `deploy/prometheus/prometheus.yml`.
const OF_THE_SCRAPE: [&str; 8] = ["job", "namespace", "pod", "container", "instance", "component", "le", "alertname"];

/// Functions that need a counter.
const OF_COUNTERS: [&str; 3] = ["rate", "irate", "increase"];

/// What docs/metrics.md says of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metric {
    kind: String,
    /// Each label with its known values.
    labels: BTreeMap<String, Vec<String>>,
}

/// All metrics by name.
#[derive(Debug)]
pub(super) struct Metrics(BTreeMap<String, Metric>);

impl Metrics {
    /// Reads the tables, planned metrics included.
    ///
    /// # Errors
    /// The page is missing, or hasn't the tables.
    pub(super) fn read() -> Result<Self, String> {
        let metrics: BTreeMap<String, Metric> = text("docs/metrics.md")?.lines().filter_map(row).collect();
        if metrics.len() < 40 { Err(format!("only {} metrics can be read in docs/metrics.md", metrics.len())) } else { Ok(Self(metrics)) }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The metric that a series belongs to: a histogram has several series.
    pub(super) fn family<'a>(&'a self, series: &'a str) -> Option<&'a str> {
        let parts = ["_bucket", "_sum", "_count"].iter().filter_map(|part| series.strip_suffix(part));
        let of_histogram = parts.into_iter().find(|name| self.0.get(*name).is_some_and(|metric| metric.kind == "histogram"));
        of_histogram
            .or_else(|| self.0.get_key_value(series).filter(|(_, metric)| metric.kind != "histogram").map(|(name, _)| name.as_str()))
    }

    /// What an expression names that isn't there. `recorded`: the names of recording rules.
    pub(super) fn unknown(&self, expression: &str, recorded: &BTreeSet<String>) -> Vec<String> {
        let selectors = selectors(expression);
        let mut unknown: Vec<String> = selectors.iter().flat_map(|selector| self.unknown_in(selector, recorded)).collect();
        let mut labels: BTreeSet<&str> = OF_THE_SCRAPE.into_iter().collect();
        let metrics = selectors.iter().filter_map(|selector| self.0.get(self.family(&selector.name)?));
        labels.extend(metrics.flat_map(|metric| metric.labels.keys().map(String::as_str)));
        // What a recording rule keeps is what its expression groups by.
        let is_recorded = selectors.iter().any(|selector| recorded.contains(&selector.name));
        let unknown_labels = grouping_labels(expression).into_iter().filter(|label| !is_recorded && !labels.contains(label.as_str()));
        unknown.extend(unknown_labels.map(|label| format!("{label} is a label of no metric of {expression}")));
        unknown
    }

    fn unknown_in(&self, selector: &Selector, recorded: &BTreeSet<String>) -> Vec<String> {
        if selector.name == "up" || recorded.contains(&selector.name) {
            return Vec::new();
        }
        let Some(metric) = self.family(&selector.name).and_then(|family| self.0.get(family)) else {
            return vec![format!("{} isn't in docs/metrics.md", selector.name)];
        };
        let mut unknown = Vec::new();
        if selector.function.as_deref().is_some_and(|function| OF_COUNTERS.contains(&function)) && metric.kind == "gauge" {
            unknown.push(format!("{} is a gauge, which has no rate", selector.name));
        }
        for (label, values) in &selector.matchers {
            match metric.labels.get(label) {
                Some(known) => unknown.extend(
                    values
                        .iter()
                        .filter(|value| !is_known(value, known))
                        .map(|value| format!("{}: {label} has no value {value}", selector.name)),
                ),
                None if OF_THE_SCRAPE.contains(&label.as_str()) => {}
                None => unknown.push(format!("{} has no label {label}", selector.name)),
            }
        }
        unknown
    }
}

/// Whether a value is one of the known ones: `any` is each, and `a*` each that begins with `a`. A variable of a dashboard stands for any of them.
fn is_known(value: &str, known: &[String]) -> bool {
    let fits = |one: &String| one == "any" || one == value || one.strip_suffix('*').is_some_and(|start| value.starts_with(start));
    value.starts_with('$') || known.iter().any(fits)
}

fn row(line: &str) -> Option<(String, Metric)> {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    let [_, name, kind, _unit, labels, _where, "present" | "planned", ..] = cells[..] else { return None };
    let of_label = |text: &str| {
        let (label, values) = text.split_once(": ")?;
        Some((label.trim().trim_matches('`').to_owned(), values.split(", ").map(|value| value.trim().to_owned()).collect()))
    };
    Some((name.trim_matches('`').to_owned(), Metric { kind: kind.to_owned(), labels: labels.split(';').filter_map(of_label).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_a_label_a_value_and_a_rate_that_are_not_there_are_found() {
        let metrics = Metrics::read().unwrap();
        let unknown = |expression: &str| metrics.unknown(expression, &BTreeSet::from(["pushline:a".to_owned()]));
        let good = "sum by (cause, job) (rate(pushline_packets_dead_lettered_total{cause=~\"expired|no_response\", job=\"pushline\"}[5m])) / up + pushline:a";
        assert_eq!(unknown(good), Vec::<String>::new());
        assert_eq!(unknown("histogram_quantile(0.9, sum by (le) (rate(pushline_ingest_ack_seconds_bucket[5m])))"), Vec::<String>::new());
        for (bad, wanted) in [
            ("pushline_nothing_total", "isn't in docs"),
            ("pushline_ingest_ack_seconds", "isn't in docs"),
            ("pushline_lanes{cause=\"expired\"}", "has no label cause"),
            ("pushline_lanes{state=\"dead\"}", "has no value dead"),
            ("sum by (webhook) (pushline_lanes)", "webhook is a label of no metric"),
            ("rate(pushline_lanes[5m])", "a gauge"),
        ] {
            assert!(unknown(bad).iter().any(|mistake| mistake.contains(wanted)), "{bad}: {:?}", unknown(bad));
        }
    }
}
