//! Values that the chart refuses, each with the sentence that says why.

use super::{Mistakes, chart::Chart};

/// Values, and a part of what the chart says.
const REFUSED: &[(&str, &str)] = &[
    ("mode: both", "/mode"),
    ("replicas: 3", "additional properties 'replicas' not allowed"),
    ("box: {volume: {sizes: 1Gi}}", "additional properties 'sizes' not allowed"),
    ("box: {volume: {size: much}}", "/box/volume/size"),
    ("image: {digest: latest}", "/image/digest"),
    ("threads: 0", "/threads"),
    ("preStopSeconds: -1", "/preStopSeconds"),
    ("files: [{secret: {name: a}, configMap: {name: b}}]", "/files/0"),
    ("deliver: {autoscaling: {kind: kafka}}", "/deliver/autoscaling/kind"),
    ("deliver: {autoscaling: {minReplicas: 0}}", "/deliver/autoscaling/minReplicas"),
    ("service: {ports: {mqtt: {port: 1}}}", "invalid propertyName 'mqtt'"),
    ("config: \"[queue\\nkind = 1\"", "config isn't TOML: toml: line"),
    ("config: 'a = 1 b = 2'", "config isn't TOML: toml: line"),
    ("config: '[queue]\n\n  kind = \"kafka\"'", "mode is \"box\" and config has [queue] kind = \"kafka\""),
    ("mode: cluster", "mode is \"cluster\" and config has [queue] kind = \"embedded\""),
    ("mode: cluster\nconfig: |\n  [queue]\n  kind = \"kafka\"", "config has no [queue.kafka] brokers with a port"),
    ("config: |\n  [queue]\n  dir = \"/data\"", "config sets [queue] dir, which the chart sets: remove it"),
    ("config: |\n  [metrics]\n  address = \"0.0.0.0:1\"", "config sets [metrics] address"),
    ("config: |\n  [runtime]\n  threads = 2", "config sets [runtime] threads"),
    (
        "config: |\n  [[webhooks]]\n  auth = { kind = \"basic\", username = \"u\", password = \"p\" }\n  secret = \"whsec_\"",
        "config holds secrets (webhooks[0].auth.password, webhooks[0].secret)",
    ),
    ("config: |\n  [[webhooks]]\n  headers = { Authorization = \"Bearer x\" }", "config holds secrets (webhooks[0].headers.Authorization)"),
    (
        "config: |\n  [egress]\n  proxy = { url = \"http://p:1\", username = \"u\", password = \"p\" }",
        "config holds secrets (egress.proxy.password)",
    ),
    (
        "config: |\n  [queue.kafka]\n  brokers = \"a:1\"\n  properties = { \"sasl.password\" = \"p\" }",
        "config holds secrets (queue.kafka.properties.sasl.password)",
    ),
    ("config: |\n  [[mqtt.listeners]]\n  address = \"127.0.0.1:1883\"", "which no device can reach in a pod: write 0.0.0.0:1883"),
    ("config: |\n  [[mqtt.listeners]]\n  address = \"0.0.0.0:9091\"", "has port 9091, where metrics and health are"),
    ("service: {proxyProtocol: true}", "the listener on port 1883 would take the header for MQTT"),
    ("service: {ports: {\"8883\": {port: 1}}}", "service.ports names 8883, and config has no listener on it (only on 1883)"),
    ("configFrom: {secret: a, configMap: b}", "configFrom names more than one place"),
    ("configFrom: {volume: {emptyDir: {}}}\nfiles: [{secret: {name: a}}]", "configFrom.volume has the whole folder"),
    ("strimzi: {topics: true, cluster: c}", "strimzi makes topics and users of Kafka, and mode is \"box\""),
    ("certificate: {enabled: true}", "certificate.issuerRef.name is missing"),
    ("certificate: {enabled: true}", "certificate.dnsNames is empty"),
    ("certificate: {enabled: true}", "certificate is enabled, and no listener uses it"),
];

/// The same in a cluster, beside a configuration of two partitions.
const REFUSED_IN_A_CLUSTER: &[(&str, &str)] = &[
    ("deliver: {replicas: 3}", "deliver.replicas is 3, and config has 2 partitions: the others would be idle"),
    ("deliver: {autoscaling: {kind: hpa, maxReplicas: 3}}", "deliver.autoscaling.maxReplicas is 3, and config has 2 partitions"),
    ("deliver: {autoscaling: {kind: hpa, minReplicas: 3}}", "deliver.autoscaling.minReplicas is 3, more than the 2 that there may be"),
    ("deliver: {autoscaling: {kind: keda}}", "set deliver.autoscaling.keda.serverAddress"),
    ("ingest: {autoscaling: {kind: hpa, minReplicas: 3, maxReplicas: 2}}", "ingest.autoscaling.minReplicas is more than maxReplicas"),
    ("networkPolicy: {enabled: true}", "would cut off Kafka, whose brokers have names: list its pods or ranges in networkPolicy.kafkaTo"),
    ("networkPolicy: {enabled: true}", "would cut off [[mqtt.brokers]]"),
    ("networkPolicy: {enabled: true}", "[egress] proxy has a name: list its pods or ranges in networkPolicy.proxyTo"),
    ("ingest: {kind: Deployment}", "a broker keeps a session for each pod's name: set ingest.kind: StatefulSet"),
    ("strimzi: {users: true}", "strimzi.cluster is missing"),
];

const CLUSTER: &str = r#"
mode: cluster
config: |
  [queue]
  kind = "kafka"
  [queue.kafka]
  brokers = "kafka:9092"
  partitions = 2
  [[mqtt.brokers]]
  url = "mqtt://a"
  [egress]
  proxy = { url = "http://proxy:3128" }
"#;

/// Bytes of a configuration that a ConfigMap takes and the chart doesn't.
const TOO_LARGE: usize = 601 << 10;

/// Renders each set of bad values.
pub(super) fn check(chart: &Chart<'_>) -> Result<Mistakes, String> {
    let alone = REFUSED.iter().map(|(values, sentence)| ((*values).to_owned(), *sentence));
    let in_cluster = REFUSED_IN_A_CLUSTER.iter().map(|(values, sentence)| (format!("{CLUSTER}\n{values}"), *sentence));
    let large = (format!("config: |\n  # {}\n", "x".repeat(TOO_LARGE)), "config has 601 KiB, and the chart takes 600");
    let mut mistakes = Vec::new();
    for (values, sentence) in alone.chain(in_cluster).chain([large]) {
        let shown: String = values.chars().take(200).collect();
        match chart.render(&values) {
            Ok(_) => mistakes.push(format!("{shown:?} is rendered; wanted: {sentence}")),
            Err(told) if told.contains(sentence) => {}
            Err(told) => mistakes.push(format!("{shown:?} is refused with {told:?}; wanted: {sentence}")),
        }
    }
    Ok(mistakes)
}
