//! Signals to the processes that tests have started.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// Sends a signal to a child.
///
/// # Panics
/// When it was waited for.
pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(id(pid), signal).expect("a child that wasn't waited for can be signalled");
}

/// SIGSTOP to a child, and waits until its last thread stands still, which takes a moment on a busy machine.
///
/// # Panics
/// When it was waited for.
pub(crate) fn pause(pid: u32) {
    signal(pid, Signal::STOP);
    let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(id(pid)), options).expect("a child that wasn't waited for can be");
}

fn id(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process has an id")
}
