//! Each mistake is reported with its place, its field and the remedy.

use std::time::Duration;

use super::*;
use crate::role::Role;

fn parse(text: &str) -> Result<Config, Mistakes> {
    Config::parse(Path::new("/etc/p.toml"), text, [])
}

fn mistake(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

const WEBHOOK: &str = "[[webhooks]]\nname = \"w\"\nurl = \"http://a.example/\"\n";

#[test]
fn an_empty_file_is_the_defaults() {
    let config = parse("").unwrap();
    let Queue::Embedded { dir, .. } = config.settings.queue.chosen() else { panic!("{:?}", config.settings.queue) };
    assert_eq!(dir, Path::new("/etc/pushline-data"));
    assert_eq!(config.settings.mqtt.listeners[0].address.to_string(), "127.0.0.1:1883");
    assert_eq!(config.settings.backlog.max_age, Duration::from_hours(72));
}

#[test]
fn a_whole_configuration_is_read_and_printed_and_read_again() {
    let config = parse(
        r#"
        [queue]
        kind = "embedded"
        dir = "/data"
        max_bytes = "1GiB"
        [backlog]
        max_age = "72h"
        [[mqtt.listeners]]
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
    assert!(matches!(config.settings.queue.chosen(), Queue::Embedded { max_bytes, .. } if max_bytes == 1 << 30));
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
    assert!(shown.contains("1_Area = \"***\"\nX-Customer = \"***\"") && !shown.contains("s3cret"), "{shown}");
}

#[test]
fn files_of_tls_are_sought_beside_the_configuration_and_a_mistake_in_one_has_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.toml");
    let read = |tls: &str| {
        let text = format!("[[webhooks]]\nname = \"w\"\nurl = \"https://a.example/\"\n{tls}");
        Config::parse(&file, &text, []).map_err(|mistakes| mistakes.to_string())
    };
    for (tls, says) in [
        ("tls = { ca_file = \"ca.pem\" }", "p.toml:4: webhooks[0].tls.ca_file: can't read"),
        ("[webhooks.tls]\n\ncert_file = \"c.pem\"\nkey_file = \"k.pem\"", "p.toml:6: webhooks[0].tls.cert_file: can't read"),
        ("tls = { cert_file = \"c.pem\" }", "p.toml:4: webhooks[0].tls: cert_file needs key_file"),
        ("tls = { server_name = \"a b\" }", "p.toml:4: webhooks[0].tls.server_name: \"a b\" is not the name of a server"),
        ("tls = { ca = \"ca.pem\" }", "p.toml:4: webhooks[0].tls.ca: there is no such field"),
    ] {
        let mistakes = read(tls).unwrap_err();
        assert!(mistakes.contains(says), "{mistakes}\n  expected {says}");
    }
    for (years, warns) in [(2020..2090, false), (2020..2021, true)] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["client".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(years.start, 1, 1), rcgen::date_time_ymd(years.end, 1, 1));
        std::fs::write(folder.path().join("c.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(folder.path().join("k.pem"), key.serialize_pem()).unwrap();
        let config = read("tls = { cert_file = \"c.pem\", key_file = \"k.pem\" }").unwrap();
        let shown = config.to_string();
        let line = shown.lines().find(|line| line.contains("c.pem expire")).unwrap();
        assert_eq!((line.starts_with("# warning: webhook \"w\""), line.contains("expired at 2021")), (warns, warns), "{line}");
        assert!(Config::parse(&file, &shown, []).is_ok(), "{shown}");
    }
}

#[test]
fn the_way_out_is_read_and_its_password_hidden() {
    let text = "[egress]\nsource_address = \"10.0.0.7\"\nproxy = { url = \"http://10.0.0.5:3128\", username = \"u\", password = \"hush\" }";
    let config = parse(text).unwrap();
    assert_eq!(config.settings.egress.source_address, Some([10, 0, 0, 7].into()));
    let shown = config.to_string();
    assert!(shown.contains("http://10.0.0.5:3128") && !shown.contains("hush"), "{shown}");
    assert!(parse(&shown).is_ok(), "{shown}");
}

#[test]
fn one_listener_may_stand_outside_the_list_and_is_the_first() {
    let ports = |text: &str| -> Vec<u16> {
        let config = parse(text).unwrap();
        let shown = config.to_string();
        assert_eq!(parse(&shown).expect("what is shown can be read again").to_string(), shown);
        config.settings.mqtt.listeners.iter().map(|listener| listener.address.port()).collect()
    };
    let (one, list) = ("[mqtt.listener]\naddress = \"127.0.0.1:5\"\n", "[[mqtt.listeners]]\naddress = \"127.0.0.1:6\"\n");
    let broker = "[[mqtt.brokers]]\nurl = \"mqtt://b\"\n";
    assert_eq!([ports(one), ports(list), ports(&[one, list].concat())], [vec![5], vec![6], vec![5, 6]]);
    assert_eq!([ports(&[broker, one].concat()), ports(broker), ports("")], [vec![5], vec![], vec![1883]]);
}

#[test]
fn brokers_are_read_with_their_defaults_and_printed_and_read_again() {
    let text = "[[mqtt.brokers]]\nurl = \"mqtts://broker.example\"\nusername = \"u\"\npassword = \"hush\"\ntls = { server_name = \"b.example\" }\n\
                [[mqtt.brokers]]\nurl = \"mqtt://127.0.0.1:1884\"\nversion = \"3.1.1\"\nshared_group = \"g\"\nconnections = 2\ntopics = [\"d/{org}/{iccid}\"]\n";
    let config = parse(text).unwrap();
    let mqtt = &config.settings.mqtt;
    assert!(mqtt.listeners.is_empty(), "with a broker there is no listener by default");
    let options = mqtt.brokers[0].options(7);
    assert_eq!((options.host.as_str(), options.port, options.connections, options.tls.is_some()), ("broker.example", 8883, 1, true));
    assert!(options.client_id.starts_with("pushline-") && !options.client_id.contains('{'), "{}", options.client_id);
    assert_eq!(mqtt.topics().iter().map(ToString::to_string).collect::<Vec<_>>(), ["{org}/{iccid}", "d/{org}/{iccid}"]);
    let shown = config.to_string();
    assert!(shown.contains("client_id = \"pushline-{hostname}\"") && !shown.contains("hush"), "{shown}");
    assert_eq!(parse(&shown).expect("what is shown can be read again").to_string(), shown);
}

#[test]
fn a_mistake_in_a_broker_is_reported_with_what_would_be_right() {
    let url = "url = \"mqtt://b\"";
    for (fields, expected) in [
        ("", ":1: mqtt.brokers.url: it is missing: url = \"mqtt://broker.example.com:1883\""),
        ("url = \"http://b\"", ":2: mqtt.brokers.url: \"http://b\" is not an MQTT broker's URL: it begins with mqtt://"),
        (&format!("{url}\nversion = \"4\""), ":3: mqtt.brokers.version: \"4\" isn't known here, expected \"3.1.1\" or \"5\""),
        (&format!("{url}\nconnections = 2"), ":1: mqtt.brokers: mqtt://b: connections needs shared_group"),
        (&format!("{url}\npassword = \"p\""), ":1: mqtt.brokers: mqtt://b: password needs username"),
        (&format!("{url}\ntls = {{ server_name = \"a.example\" }}"), ":1: mqtt.brokers: mqtt://b: the URL begins with mqtt://"),
        ("url = \"mqtts://b\"\ntls = { ca_file = \"/none\" }", ":1: mqtt.brokers: mqtts://b: tls.ca_file: can't read /none"),
        (&format!("{url}\nshared_group = \"a/b\""), ":3: mqtt.brokers.shared_group: 1 to 200 bytes without /"),
        (&format!("{url}\ntopics = [\"a/{{org}}/{{iccid}}\", \"{{org}}/b/{{iccid}}\"]"), "matches both a/+/+ and +/b/+ could come twice"),
        (&format!("{url}\n[[mqtt.brokers]]\n{url}\n"), ":1: mqtt.brokers: mqtt://b: client_id \"pushline-{hostname}\" is another entry's"),
        (&format!("{url}\nqos = 2"), ":3: mqtt.brokers.qos: there is no such field"),
    ] {
        let error = mistake(&format!("[[mqtt.brokers]]\n{fields}"));
        assert!(error.contains(expected), "{error}\n  expected {expected}");
    }
}

#[test]
fn a_mistake_is_reported_with_file_line_field_and_remedy() {
    for (text, expected) in [
        ("[queue]\nkind = \"sqlite\"", "/etc/p.toml:2: queue.kind: \"sqlite\" isn't known here, expected \"embedded\" or \"kafka\""),
        ("[queue]\nmax_bytes = \"10GB\"", "/etc/p.toml:2: queue.max_bytes: \"10GB\": a size is"),
        ("[dead_letters]\nkeep = \"0s\"", "/etc/p.toml:2: dead_letters.keep: 0ms is out of range, expected 1s to 3650d"),
        ("\n[queue]\nmaxbytes = 1", "/etc/p.toml:3: queue.maxbytes: there is no such field; did you mean max_bytes?"),
        ("[colour]\n", "/etc/p.toml:1: colour: there is no such field (known here: shutdown_grace, queue,"),
        ("[admin]\naddress = \"localhost\"", "/etc/p.toml:2: admin.address: \"localhost\" is no address with a port"),
        ("[[mqtt.listeners]]\naddress = \"0.0.0.0:9090\"", "/etc/p.toml:1: admin.address: devices connect to 0.0.0.0:9090: give each"),
        ("[admin]\naddress = \"127.0.0.1:1883\"", "/etc/p.toml:2: admin.address: devices connect to 127.0.0.1:1883: give each"),
        ("[metrics]\naddress = \"127.0.0.1:1883\"", "/etc/p.toml:2: metrics.address: devices connect to 127.0.0.1:1883: give each"),
        ("[metrics]\naddress = \"0.0.0.0:9090\"", "/etc/p.toml:2: metrics.address: admin.address is 127.0.0.1:9090, and has metrics"),
        ("[runtime]\nthreads = 0", "/etc/p.toml:2: runtime.threads: "),
        ("[admin]\naddress = 1", "/etc/p.toml:2: admin.address: it is a number, expected an address"),
        (
            "[[mqtt.listeners]]\ntopics = [\n\"{org}/{iccid}\",\n\"{org}\"]",
            "/etc/p.toml:4: mqtt.listeners.topics: \"{org}\" is not a topic pattern: it needs {iccid}",
        ),
        ("[egress]\nallow = [\"10.0.0.0\", \"x\"]", "/etc/p.toml:2: egress.allow: \"x\" is no range"),
        ("[egress]\nsource_address = \"10.0.0.0/8\"", "/etc/p.toml:2: egress.source_address: \"10.0.0.0/8\" is no address, such as"),
        ("[egress]\nproxy = \"http://10.0.0.5:3128\"", "/etc/p.toml:2: egress.proxy: it is a text, expected a table"),
        (
            "[egress]\nproxy = { url = \"https://p:1\" }",
            "/etc/p.toml:2: egress.proxy.url: \"https://p:1\" is no proxy: write it as http://host:port",
        ),
        ("[egress]\nproxy = { url = \"http://u:hush@p:1\" }", "/etc/p.toml:2: egress.proxy.url: user and password don't belong in it"),
        ("[egress.proxy]\nurl = \"http://p:1\"\nusername = \"u\"", "/etc/p.toml:1: egress.proxy: username needs password"),
        ("[egress]\nproxy = { }", "/etc/p.toml:2: egress.proxy.url: it is missing"),
        ("[[webhooks]]\nname = \"w\"", "/etc/p.toml:1: webhooks[0].url: it is missing"),
        ("[[webhooks]]\nname = \"w\"\nurl = \"ftp://x\"", "/etc/p.toml:3: webhooks[0].url: \"ftp://x\" can't be requested"),
        ("[[mqtt.listeners]]\n[[mqtt.listeners]]\nusers_file = \"/none\"", "/etc/p.toml:3: mqtt.listeners.users_file: can't read /none"),
        (
            "[[mqtt.listeners]]\ntls = { cert_file = \"/none\", key_file = \"k\" }",
            "/etc/p.toml:2: mqtt.listeners.tls.cert_file: can't read /none",
        ),
        (
            "[[mqtt.listeners]]\ntls = { cert_file = \"c\" }",
            "/etc/p.toml:2: mqtt.listeners.tls.key_file: it is missing: key_file = \"server.key\"",
        ),
        ("[[mqtt.listeners]]\nallow_topics = [\"a+\"]", "/etc/p.toml:2: mqtt.listeners.allow_topics: \"a+\" is not a topic rule"),
        (
            "[[mqtt.listeners]]\nallow_topics = [\"{user}/#\"]",
            "/etc/p.toml:2: mqtt.listeners.allow_topics: {user} needs users_file, jwt, login_endpoint or tls.client_ca_file",
        ),
        (
            "[[mqtt.listeners]]\nallow_topics = [\"{org}/#\"]",
            "/etc/p.toml:2: mqtt.listeners.allow_topics: {org} needs jwt: it stands for a claim",
        ),
        ("[[mqtt.listeners]]\njwt = { jwks_file = \"/none\" }", "/etc/p.toml:2: mqtt.listeners.jwt.jwks_file: can't read /none"),
        ("[[mqtt.listeners]]\njwt = {}", "/etc/p.toml:2: mqtt.listeners.jwt.jwks_file: it is missing: jwks_file = \"jwks.json\""),
        (
            "[[mqtt.listeners]]\njwt = { algorithms = [\"HS256\"], jwks_file = \"/none\" }",
            "/etc/p.toml:2: mqtt.listeners.jwt.algorithms: \"HS256\" can't be used: expected \"RS256\", \"ES256\" or \"EdDSA\"",
        ),
        (
            "[[mqtt.listeners]]\njwt = { algorithms = [], jwks_file = \"/none\" }",
            "/etc/p.toml:2: mqtt.listeners.jwt.algorithms: it is empty: no token could be right",
        ),
        ("[[mqtt.listeners]]\nlogin_endpoint = { url = \"ftp://a\" }", "/etc/p.toml:2: mqtt.listeners.login_endpoint.url: "),
        (
            "[[mqtt.listeners]]\nlogin_endpoint = { url = \"https://a.example/\", tls = { ca_file = \"/none\" } }",
            "/etc/p.toml:2: mqtt.listeners.login_endpoint: tls.ca_file: can't read /none",
        ),
        (
            "[[mqtt.listeners]]\nlogin_endpoint = { url = \"http://a.example/\", tls = { server_name = \"b.example\" } }",
            "/etc/p.toml:2: mqtt.listeners.login_endpoint: the URL begins with http://, so TLS isn't used",
        ),
        (
            "[[mqtt.listeners]]\nlogin_endpoint = { url = \"http://a.example/\", token = \"a\\nb\" }",
            "/etc/p.toml:2: mqtt.listeners.login_endpoint.token: the token can't stand in a header",
        ),
        ("[[mqtt.listeners]]\nbyte_rate = \"1MB/s\"", "/etc/p.toml:2: mqtt.listeners.byte_rate: \"1MB/s\": a rate of bytes is"),
        ("[mqtt.listener]\nusers_file = \"/none\"", "/etc/p.toml:2: mqtt.listener.users_file: can't read /none"),
        (
            "[mqtt.listener]\n[[mqtt.listeners]]\n[[mqtt.listeners]]\nusers_file = \"/none\"",
            "/etc/p.toml:4: mqtt.listeners.users_file: can't read /none",
        ),
        (
            "[mqtt.listener]\ntls = { cert_file = \"c\" }",
            "/etc/p.toml:2: mqtt.listener.tls.key_file: it is missing: key_file = \"server.key\"",
        ),
        ("[queue\n", "/etc/p.toml:1: "),
        ("a = 1\nb = = 2", "/etc/p.toml:2: "),
        ("[queue]\ndir = \"a\"\ndir = \"b\"", "/etc/p.toml:3: duplicate key \"dir\" (first defined in line 2)"),
        ("[queue]\n[egress]\n[queue]\n", "/etc/p.toml:3: duplicate key \"queue\" (first defined in line 1)"),
        ("[queue]\ndir\n", "/etc/p.toml:2: \"dir\" has no value: write dir = …"),
        ("[queue]\nmax_bytes = 99999999999999999999", "/etc/p.toml:2: queue.max_bytes: it is a huge number, expected a size"),
        ("[queue]\nmin_free = 1.5", "/etc/p.toml:2: queue.min_free: it is a fraction, expected a size"),
        ("[queue]\nkind = 5", "/etc/p.toml:2: queue.kind: it is a number, expected \"embedded\" or \"kafka\""),
        ("[backlog]\nmax_age = 1979-05-27", "/etc/p.toml:2: backlog.max_age: it is a date, expected a duration"),
        ("egress = 5", "/etc/p.toml:1: egress: it is a number, expected a table"),
        ("webhooks = 5", "/etc/p.toml:1: webhooks: expected a list of tables: [[webhooks]]"),
        ("groups = [5]", "/etc/p.toml:1: groups[0]: it is no table, expected [[groups]]"),
        ("[egress]\nallow = \"10.0.0.0/8\"", "/etc/p.toml:2: egress.allow: it is a text, expected a list"),
        ("[metrics]\nper-webhook = true", "/etc/p.toml:2: metrics.per-webhook: there is no such field; did you mean per_webhook?"),
    ] {
        let error = mistake(text);
        assert!(error.starts_with(expected), "{error}\n  expected {expected}");
    }
}

#[test]
fn a_mistake_in_a_webhook_or_group_is_reported_at_its_field() {
    for (more, expected) in [
        ("timeout = \"0s\"", ":4: webhooks[0].timeout: 0ms is out of range, expected 100ms to 1h"),
        ("auth = { kind = \"digest\" }", ":4: webhooks[0].auth.kind: \"digest\""),
        ("auth = { kind = \"basic\", username = \"u\" }", ":4: webhooks[0].auth.password: it is missing: password"),
        ("auth = { kind = \"basic\", username = \"a:b\", password = \"p\" }", ":4: webhooks[0].auth.username: a user name"),
        ("auth = { kind = \"bearer\", token_file = \"/none\" }", ":4: webhooks[0].auth.token_file: can't read /none"),
        ("headers = { \"Content-Type\" = \"x\" }", ":4: webhooks[0].headers.Content-Type: \"Content-Type\" can't be a custom header"),
        ("headers = { x = \"a\\nb\" }", ":4: webhooks[0].headers.x: the value of header"),
        ("window = \"61s\"", ":4: webhooks[0].window: 61s is out of range, expected 10ms to 1m"),
        ("auth = \"basic\"", ":4: webhooks[0].auth: it is a text, expected a table"),
        ("headers = [\"a\"]", ":4: webhooks[0].headers: it is a list, expected a table of headers"),
        ("headers = { x = 5 }", ":4: webhooks[0].headers.x: it is a number, expected a text"),
        ("url_file = \"u\"", ":4: webhooks[0].url_file: url is there too"),
        ("send = \"imei\"", ":4: webhooks[0].send: \"imei\" isn't known here, expected \"iccid\" or \"topic\""),
        ("secret = \"abc\"", ":4: webhooks[0].secret: a signing secret"),
        ("secrets = [\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\", \"abc\"]", ":4: webhooks[0].secrets: secret 2 of 2: a signing secret"),
        ("secrets = []", ":4: webhooks[0].secrets: it is empty: leave it out to send unsigned messages"),
        ("auth = { kind = \"bearer\", token = \"\" }", ":4: webhooks[0].auth.token: a token can't be empty"),
        ("auth = { kind = \"api_key\", key = \"\" }", ":4: webhooks[0].auth.key: a key can't be empty"),
        ("retry_delays = [\"2h\", \"x\"]", ":4: webhooks[0].retry_delays: 2h is out of range"),
        (
            "auth = { kind = \"oauth2\", client_id = \"c\", client_secret = \"s\", token_url = \"http://u:p@id.example/\" }",
            ":4: webhooks[0].auth.token_url: \"http://***@id.example/\" can't be requested: user and password don't belong in it, auth has fields",
        ),
        ("headers = { TE = \"trailers\" }", ":4: webhooks[0].headers.TE: \"TE\" can't be a custom header: it is about the connection"),
        ("retry_on_status = [200]", ":4: webhooks[0].retry_on_status: 200 is out of range, expected 300 to 599"),
        ("always_array = \"yes\"", ":4: webhooks[0].always_array: it is a text, expected true or false"),
        (
            "[[webhooks]]\nname = \"w\"\nurl = \"http://b.example\"",
            ":5: webhooks[1].name: duplicate webhook name \"w\" (first defined in line 2)",
        ),
        ("[[groups]]\norg = \"mti\"\nname = \"a\"\nwebhook = \"v\"", ":7: groups[0].webhook: there is no webhook \"v\""),
        ("[[groups]]\norg = \"organisation\"\nname = \"a\"", ":5: groups[0].org: \"organisation\" is not an organisation"),
        ("[[groups]]\norg = \"mti\"\nname = \"a/b\"", ":6: groups[0].name: \"a/b\" is not a group name"),
        (
            "[[groups]]\norg = \"mti\"\nname = \"a\"\n[[groups]]\norg = \"mti\"\nname = \"a\"",
            ":9: groups[1].name: duplicate group \"mti/a\" (first defined in line 6)",
        ),
        ("[[groups]]\norg = \"mti\"\nname = \"a\"\ndevices = [\n\"1\",\n\"2-3\"]", ":9: groups[0].devices: \"2-3\" is not an ICCID"),
    ] {
        let error = mistake(&format!("{WEBHOOK}{more}"));
        assert!(error.starts_with(&format!("/etc/p.toml{expected}")), "{error}\n  expected {expected}");
    }
}

#[cfg(feature = "kafka")]
#[test]
fn a_mistake_about_kafka_is_reported_at_its_field() {
    const KAFKA: &str = "[queue]\nkind = \"kafka\"\n";
    for (more, expected) in [
        ("", ":1: queue.kafka: it is missing: [queue.kafka] with brokers"),
        ("[queue.kafka]\npartitions = 4", ":3: queue.kafka.brokers: it is missing"),
        ("[queue.kafka]\nbrokers = \" \"", ":4: queue.kafka.brokers: it is empty: host:port"),
        ("[queue.kafka]\nbrokers = \"http://a:9092\"", ":4: queue.kafka.brokers: \"http://a:9092\" is no broker: write host:port"),
        ("[queue.kafka]\nbrokers = \"[::1]:9092,a,b:0\"", ":4: queue.kafka.brokers: \"b:0\" is no broker"),
        ("[queue.kafka]\nbrokers = \"a:1\"\ntopic_prefix = \"a/b\"", ":5: queue.kafka.topic_prefix: 1 to 200 letters"),
        ("[queue.kafka]\nbrokers = \"a:1\"\npartitions = 0", ":5: queue.kafka.partitions: 0 is out of range, expected 1 to 10000"),
        ("[queue.kafka]\nbrokers = \"a:1\"\nbroker = \"b\"", ":5: queue.kafka.broker: there is no such field; did you mean brokers?"),
        (
            "[queue.kafka]\nbrokers = \"a:1\"\nproperties = { \"acks\" = \"1\" }",
            ":5: queue.kafka.properties.acks: Pushline sets this property itself",
        ),
        (
            "[queue.kafka]\nbrokers = \"a:1\"\n[queue.kafka.properties]\n\"linger.ms\" = \"5\"\n\"sasl.pasword\" = \"p\"",
            ":7: queue.kafka.properties.sasl.pasword: No such configuration property",
        ),
        ("[queue.kafka]\nbrokers = \"a:1\"\nproperties = { \"linger.ms\" = \"soon\" }", ":5: queue.kafka.properties.linger.ms: "),
        (
            "[queue.kafka]\nbrokers = \"a:1\"\n[queue.kafka.properties]\n\n\"security.protocol\" = \"sasl_ssl\"",
            ":7: queue.kafka.properties.security.protocol: it needs \"sasl.mechanism\" beside it",
        ),
        (
            "[queue.kafka]\nbrokers = \"a:1\"\nproperties = { \"ssl.ca.location\" = \"/nope\" }",
            ":5: queue.kafka.properties.ssl.ca.location: can't read /nope",
        ),
        (
            "[queue.kafka]\nbrokers = \"a:1\"\nproperties = { \"max.poll.interval.ms\" = \"100\" }",
            ":5: queue.kafka.properties: librdkafka refuses them together: ",
        ),
    ] {
        let error = mistake(&format!("{KAFKA}{more}"));
        assert!(error.starts_with(&format!("/etc/p.toml{expected}")), "{error}\n  expected {expected}");
    }
}

#[test]
fn the_environment_overrides_what_is_no_list() {
    let with = |name: &str, value: &str| Config::parse(Path::new("p.toml"), "[queue]\ndir = \"a\"", [(name.to_owned(), value.to_owned())]);
    let queue = |name: &str, value: &str| with(name, value).unwrap().settings.queue;
    assert_eq!(queue("PUSHLINE_QUEUE__DIR", "b").dir, Path::new("b"));
    assert_eq!(queue("PUSHLINE_QUEUE__DIR", "5").dir, Path::new("5"));
    assert_eq!(queue("PUSHLINE_QUEUE__MIN_FREE", "5").min_free, 5);
    assert_eq!(queue("PUSHLINE_QUEUE__KAFKA__BROKERS", "a:1").kafka.unwrap().brokers, "a:1");
    assert_eq!(with("PUSHLINE_ADMIN__ADDRESS", "[::1]:5").unwrap().settings.admin.address.port(), 5);
    assert_eq!(with("PUSHLINE_MQTT__LISTENERS", "").unwrap().settings.mqtt.listeners, []);
    assert_eq!(with("PUSHLINE_MQTT__LISTENER__ADDRESS", "[::1]:5").unwrap().settings.mqtt.listeners[0].address.port(), 5);
    assert_eq!(with("PUSHLINE_EGRESS__ALLOW", "10.0.0.0/8, ::1").unwrap().settings.egress.allow.len(), 2);
    assert_eq!(with("PUSHLINE_EGRESS__ALLOW", "").unwrap().settings.egress.allow, []);
    assert_eq!(with("PUSHLINE_EGRESS__ALLOW", " ").unwrap().settings.egress.allow, []);
    assert!(with("PUSHLINE_METRICS__PER_WEBHOOK", "true").unwrap().settings.metrics.per_webhook);
    let error = |name, value| with(name, value).unwrap_err().to_string();
    assert!(error("PUSHLINE_QUEUE__KIND", "x").starts_with("environment variable PUSHLINE_QUEUE__KIND: queue.kind: "));
    assert!(error("PUSHLINE_MQTT__LISTENERS", "1883").contains("PUSHLINE_MQTT__LISTENERS: mqtt.listeners: it is a text, expected a table"));
    assert!(error("PUSHLINE_METRICS__PER_WEBHOOK", "yes").ends_with("metrics.per_webhook: it is a text, expected true or false"));
    assert!(error("PUSHLINE_QUEUE__DIR__X", "x").ends_with("queue.dir.x: dir is no table"));
    assert!(error("PUSHLINE_WEBHOOKS", "x").ends_with("PUSHLINE_WEBHOOKS: webhooks: expected a list of tables: [[webhooks]]"));
    assert!(
        error("PUSHLINE_QUEUE__COLOUR", "x")
            .starts_with("environment variable PUSHLINE_QUEUE__COLOUR: queue.colour: there is no such field")
    );
}

#[test]
fn a_variable_that_names_no_field_is_another_programs_unless_it_has_levels() {
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
    assert!(config.warnings.last().unwrap().ends_with("no field: PUSHLINE_PORT, PUSHLINE_PORT_1883_TCP, PUSHLINE_SERVICE_HOST"));
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
fn what_is_probably_not_meant_is_a_warning() {
    let webhook = format!("{WEBHOOK}[[groups]]\norg = \"a\"\nname = \"g\"\nwebhook = \"w\"\n");
    for (text, says) in [
        ("", "# 0 webhooks, 0 groups, 0 devices\n# warning: there are no [[webhooks]]: every packet becomes a dead letter\n"),
        (&webhook, "# 1 webhook, 1 group, 0 devices\n"),
        (
            &format!("[queue.kafka]\nbrokers = \"a:1\"\n{webhook}"),
            "devices\n# warning: queue.kafka isn't used, since queue.kind is another\n",
        ),
        (
            &format!("[egress]\nsource_address = \"192.0.2.1\"\n{webhook}"),
            "devices\n# warning: egress.source_address 192.0.2.1 is no address of this machine: no webhook can be reached from here\n",
        ),
        (&format!("[egress]\nsource_address = \"127.0.0.1\"\n{webhook}"), " devices\n"),
    ] {
        let shown = parse(text).unwrap().to_string();
        assert!(shown.ends_with(says), "{shown}");
    }
    let kafka = "[queue]\nkind = \"kafka\"\ndir = \"a\"\n[queue.kafka]\nbrokers = \"a:1\"\n";
    if cfg!(feature = "kafka") {
        assert_eq!(parse(&format!("{kafka}{webhook}")).unwrap().warnings, ["queue.dir isn't used, since queue.kind is another"]);
    }
}

#[test]
fn check_says_once_which_headers_nginx_drops() {
    let webhook = |name: &str, header: &str| {
        format!("[[webhooks]]\nname = \"{name}\"\nurl = \"http://a.example\"\nheaders = {{ \"{header}\" = \"x\" }}\n")
    };
    let printed = |text: String| parse(&text).unwrap().to_string();
    let said = printed(webhook("v", "1_Area") + &webhook("w", "1_Area") + &webhook("x", "X_A"));
    assert_eq!(said.matches("underscores_in_headers is on: 1_Area, X_A\n").count(), 1, "{said}");
    assert!(!printed(webhook("v", "X-A")).contains("underscores"));
}

#[test]
fn a_file_of_secrets_has_one_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let [new, old] = ["whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"];
    std::fs::write(dir.path().join("secrets"), format!("{new}\r\n\n{old}\n")).unwrap();
    let text = format!("{WEBHOOK}secrets_file = \"secrets\"\n");
    let config = Config::parse(&dir.path().join("p.toml"), &text, []).unwrap();
    let secrets: Vec<&str> = config.registry.webhooks()[0].signing_secrets().map(pushline_model::Secret::reveal).collect();
    assert_eq!(secrets, [new, old]);
}

#[test]
fn a_secret_file_loses_one_newline() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("{WEBHOOK}auth = {{ kind = \"bearer\", token_file = \"token\" }}\n");
    let token = |content: &[u8]| {
        std::fs::write(dir.path().join("token"), content).unwrap();
        let config = Config::parse(&dir.path().join("p.toml"), &text, []).map_err(|mistakes| mistakes.to_string())?;
        match &config.registry.webhooks()[0].auth {
            pushline_model::Auth::Bearer { token } => Ok(token.reveal().to_owned()),
            other => Err(format!("{other:?}")),
        }
    };
    for content in ["s3cret", "s3cret\n", "s3cret\r\n", "\u{feff}s3cret\r\n", "\u{feff}s3cret"] {
        assert_eq!(token(content.as_bytes()).as_deref(), Ok("s3cret"), "{content:?}");
    }
    // The rest of it can't stand in a header.
    for content in ["s3cret\n\n", "s3cret\r\n\r\n", "s3cret\r"] {
        assert!(
            token(content.as_bytes()).unwrap_err().contains(".auth.token_file: a token can't be empty or hold control characters"),
            "{content:?}"
        );
    }
    for (content, says) in [
        (&b"\xff\xfes\x003\x00"[..], ":4: webhooks[0].auth.token_file: can't read "),
        (&b"\xff\xfes\x003\x00"[..], "it is UTF-16, save it as UTF-8"),
        (&b"a\nb\xff"[..], "line 2 isn't UTF-8, save it as UTF-8"),
    ] {
        assert!(token(content).unwrap_err().contains(says), "{content:?}");
    }
}

#[test]
fn a_file_of_devices_has_one_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let text =
        "[[groups]]\norg = \"o\"\nname = \"f\"\ndevices = [\n\"7\"]\n[[groups]]\norg = \"o\"\nname = \"g\"\ndevices_file = \"devices\"";
    let read = |content: &str| {
        std::fs::write(dir.path().join("devices"), content).unwrap();
        Config::parse(&dir.path().join("p.toml"), text, []).map_err(|mistakes| mistakes.to_string())
    };
    for content in ["# all of them\n1\n\n 2\n", "1\r\n2\r\n", "\u{feff}1\n2", "\u{feff}# two\r\n1\r\n\r\n2"] {
        assert_eq!(read(content).unwrap().registry.devices(), 3, "{content:?}");
    }
    let error = read("1\n1\n2-3\n7\n").unwrap_err();
    let file = dir.path().join("devices");
    let lines: Vec<String> = error.lines().map(|line| line.replace(file.to_str().unwrap(), "devices")).collect();
    assert_eq!(
        lines,
        [
            "devices:2: a device of o/g: duplicate device \"o/1\": group \"o/g\" lists it already",
            "devices:3: a device of o/g: \"2-3\" is not an ICCID: 1 to 20 letters or digits",
            "devices:4: a device of o/g: duplicate device \"o/7\": group \"o/f\" lists it already (line 5)",
        ]
    );
    std::fs::remove_file(file).unwrap();
    let error = Config::parse(&dir.path().join("p.toml"), text, []).unwrap_err().to_string();
    assert!(error.contains(":9: groups[1].devices_file: can't read "), "{error}");
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let text = r#"
shutdown_grace = 10
[queue]
kind = "sqlite"
maxbytes = 1
max_bytes = "1KiB"
[[mqtt.listeners]]
topics = ["{org}", "{org}/{iccid}", "{iccid}"]
[colour]
[[webhooks]]
description = 7
[[webhooks]]
name = "w"
url = "ftp://a.example/"
retries = -1
headers = { Host = "x", A = "1", a = "2" }
retry_on_status = [
  200,
  300,
  700,
]
auth = { kind = "basic", username = "u", token = "t" }
[[webhooks]]
name = "w"
url = "http://a.example/"
auth = { username = "u" }
[[groups]]
org = "organisation"
webhook = "w"
[[groups]]
org = "mti"
name = "a"
webhook = "v"
default = true
devices = ["1", "2-3", "2"]
[[groups]]
org = "mti"
name = "b"
default = true
devices = [
  "1",
]
"#;
    let expected = r#"2: shutdown_grace: it is a number, expected a duration such as "90s"
4: queue.kind: "sqlite" isn't known here, expected "embedded" or "kafka"
5: queue.maxbytes: there is no such field; did you mean max_bytes? (known here: kind, dir, max_bytes, min_free, kafka)
6: queue.max_bytes: 1KiB is too small, expected at least 256MiB
8: mqtt.listeners.topics: "{org}" is not a topic pattern: it needs {iccid} exactly once
8: mqtt.listeners.topics: "{iccid}" is not a topic pattern: it needs {org} exactly once
9: colour: there is no such field (known here: shutdown_grace, queue, backlog, dead_letters, mqtt, admin, egress, metrics, runtime, webhooks, groups)
10: webhooks[0].name: it is missing: name = "tokyo-server"
10: webhooks[0].url: it is missing: url = "https://example.com/push"
11: webhooks[0].description: it is a number, expected a text
14: webhooks[1].url: "ftp://a.example/" can't be requested: it begins with http:// or https://, such as https://host/path
15: webhooks[1].retries: -1 is out of range, expected 0 to 100
16: webhooks[1].headers: duplicate header "a"
16: webhooks[1].headers.Host: "Host" can't be a custom header: Pushline sets it itself
18: webhooks[1].retry_on_status: 200 is out of range, expected 300 to 599
20: webhooks[1].retry_on_status: 700 is out of range, expected 300 to 599
22: webhooks[1].auth.password: it is missing: password = "…", or password_file = "path"
22: webhooks[1].auth.token: there is no such field (known here: kind, username, password, password_file)
24: webhooks[2].name: duplicate webhook name "w" (first defined in line 13)
26: webhooks[2].auth.kind: it is missing: kind = "none", "basic", "bearer", "api_key" or "oauth2"
27: groups[0].name: it is missing: name = "tokyo-line-1"
28: groups[0].org: "organisation" is not an organisation: 1 to 8 letters or digits
33: groups[1].webhook: there is no webhook "v"
35: groups[1].devices: "2-3" is not an ICCID: 1 to 20 letters or digits
39: groups[2].default: organisation "mti" has a default group already: "mti/a" (line 34)
41: groups[2].devices: duplicate device "mti/1": group "mti/a" lists it already (line 35)"#;
    let reported = mistake(text).replace("/etc/p.toml:", "");
    assert_eq!(reported.lines().collect::<Vec<_>>(), expected.lines().collect::<Vec<_>>());
}

#[test]
fn each_field_that_must_be_there_is_reported_with_an_example_and_hides_no_other_mistake() {
    let kinds = mistake(&format!("{WEBHOOK}auth = {{ kind = \"?\" }}"));
    let kinds = kinds.split('"').skip(3).step_by(2).map(|kind| format!("{WEBHOOK}auth = {{ kind = \"{kind}\", zz = 1 }}\n"));
    let kinds: Vec<String> = kinds.collect();
    assert_eq!(kinds.len(), 5, "{kinds:?}");
    let tables = "[queue]\nkafka = { zz = 1 }\n[egress]\nproxy = { zz = 1 }\n[[webhooks]]\nzz = 1\nauth = { }\n[[groups]]\nzz = 1\n";
    let reported = mistake(&format!("{tables}{}", kinds.concat()));
    let missing: Vec<&str> = reported.lines().filter(|line| line.contains("it is missing")).collect();
    assert_eq!(reported.matches(".zz: ").count(), 9, "{reported}");
    assert!(missing.len() == 14 && missing.iter().all(|line| line.contains(" = \"")), "{missing:#?}");
    assert!(reported.contains("auth.client_secret: it is missing: client_secret = \"…\", or client_secret_file = \"path\""), "{reported}");
}

#[test]
fn what_stands_in_for_a_mistake_makes_no_other() {
    for (text, lines) in [
        ("[[groups]]\norg = \"mti\"\nname = \"a/b\"\n[[groups]]\norg = \"mti\"\nname = \"a/c\"", &[3, 6][..]),
        ("[[groups]]\norg = \"mti\"\nname = \"tokyo-line-1\"\n[[groups]]\norg = \"mti\"", &[4]),
        ("[[webhooks]]\nname = \"\"\nurl = \"http://a/\"\n[[webhooks]]\nname = \"\"\nurl = \"http://a/\"", &[2, 5]),
        ("[[webhooks]]\nname = \"w\"\nurl = \"x\"\ntls = { server_name = \"a.example\" }", &[3]),
        ("[[webhooks]]\nname = \"w\"\nurl = \"http://a/\"\nretry_delays = [\"2h\",\n\"x\",\n5]", &[4, 5, 6]),
        ("[[mqtt.listeners]]\ntopics = [5]", &[2]),
    ] {
        let error = mistake(text);
        let reported: Vec<usize> = error.lines().map(|line| line.split(':').nth(1).unwrap().parse().unwrap()).collect();
        assert_eq!(reported, lines, "{error}");
    }
}

#[test]
fn every_mistake_of_syntax_is_reported() {
    let error = mistake("[queue]\ndir = = 1\nkind = \"embedded\"\nmin_free = \n[admin\n");
    let lines: Vec<&str> = error.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(lines, ["/etc/p.toml:2", "/etc/p.toml:4", "/etc/p.toml:5"], "{error}");
}

#[test]
fn mistakes_of_variables_come_after_those_of_the_file() {
    let variables =
        [("PUSHLINE_QUEUE__KIND", "x"), ("PUSHLINE_ADMIN__ADDRESS", "y")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let error = Config::parse(Path::new("p.toml"), "[backlog]\nmax_age = 1\n", variables).unwrap_err().to_string();
    let lines: Vec<&str> = error.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(lines, ["p.toml:2", "environment variable PUSHLINE_QUEUE__KIND", "environment variable PUSHLINE_ADMIN__ADDRESS"]);
}

#[test]
fn of_very_many_mistakes_the_first_hundred_are_reported() {
    let error = mistake(&"[[webhooks]]\n".repeat(1000));
    assert_eq!(error.lines().count(), 101);
    assert!(error.ends_with("\nonly the first 100 mistakes are listed"), "{error}");
}

#[test]
fn a_byte_order_mark_and_either_line_end_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    let load = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Config::load(&file).map_err(|error| error.to_string())
    };
    let config = load(&format!("\u{feff}{WEBHOOK}\n[admin]\naddress = \"127.0.0.1:1\"\n").replace('\n', "\r\n")).unwrap();
    assert_eq!((config.registry.webhooks().len(), config.settings.admin.address.port()), (1, 1));
    let error = load("\u{feff}\r\n[admin]\r\naddress = 1\r\n").unwrap_err();
    assert!(error.contains("p.toml:3: admin.address: "), "{error}");
}

#[test]
fn secrets_stand_in_one_place_only() {
    for (more, expected) in [
        (
            "secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\nsecret_file = \"b\"",
            ":5: webhooks[0].secret_file: secret is there too: give one of the two",
        ),
        ("description_file = \"b\"", ":4: webhooks[0].description_file: there is no such field (known here: name, "),
        ("auth = { kind = \"bearer\", password_file = \"/none\", token = \"t\" }", ":4: webhooks[0].auth.password_file: can't read /none"),
        ("auth = { kind = \"api_key\", key_file = 5 }", ":4: webhooks[0].auth.key_file: it is a number, expected"),
        ("secret_file = \"/none\"", ":4: webhooks[0].secret_file: can't read /none"),
        ("secrets_file = \"/none\"", ":4: webhooks[0].secrets_file: can't read /none"),
        ("retry_on_status_file = \"/dev/null\"", ":4: webhooks[0].retry_on_status_file: there is no such field"),
        (
            "secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\nsecrets = [\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"]",
            ":5: webhooks[0].secrets: secret is there too: give one of the two",
        ),
    ] {
        let error = mistake(&format!("{WEBHOOK}{more}"));
        assert!(error.starts_with(&format!("/etc/p.toml{expected}")), "{error}\n  expected {expected}");
    }
}

/// The options of each section, as a refusal lists them.
fn known(section: &str) -> Vec<String> {
    let error = mistake(&format!("{section}\nzzzzzzzzzz = 1\n"));
    let (_, list) = error.lines().find_map(|line| line.split_once("(known here: ")).unwrap_or_else(|| panic!("{section}: {error}"));
    list.trim_end_matches(')').split(", ").map(str::to_owned).collect()
}

const EXAMPLE: &str = include_str!("../../../../pushline.example.toml");

#[test]
fn the_example_shows_every_option() {
    let sections = [
        ("", "\n"),
        ("[queue]", "\n[queue]"),
        ("[queue.kafka]", "\n# [queue.kafka]"),
        ("[backlog]", "\n[backlog]"),
        ("[dead_letters]", "\n[dead_letters]"),
        ("[[mqtt.listeners]]", "\n[[mqtt.listeners]]"),
        ("[admin]", "\n[admin]"),
        ("[egress]", "\n[egress]"),
        ("[metrics]", "\n[metrics]"),
        ("[runtime]", "\n[runtime]"),
        ("[[webhooks]]", "\n[[webhooks]]"),
        ("[[groups]]", "\n[[groups]]"),
    ];
    for (section, header) in sections {
        let start = EXAMPLE.find(header).unwrap_or_else(|| panic!("the example has {section}")) + header.len();
        let rest = &EXAMPLE[start..];
        let end = [rest.find("\n["), rest.find("\n# [")].into_iter().flatten().min().unwrap_or(rest.len());
        for option in known(section) {
            let is_section = sections.iter().any(|(other, _)| other.trim_matches(['[', ']']).split('.').any(|part| part == option));
            let is_line = rest[..end].lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{option} = ")));
            // The file of a secret stands in the description of the secret.
            let is_shown = is_line || rest[..end].contains(&format!("{option} = \"path\""));
            assert!(is_section || is_shown, "{section}: the example doesn't show {option}");
        }
    }
}

#[test]
fn the_example_shows_the_defaults() {
    // Everything but the webhook and the group that it shows, with and without what is commented out.
    let example: String = EXAMPLE.lines().take_while(|line| *line != "[[webhooks]]").map(|line| format!("{line}\n")).collect();
    let Settings { queue, mqtt, .. } = parse("").unwrap().settings;
    let default = Settings { queue, mqtt, ..Settings::default() };
    assert_eq!(parse(&example).unwrap().settings, default);
    // Without what names a file, or has no default.
    let examples = [
        "threads = ",
        "tls = ",
        "users_file = ",
        "jwt = ",
        "login_endpoint = ",
        "allow_topics = ",
        "proxy_protocol = ",
        "connect_rate = ",
        "packet_rate = ",
        "byte_rate = ",
    ];
    let all = uncommented(&example);
    let all: Vec<&str> = all.lines().filter(|line| !examples.iter().any(|example| line.starts_with(example))).collect();
    let mut all = parse(&all.join("\n")).unwrap().settings;
    let kafka = all.queue.kafka.take().expect("the example shows [queue.kafka]");
    assert!(all.metrics.address.take().is_some() && all.egress.source_address.take().is_some() && all.egress.proxy.take().is_some());
    let mut broker = all.mqtt.brokers.remove(0);
    assert!(broker.username.take().is_some() && broker.password.take().is_some() && broker.shared_group.take().is_some());
    assert_eq!(broker, parse(&format!("[[mqtt.brokers]]\nurl = \"{}\"", broker.url)).unwrap().settings.mqtt.brokers[0]);
    assert_eq!(all, default);
    let bare = parse("[queue.kafka]\nbrokers = \"a:1\"").unwrap().settings.queue.kafka.unwrap();
    assert_eq!((kafka.topic_prefix, kafka.partitions), (bare.topic_prefix, bare.partitions));

    let (_, webhook) = EXAMPLE.split_once("\n[[webhooks]]").unwrap();
    let webhook = uncommented(&format!("[[webhooks]]{webhook}"));
    let webhook = webhook
        .lines()
        .filter(|line| !["rate = ", "secret = ", "secrets = ", "devices_file = ", "tls = "].iter().any(|example| line.starts_with(example)))
        .map(|line| format!("{line}\n"))
        .collect::<String>();
    let shown = Webhook::clone(&parse(&webhook).unwrap().registry.webhooks()[0]);
    let bare = Webhook::new(&shown.name, shown.url.clone());
    let (description, auth, headers) = (shown.description.clone(), shown.auth.clone(), shown.headers.clone());
    assert_eq!(shown, Webhook { description, auth, headers, ..bare });
}

#[test]
fn the_example_shows_the_defaults_of_a_listeners_logins() {
    let folder = tempfile::tempdir().unwrap();
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let keys = format!("{{\"keys\": [{{\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"x\": \"{x}\"}}]}}");
    std::fs::write(folder.path().join("jwks.json"), keys).unwrap();
    let listener = |text: &str| {
        let config = Config::parse(&folder.path().join("p.toml"), &format!("[[mqtt.listeners]]\n{text}"), []).unwrap();
        toml::to_string(&config.settings.mqtt.listeners[0]).unwrap()
    };
    let line = |option: &str| {
        let line = EXAMPLE.lines().find_map(|line| line.strip_prefix(&format!("# {option} = ")));
        line.unwrap_or_else(|| panic!("the example shows {option}"))
    };
    let jwt = line("jwt");
    let named = "jwks_file = \"jwks.json\", issuer = \"https://id.example.com\", audience = \"pushline\"";
    assert_eq!(listener(&format!("jwt = {jwt}")), listener(&format!("jwt = {{ {named} }}")));
    let endpoint = line("login_endpoint");
    let named = "url = \"https://id.example.com/mqtt-logins\", token = \"…\"";
    assert_eq!(
        listener(&format!("login_endpoint = {endpoint}").replace('…', "t")),
        listener(&format!("login_endpoint = {{ {named} }}").replace('…', "t"))
    );
}

#[test]
fn the_token_and_the_query_of_a_login_endpoint_are_not_shown() {
    let config = parse("[[mqtt.listeners]]\nlogin_endpoint = { url = \"http://a.example/?key=s3cret\", token = \"hush\" }").unwrap();
    let shown = config.to_string();
    assert!(shown.contains("http://a.example/?***") && !shown.contains("s3cret") && !shown.contains("hush"), "{shown}");
    parse(&shown).expect("what is shown can be read again");
}

/// The example with every option taken out of its comment.
fn uncommented(example: &str) -> String {
    let is_option = |line: &str| {
        let name = line.split_once(" = ").map_or("", |(name, _)| name);
        line.starts_with("[queue.kafka]")
            || line.starts_with("[[mqtt.brokers]]")
            || !name.is_empty() && name.chars().all(|c| c == '_' || c.is_ascii_lowercase())
    };
    let line = |line: &str| line.strip_prefix("# ").filter(|rest| is_option(rest)).unwrap_or(line).to_owned() + "\n";
    example.lines().map(line).collect()
}

#[test]
fn a_webhook_is_the_same_in_toml_and_json() {
    let config = parse(&format!("{WEBHOOK}send = \"topic\"\nheaders = {{ B = \"2\", a = \"1\" }}\nwindow = \"1m\"\nretries = 3")).unwrap();
    let webhook = &*config.registry.webhooks()[0];
    let json = serde_json::to_string(webhook).unwrap();
    assert_eq!(serde_json::from_str::<Webhook>(&json).unwrap(), *webhook);
    let toml = toml::to_string(webhook).unwrap();
    assert_eq!(
        parse(&format!("[[webhooks]]\n{}", toml.replace("[auth]", "[webhooks.auth]").replace("[headers]", "[webhooks.headers]")))
            .unwrap()
            .registry
            .webhooks()[0]
            .as_ref(),
        webhook
    );
}

#[test]
fn what_differs_is_named_as_the_file_names_it() {
    let of = |text: &str| parse(text).unwrap().settings;
    for (text, role, expected) in [
        ("shutdown_grace = \"1s\"", Role::Run, Some("shutdown_grace")),
        ("[queue]\nmin_free = 1", Role::Run, Some("[queue]")),
        ("[[mqtt.listeners]]\nmax_payload_bytes = 1", Role::Run, Some("[mqtt]")),
        ("[[mqtt.listeners]]\nmax_payload_bytes = 1", Role::Deliver, None),
        ("[metrics]\nper_webhook = true", Role::Run, Some("[metrics]")),
        ("[egress]\nallow = []", Role::Run, None),
    ] {
        assert_eq!(of("").difference(&of(text), role).as_deref(), expected, "{text}");
    }
}
