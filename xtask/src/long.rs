//! `cargo xtask long [part]…`: the long forms of the tests, and the fuzz targets. A test runs its long form when `LONG_TESTS=1` is set. Tests that need more than the
//! ordinary run may ask for are ignored there, and run here.

use std::process::Command;

use crate::{fuzz, programs, step};

/// A part of the long tests: one command, with the names of its tests.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// The name on the command line.
    pub name: &'static str,
    /// What it proves, and how long it takes on two cores.
    pub about: &'static str,
    /// The package with the tests.
    pub package: &'static str,
    /// cargo's choice of the test binary.
    pub target: &'static [&'static str],
    /// The tests' names, or a module's with `::` behind it.
    pub tests: &'static [&'static str],
}

/// Schedules of the model test in each mode.
const MODEL_SCHEDULES: &str = "200000";

/// All parts that are tests, in the order in which they run. [`fuzz`] is the last part.
pub const PARTS: &[Part] = &[
    Part {
        name: "backlog",
        about: "a backlog of two million packets with a kill in its middle; 3 minutes",
        package: "pushline",
        target: &["--test", "it"],
        tests: &["a_backlog_for_a_dead_customer_survives_a_kill_in_its_middle_and_the_others_flow_at_once"],
    },
    Part {
        name: "kills",
        about: "one id for each stored packet on one box, through 200 kills",
        package: "pushline",
        target: &["--test", "it"],
        tests: &["on_one_box_each_stored_packet_comes_under_one_id_through_kills_stalls_reloads_expiry_and_eviction"],
    },
    Part {
        name: "kafka-kills",
        about: "one id for each stored packet over Kafka, through 200 kills, hand-overs and stopped processes",
        package: "pushline",
        target: &["--test", "it"],
        tests: &["over_kafka_each_stored_packet_comes_under_one_id_through_kills_hand_overs_stopped_processes_reloads_and_expiry"],
    },
    Part {
        name: "servers",
        about: "real servers of other makes, through a hundred reloads under load; 4 minutes",
        package: "pushline",
        target: &["--test", "it"],
        tests: &["servers::"],
    },
    Part {
        name: "clients",
        about: "seven client libraries and Mosquitto's bridge, each through twenty kills of the listener",
        package: "pushline",
        target: &["--test", "it"],
        tests: &["clients::"],
    },
    Part {
        name: "brokers",
        about: "Mosquitto and HiveMQ, with restarts, kills, cuts and stalls",
        package: "pushline",
        target: &["--test", "it"],
        tests: &["brokers::"],
    },
    Part {
        name: "hostile",
        about: "every row of the hostile receiver's table with the real timeout of 90 s; 5 minutes",
        package: "pushline",
        target: &["--test", "it"],
        tests: &["each_cell_of_the_hostile_receivers_table_has_its_outcome_cause_and_number_of_attempts"],
    },
    Part {
        name: "model",
        about: "the delivery core's model test with 200,000 schedules in each mode",
        package: "pushline-lanes",
        target: &["--lib", "--release"],
        tests: &[
            "with_a_horizon_every_record_is_sent_under_one_id_and_all_settle",
            "with_ticks_and_zombies_every_record_is_sent_under_one_id_and_all_settle",
        ],
    },
    Part {
        name: "conversations",
        about: "clients that talk to the listener at random, 160,000 connections; 5 minutes",
        package: "pushline-ingest",
        target: &["--test", "devices"],
        tests: &["whatever_clients_send_what_was_acknowledged_is_in_the_queue_and_the_listener_goes_on"],
    },
    Part {
        name: "kafka-outage",
        about: "Kafka is away for two minutes; 3 minutes",
        package: "pushline",
        target: &["--test", "it"],
        tests: &["while_kafka_is_away_nothing_is_acknowledged_and_afterwards_everything_flows"],
    },
    Part {
        name: "kafka-hang",
        about: "a hanging customer beside a million packets; 4 minutes",
        package: "pushline",
        target: &["--test", "it"],
        tests: &["a_hanging_customer_delays_nobody_in_its_partition_and_is_no_lag"],
    },
    Part {
        name: "kafka-hand-over",
        about: "deliverers come and go under load; 3 minutes",
        package: "pushline",
        target: &["--test", "it"],
        tests: &["deliverers_come_and_go_under_load_and_nothing_is_lost_nor_sent_again_that_had_settled"],
    },
];

/// Runs the named parts, or all.
///
/// # Errors
/// A part doesn't exist (the text lists all), a program is missing, or a test fails.
pub fn run(names: &[&str]) -> Result<(), String> {
    let about = PARTS.iter().map(|Part { name, about, .. }| (*name, *about)).chain([(fuzz::NAME, fuzz::ABOUT)]);
    let unknown = names.iter().find(|name| about.clone().all(|(part, _)| part != **name));
    if let Some(unknown) = unknown {
        let list: String = about.map(|(name, about)| format!("\n  {name:16} {about}")).collect();
        return Err(format!("no part {unknown:?}; the parts are:{list}"));
    }
    programs::ensure(&programs::FOR_TESTS)?;
    let is_chosen = |part: &str| names.is_empty() || names.contains(&part);
    if is_chosen("clients") {
        programs::ensure(&programs::FOR_CLIENTS)?;
    }
    let chosen = PARTS.iter().filter(|part| is_chosen(part.name));
    let mut failed: Vec<String> = chosen.filter_map(|part| step::run(part.about, &mut command(part)).err()).collect();
    if is_chosen(fuzz::NAME) {
        failed.extend(fuzz::run().err());
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

fn command(part: &Part) -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["test", "--locked", "--package", part.package])
        .args(part.target)
        .args(["--", "--include-ignored", "--nocapture"])
        .args(part.tests);
    cargo.env("LONG_TESTS", "1").env("MODEL_SCHEDULES", MODEL_SCHEDULES);
    cargo
}
