//! The project's own commands.
//!
//! | command | file |
//! |---|---|
//! | `cargo xtask test`: every check of the project; a check that can't run fails the command | `test.rs` |
//! | `cargo xtask long [part]…`: the long forms of the tests | `long.rs` |
//! | `cargo xtask mutants [name]…`: breaks the delivery core's rules one after the other | `mutants.rs` |
//! | `cargo xtask deploy [--bless]`: every check of `deploy/` | `deploy.rs` |
//! | `cargo xtask kafka [port]`: a Kafka for trials | `kafka.rs` |

use std::process::ExitCode;

use xtask::{deploy, kafka, long, mutants, test};

const USAGE: &str = "usage: cargo xtask test | deploy [--bless] | long [part]… | mutants [--schedules N] [name]… | kafka [port]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["test"] => test::run(),
        ["deploy", ref options @ ..] => deploy::run(options),
        ["long", ref parts @ ..] => long::run(parts),
        ["mutants", ref options @ ..] => mutants::run(options),
        ["kafka"] => kafka::run(None),
        ["kafka", port] => kafka::run(Some(port)),
        _ => Err(USAGE.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
