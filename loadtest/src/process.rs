//! Processes: this program again in another part, and what a process has used.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

/// What a process has used since it started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// User and system time, in seconds.
    cpu: f64,
    /// Resident, in bytes.
    pub(crate) memory: u64,
}

impl Usage {
    /// From `/proc` (proc(5)).
    pub(crate) fn of(pid: u32) -> Result<Self> {
        /// `sysconf(_SC_CLK_TCK)` on Linux.
        const TICKS: f64 = 100.0;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(") ").context("a stat line names its program")?.1.split(' ').collect();
        let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has a resident size")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(Self { cpu: ticks / TICKS, memory: kib << 10 })
    }

    /// What was used since an earlier look.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self { cpu: self.cpu - before.cpu, memory: self.memory }
    }

    /// Seconds a million packets, or microseconds a packet.
    pub(crate) fn cpu_of(&self, packets: u64) -> f64 {
        self.cpu * 1e6 / packets as f64
    }
}

/// This program in another part.
pub(crate) fn this(arguments: &[&str]) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    Ok(command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?)
}

/// Waits until it has ended well.
pub(crate) async fn finished(mut child: Child) -> Result<()> {
    let status = child.wait().await?;
    if status.success() { Ok(()) } else { bail!("a part ended with {status}") }
}
