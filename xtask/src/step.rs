//! Runs a command as a step, and prints what the step cost.

use std::{
    fs,
    process::{Command, ExitStatus},
    time::Instant,
};

/// Linux reports CPU times to user space in clock ticks of a hundredth of a second.
const TICKS_PER_SECOND: f64 = 100.0;

/// Runs a command to its end. Prints its wall and CPU time, the CPU time including all processes that it started and waited for.
///
/// # Errors
/// The command can't be started, or fails.
pub fn run(what: &str, command: &mut Command) -> Result<(), String> {
    println!("xtask: {what}: {}", shown(command));
    let status = measured(what, command)?;
    if status.success() { Ok(()) } else { Err(format!("{what} failed")) }
}

/// Like [`run`], for a program and arguments.
///
/// # Errors
/// The command can't be started, or fails.
///
/// # Panics
/// `command` is empty.
pub fn run_line(what: &str, command: &[&str]) -> Result<(), String> {
    run(what, Command::new(command[0]).args(&command[1..]))
}

fn measured(what: &str, command: &mut Command) -> Result<ExitStatus, String> {
    let (began, cpu_before) = (Instant::now(), children_cpu_seconds());
    let status = command.status().map_err(|error| format!("can't start {}: {error}", command.get_program().display()))?;
    let wall = began.elapsed().as_secs_f64();
    match (cpu_before, children_cpu_seconds()) {
        (Some(before), Some(after)) => println!("xtask: {what}: {wall:.0} s, {:.0} CPU s", after - before),
        _ => println!("xtask: {what}: {wall:.0} s"),
    }
    Ok(status)
}

/// CPU seconds of all processes that this one has waited for, and of theirs. `None` where the system has no `/proc`.
fn children_cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    cpu_seconds_of(&stat)
}

/// Fields 16 and 17 of proc_pid_stat(5), `cutime` and `cstime`. The second field, the name, may contain spaces and ends with the last parenthesis.
fn cpu_seconds_of(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(13);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn shown(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| Some(format!("{}={}", name.display(), value?.display())));
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(|word| word.display().to_string());
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_times_of_children_are_found_behind_a_name_with_spaces_and_parentheses() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 10 20 0 0 1 2 250 150 20 0 1 0 5 6 7";
        assert_eq!(cpu_seconds_of(stat), Some(4.0));
        assert_eq!(cpu_seconds_of("7 (a"), None);
    }

    #[test]
    fn a_step_that_fails_says_so() {
        assert_eq!(run_line("nothing", &["false"]), Err("nothing failed".into()));
        assert_eq!(run_line("something", &["true"]), Ok(()));
    }
}
