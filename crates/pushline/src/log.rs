//! The log on standard error. It tells about the process and must never stop it: whether standard error is closed, its reader has gone, its disk
//! is full or its pipe has no reader, the process goes on. Lines that can't be written are dropped and counted.
//!
//! Threads format their lines and put them into a bounded buffer; one thread writes the buffer. Only that thread ever waits for standard error.

mod fields;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use anyhow::Context;
use clap::ValueEnum;
use metrics::counter;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use tracing_subscriber::{EnvFilter, filter::Directive};

use self::fields::Fields;
use crate::metrics::{LOG_LINES_DROPPED, PANICS};

/// Bytes of lines that may wait to be written. Lines beyond are dropped.
const CAPACITY: usize = 1 << 20;

/// How long the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How log lines are written.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Where threads leave their lines.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    buffer: Mutex<Buffer>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// Lines that were dropped since one was written last.
    dropped: u64,
    /// The writer has taken bytes and hasn't written them yet.
    is_writing: bool,
}

/// The process's lines, once [`start`] has run.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Sends log lines and panics of the whole process to standard error. RUST_LOG selects the lines.
///
/// # Errors
/// The operating system refuses a thread, or the log was started before.
pub(crate) fn start(format: Format) -> anyhow::Result<()> {
    let lines = LINES.get_or_init(Lines::default);
    let writer = lines.clone();
    thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_to(StandardError)).context("can't start the log's thread")?;
    let value = std::env::var_os("RUST_LOG").unwrap_or_default();
    let value = value.to_string_lossy();
    let (filter, refused) = selected(&value);
    let subscriber = tracing_subscriber::fmt()
        // The library would report them to standard error by a macro that panics where it can't be written.
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(|| LINES.get().cloned().unwrap_or_default())
        .with_target(false)
        .with_ansi(io::stderr().is_terminal());
    let started = match format {
        Format::Text => subscriber.fmt_fields(Fields).try_init(),
        Format::Json => subscriber.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!(error)).context("can't start the log")?;
    std::panic::set_hook(Box::new(log_panic));
    for directive in refused {
        print(&format!(
            "pushline: RUST_LOG: ignored {directive:?}: write a level such as debug, or target=level such as pushline_deliver=debug"
        ));
    }
    Ok(())
}

/// The lines that the value of RUST_LOG selects (`info` where it is empty), and those of its directives that can't be read. The library's own lossy
/// reading reports them by a macro that panics where standard error can't be written.
fn selected(value: &str) -> (EnvFilter, Vec<&str>) {
    let directives = value.split(',').map(str::trim).filter(|directive| !directive.is_empty());
    let (valid, refused): (Vec<&str>, Vec<&str>) = directives.partition(|directive| directive.parse::<Directive>().is_ok());
    let builder = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into());
    (builder.parse(valid.join(",")).expect("each directive was read before"), refused)
}

/// Waits until the last lines are written, for a second at the most.
pub(crate) fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush(LAST_LINES);
    }
}

/// Writes a line to standard error, without the log's time and level. Never fails: a command's last words can't be reported anywhere else.
pub(crate) fn print(line: &str) {
    match LINES.get() {
        Some(lines) => lines.push(format!("{line}\n").as_bytes()),
        // A command that doesn't log: it waits for its reader like any other tool.
        None => drop(writeln!(io::stderr(), "{line}")),
    }
}

/// Rust's own hook writes to standard error itself, and would wait for its reader.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    counter!(PANICS).increment(1);
    let place = panic.location().map(tracing::field::display);
    let reason = panic.payload_as_str().unwrap_or("a value that isn't text");
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(backtrace));
    let thread = thread::current();
    tracing::error!(place, reason, thread = thread.name(), backtrace, "panic: this is a bug in Pushline; please report it");
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.0.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never waits for standard error.
    fn push(&self, line: &[u8]) {
        let mut buffer = self.lock();
        if buffer.bytes.len() + line.len() <= CAPACITY {
            buffer.bytes.extend_from_slice(line);
            self.0.changed.notify_all();
        } else {
            buffer.drop_lines(line);
        }
    }

    /// Writes what is pushed, as long as the process lives.
    fn write_to(&self, mut output: impl Write) {
        let mut bytes = Vec::new();
        // Where a line was written in part, the next one begins on a line of its own.
        let mut is_torn = false;
        loop {
            self.take(&mut bytes);
            if is_torn {
                bytes.insert(0, b'\n');
            }
            let written = write(&mut output, &bytes);
            is_torn = bytes[..written].last().map_or(is_torn, |last| *last != b'\n');
            let dropped = self.note_written(&bytes[written..]);
            if dropped > 0 {
                tracing::warn!(lines = dropped, "log lines were dropped: standard error couldn't be written");
            }
        }
    }

    /// Waits for lines.
    fn take(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        let buffer = self.lock();
        let mut buffer = self.0.changed.wait_while(buffer, |buffer| buffer.bytes.is_empty()).unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut buffer.bytes, bytes);
        buffer.is_writing = true;
    }

    /// Notes what couldn't be written. Returns how many lines were dropped before, once lines are written again.
    fn note_written(&self, rest: &[u8]) -> u64 {
        let mut buffer = self.lock();
        buffer.is_writing = false;
        self.0.changed.notify_all();
        if rest.is_empty() {
            return std::mem::take(&mut buffer.dropped);
        }
        buffer.drop_lines(rest);
        0
    }

    fn flush(&self, at_most: Duration) {
        let is_waiting = |buffer: &mut Buffer| buffer.is_writing || !buffer.bytes.is_empty();
        drop(self.0.changed.wait_timeout_while(self.lock(), at_most, is_waiting));
    }
}

impl Buffer {
    fn drop_lines(&mut self, bytes: &[u8]) {
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.dropped += lines;
        counter!(LOG_LINES_DROPPED).increment(lines);
    }
}

/// One call for each line.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes as much as can be written. Returns how many bytes.
fn write(output: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match output.write(&bytes[written..]) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    written
}

/// Standard error without the standard library's lock: a thread that waits for a pipe holds nothing that another one needs.
struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        loop {
            match rustix::io::write(stderr.as_fd(), bytes) {
                // Another process has made the pipe that both have non-blocking.
                Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None)),
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes what it is told to take: so many bytes of the next write, or an error.
    struct Scripted {
        takes: mpsc::Receiver<usize>,
        taken: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = self.takes.recv().map_err(io::Error::other)?.min(bytes.len());
            self.taken.send(bytes[..count].to_vec()).map_err(io::Error::other)?;
            if count == 0 { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn scripted() -> (Lines, mpsc::Sender<usize>, mpsc::Receiver<Vec<u8>>) {
        let ((take, takes), (taken, output)) = (mpsc::channel(), mpsc::channel());
        let lines = Lines::default();
        let writer = lines.clone();
        thread::spawn(move || writer.write_to(Scripted { takes, taken }));
        (lines, take, output)
    }

    fn dropped(lines: &Lines) -> u64 {
        lines.lock().dropped
    }

    #[test]
    fn a_line_that_cannot_be_written_is_dropped_and_the_next_one_stands_on_a_line_of_its_own() {
        let (lines, take, output) = scripted();
        lines.push(b"one\n");
        take.send(2).unwrap();
        take.send(0).unwrap();
        assert_eq!((output.recv().unwrap(), output.recv().unwrap()), (b"on".to_vec(), Vec::new()));
        lines.flush(Duration::from_secs(60));
        assert_eq!(dropped(&lines), 1);
        lines.push(b"two\n");
        take.send(usize::MAX).unwrap();
        assert_eq!(output.recv().unwrap(), b"\ntwo\n");
        lines.flush(Duration::from_secs(60));
        assert_eq!(dropped(&lines), 0, "the drop was reported");
    }

    #[test]
    fn a_directive_that_cannot_be_read_is_named_and_the_others_count() {
        for (value, filter, refused) in [
            ("", "info", &[][..]),
            (",", "info", &[]),
            ("warn", "warn", &[]),
            ("a=b=c", "info", &["a=b=c"]),
            ("a=debug,b=loud,[,warn", "a=debug,warn", &["b=loud", "["]),
        ] {
            let (selected, named) = selected(value);
            assert_eq!((selected.to_string().as_str(), &named[..]), (filter, refused), "{value:?}");
        }
    }

    #[test]
    fn threads_never_wait_for_a_reader_and_the_buffer_is_bounded() {
        let (lines, take, output) = scripted();
        let line = [vec![b'x'; 1023], vec![b'\n']].concat();
        // The writer waits inside of the first write, which doesn't end before the test permits it.
        lines.push(&line);
        while !lines.lock().is_writing {
            thread::yield_now();
        }
        for _ in 0..CAPACITY / line.len() + 7 {
            lines.push(&line);
        }
        let waiting = lines.lock().bytes.len();
        assert_eq!((waiting, dropped(&lines)), (CAPACITY, 7));
        lines.flush(Duration::from_millis(1));
        take.send(usize::MAX).unwrap();
        take.send(usize::MAX).unwrap();
        assert_eq!((output.recv().unwrap().len(), output.recv().unwrap().len()), (line.len(), CAPACITY));
    }

    /// What is logged meanwhile.
    pub(super) fn logged(act: impl FnOnce()) -> String {
        let lines = Lines::default();
        let output = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_target(false).fmt_fields(Fields).with_writer(move || output.clone());
        tracing::subscriber::with_default(subscriber.finish(), act);
        String::from_utf8(lines.lock().bytes.clone()).unwrap()
    }

    #[test]
    fn a_panic_is_a_log_line_with_its_place() {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(log_panic));
        let log = logged(|| drop(std::panic::catch_unwind(|| panic!("the {} is broken", "sky"))));
        std::panic::set_hook(hook);
        let line = log.lines().next().unwrap();
        assert!(
            line.contains("ERROR") && line.contains("the sky is broken") && line.contains("place=crates/pushline/src/log.rs:"),
            "{log}"
        );
    }
}
