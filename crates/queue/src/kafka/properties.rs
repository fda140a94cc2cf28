//! Whether the operator's properties fit together. librdkafka finds that out when a client is made, and names what it was built with rather than the
//! property: the usual mistakes are looked for before.

use std::{collections::BTreeMap, fs::File};

use rdkafka::{ClientConfig, client::Client, types::RDKafkaType};

use super::{
    Options,
    clients::{self, Quiet},
};

/// Properties of which no client can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", property.as_ref().map_or(String::new(), |property| format!("{property}: ")))]
pub struct InvalidProperties {
    /// The property that is to be changed, where it is one.
    pub property: Option<&'static str>,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// What Pushline's librdkafka is built with. GSSAPI, its default, needs a library more.
const MECHANISMS: [&str; 4] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"];

/// Properties that name a file.
const FILES: [&str; 5] = ["ssl.ca.location", "ssl.certificate.location", "ssl.key.location", "ssl.keystore.location", "ssl.crl.location"];

/// Checks properties in the light of each other, each of which [`super::check_property`] accepts. It makes each client, connects none, and blocks.
///
/// # Errors
/// Why a client can't be made.
pub fn check_properties(properties: &BTreeMap<String, String>) -> Result<(), InvalidProperties> {
    authentication(properties)?;
    files(properties)?;
    let options = Options { properties: properties.clone(), ..Options::new("") };
    let producer = (clients::producer(&options), RDKafkaType::RD_KAFKA_PRODUCER);
    let consumers = [clients::group(&options), clients::catch_up(&options)].map(|config| (config, RDKafkaType::RD_KAFKA_CONSUMER));
    [producer].into_iter().chain(consumers).try_for_each(|(config, kind)| make(config, kind))
}

fn authentication(properties: &BTreeMap<String, String>) -> Result<(), InvalidProperties> {
    let refuse = |property, problem: String| Err(InvalidProperties { property: Some(property), problem });
    let known = MECHANISMS.join(", ");
    if !properties.get("security.protocol").is_some_and(|protocol| protocol.to_lowercase().starts_with("sasl_")) {
        return Ok(());
    }
    let given = ["sasl.mechanism", "sasl.mechanisms"].into_iter().find_map(|name| Some((name, properties.get(name)?)));
    let Some((name, mechanism)) = given else {
        return refuse("security.protocol", format!("it needs \"sasl.mechanism\" beside it, one of {known}"));
    };
    if !MECHANISMS.contains(&mechanism.as_str()) {
        return refuse(name, format!("{mechanism:?} isn't known here, expected one of {known}"));
    }
    let is_missing = |name: &&str| mechanism != "OAUTHBEARER" && !properties.contains_key(*name);
    match ["sasl.username", "sasl.password"].iter().find(|name| is_missing(name)) {
        Some(missing) => refuse(name, format!("{mechanism} needs {missing:?} beside it")),
        None => Ok(()),
    }
}

fn files(properties: &BTreeMap<String, String>) -> Result<(), InvalidProperties> {
    let named = FILES.into_iter().filter_map(|name| Some((name, properties.get(name)?)));
    for (name, path) in named.filter(|(_, path)| *path != "probe") {
        File::open(path).map_err(|error| InvalidProperties { property: Some(name), problem: format!("can't read {path}: {error}") })?;
    }
    Ok(())
}

/// Makes a client without brokers, and drops it.
fn make(mut config: ClientConfig, kind: RDKafkaType) -> Result<(), InvalidProperties> {
    config.remove("bootstrap.servers");
    let made = config.create_native_config().and_then(|native| Client::new(&config, native, kind, Quiet));
    made.map(drop).map_err(|error| InvalidProperties { property: None, problem: format!("librdkafka refuses them together: {error}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(properties: &[(&str, &str)]) -> Result<(), String> {
        let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        check_properties(&properties).map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn properties_of_which_a_client_can_be_made_are_accepted() {
        assert_eq!(checked(&[]), Ok(()));
        let sasl = [("security.protocol", "SASL_SSL"), ("sasl.mechanism", "SCRAM-SHA-256"), ("sasl.username", "u"), ("sasl.password", "p")];
        assert_eq!(checked(&sasl), Ok(()));
        assert_eq!(checked(&[("security.protocol", "ssl"), ("ssl.ca.location", "probe")]), Ok(()));
    }

    #[test]
    fn properties_that_do_not_fit_together_are_refused_by_name_and_with_the_remedy() {
        let sasl = ("security.protocol", "sasl_plaintext");
        for (properties, says) in [
            (&[sasl][..], "security.protocol: it needs \"sasl.mechanism\" beside it, one of PLAIN,"),
            (&[sasl, ("sasl.mechanism", "SCRAM")], "sasl.mechanism: \"SCRAM\" isn't known here, expected one of PLAIN, SCRAM-SHA-256,"),
            (&[sasl, ("sasl.mechanisms", "GSSAPI")], "sasl.mechanisms: \"GSSAPI\" isn't known here"),
            (&[sasl, ("sasl.mechanism", "PLAIN"), ("sasl.username", "u")], "sasl.mechanism: PLAIN needs \"sasl.password\" beside it"),
            (&[("security.protocol", "ssl"), ("ssl.ca.location", "/nope")], "ssl.ca.location: can't read /nope: No such file"),
            (&[("max.poll.interval.ms", "100")], "librdkafka refuses them together: "),
        ] {
            let problem = checked(properties).expect_err(says);
            assert!(problem.starts_with(says), "{problem}");
        }
    }
}
