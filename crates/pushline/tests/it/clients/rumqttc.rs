//! rumqttc as a client program, on a thread of the test.

use std::{
    collections::{HashMap, VecDeque},
    io::{BufRead as _, BufReader, PipeReader, PipeWriter, Write as _},
    pin::pin,
    thread,
    time::Duration,
};

use rumqttc::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS};
use tokio::{sync::mpsc, time::sleep};

use super::programs::TOPIC;

/// Requests that may wait in the client: more than a test makes.
const REQUESTS: usize = 100_000;

/// The delay before the client connects again.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// What the client was given, and what of it isn't acknowledged.
struct Program {
    client: AsyncClient,
    qos: QoS,
    /// Payloads that have no packet id yet, in the order in which they get one.
    waiting: VecDeque<String>,
    by_id: HashMap<u16, String>,
    /// How many of those that wait the client drops when it connects and the listener has no session.
    forgettable: usize,
    is_connected: bool,
    /// The input has ended.
    has_all: bool,
    output: PipeWriter,
}

/// Publishes the lines of the input, and prints those that are acknowledged, until the input has ended and all are.
pub(super) fn run(port: u16, qos: u8, input: PipeReader, output: PipeWriter) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(publish(port, if qos == 2 { QoS::ExactlyOnce } else { QoS::AtLeastOnce }, input, output));
}

async fn publish(port: u16, qos: QoS, input: PipeReader, output: PipeWriter) {
    let mut options = MqttOptions::new("rumqttc", "127.0.0.1", port);
    options.set_clean_session(false);
    let (client, mut events) = AsyncClient::new(options, REQUESTS);
    let (sender, mut lines) = mpsc::channel(REQUESTS);
    thread::spawn(move || BufReader::new(input).lines().map_while(Result::ok).try_for_each(|line| sender.blocking_send(line)));
    let mut program = Program::new(client, qos, output);
    while let Some(polled) = program.poll(&mut events, &mut lines).await {
        match polled {
            Ok(event) => program.happened(&event),
            Err(_) => {
                program.disconnected();
                sleep(RETRY_DELAY).await;
            }
        }
    }
}

impl Program {
    fn new(client: AsyncClient, qos: QoS, output: PipeWriter) -> Self {
        Self { client, qos, waiting: VecDeque::new(), by_id: HashMap::new(), forgettable: 0, is_connected: false, has_all: false, output }
    }

    /// Polls the client once, and hands lines to it meanwhile: a poll that is dropped while it connects never connects. `None`: all are acknowledged.
    async fn poll(&mut self, events: &mut EventLoop, lines: &mut mpsc::Receiver<String>) -> Option<Result<Event, ConnectionError>> {
        let mut polling = pin!(events.poll());
        while !(self.has_all && self.waiting.is_empty() && self.by_id.is_empty()) {
            tokio::select! {
                polled = &mut polling => return Some(polled),
                line = lines.recv(), if !self.has_all => match line {
                    Some(line) => self.publish(line),
                    None => self.has_all = true,
                },
            }
        }
        None
    }

    fn publish(&mut self, line: String) {
        self.client.try_publish(TOPIC, self.qos, false, line.clone()).expect("there is space for all requests of a test");
        self.waiting.push_back(line);
    }

    fn happened(&mut self, event: &Event) {
        match event {
            Event::Incoming(Packet::ConnAck(connack)) => {
                self.is_connected = true;
                if !connack.session_present {
                    self.publish_forgotten();
                }
            }
            Event::Outgoing(Outgoing::Publish(id)) if !self.by_id.contains_key(id) => {
                self.by_id.extend(self.waiting.pop_front().map(|line| (*id, line)));
            }
            Event::Incoming(Packet::PubAck(ack)) => self.acknowledged(ack.pkid),
            Event::Incoming(Packet::PubComp(ack)) => self.acknowledged(ack.pkid),
            _ => {}
        }
    }

    fn acknowledged(&mut self, id: u16) {
        if let Some(line) = self.by_id.remove(&id) {
            writeln!(self.output, "{line}").expect("the test reads");
        }
    }

    /// The client has put aside what it hadn't sent, behind what isn't acknowledged.
    fn disconnected(&mut self) {
        if std::mem::take(&mut self.is_connected) {
            self.forgettable = self.waiting.len();
        }
    }

    /// rumqttc drops what it had put aside when the listener has no session. A program then publishes it again.
    fn publish_forgotten(&mut self) {
        let forgotten: Vec<String> = self.waiting.drain(..self.forgettable).chain(self.by_id.drain().map(|(_, line)| line)).collect();
        self.forgettable = 0;
        forgotten.into_iter().for_each(|line| self.publish(line));
    }
}
