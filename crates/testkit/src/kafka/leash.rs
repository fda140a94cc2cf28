//! A child process that can't outlive this one, however this one ends: even kill -9 closes the pipe that a small shell beside the child reads.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write},
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// Becomes the program, so that its process id is the child's; what it leaves behind waits for a line (the child has ended: leave) or for the
/// end of the pipe (we have ended: kill it, which works on a stopped process too, and clear its folder away).
const LEASH: &str = r#"
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
pub(crate) struct Leashed {
    child: Child,
    leash: Option<ChildStdin>,
}

impl Leashed {
    /// Starts a command whose output goes to a file. When this process ends without dropping it, the folder goes too.
    pub(crate) fn start(command: &[impl AsRef<OsStr>], log: File, folder: Option<&Path>) -> io::Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", LEASH, "leash"]).arg(folder.unwrap_or(Path::new(""))).args(command);
        shell.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        let mut child = shell.spawn()?;
        let leash = child.stdin.take();
        Ok(Self { child, leash })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten();
        if status.is_some() {
            self.let_go();
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

    /// The child is gone and its id may belong to another: the shell must not kill it.
    fn let_go(&mut self) {
        if let Some(mut leash) = self.leash.take() {
            let _ = leash.write_all(b"\n");
        }
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        // Both refuse only what has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.let_go();
    }
}
