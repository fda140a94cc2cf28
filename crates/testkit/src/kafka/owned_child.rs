//! A child process that can't outlive this one, however this one ends. A small shell beside the child reads a pipe, and even kill -9 of this process
//! closes that pipe: then the shell kills the child.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write},
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// The shell replaces itself with the program, so that its process id is the child's. Before, it forks a watchdog that reads the pipe. A line means
/// that the child has ended: the watchdog ends too. The end of the pipe means that this process has ended: the watchdog kills the child, even a
/// stopped one, and removes its folder.
const WATCHDOG: &str = r#"
exec 3<&0
{
    read -r _ <&3 || {
        kill -KILL $$
        for _ in 1 2 3 4 5; do
            [ -z "$1" ] || rm -rf -- "$1" && break
            sleep 1
        done
    }
} &
shift
exec "$@" 3<&- </dev/null
"#;

/// A process that ends with this one. Dropping it kills it and waits until it's gone.
#[derive(Debug)]
pub(crate) struct OwnedChild {
    child: Child,
    watchdog: Option<ChildStdin>,
}

impl OwnedChild {
    /// Starts a command whose output goes to a file. When this process ends without dropping the child, the watchdog removes the folder.
    pub(crate) fn start(command: &[impl AsRef<OsStr>], log: File, folder: Option<&Path>) -> io::Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", WATCHDOG, "watchdog"]).arg(folder.unwrap_or(Path::new(""))).args(command);
        shell.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        let mut child = shell.spawn()?;
        let watchdog = child.stdin.take();
        Ok(Self { child, watchdog })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten();
        if status.is_some() {
            self.dismiss();
        }
        status
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn end(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.ended();
            if status.is_some() || Instant::now() > deadline {
                return status;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the watchdog. The child has ended and its id may belong to another process by now: the watchdog must not kill that one.
    fn dismiss(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            let _ = watchdog.write_all(b"\n");
        }
    }
}

impl Drop for OwnedChild {
    fn drop(&mut self) {
        // Both refuse only what has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.dismiss();
    }
}
