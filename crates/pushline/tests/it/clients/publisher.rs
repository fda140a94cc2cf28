//! A client program that a test drives. Each program takes the port, its client id, the QoS and the topic as arguments. It publishes each line of its input as a
//! packet, and prints the line when the packet is acknowledged: by PUBACK at QoS 1, by PUBCOMP at QoS 2. It connects again by itself with the session that it
//! had, and ends when its input has ended and every packet is acknowledged.

use std::{
    io::{BufRead as _, BufReader, Read, Write},
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use pushline_testkit::{Ledger, PATIENCE};
use tokio::time::{Instant, sleep};

use super::{programs::Client, rumqttc};
use crate::foreign_process::ForeignProcess;

/// A running program.
pub(super) struct Publisher {
    program: Program,
    input: Box<dyn Write + Send>,
    ledger: Arc<Ledger>,
    published: usize,
}

enum Program {
    Process(ForeignProcess),
    Thread(JoinHandle<()>),
}

impl Publisher {
    /// Starts a client that publishes to a port. The folder is the test's own.
    pub(super) fn start(client: &Client, port: u16, qos: u8, folder: &Path) -> Self {
        let (process, input, output) = ForeignProcess::start_with_pipes(client.command(port, qos, folder), &folder.join("client.log"));
        Self::new(Program::Process(process), input, output, client.acknowledged)
    }

    /// Starts rumqttc.
    pub(super) fn start_rumqttc(port: u16, qos: u8) -> Self {
        let ((program_input, input), (output, program_output)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        let thread = thread::spawn(move || rumqttc::run(port, qos, program_input, program_output));
        Self::new(Program::Thread(thread), input, output, |line| Some(line.to_owned()))
    }

    fn new(
        program: Program,
        input: impl Write + Send + 'static,
        output: impl Read + Send + 'static,
        acknowledged: fn(&str) -> Option<String>,
    ) -> Self {
        let ledger = Arc::new(Ledger::default());
        let book = Arc::clone(&ledger);
        thread::spawn(move || BufReader::new(output).lines().map_while(Result::ok).for_each(|line| book.acknowledged(acknowledged(&line))));
        Self { program, input: Box::new(input), ledger, published: 0 }
    }

    /// Hands more packets to the program. It has them at once, and publishes them when it can.
    pub(super) fn publish(&mut self, packets: usize) {
        let lines: String = (self.published..self.published + packets).map(|number| payload(number) + "\n").collect();
        let written = self.input.write_all(lines.as_bytes()).and_then(|()| self.input.flush());
        assert!(written.is_ok(), "the client has ended:\n{}", self.program.log());
        self.published += packets;
    }

    /// How many are acknowledged.
    pub(super) fn acknowledged(&self) -> usize {
        self.ledger.count()
    }

    /// Waits until this many are acknowledged in all.
    pub(super) async fn until_acknowledged(&mut self, packets: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.ledger.count() < packets {
            let (count, published) = (self.ledger.count(), self.published);
            assert!(
                !self.program.has_ended(),
                "the client has ended with {count} of {published} packets acknowledged:\n{}",
                self.program.log()
            );
            assert!(Instant::now() < deadline, "{count} of {published} packets are acknowledged:\n{}", self.program.log());
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends the input, and waits until the program has ended. Returns what it published and what was acknowledged.
    pub(super) async fn finish(mut self) -> (usize, Arc<Ledger>) {
        self.until_acknowledged(self.published).await;
        let Self { mut program, input, ledger, published } = self;
        drop(input);
        let deadline = Instant::now() + PATIENCE;
        while !program.has_ended() {
            assert!(Instant::now() < deadline, "the client doesn't end:\n{}", program.log());
            sleep(Duration::from_millis(5)).await;
        }
        (published, ledger)
    }
}

/// The payload of a packet.
pub(super) fn payload(number: usize) -> String {
    format!("packet {number}")
}

impl Program {
    fn has_ended(&mut self) -> bool {
        match self {
            Self::Process(process) => process.has_ended(),
            Self::Thread(thread) => thread.is_finished(),
        }
    }

    fn log(&self) -> String {
        match self {
            Self::Process(process) => process.log(),
            Self::Thread(_) => String::new(),
        }
    }
}
