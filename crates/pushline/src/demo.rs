//! `pushline demo`: the real thing on free ports and in a temporary folder, with simulated gateways and three sample customers. It prints each
//! push and ends with a ledger.

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

use crate::{config::Config, role::Role, run::Running};

/// It ends within this time, whatever happens.
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

/// What the gateways publish: after so many milliseconds, for which customer, how many packets at once.
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

/// What customers accepted: each message once, whatever was sent again.
#[derive(Debug, Default)]
struct Accepted {
    messages: HashSet<String>,
    packets: usize,
}

/// Shows what Pushline does.
pub(crate) async fn demo() -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("can't create a temporary folder")?;
    let accepted = Arc::new(Mutex::new(Accepted::default()));
    let mut receivers = Vec::new();
    for customer in &CUSTOMERS {
        let (began, accepted) = (Instant::now(), Arc::clone(&accepted));
        let receive = move |push: Push| {
            print(customer.org, began.elapsed(), &push);
            accepted.lock().unwrap_or_else(PoisonError::into_inner).note(&push);
        };
        receivers.push(Receiver::start(ANYWHERE, customer.behaviour, receive).await?);
    }
    let running = Running::start(configuration(folder.path(), &receivers)?, Role::Run).await?;
    let mqtt = running.mqtt().context("it listens")?;
    println!("Pushline listens for devices on {mqtt} and pushes to three customers:");
    CUSTOMERS.iter().for_each(|customer| println!("  {}  {}", customer.org, customer.what));
    println!("Each has one group of devices. What arrives within a second is pushed together, at most ten packets a message.\n");

    let mut acknowledged = 0;
    tokio::select! {
        result = timeout(AT_MOST, play(&running, mqtt, &accepted, &mut acknowledged)) => result.unwrap_or(Ok(()))?,
        _ = tokio::signal::ctrl_c() => {}
    }
    let dead = dead_letters(&running).await?;
    let (messages, packets) = accepted.lock().map(|accepted| (accepted.messages.len(), accepted.packets)).unwrap_or_default();
    println!("\nThe ledger");
    println!("  {acknowledged:3} packets were acknowledged to their devices");
    println!("  {packets:3} were accepted by customers, in {messages} messages");
    println!("  {dead:3} are kept as dead letters with their reason");
    match acknowledged - (packets + dead).min(acknowledged) {
        0 => println!("  Nothing is missing."),
        missing => println!("  {missing:3} are still in the queue, and would go out after the next start."),
    }
    drop(receivers);
    running.shutdown().await
}

/// Publishes by the plan, then waits until everything has settled.
async fn play(running: &Running, mqtt: SocketAddr, accepted: &Mutex<Accepted>, acknowledged: &mut usize) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut gateway = Gateway::connect(mqtt, "demo-gateway").await?;
    for (place, (after, customer, count)) in PLAN.into_iter().enumerate() {
        sleep_until(began + Duration::from_millis(after)).await;
        let org = CUSTOMERS[customer].org;
        let packet = |number| (format!("{org}/8976126538567812{place:02}"), format!("{{\"temperature\":{}.5}}", 20 + number).into_bytes());
        gateway.publish(&(0..count).map(packet).collect::<Vec<_>>()).await?;
        *acknowledged = usize::try_from(gateway.acknowledged())?;
        println!("{:5.1} s  a gateway of {org} published {count}, acknowledged as durable", began.elapsed().as_secs_f64());
    }
    loop {
        let packets = accepted.lock().unwrap_or_else(PoisonError::into_inner).packets;
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
        "[queue]\nmin_free = \"16MiB\"\n[mqtt.listener]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[egress]\nallow = [\"127.0.0.0/8\"]\n",
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

fn print(org: &str, at: Duration, push: &Push) {
    let shape = if push.body.starts_with(b"[") { format!("array of {}", packets(push)) } else { "object".to_owned() };
    let answer = match push.status {
        None => "hangs: sent again after its timeout".to_owned(),
        Some(status) if status < 300 => status.to_string(),
        Some(status) => format!("{status}: a dead letter"),
    };
    let body: String = String::from_utf8_lossy(&push.body).chars().take(96).collect();
    let id: String = push.header("webhook-id").chars().take(10).collect();
    println!("{:5.1} s  push to {org}  {id}…  {shape:11}  -> {answer}\n         {body}…", at.as_secs_f64());
}
