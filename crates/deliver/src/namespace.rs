//! Tests in a namespace of their own (namespaces(7)), where ports, routes and name servers are what the test wants.

use std::{env, process::Command};

/// Set within the namespace.
const INSIDE: &str = "PUSHLINE_TEST_IN_NAMESPACE";

/// Whether the caller runs in a namespace of its own, with a loopback interface and what these shell commands set up. If it doesn't, its test is run
/// there once more, alone, and has to pass. `test`: its whole name.
pub(crate) fn is_inside(test: &str, set_up: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let namespace = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "--mount", "sh", "-c", script]);
        command
    };
    if !namespace("ip link set lo up").status().is_ok_and(|status| status.success()) {
        eprintln!("not tested: this process can't make a namespace, or ip(8) is missing");
        return false;
    }
    let script = format!("ip link set lo up && {set_up} && exec \"$0\" --exact \"$1\" --nocapture");
    let run = namespace(&script).arg(env::current_exe().unwrap()).arg(test).env(INSIDE, "yes").output().unwrap();
    let told = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && told.contains("1 passed"), "{told}");
    false
}
