//! Each mistake is told with its place, its field and the remedy.

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/p.toml"), text, [])
}

fn mistake(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

const WEBHOOK: &str = "[[webhooks]]\nname = \"w\"\nurl = \"http://a.example/\"\n";

#[test]
fn an_empty_file_is_the_defaults() {
    let config = parse("").unwrap();
    let Queue::Embedded { dir, .. } = &config.settings.queue else { panic!("{:?}", config.settings.queue) };
    assert_eq!(dir, Path::new("/etc/pushline-data"));
    assert_eq!(config.settings.listener.address.to_string(), "127.0.0.1:1883");
    assert_eq!(config.settings.backlog_max_age, Duration::from_hours(72));
}

#[test]
fn the_example_of_the_design_is_read() {
    let config = parse(
        r#"
        [queue]
        kind = "embedded"
        dir = "/data"
        max_bytes = "1GiB"
        [backlog]
        max_age = "72h"
        [mqtt.listener]
        address = "127.0.0.1:1884"
        topics = ["{org}/{iccid}", "g/{org}/{group}/{iccid}/#"]
        max_payload_bytes = 262144
        [egress]
        allow = ["127.0.0.0/8", "::1"]
        [[webhooks]]
        name = "tokyo-server"
        description = "the plant in Tokyo"
        url = "https://example.com/push"
        auth = { kind = "basic", username = "test", password = "123456789" }
        headers = { "1_Area" = "Tokyo" }
        send = "iccid"
        timeout = "90s"
        retries = 2
        retry_delays = ["1s", "5s"]
        window = "1s"
        max_packets = 10
        concurrency = 16
        order = "arrival"
        always_array = false
        payload = "text"
        [[groups]]
        org = "mti"
        name = "tokyo-line-1"
        webhook = "tokyo-server"
        default = true
        devices = ["897612653856781234", "2"]
        [[groups]]
        org = "mti"
        name = "bare"
        "#,
    )
    .unwrap();
    assert_eq!((config.registry.webhooks().len(), config.registry.groups().len(), config.registry.devices()), (1, 2, 2));
    assert!(matches!(config.settings.queue, Queue::Embedded { max_bytes, .. } if max_bytes == 1 << 30));
    let shown = config.to_string();
    assert!(!shown.contains("123456789\"") && shown.contains("password = \"***\""), "{shown}");
    assert!(shown.contains("default = true\ndevices = [\"2\", \"897612653856781234\"]\n"), "{shown}");
    assert!(shown.contains("name = \"bare\"\ndefault = false\ndevices = []\n"), "{shown}");
    assert_eq!(parse(&shown).expect("what is shown can be read again").to_string(), shown);
}

#[test]
fn the_query_of_a_url_is_not_shown() {
    let config = parse("[[webhooks]]\nname = \"w\"\nurl = \"https://example.com/push?token=s3cret\"\n").unwrap();
    assert_eq!(config.registry.webhooks()[0].url.path_and_query(), "/push?token=s3cret");
    let shown = config.to_string();
    assert!(shown.contains("\"https://example.com/push?***\"") && !shown.contains("s3cret"), "{shown}");
    parse(&shown).expect("what is shown can be read again");
}

#[test]
fn the_value_of_a_custom_header_is_not_shown() {
    let config = parse(&format!("{WEBHOOK}headers = {{ \"1_Area\" = \"Tokyo\", X-Customer = \"s3cret\" }}")).unwrap();
    assert_eq!(config.registry.webhooks()[0].headers[1].value(), "s3cret");
    let shown = config.to_string();
    assert!(shown.contains("\"1_Area\" = \"***\", \"X-Customer\" = \"***\"") && !shown.contains("s3cret"), "{shown}");
}

#[test]
fn a_mistake_is_told_with_file_line_field_and_remedy() {
    for (text, expected) in [
        ("[queue]\nkind = \"sqlite\"", "/etc/p.toml:2: queue.kind: \"sqlite\" isn't known here, expected \"embedded\" or \"kafka\""),
        ("[queue]\nmax_bytes = \"10GB\"", "/etc/p.toml:2: queue.max_bytes: \"10GB\": a size is"),
        ("[dead_letters]\nkeep = \"0s\"", "/etc/p.toml:2: dead_letters.keep: at least 1s"),
        ("\n[queue]\nmaxbytes = 1", "/etc/p.toml:3: queue.maxbytes: there is no such field; did you mean max_bytes?"),
        ("[colour]\n", "/etc/p.toml:1: colour: there is no such field (known here: queue,"),
        ("[admin]\naddress = \"localhost\"", "/etc/p.toml:2: admin.address: \"localhost\" is no address with a port"),
        ("[admin]\naddress = 1", "/etc/p.toml:2: admin.address: it is a number, expected an address"),
        (
            "[mqtt.listener]\ntopics = [\n\"{org}/{iccid}\",\n\"{org}\"]",
            "/etc/p.toml:4: mqtt.listener.topics: \"{org}\" is not a topic pattern: it needs {iccid}",
        ),
        ("[egress]\nallow = [\"10.0.0.0\", \"x\"]", "/etc/p.toml:2: egress.allow: \"x\" is no range"),
        ("[[webhooks]]\nname = \"w\"", "/etc/p.toml:1: webhooks[0].url: it is missing"),
        ("[[webhooks]]\nname = \"w\"\nurl = \"ftp://x\"", "/etc/p.toml:3: webhooks[0].url: \"ftp://x\" is not a webhook's URL"),
        ("[[mqtt.brokers]]\nurl = \"mqtt://x\"", "/etc/p.toml:1: mqtt.brokers[0]: this version"),
        ("[queue\n", "/etc/p.toml:1: "),
        ("a = 1\nb = = 2", "/etc/p.toml:2: "),
    ] {
        let error = mistake(text);
        assert!(error.starts_with(expected), "{error}\n  expected {expected}");
    }
}

#[test]
fn a_mistake_in_a_webhook_or_group_is_told_at_its_field() {
    for (more, expected) in [
        ("timeout = \"0s\"", ":4: webhooks[0].timeout: timeout can't be"),
        ("auth = { kind = \"digest\" }", ":4: webhooks[0].auth.kind: \"digest\""),
        ("auth = { kind = \"basic\", username = \"u\" }", ":4: webhooks[0].auth.password: it is missing: password"),
        ("auth = { kind = \"basic\", username = \"a:b\", password = \"p\" }", ":4: webhooks[0].auth: a user name"),
        ("auth = { kind = \"bearer\", token_file = \"/none\" }", ":4: webhooks[0].auth.token_file: can't read /none"),
        ("headers = { \"Content-Type\" = \"x\" }", ":4: webhooks[0].headers: \"Content-Type\" can't be a custom header"),
        ("headers = { x = \"a\\nb\" }", ":4: webhooks[0].headers: the value of header"),
        ("send = \"imei\"", ":4: webhooks[0].send: \"imei\" isn't known here, expected \"iccid\" or \"topic\""),
        ("secret = \"abc\"", ":4: webhooks[0].secret: a signing secret"),
        ("retry_on_status = [200]", ":4: webhooks[0].retry_on_status: retry_on_status can't be 200"),
        ("always_array = \"yes\"", ":4: webhooks[0].always_array: it is a text, expected true or false"),
        ("[[webhooks]]\nname = \"w\"\nurl = \"http://b.example\"", ":5: webhooks[1].name: webhook \"w\" is there twice"),
        ("[[groups]]\norg = \"mti\"\nname = \"a\"\nwebhook = \"v\"", ":7: groups[0].webhook: there is no webhook \"v\""),
        ("[[groups]]\norg = \"organisation\"\nname = \"a\"", ":5: groups[0].org: \"organisation\" is not an organisation"),
        ("[[groups]]\norg = \"mti\"\nname = \"a/b\"", ":6: groups[0].name: \"a/b\" is not a group name"),
        (
            "[[groups]]\norg = \"mti\"\nname = \"a\"\n[[groups]]\norg = \"mti\"\nname = \"a\"",
            ":9: groups[1].name: group \"mti/a\" is there twice",
        ),
        ("[[groups]]\norg = \"mti\"\nname = \"a\"\ndevices = [\n\"1\",\n\"2-3\"]", ":9: groups[0].devices: \"2-3\" is not an ICCID"),
    ] {
        let error = mistake(&format!("{WEBHOOK}{more}"));
        assert!(error.starts_with(&format!("/etc/p.toml{expected}")), "{error}\n  expected {expected}");
    }
}

#[cfg(feature = "kafka")]
#[test]
fn a_mistake_about_kafka_is_told_at_its_field() {
    const KAFKA: &str = "[queue]\nkind = \"kafka\"\n";
    for (more, expected) in [
        ("", ":1: queue.kafka: it is missing: [queue.kafka] with brokers"),
        ("[queue.kafka]\npartitions = 4", ":3: queue.kafka.brokers: it is missing"),
        ("[queue.kafka]\nbrokers = \" \"", ":4: queue.kafka.brokers: it is empty: host:port"),
        ("[queue.kafka]\nbrokers = \"a:1\"\ntopic_prefix = \"a/b\"", ":5: queue.kafka.topic_prefix: 1 to 200 letters"),
        ("[queue.kafka]\nbrokers = \"a:1\"\npartitions = 0", ":5: queue.kafka.partitions: 1 to 10000"),
        ("[queue.kafka]\nbrokers = \"a:1\"\nbroker = \"b\"", ":5: queue.kafka.broker: there is no such field; did you mean brokers?"),
        (
            "[queue.kafka]\nbrokers = \"a:1\"\nproperties = { \"acks\" = \"1\" }",
            ":5: queue.kafka.properties.acks: Pushline sets it: the promise rests on it",
        ),
        (
            "[queue.kafka]\nbrokers = \"a:1\"\n[queue.kafka.properties]\n\"linger.ms\" = \"5\"\n\"sasl.pasword\" = \"p\"",
            ":7: queue.kafka.properties.sasl.pasword: No such configuration property",
        ),
        ("[queue.kafka]\nbrokers = \"a:1\"\nproperties = { \"linger.ms\" = \"soon\" }", ":5: queue.kafka.properties.linger.ms: "),
    ] {
        let error = mistake(&format!("{KAFKA}{more}"));
        assert!(error.starts_with(&format!("/etc/p.toml{expected}")), "{error}\n  expected {expected}");
    }
}

#[test]
fn the_environment_overrides_what_is_no_list() {
    let with = |name: &str, value: &str| Config::parse(Path::new("p.toml"), "[queue]\ndir = \"a\"", [(name.to_owned(), value.to_owned())]);
    let queue = |name: &str, value: &str| with(name, value).unwrap().settings.queue;
    assert!(matches!(queue("PUSHLINE_QUEUE__DIR", "b"), Queue::Embedded { dir, .. } if dir == Path::new("b")));
    assert!(matches!(queue("PUSHLINE_QUEUE__MIN_FREE", "5"), Queue::Embedded { min_free: 5, .. }));
    assert_eq!(with("PUSHLINE_MQTT__LISTENER__ADDRESS", "[::1]:5").unwrap().settings.listener.address.port(), 5);
    assert_eq!(with("PUSHLINE_EGRESS__ALLOW", "10.0.0.0/8, ::1").unwrap().settings.egress_allow.len(), 2);
    let error = |name, value| with(name, value).unwrap_err().to_string();
    assert!(error("PUSHLINE_QUEUE__KIND", "x").starts_with("environment variable PUSHLINE_QUEUE__KIND: queue.kind: "));
    assert!(
        error("PUSHLINE_QUEUE__COLOUR", "x")
            .starts_with("environment variable PUSHLINE_QUEUE__COLOUR: queue.colour: there is no such field")
    );
}

#[test]
fn a_variable_that_names_no_field_is_somebody_elses_unless_it_has_levels() {
    let with = |text: &str, variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::parse(Path::new("p.toml"), text, variables)
    };
    // A Service of Kubernetes named pushline, with one port.
    let service = [
        ("PUSHLINE_PORT", "tcp://10.0.0.1:1883"),
        ("PUSHLINE_PORT_1883_TCP", "tcp://10.0.0.1:1883"),
        ("PUSHLINE_SERVICE_HOST", "10.0.0.1"),
        ("PUSHLINE_SHUTDOWN_GRACE", "3s"),
    ];
    let config = with("", &service).unwrap();
    assert_eq!(config.passed_over, ["PUSHLINE_PORT", "PUSHLINE_PORT_1883_TCP", "PUSHLINE_SERVICE_HOST"]);
    assert_eq!(config.settings.shutdown_grace, Duration::from_secs(3));
    let shown = config.to_string();
    assert!(shown.ends_with("name no field: PUSHLINE_PORT, PUSHLINE_PORT_1883_TCP, PUSHLINE_SERVICE_HOST\n"), "{shown}");
    for (text, name, says) in [
        ("", "PUSHLINE_SERVICE__HOST", "environment variable PUSHLINE_SERVICE__HOST: service: there is no such field"),
        ("", "PUSHLINE_QUEUE", "environment variable PUSHLINE_QUEUE: queue: it is a text, expected a table"),
        ("port = 1", "PUSHLINE_PORT", "p.toml:1: port: there is no such field"),
    ] {
        let error = with(text, &[(name, "x")]).unwrap_err().to_string();
        assert!(error.starts_with(says), "{error}");
    }
}

#[test]
fn a_secret_file_loses_one_newline() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "s3cret\n\n").unwrap();
    std::fs::write(dir.path().join("devices"), "# all of them\n1\n\n2\n").unwrap();
    let text = format!(
        "{WEBHOOK}auth = {{ kind = \"bearer\", token_file = \"token\" }}\n[[groups]]\norg = \"o\"\nname = \"g\"\ndevices_file = \"devices\""
    );
    // The rest of it can't stand in a header.
    let error = Config::parse(&dir.path().join("p.toml"), &text, []).unwrap_err().to_string();
    assert!(error.contains("a token can't be empty or hold control characters"), "{error}");
    std::fs::write(dir.path().join("token"), "s3cret\n").unwrap();
    assert_eq!(Config::parse(&dir.path().join("p.toml"), &text, []).unwrap().registry.devices(), 2);
    std::fs::write(dir.path().join("devices"), "1\n1\n").unwrap();
    let error = Config::parse(&dir.path().join("p.toml"), &text, []).unwrap_err().to_string();
    assert!(error.contains("devices:2: a device of o/g: device \"o/1\" is there twice"), "{error}");
}
