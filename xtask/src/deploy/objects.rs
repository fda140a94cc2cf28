//! What the chart's workloads mean: how they stop, how they are probed, what they may do, what they mount, and who finds them.

use serde_json::Value;

use super::{
    Mistakes,
    chart::Set,
    tree::{all, at, list, name, string},
};

/// Seconds of a stop beside preStop, `drain` and `shutdown_grace`: connections that close, the last checkpoint, the queue.
pub(super) const CLOSING_SECONDS: u64 = 20;

/// What a listener's connections are spread over at a stop, and how long messages in flight are waited for, unless the configuration says otherwise.
pub(super) const DEFAULT_DRAIN_SECONDS: u64 = 5;
pub(super) const DEFAULT_GRACE_SECONDS: u64 = 10;

/// A rule: its sentence, and what breaks it in a set.
type Rule = (&'static str, fn(&Set) -> Vec<String>);

const RULES: &[Rule] = &[
    ("a pod has the time to stop that its configuration asks for", time_to_stop),
    ("probes ask a port that the container has, and liveness asks only for health", probes),
    ("no volume is mounted by a subPath", sub_paths),
    ("configuration and secrets are one projected volume, mounted as a folder", one_volume),
    ("pods are restricted", restricted),
    ("every workload's selector finds its own pods and no other's", selectors),
    ("services lead to ports that pods have", services),
    ("memory is limited and CPU isn't, unless a value says so", resources),
    ("volume claims have no labels", claims),
];

/// Checks every rule in every set.
pub(super) fn check(sets: &[Set]) -> Mistakes {
    let of_set = |set| {
        RULES.iter().flat_map(move |(rule, broken): &Rule| broken(set).into_iter().map(move |what| format!("{}: {what}: {rule}", set.name)))
    };
    sets.iter().flat_map(of_set).collect()
}

/// The pod of a workload, or of a test.
fn pods(set: &Set) -> Vec<(&Value, &Value)> {
    let of_workloads = set.workloads().map(|object| (object, at(object, "spec.template.spec")));
    of_workloads.chain(set.of_kind("Pod").map(|object| (object, &object["spec"]))).collect()
}

fn broken(objects: impl IntoIterator<Item = (String, bool)>) -> Vec<String> {
    objects.into_iter().filter(|(_, holds)| !holds).map(|(what, _)| what).collect()
}

/// Pushline's own container.
fn container(pod: &Value) -> &Value {
    &list(&pod["containers"])[0]
}

/// The seconds that a process may take from SIGTERM on.
pub(super) fn seconds_to_stop(config: &str) -> u64 {
    let config: toml::Table = config.parse().unwrap_or_default();
    let seconds = |value: Option<&toml::Value>, default| value.and_then(toml::Value::as_str).and_then(seconds_of).unwrap_or(default);
    let listeners = config.get("mqtt").and_then(|mqtt| mqtt.get("listeners")).and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let one = config.get("mqtt").and_then(|mqtt| mqtt.get("listener")).cloned();
    let takes_devices = config.get("mqtt").is_none_or(|mqtt| mqtt.get("brokers").is_none()) || !listeners.is_empty();
    let drains = listeners.iter().chain(&one).map(|listener| seconds(listener.get("drain"), DEFAULT_DRAIN_SECONDS));
    let drain = drains.max().unwrap_or(if takes_devices { DEFAULT_DRAIN_SECONDS } else { 0 });
    drain + seconds(config.get("shutdown_grace"), DEFAULT_GRACE_SECONDS) + CLOSING_SECONDS
}

fn seconds_of(text: &str) -> Option<u64> {
    text.strip_suffix('s').and_then(|number| number.parse().ok())
}

fn time_to_stop(set: &Set) -> Vec<String> {
    broken(set.workloads().map(|object| {
        let pod = at(object, "spec.template.spec");
        let before = at(container(pod), "lifecycle.preStop.sleep.seconds").as_u64().unwrap_or(0);
        let has = pod["terminationGracePeriodSeconds"].as_u64().unwrap_or(0);
        let needed = before + seconds_to_stop(set.config());
        (format!("{} has {has} s and needs {needed}", name(object)), has == needed)
    }))
}

fn probes(set: &Set) -> Vec<String> {
    broken(set.workloads().flat_map(|object| {
        let container = container(at(object, "spec.template.spec"));
        let ports: Vec<&str> = list(&container["ports"]).iter().map(|port| string(&port["name"])).collect();
        let wanted = [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")];
        wanted.map(|(probe, path)| {
            let get = &container[probe]["httpGet"];
            (format!("{} {probe}", name(object)), get["path"] == path && ports.contains(&string(&get["port"])))
        })
    }))
}

fn sub_paths(set: &Set) -> Vec<String> {
    let has = |object: &&Value| !all(object, "subPath").is_empty() || !all(object, "subPathExpr").is_empty();
    set.workloads().filter(has).map(name).collect()
}

fn one_volume(set: &Set) -> Vec<String> {
    broken(pods(set).into_iter().map(|(object, pod)| {
        let volumes: Vec<&Value> = list(&pod["volumes"]).iter().filter(|volume| volume["name"] == "config").collect();
        let other_secrets = list(&pod["volumes"]).iter().any(|volume| volume["secret"].is_object());
        let mounts = list(&container(pod)["volumeMounts"]);
        let mounted =
            mounts.iter().any(|mount| mount["name"] == "config" && mount["mountPath"] == "/etc/pushline" && mount["readOnly"] == true);
        let is_projected = volumes.len() == 1 && (volumes[0]["projected"].is_object() || set.values["configFrom"]["volume"].is_object());
        (name(object), is_projected && !other_secrets && mounted)
    }))
}

fn restricted(set: &Set) -> Vec<String> {
    broken(pods(set).into_iter().map(|(object, pod)| {
        let (security, own) = (&pod["securityContext"], &container(pod)["securityContext"]);
        let holds = security["runAsNonRoot"] == true
            && security["runAsUser"].as_u64().is_some_and(|user| user > 0)
            && at(security, "seccompProfile.type") == "RuntimeDefault"
            && own["allowPrivilegeEscalation"] == false
            && own["readOnlyRootFilesystem"] == true
            && list(at(own, "capabilities.drop")).iter().any(|dropped| dropped == "ALL")
            && pod["automountServiceAccountToken"] == false
            && pod["enableServiceLinks"] == false
            && ["hostNetwork", "hostPID", "hostIPC"].iter().all(|field| pod[field].is_null());
        (name(object), holds)
    }))
}

/// Whether labels have all that a selector asks for.
pub(super) fn selects(selector: &Value, labels: &Value) -> bool {
    selector.as_object().is_some_and(|wanted| !wanted.is_empty() && wanted.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

/// A selector can't be changed, so it holds nothing that a release changes.
fn selectors(set: &Set) -> Vec<String> {
    let workloads: Vec<&Value> = set.workloads().collect();
    broken(workloads.iter().map(|object| {
        let selector = at(object, "spec.selector.matchLabels");
        let found = workloads.iter().filter(|other| selects(selector, at(other, "spec.template.metadata.labels")));
        let names: Vec<&String> = selector.as_object().map_or_else(Vec::new, |labels| labels.keys().collect());
        let lasting = names == ["app.kubernetes.io/component", "app.kubernetes.io/instance", "app.kubernetes.io/name"];
        (name(object), found.count() == 1 && selects(selector, at(object, "spec.template.metadata.labels")) && lasting)
    }))
}

fn services(set: &Set) -> Vec<String> {
    broken(set.of_kind("Service").map(|service| {
        let selected: Vec<&Value> =
            set.workloads().filter(|object| selects(&service["spec"]["selector"], at(object, "spec.template.metadata.labels"))).collect();
        let has = |port: &Value| {
            let ports = |object: &Value| {
                list(&container(at(object, "spec.template.spec"))["ports"]).iter().any(|one| one["name"] == port["targetPort"])
            };
            selected.iter().all(|object| ports(object))
        };
        (name(service), !selected.is_empty() && list(&service["spec"]["ports"]).iter().all(has))
    }))
}

fn resources(set: &Set) -> Vec<String> {
    broken(set.workloads().map(|object| {
        let resources = &container(at(object, "spec.template.spec"))["resources"];
        let memory = at(resources, "limits.memory").is_string() && at(resources, "requests.memory").is_string();
        (name(object), memory && at(resources, "limits.cpu").is_null() && at(resources, "requests.cpu").is_string())
    }))
}

fn claims(set: &Set) -> Vec<String> {
    let claims = set.workloads().flat_map(|object| list(at(object, "spec.volumeClaimTemplates")).iter().map(move |claim| (object, claim)));
    broken(claims.map(|(object, claim)| (name(object), at(claim, "metadata.labels").is_null())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::tree::documents;

    fn set(config: &str, workload: &str) -> Set {
        let objects = documents(workload).unwrap();
        Set { name: "set".into(), values: serde_json::json!({ "config": config }), rendered: String::new(), objects }
    }

    #[test]
    fn the_time_to_stop_follows_from_the_configuration() {
        assert_eq!(seconds_to_stop(""), 35);
        assert_eq!(seconds_to_stop("shutdown_grace = \"30s\"\n[[mqtt.listeners]]\ndrain = \"7s\"\n[[mqtt.listeners]]\n"), 57);
        assert_eq!(seconds_to_stop("[[mqtt.brokers]]\nurl = \"mqtt://a\""), 30);
    }

    #[test]
    fn a_pod_that_breaks_every_rule_is_named_by_every_rule() {
        let workload = "kind: Deployment\nmetadata: {name: a}\nspec:\n  volumeClaimTemplates: [{metadata: {labels: {a: b}}}]\n  selector: {matchLabels: {a: b}}\n  \
                        template:\n    metadata: {labels: {a: c}}\n    spec:\n      terminationGracePeriodSeconds: 30\n      containers:\n      - {resources: {limits: {cpu: 1}}, \
                        volumeMounts: [{subPath: x}]}\n---\nkind: Service\nmetadata: {name: s}\nspec: {selector: {a: z}, ports: [{targetPort: x}]}\n";
        let set = set("", workload);
        let silent: Vec<&str> = RULES.iter().filter(|(_, broken)| broken(&set).is_empty()).map(|(rule, _)| *rule).collect();
        assert_eq!(silent, Vec::<&str>::new());
    }
}
