//! How many processes there are, and how many may be taken away at once.

use serde_json::Value;

use super::{
    Mistakes,
    chart::Set,
    objects::selects,
    tree::{at, name, string},
};

/// Checks every set.
pub(super) fn check(sets: &[Set]) -> Mistakes {
    let of_set = |set: &Set| {
        let found = [rollout(set), evictions(set), most(set), replicas(set)].concat();
        found.into_iter().map(|mistake| format!("{}: {mistake}", set.name)).collect::<Vec<_>>()
    };
    sets.iter().flat_map(of_set).collect()
}

fn partitions(set: &Set) -> Option<i64> {
    let config: toml::Table = set.config().parse().ok()?;
    let kafka = config.get("queue")?.get("kafka")?;
    Some(kafka.get("partitions").and_then(toml::Value::as_integer).unwrap_or(16))
}

/// A Deployment replaces its pods one more at a time; a box is one.
fn rollout(set: &Set) -> Mistakes {
    let wrong = |object: &&Value| match string(&object["kind"]) {
        "Deployment" => {
            at(object, "spec.strategy.rollingUpdate.maxUnavailable") != 0 || at(object, "spec.strategy.rollingUpdate.maxSurge") != 1
        }
        _ => is_box(object) && (object["spec"]["replicas"] != 1 || at(object, "spec.serviceName").is_null()),
    };
    set.workloads().filter(wrong).map(|object| format!("{} isn't rolled out one pod at a time", name(object))).collect()
}

fn is_box(object: &Value) -> bool {
    object["metadata"]["labels"]["app.kubernetes.io/component"] == "box"
}

/// A budget never blocks a drain, belongs to one workload with at least two pods, and a box has none.
fn evictions(set: &Set) -> Mistakes {
    let budgets: Vec<&Value> = set.of_kind("PodDisruptionBudget").collect();
    let selected =
        |budget: &Value, object: &Value| selects(at(budget, "spec.selector.matchLabels"), at(object, "spec.template.metadata.labels"));
    let mut mistakes = Vec::new();
    for budget in &budgets {
        let spec = &budget["spec"];
        if spec["maxUnavailable"] != 1 || !spec["minAvailable"].is_null() || spec["unhealthyPodEvictionPolicy"] != "AlwaysAllow" {
            mistakes.push(format!("{} can block a drain", name(budget)));
        }
    }
    for object in set.workloads() {
        let count = budgets.iter().filter(|budget| selected(budget, object)).count();
        let several = !is_box(object)
            && set.values["podDisruptionBudget"]["enabled"] != false
            && object["spec"]["replicas"].as_i64().is_none_or(|replicas| replicas > 1);
        if count != usize::from(several) {
            mistakes.push(format!("{} has {count} disruption budgets", name(object)));
        }
    }
    mistakes
}

/// No more deliverers than partitions: by default as many.
fn most(set: &Set) -> Mistakes {
    let Some(partitions) = partitions(set) else { return Vec::new() };
    let most = |object: &Value| object["spec"]["maxReplicas"].as_i64().or_else(|| object["spec"]["maxReplicaCount"].as_i64());
    let scaled = set.objects.iter().filter(|object| object["metadata"]["labels"]["app.kubernetes.io/component"] == "deliver");
    let wrong = scaled.filter(|object| most(object).is_some_and(|most| most != partitions));
    wrong.map(|object| format!("{} allows more or fewer than the {partitions} partitions", name(object))).collect()
}

/// What an autoscaler sets, the workload leaves open; the autoscaler names a workload that exists.
fn replicas(set: &Set) -> Mistakes {
    let mut mistakes = Vec::new();
    let scalers: Vec<&Value> = ["HorizontalPodAutoscaler", "ScaledObject"].into_iter().flat_map(|kind| set.of_kind(kind)).collect();
    let target = |scaler: &Value| string(at(scaler, "spec.scaleTargetRef.name")).to_owned();
    for object in set.workloads() {
        let own = string(at(object, "metadata.name"));
        let is_scaled = scalers.iter().any(|scaler| target(scaler) == own);
        if is_scaled != object["spec"]["replicas"].is_null() {
            mistakes.push(format!("{} has replicas and an autoscaler, or neither", name(object)));
        }
    }
    let exists = |scaler: &Value| set.workloads().any(|object| string(at(object, "metadata.name")) == target(scaler));
    mistakes.extend(scalers.iter().filter(|scaler| !exists(scaler)).map(|scaler| format!("{} scales nothing", name(scaler))));
    mistakes.extend(set.of_kind("ScaledObject").filter_map(trigger));
    mistakes
}

/// The lag that Kafka's tools show is what hasn't settled; a hanging customer raises it, and more deliverers don't help that customer.
fn trigger(scaler: &Value) -> Option<String> {
    let trigger = at(scaler, "spec.triggers.0");
    let right = trigger["type"] == "prometheus"
        && string(at(trigger, "metadata.query")).starts_with("sum(pushline_queue_lag_records{")
        && at(scaler, "spec.fallback.behavior") == "currentReplicasIfHigher"
        && at(scaler, "spec.minReplicaCount").as_i64().is_some_and(|least| least > 0);
    (!right).then(|| format!("{} doesn't scale by pushline_queue_lag_records, or to 0", name(scaler)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::deploy::tree::documents;

    #[test]
    fn a_budget_that_blocks_a_drain_too_many_deliverers_and_a_fixed_number_beside_an_autoscaler_are_found() {
        let objects = documents(
            "kind: Deployment\nmetadata: {name: d, labels: {app.kubernetes.io/component: deliver}}\nspec:\n  replicas: 2\n  template: {metadata: {labels: {a: b}}}\n---\n\
             kind: PodDisruptionBudget\nmetadata: {name: p}\nspec: {minAvailable: 2, selector: {matchLabels: {a: b}}}\n---\n\
             kind: ScaledObject\nmetadata: {name: s, labels: {app.kubernetes.io/component: deliver}}\n\
             spec: {scaleTargetRef: {name: d}, minReplicaCount: 1, maxReplicaCount: 9, triggers: [{type: kafka}]}\n",
        );
        let values = json!({"config": "[queue.kafka]\npartitions = 8"});
        let set = Set { name: "set".into(), values, rendered: String::new(), objects: objects.unwrap() };
        let found = check(&[set]);
        let wanted = ["one pod at a time", "can block a drain", "the 8 partitions", "replicas and an autoscaler", "doesn't scale by"];
        assert!(wanted.iter().all(|part| found.iter().any(|mistake| mistake.contains(part))) && found.len() == wanted.len(), "{found:?}");
    }
}
