//! An example of each field that must be there: the remedy that an error shows, and what stands in for the field so that the rest of its table can be
//! read.

/// Tables by their path without numbers, their required fields, and the examples. A test compares them with the model.
const EXAMPLES: [(&str, &str, &str); 22] = [
    ("queue.kafka", "brokers", "10.0.0.1:9092"),
    ("mqtt.listener.tls", "cert_file", "server.pem"),
    ("mqtt.listener.tls", "key_file", "server.key"),
    ("mqtt.listeners.tls", "cert_file", "server.pem"),
    ("mqtt.listeners.tls", "key_file", "server.key"),
    ("mqtt.listener.jwt", "jwks_file", "jwks.json"),
    ("mqtt.listeners.jwt", "jwks_file", "jwks.json"),
    ("mqtt.listener.login_endpoint", "url", "https://id.example.com/mqtt-logins"),
    ("mqtt.listeners.login_endpoint", "url", "https://id.example.com/mqtt-logins"),
    ("mqtt.brokers", "url", "mqtt://broker.example.com:1883"),
    ("egress.proxy", "url", "http://10.0.0.5:3128"),
    ("webhooks", "name", "tokyo-server"),
    ("webhooks", "url", "https://example.com/push"),
    ("webhooks.auth", "username", "test"),
    ("webhooks.auth", "password", "…"),
    ("webhooks.auth", "token", "…"),
    ("webhooks.auth", "key", "…"),
    ("webhooks.auth", "token_url", "https://id.example.com/token"),
    ("webhooks.auth", "client_id", "pushline"),
    ("webhooks.auth", "client_secret", "…"),
    ("groups", "org", "mti"),
    ("groups", "name", "tokyo-line-1"),
];

/// The example of a field, by its path as a mistake shows it: `webhooks[0].auth.token`.
pub(super) fn example(field: &str) -> Option<&'static str> {
    let levels = field.split('.').map(|level| level.split('[').next().unwrap_or(level));
    let is_it = |(table, name, _): &&(&str, &str, &str)| table.split('.').chain([*name]).eq(levels.clone());
    EXAMPLES.iter().find(is_it).map(|(_, _, example)| *example)
}
