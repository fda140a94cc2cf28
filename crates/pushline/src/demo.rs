//! `pushline demo`: a real `pushline run` on free ports and in a temporary folder, with simulated gateways and three sample customers. The demo
//! prints each push and ends with a ledger.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use pushline_queue::Filter;
use pushline_sample::{Behaviour, Gateway, Push, Receiver};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{
    admin::Admin,
    config::Config,
    role::Role,
    run::Running,
    stdout::{Printer, print, printer},
};

/// The demo takes about ten seconds. A slow machine has this long; then the demo prints its ledger as it stands.
const AT_MOST: Duration = Duration::from_secs(25);

const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A customer of the demo.
struct Customer {
    org: &'static str,
    what: &'static str,
    behaviour: Behaviour,
}

const CUSTOMERS: [Customer; 3] = [
    Customer { org: "tokyo", what: "answers at once", behaviour: Behaviour { status: 200, delay: Duration::ZERO, hang: false, every: 1 } },
    Customer {
        org: "osaka",
        what: "hangs on each third push",
        behaviour: Behaviour { status: 200, delay: Duration::ZERO, hang: true, every: 3 },
    },
    Customer {
        org: "kyoto",
        what: "answers each second push with 500",
        behaviour: Behaviour { status: 500, delay: Duration::ZERO, hang: false, every: 2 },
    },
];

/// What the gateways publish: after how many milliseconds, for which customer (by its index), how many packets at once.
const PLAN: [(u64, usize, usize); 11] = [
    (0, 0, 1),
    (0, 1, 1),
    (0, 2, 1),
    (1500, 0, 25),
    (1500, 1, 2),
    (1500, 2, 2),
    (3000, 0, 2),
    (3000, 1, 3),
    (4500, 1, 11),
    (4500, 2, 4),
    (6000, 0, 10),
];

/// What customers accepted. A message that was sent again counts once.
#[derive(Debug, Default)]
struct Accepted {
    messages: HashSet<String>,
    packets: usize,
}

/// Runs the demo.
///
/// # Errors
/// The demo couldn't start, or its output can't be written.
pub(crate) async fn demo() -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("can't create a temporary folder")?;
    let accepted = Arc::new(Mutex::new(Accepted::default()));
    let (printer, mut printer_error) = printer();
    let mut receivers = Vec::new();
    for customer in &CUSTOMERS {
        let (began, accepted, printer) = (Instant::now(), Arc::clone(&accepted), printer.clone());
        let receive = move |push: Push| {
            printer.print(description(customer.org, began.elapsed(), &push));
            accepted.lock().unwrap_or_else(PoisonError::into_inner).note(&push);
        };
        receivers.push(Receiver::start(ANYWHERE, customer.behaviour, receive).await?);
    }
    let config = configuration(folder.path(), &receivers)?;
    let admin = Admin::start(&config.settings).await?;
    let running = Running::start(config, Role::Run, admin).await?;
    let mut acknowledged = 0;
    let shown = tokio::select! {
        result = show(&running, &accepted, &mut acknowledged, &printer) => result,
        error = printer_error.next() => Err(error),
    };
    drop(receivers);
    running.shutdown().await?;
    shown
}

/// Prints what the customers are, what happens, and the ledger.
async fn show(running: &Running, accepted: &Mutex<Accepted>, acknowledged: &mut usize, printer: &Printer) -> anyhow::Result<()> {
    let mqtt = running.mqtt().context("the demo has a listener")?;
    print(format_args!("Pushline listens for devices on {mqtt} and pushes to three customers:\n"))?;
    CUSTOMERS.iter().try_for_each(|customer| print(format_args!("  {}  {}\n", customer.org, customer.what)))?;
    print("Each has one group of devices. Packets that arrive within a second are pushed together, at most ten per message.\n\n")?;
    tokio::select! {
        result = timeout(AT_MOST, play(running, mqtt, accepted, acknowledged, printer)) => result.unwrap_or(Ok(()))?,
        _ = tokio::signal::ctrl_c() => {}
    }
    let acknowledged = *acknowledged;
    let dead = dead_letters(running).await?;
    let (messages, packets) = accepted.lock().unwrap_or_else(PoisonError::into_inner).sums();
    print(format_args!(
        "\nThe ledger\n\
         {acknowledged:5} packets were acknowledged to their devices\n\
         {packets:5} were accepted by customers, in {messages} messages\n\
         {dead:5} are kept as dead letters with their reason\n"
    ))?;
    match acknowledged.saturating_sub(packets + dead) {
        0 => print("  Nothing is missing.\n"),
        missing => print(format_args!("{missing:5} are still in the queue; the next start would send them.\n")),
    }
}

/// Publishes by the plan, then waits until everything has settled.
async fn play(
    running: &Running,
    mqtt: SocketAddr,
    accepted: &Mutex<Accepted>,
    acknowledged: &mut usize,
    printer: &Printer,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut gateway = Gateway::connect(mqtt, "demo-gateway").await?;
    for (place, (after, customer, count)) in PLAN.into_iter().enumerate() {
        sleep_until(began + Duration::from_millis(after)).await;
        let org = CUSTOMERS[customer].org;
        let packet = |number| (format!("{org}/8976126538567812{place:02}"), format!("{{\"temperature\":{}.5}}", 20 + number).into_bytes());
        gateway.publish(&(0..count).map(packet).collect::<Vec<_>>()).await?;
        *acknowledged = usize::try_from(gateway.acknowledged())?;
        let at = began.elapsed().as_secs_f64();
        printer.print(format_args!("{at:5.1} s  a gateway of {org} published {count}, acknowledged as durable\n"));
    }
    loop {
        let (_, packets) = accepted.lock().unwrap_or_else(PoisonError::into_inner).sums();
        if packets + dead_letters(running).await? >= *acknowledged {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// How many packets are dead letters.
async fn dead_letters(running: &Running) -> anyhow::Result<usize> {
    let page = running.queue().dead_letters().list(&Filter::default(), 0, usize::MAX).await?;
    Ok(page.found.iter().map(|found| found.dead_letter.packets.len()).sum())
}

fn configuration(folder: &Path, receivers: &[Receiver]) -> anyhow::Result<Config> {
    let mut text = String::from(
        "[queue]\nmin_free = \"16MiB\"\n[[mqtt.listeners]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[egress]\nallow = [\"127.0.0.0/8\"]\n",
    );
    for (customer, receiver) in CUSTOMERS.iter().zip(receivers) {
        let (org, address) = (customer.org, receiver.address());
        text.push_str(&format!(
            "[[webhooks]]\nname = \"{org}\"\nurl = \"http://{address}/push\"\ntimeout = \"2s\"\n\
             [[groups]]\norg = \"{org}\"\nname = \"line-1\"\nwebhook = \"{org}\"\ndefault = true\n"
        ));
    }
    Ok(Config::parse(&folder.join("demo.toml"), &text, [])?)
}

impl Accepted {
    /// Messages and packets.
    fn sums(&self) -> (usize, usize) {
        (self.messages.len(), self.packets)
    }

    fn note(&mut self, push: &Push) {
        let is_accepted = push.status.is_some_and(|status| status < 300);
        if is_accepted && self.messages.insert(push.header("webhook-id").to_owned()) {
            self.packets += packets(push);
        }
    }
}

fn packets(push: &Push) -> usize {
    match serde_json::from_slice(&push.body) {
        Ok(serde_json::Value::Array(packets)) => packets.len(),
        Ok(_) => 1,
        Err(_) => 0,
    }
}

fn description(org: &str, at: Duration, push: &Push) -> String {
    let shape = if push.body.starts_with(b"[") { format!("array of {}", packets(push)) } else { "object".to_owned() };
    let response = match push.status {
        None => "hangs: sent again after its timeout".to_owned(),
        Some(status) if status < 300 => status.to_string(),
        Some(status) => format!("{status}: a dead letter"),
    };
    let body: String = String::from_utf8_lossy(&push.body).chars().take(96).collect();
    let id: String = push.header("webhook-id").chars().take(10).collect();
    format!("{:5.1} s  push to {org}  {id}…  {shape:11}  -> {response}\n         {body}…\n", at.as_secs_f64())
}
