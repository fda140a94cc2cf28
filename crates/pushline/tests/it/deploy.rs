//! What `deploy/compose.yaml` starts, as far as a machine without Docker can tell: it is whole, and it fits the files beside it.

use std::path::{Path, PathBuf};

use pushline_testkit::KAFKA_VERSION;
use yaml_serde::Value;

use crate::BINARY;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

fn compose() -> Value {
    let mut compose: Value = yaml_serde::from_str(&std::fs::read_to_string(folder().join("compose.yaml")).unwrap()).unwrap();
    compose.apply_merge().unwrap();
    compose
}

fn configuration() -> toml::Table {
    std::fs::read_to_string(folder().join("pushline.toml")).unwrap().parse().unwrap()
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_sequence().map_or_else(Vec::new, |list| list.iter().map(|text| text.as_str().unwrap()).collect())
}

/// One that runs Pushline.
struct Service<'a> {
    command: Vec<&'a str>,
    /// A file beside compose.yaml, and where it is mounted.
    mounts: Vec<(&'a str, &'a str)>,
}

fn ours(compose: &Value) -> Vec<Service<'_>> {
    let services = compose["services"].as_mapping().unwrap().values().filter(|service| service["image"] == "pushline");
    let mounts = |service| texts(service).into_iter().map(|text| text.split_once(':').unwrap()).collect();
    services.map(|service| Service { command: texts(&service["command"]), mounts: mounts(&service["volumes"]) }).collect()
}

#[test]
fn compose_starts_ingest_two_deliverers_and_a_receiver() {
    let compose = compose();
    let roles: Vec<&str> = ours(&compose).iter().map(|service| service.command[0]).collect();
    assert_eq!(roles, ["ingest", "deliver", "receive"]);
    assert_eq!(compose["services"]["deliver"]["deploy"]["replicas"], 2);
    assert_eq!(compose["services"]["kafka"]["image"], format!("apache/kafka:{KAFKA_VERSION}").as_str());
}

#[test]
fn compose_mounts_files_that_exist_and_names_them_as_they_are_mounted() {
    let compose = compose();
    for Service { command, mounts } in ours(&compose) {
        for (file, _) in &mounts {
            assert!(folder().join(file).is_file(), "{file}");
        }
        let wanted = command.iter().position(|&word| word == "--config").map(|at| command[at + 1]);
        assert!(
            wanted.is_none_or(|path| mounts.iter().any(|(_, target)| target.strip_suffix(":ro") == Some(path))),
            "{command:?}: {mounts:?}"
        );
    }
    let build = &compose["services"]["ingest"]["build"];
    let context = folder().join(build["context"].as_str().unwrap());
    assert!(context.join(build["dockerfile"].as_str().unwrap()).is_file() && context.join("Cargo.lock").is_file());
}

#[test]
fn compose_and_its_configuration_name_each_other() {
    let (compose, configuration) = (compose(), configuration());
    let subnet = compose["networks"]["default"]["ipam"]["config"][0]["subnet"].as_str().unwrap();
    assert_eq!(configuration["egress"]["allow"].as_array().unwrap()[0].as_str(), Some(subnet));
    let services = &compose["services"];
    let advertised = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].as_str().unwrap();
    assert_eq!(advertised.strip_prefix("PLAINTEXT://"), configuration["queue"]["kafka"]["brokers"].as_str());
    let url = configuration["webhooks"][0]["url"].as_str().unwrap();
    let (host, port) = url.strip_prefix("http://").unwrap().trim_end_matches('/').split_once(':').unwrap();
    assert_eq!(texts(&services[host]["command"]).last(), Some(&format!("0.0.0.0:{port}").as_str()));
    let published = |role: &str, address: &toml::Value| {
        let port = format!(":{}", address["address"].as_str().unwrap().rsplit_once(':').unwrap().1);
        assert!(texts(&services[role]["ports"]).iter().any(|one| one.ends_with(&port)), "{role} {port}");
    };
    published("ingest", &configuration["mqtt"]["listeners"][0]);
    published("ingest", &configuration["admin"]);
    published("deliver", &configuration["admin"]);
}

#[test]
fn check_takes_the_configuration_and_each_role_its_command_line() {
    let check = pushline_testkit::command(BINARY).args(["check", "--config"]).arg(folder().join("pushline.toml")).output().unwrap();
    let shown = String::from_utf8_lossy(&check.stdout);
    assert!(check.status.success() && shown.contains("brokers = \"kafka:9092\""), "{shown}{}", String::from_utf8_lossy(&check.stderr));
    for Service { command, .. } in ours(&compose()) {
        // A command line that asks for help too is refused all the same when the rest can't be read.
        let help = pushline_testkit::command(BINARY).args(&command).arg("--help").output().unwrap();
        assert!(help.status.success(), "{command:?}: {}", String::from_utf8_lossy(&help.stderr));
        let unknown = pushline_testkit::command(BINARY).arg(command[0]).args(["--unknown", "--help"]).output().unwrap();
        assert!(!unknown.status.success(), "{command:?}");
    }
}
