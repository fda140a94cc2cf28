//! No customer waits for another one's server: a hundred customers in one partition, of whom one hangs, ten hang, or one answers in 20 s; the throughput of
//! the others, how old their packets are when they arrive, and what it costs, beside a run in which all answer. Median of five pairs, as ratios. A pair in
//! which all answer both times says how much of a ratio is the machine's own.

use std::time::{Duration, Instant};

use anyhow::Result;
use pushline_testkit::{Behaviour, Pushline, Receiver};
use tokio::time::sleep;

use crate::{binary, counter::Counter, median, process, process::Usage};

const CUSTOMERS: u64 = 100;
const PAIRS: usize = 5;

/// Published as fast as it is acknowledged: the throughput is measured with these.
const PACKETS: u64 = 2_000_000;

/// Published at this rate for so many seconds: the age at arrival is measured with these.
const RATE: u64 = 20_000;
const SECONDS: u64 = 4;

/// What is wrong with the first customers of a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sick {
    /// `waited`: as long before as where one answers in 20 s.
    Nobody {
        waited: bool,
    },
    Hang {
        customers: u64,
    },
    /// It answers in 20 s.
    Slow,
}

/// What the other customers got.
#[derive(Debug, Clone, Copy)]
struct Got {
    /// Packets a second, as if there were a hundred such.
    rate: f64,
    /// Seconds of Pushline's CPU a million packets meanwhile: what a busy machine changes least.
    cpu: f64,
    /// Milliseconds from publishing until the push arrived, of 99 of 100 packets.
    p99: f64,
}

/// Measures and prints.
pub(crate) async fn isolation() -> Result<()> {
    let scenarios = [
        ("all answer again", Sick::Nobody { waited: false }),
        ("one hangs", Sick::Hang { customers: 1 }),
        ("ten hang", Sick::Hang { customers: 10 }),
        ("one answers in 20 s", Sick::Slow),
    ];
    let mut ratios = [const { (Vec::new(), Vec::new(), Vec::new()) }; 4];
    for pair in 1..=PAIRS {
        for ((name, sick), (rates, p99s, cpus)) in scenarios.into_iter().zip(&mut ratios) {
            let well = run(Sick::Nobody { waited: sick == Sick::Slow }).await?;
            print(pair, "all answer", well);
            let got = run(sick).await?;
            print(pair, name, got);
            rates.push(got.rate / well.rate);
            p99s.push(got.p99 / well.p99);
            cpus.push(got.cpu / well.cpu);
        }
    }
    println!("\nthe others of {CUSTOMERS} customers in one partition, beside a run in which all answer: medians of {PAIRS} pairs");
    for ((name, _), (rates, p99s, cpus)) in scenarios.into_iter().zip(ratios) {
        let (rate, p99, cpu) = (median(rates), median(p99s), median(cpus));
        println!("  {name:20} throughput {rate:.3} times, p99 from publish to push {p99:.3} times, CPU a packet {cpu:.3} times");
    }
    Ok(())
}

fn print(pair: usize, name: &str, got: Got) {
    let Got { rate, cpu, p99 } = got;
    println!("pair {pair}: {name:20} {rate:9.0} packets/s to the others, {cpu:.2} CPU s a million, p99 {p99:7.1} ms at {RATE} packets/s");
}

async fn run(sick: Sick) -> Result<Got> {
    let dir = tempfile::tempdir()?;
    let (others, rest) = (Counter::start().await?, Counter::start().await?);
    let behaviour = match sick {
        Sick::Slow => Behaviour { delay: Duration::from_secs(20), ..Behaviour::default() },
        Sick::Nobody { .. } | Sick::Hang { .. } => Behaviour { hang: true, ..Behaviour::default() },
    };
    let receiver = Receiver::start(([127, 0, 0, 1], 0).into(), behaviour, drop).await?;
    let (customers, bad) = match sick {
        Sick::Nobody { .. } => (1, rest.address),
        Sick::Hang { customers } => (customers, receiver.address()),
        Sick::Slow => (1, receiver.address()),
    };
    let pushline = Pushline::start(&binary()?, dir.path(), &configuration(customers, bad, others.address, sick)).await;
    let well = CUSTOMERS - customers;
    if matches!(sick, Sick::Slow | Sick::Nobody { waited: true }) {
        // Its first answers come in the middle of what is measured.
        let server = pushline.mqtt.to_string();
        process::finished(process::this(&["paced", &server, "8000", "1", &CUSTOMERS.to_string()])?).await?;
        sleep(Duration::from_secs(15)).await;
    }
    let (before, used) = (others.count().await?, Usage::of(pushline.pid())?);
    let began = Instant::now();
    let gateways = process::this(&["gateways", &pushline.mqtt.to_string(), &PACKETS.to_string(), &CUSTOMERS.to_string()])?;
    others.until(before + PACKETS / CUSTOMERS * well).await?;
    let took = began.elapsed();
    let cpu = Usage::of(pushline.pid())?.since(&used).cpu_of(PACKETS);
    process::finished(gateways).await?;

    others.forget_ages().await?;
    let before = others.count().await?;
    let (server, rate, seconds) = (pushline.mqtt.to_string(), RATE.to_string(), SECONDS.to_string());
    process::finished(process::this(&["paced", &server, &rate, &seconds, &CUSTOMERS.to_string()])?).await?;
    others.until(before + RATE * SECONDS / CUSTOMERS * well).await?;
    let p99 = others.percentile(99).await? as f64 / 1000.0;
    pushline.kill().await;
    Ok(Got { cpu, rate: (PACKETS / CUSTOMERS * well) as f64 / took.as_secs_f64() * (CUSTOMERS as f64 / well as f64), p99 })
}

/// A webhook for each customer. A hanging one is given up after 2 s, so that both is measured: before it is unresponsive, and after.
fn configuration(sick: u64, bad: std::net::SocketAddr, good: std::net::SocketAddr, how: Sick) -> String {
    let timeout = if how == Sick::Slow { 90 } else { 2 };
    let customer = |number: u64| {
        let server = if number < sick { bad } else { good };
        format!(
            "[[webhooks]]\nname = \"w{number}\"\nurl = \"http://{server}/push\"\ntimeout = \"{timeout}s\"\n\
             [[groups]]\norg = \"o{number}\"\nname = \"g\"\nwebhook = \"w{number}\"\ndefault = true\n"
        )
    };
    Pushline::configuration(&(0..CUSTOMERS).map(customer).collect::<String>())
}
