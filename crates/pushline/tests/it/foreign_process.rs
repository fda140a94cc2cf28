//! The processes of a program of another make, which end with the test, however it ends.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// A program's first process and all that it has started: one process group. Dropping it kills them.
#[derive(Debug)]
pub(crate) struct ForeignProcess {
    first: Child,
    /// Reads a pipe that ends with the test process, then kills the group.
    watchdog: Child,
    log: PathBuf,
}

impl ForeignProcess {
    /// Starts a command with its output in a file.
    ///
    /// # Panics
    /// The program isn't installed.
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let output = File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        Self::spawn(command, log)
    }

    /// Starts a command whose input and output are pipes. What it prints on the error output is in a file.
    ///
    /// # Panics
    /// The program isn't installed.
    pub(crate) fn start_with_pipes(mut command: Command, log: &Path) -> (Self, ChildStdin, ChildStdout) {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(log).unwrap());
        let mut this = Self::spawn(command, log);
        let (input, output) = (this.first.stdin.take(), this.first.stdout.take());
        (this, input.expect("it is piped"), output.expect("it is piped"))
    }

    fn spawn(mut command: Command, log: &Path) -> Self {
        command.process_group(0);
        let first = command.spawn();
        let first =
            first.unwrap_or_else(|error| panic!("{}: {error}; README.md says what the tests need", command.get_program().display()));
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", "read -r _ || kill -KILL -- -\"$1\"", "watchdog", &first.id().to_string()]);
        let watchdog = watchdog.stdin(Stdio::piped()).process_group(0).spawn().unwrap();
        Self { first, watchdog, log: log.to_owned() }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.first.try_wait().unwrap().is_some()
    }

    /// Sends a signal to the first process.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.id(), signal).unwrap();
    }

    /// What the program has printed into its log.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn id(&self) -> Pid {
        Pid::from_child(&self.first)
    }
}

impl Drop for ForeignProcess {
    fn drop(&mut self) {
        // The group of a program that has ended by itself may be gone.
        let _ = kill_process_group(self.id(), Signal::KILL);
        let _ = self.first.wait();
        let _ = self.watchdog.stdin.take().map(|mut pipe| pipe.write_all(b"\n"));
        let _ = self.watchdog.wait();
    }
}
