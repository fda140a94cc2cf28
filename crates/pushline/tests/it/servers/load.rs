//! A load: a real Pushline pushes packets to a server, and every one of them comes once.

use std::{collections::BTreeMap, process::Command, time::Duration};

use futures_util::future::join_all;
use pushline_testkit::{Gateway, PATIENCE, Pushline, folder, get, payloads_of};
use rustix::process::Signal;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{proxies::KEEP_ALIVE_MILLIS, site::Site, transport::Transport};
use crate::{BINARY, amount, foreign_process::ForeignProcess, group, webhook};

/// How to start a server at a site: it writes its configuration there.
pub(super) type Program = fn(&Site) -> Command;

/// Groups that push to the one webhook.
const GROUPS: usize = 8;

/// How often a server that doesn't start gets another port: another process may have taken the first.
const STARTS: usize = 5;

/// A server with the site that it runs at.
struct Server {
    program: Program,
    site: Site,
    process: ForeignProcess,
}

/// Over each of these, all at once.
pub(super) async fn every_packet_comes_once(program: Program, transports: &[Transport]) {
    join_all(transports.iter().map(|transport| Box::pin(bursts(program, *transport)))).await;
}

/// The same while the server reads its configuration again and again.
pub(super) async fn every_packet_comes_once_through_reloads(program: Program, reload: Signal, transports: &[Transport]) {
    join_all(transports.iter().map(|transport| Box::pin(reloads(program, reload, *transport)))).await;
}

/// Bursts with pauses about as long as the server keeps idle connections: some requests meet a connection that is just being closed.
async fn bursts(program: Program, transport: Transport) {
    let server = Server::start(program, transport).await;
    let mut customer = Customer::start(&server).await;
    for _ in 0..amount(8, 200) {
        customer.publish(1..30).await;
        sleep(Duration::from_millis(fastrand::u64(KEEP_ALIVE_MILLIS - 100..KEEP_ALIVE_MILLIS + 100))).await;
    }
    customer.finish(&server).await;
}

async fn reloads(program: Program, signal: Signal, transport: Transport) {
    let mut server = Server::start(program, transport).await;
    let mut customer = Customer::start(&server).await;
    for _ in 0..amount(8, 100) {
        server.reload(signal);
        let (deadline, mut told) = (Instant::now() + PATIENCE, Instant::now());
        while !server.site.has_arrived_by_this_generation() {
            customer.publish(1..10).await;
            sleep(Duration::from_millis(fastrand::u64(5..30))).await;
            // haproxy loses a signal while its master process starts itself again.
            if told.elapsed() > Duration::from_secs(1) {
                server.process.signal(signal);
                told = Instant::now();
            }
            assert!(Instant::now() < deadline, "{transport:?}: nothing comes by the new configuration:\n{}", server.process.log());
        }
    }
    customer.finish(&server).await;
}

/// A webhook trusts the server but has no certificate of its own: its message becomes a dead letter, and nothing arrives. Returns the cause.
pub(super) async fn cause_without_a_client_certificate(program: Program, transport: Transport) -> String {
    let server = Server::start(program, transport).await;
    let options = format!("retry_delays = [\"10ms\"]\ntls = {{ ca_file = \"{}\" }}", server.site.file("ca.pem"));
    let mut customer = Customer::start_with(&server, &options).await;
    customer.publish(1..2).await;
    customer.pushline.until_quiet().await;
    assert_eq!(server.site.arrivals().len(), 0);
    let (status, letters) = get(customer.pushline.admin, "/dead-letters?limit=1").await.unwrap();
    assert_eq!(status, 200);
    let letter: serde_json::Value = serde_json::from_str(letters.lines().next().unwrap()).unwrap();
    letter["attempts"][0]["cause"].as_str().unwrap_or_default().to_owned()
}

impl Server {
    async fn start(program: Program, transport: Transport) -> Self {
        let mut site = Site::new(transport).await;
        for _ in 0..STARTS {
            site.take_port();
            let command = program(&site);
            let mut process = ForeignProcess::start(command, site.file("server.log").as_ref());
            if is_listening(&site, &mut process).await {
                return Self { program, site, process };
            }
            println!("{}", process.log());
        }
        panic!("the server doesn't start");
    }

    /// Gives the server another configuration, and tells it so.
    fn reload(&mut self, signal: Signal) {
        self.site.generation += 1;
        let _ = (self.program)(&self.site);
        self.process.signal(signal);
    }
}

/// Waits until connections are taken; false where the server ends.
async fn is_listening(site: &Site, process: &mut ForeignProcess) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !process.has_ended() {
        if TcpStream::connect(("127.0.0.1", site.port)).await.is_ok() {
            // Another process's port would be taken too.
            return !process.has_ended();
        }
        assert!(Instant::now() < deadline, "the server takes no connection:\n{}", process.log());
        sleep(Duration::from_millis(20)).await;
    }
    false
}

/// A customer whose groups push to a server.
struct Customer {
    pushline: Pushline,
    gateway: Gateway,
    published: Vec<String>,
    _folder: tempfile::TempDir,
}

impl Customer {
    async fn start(server: &Server) -> Self {
        Self::start_with(server, &server.site.transport.options(&server.site)).await
    }

    async fn start_with(server: &Server, options: &str) -> Self {
        let folder = folder();
        let options = format!("window = \"50ms\"\ntimeout = \"20s\"\n{options}");
        let groups: String = (0..GROUPS).map(|number| group(&format!("o{number}"), "g", "w")).collect();
        let configuration = webhook("w", &server.site.transport.url(server.site.port), &options) + &groups;
        let pushline = Pushline::start(BINARY, folder.path(), &Pushline::configuration(&configuration)).await;
        let gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
        Self { pushline, gateway, published: Vec::new(), _folder: folder }
    }

    /// Packets for each group. A few of them are larger than a window of HTTP/2 (RFC 9113 §6.9.2).
    async fn publish(&mut self, count: std::ops::Range<usize>) {
        let mut burst = Vec::new();
        for number in 0..GROUPS {
            for _ in 0..fastrand::usize(count.clone()) {
                let filling = if fastrand::u8(0..100) == 0 { fastrand::usize(60_000..200_000) } else { fastrand::usize(0..200) };
                let payload = format!("{} {}", self.published.len(), "x".repeat(filling));
                burst.push((format!("o{number}/1"), payload.clone().into_bytes()));
                self.published.push(payload);
            }
        }
        self.gateway.publish(&burst).await.unwrap();
    }

    /// Waits until all has settled, and holds what arrived against what was published.
    async fn finish(self, server: &Server) {
        let quiet = timeout(PATIENCE, self.pushline.until_quiet()).await;
        let log = || format!("{:?}\nPushline:\n{}\nthe server:\n{}", server.site.transport, self.pushline.log(), server.process.log());
        quiet.unwrap_or_else(|_| panic!("packets don't settle.\n{}", log()));
        let arrivals = server.site.arrivals();
        let mut times: BTreeMap<String, usize> = self.published.iter().map(|payload| (payload.clone(), 0)).collect();
        for payload in arrivals.iter().flat_map(|arrival| payloads_of(&arrival.body)) {
            *times.entry(payload).or_default() += 1;
        }
        let wrong: Vec<String> =
            times.iter().filter(|(_, times)| **times != 1).map(|(packet, times)| format!("{times} × {:.12}", packet.as_str())).collect();
        let dead = self.pushline.dead_letters("dead-letters").await;
        assert!(
            wrong.is_empty() && dead.is_empty(),
            "{} of {} packets didn't come once, such as {:?}; {} dead letters, such as {:?}.\n{}",
            wrong.len(),
            times.len(),
            &wrong[..wrong.len().min(10)],
            dead.len(),
            dead.first(),
            log()
        );
        let expected = if server.site.transport.is_http2() { '2' } else { '1' };
        let other = arrivals.iter().find(|arrival| !arrival.protocol.trim_start_matches("HTTP/").starts_with(expected));
        assert!(other.is_none(), "requests come over HTTP/{expected}, but one came over {}", other.unwrap().protocol);
    }
}
