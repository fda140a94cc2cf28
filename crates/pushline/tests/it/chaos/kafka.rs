//! Kafka: kills of ingest, deliver and brokers, hand-overs, and a deliver that is stopped for longer than its session.

use std::{
    cell::Cell,
    path::Path,
    time::{Duration, Instant},
};

use pushline_testkit::{CommitProxy, KafkaCluster, PATIENCE, Pushline, folder};
use tokio::time::{sleep, timeout};

use super::{CUSTOMERS, World, devices::Devices, seed};
use crate::{BINARY, amount};

const PREFIX: &str = "t";
const PARTITIONS: u32 = 4;
const DELIVERERS: usize = 3;

const SESSION: Duration = Duration::from_secs(3);

/// A deliver that is stopped goes on after this.
const STOPPED: Duration = Duration::from_millis(4500);

/// A deliver that is stopped goes on with the forms of before.
const OLD_FORMS: Duration = Duration::from_secs(8);

/// What waits longer is a dead letter.
const MAX_AGE: &str = "15s";

/// A process of a role, with a folder and a `client.id` of its own.
struct Member {
    pushline: Pushline,
    role: &'static str,
    client_id: String,
    folder: std::path::PathBuf,
}

/// What starts processes.
struct Starter<'a> {
    dir: &'a Path,
    /// Ingest reaches Kafka directly, deliver through the proxy.
    kafka: String,
    proxy: String,
    started: Cell<usize>,
}

/// Who is killed next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Ingest,
    /// Between a checkpoint and the commit that goes with it.
    DeliverBeforeCommit,
    Deliver,
    Broker,
}

impl Victim {
    /// Half of the kills of deliver fall between checkpoint and commit.
    fn of(kill: usize) -> Self {
        match kill % 8 {
            1 => Self::Ingest,
            3 => Self::Broker,
            0 | 4 | 7 => Self::DeliverBeforeCommit,
            _ => Self::Deliver,
        }
    }
}

impl Starter<'_> {
    fn configuration(&self, world: &World, role: &str, client_id: &str) -> String {
        let brokers = if role == "ingest" { &self.kafka } else { &self.proxy };
        let session = SESSION.as_millis();
        let properties =
            format!("\"client.id\" = \"{client_id}\", \"session.timeout.ms\" = \"{session}\", \"heartbeat.interval.ms\" = \"500\"");
        let more = format!("[backlog]\nmax_age = \"{MAX_AGE}\"\n{}", world.definitions());
        Pushline::configuration_over_kafka(brokers, PREFIX, PARTITIONS, &properties, &more)
    }

    async fn start(&self, world: &World, role: &'static str) -> Member {
        self.started.set(self.started.get() + 1);
        let client_id = format!("{role}-{}", self.started.get());
        let folder = self.dir.join(&client_id);
        std::fs::create_dir(&folder).unwrap();
        let pushline = Pushline::start_as(role, BINARY, &folder, &self.configuration(world, role, &client_id)).await;
        Member { pushline, role, client_id, folder }
    }

    /// All read the configuration again, one after the other.
    fn reload<'m>(&self, world: &World, members: impl Iterator<Item = &'m Member>) {
        for member in members {
            let configuration = self.configuration(world, member.role, &member.client_id);
            std::fs::write(member.folder.join("pushline.toml"), configuration).unwrap();
            member.pushline.hang_up();
        }
    }
}

/// A deliver that is to be killed has delivered this many packets since the kill before: one that has no partition yet shows nothing.
const DELIVERS: f64 = 30.0;

/// Waits until one of these delivers, and returns which.
async fn until_one_delivers(deliverers: &[Member]) -> usize {
    let delivered = async |member: &Member| member.pushline.metric("pushline_packets_delivered_total", "").await;
    let mut before = Vec::new();
    for member in deliverers {
        before.push(delivered(member).await);
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        for (number, (member, before)) in deliverers.iter().zip(&before).enumerate() {
            if delivered(member).await >= before + DELIVERS {
                return number;
            }
        }
        assert!(Instant::now() < deadline, "nothing is delivered any more");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the commit of a checkpoint is held back, kills its deliver, and sees to it that the commit never arrives. Returns which it was, and
/// whether there was such a commit in time.
async fn kill_before_commit(deliverers: &mut Vec<Member>, moving: usize, proxy: &CommitProxy) -> (usize, bool) {
    let clients = deliverers[..moving].iter().map(|member| member.client_id.clone()).collect();
    let held = timeout(Duration::from_secs(10), proxy.hold_commit(clients)).await.ok().flatten();
    let Some((client_id, held)) = held else {
        deliverers.remove(0).pushline.kill().await;
        return (0, false);
    };
    let number = deliverers.iter().position(|member| member.client_id == client_id).expect("it is one of those that were asked for");
    deliverers.remove(number).pushline.kill().await;
    held.discard();
    (number, true)
}

/// Waits until everything that was acknowledged has arrived or is a dead letter, nothing is unsettled, and no push comes any more.
async fn until_settled(world: &World, deliverers: &[Member]) {
    let mut deadline = Instant::now() + PATIENCE;
    let mut least = usize::MAX;
    loop {
        let dead = deliverers[0].pushline.dead_letters("dead-letters").await;
        world
            .ledger
            .dead(dead.iter().map(|letter| String::from_utf8(base64_simd::STANDARD.decode_to_vec(&letter.payload).unwrap()).unwrap()));
        let mut unsettled = 0.0;
        for deliver in deliverers {
            unsettled += deliver.pushline.metric("pushline_queue_unsettled_packets", "").await;
        }
        let missing = world.ledger.missing();
        if missing.is_empty() && unsettled == 0.0 && world.ids.quiet_for().is_some_and(|quiet| quiet > Duration::from_secs(3)) {
            return;
        }
        if missing.len() < least {
            (deadline, least) = (Instant::now() + PATIENCE, missing.len());
        }
        assert!(Instant::now() < deadline, "{unsettled} unsettled; {} stay missing, such as {:?}", missing.len(), missing.first());
        sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_kafka_each_stored_packet_comes_under_one_id_through_kills_hand_overs_stopped_processes_reloads_and_expiry() {
    let (seed, began) = (seed(), Instant::now());
    println!("CHAOS_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let (dir, (mut kafka, proxy)) = (folder(), KafkaCluster::behind_a_proxy(&format!("{PREFIX}.checkpoints")).await);
    let mut world = World::begin(&CUSTOMERS, OLD_FORMS).await;
    let (brokers_up, starter) =
        (began.elapsed(), Starter { dir: dir.path(), kafka: kafka.brokers(), proxy: proxy.brokers(), started: Cell::new(0) });
    // The first creates the topics.
    let mut ingests = vec![starter.start(&world, "ingest").await];
    let deliver = || starter.start(&world, "deliver");
    let (second, one, two, three) = tokio::join!(starter.start(&world, "ingest"), deliver(), deliver(), deliver());
    ingests.push(second);
    let mut deliverers = vec![one, two, three];
    let addresses = [ingests[0].pushline.mqtt, ingests[1].pushline.mqtt];
    let devices = Devices::start(world.customers.iter().map(|(customer, _)| customer), &addresses, &world.ledger);

    let (kills, ready) = (amount(8, 200), began.elapsed());
    let (mut before_commit, mut hand_overs, mut stops) = (0, 0, 0);
    let mut stopped: Option<Instant> = None;
    let mut away: Option<(usize, usize)> = None;
    for kill in 0..kills {
        sleep(Duration::from_millis(rng.u64(300..1000))).await;
        // The one that is stopped is always the last.
        if stopped.is_some_and(|since| since.elapsed() >= STOPPED) {
            deliverers[DELIVERERS - 1].pushline.resume();
            stopped = None;
        }
        if let Some((broker, until)) = away
            && kill >= until
        {
            kafka.start_again(broker).await;
            away = None;
        }
        if !kill.is_multiple_of(4) {
            world.reload();
            starter.reload(&world, ingests.iter().chain(&deliverers));
        }
        let moving = if stopped.is_some() { DELIVERERS - 1 } else { DELIVERERS };
        match Victim::of(kill) {
            Victim::Ingest => {
                let number = rng.usize(0..2);
                devices.move_server(number, None);
                world.timeline.crashed(format!("kill {kill} of {}", ingests[number].client_id));
                ingests.remove(number).pushline.kill().await;
                ingests.insert(number, starter.start(&world, "ingest").await);
                devices.move_server(number, Some(ingests[number].pushline.mqtt));
            }
            Victim::Broker => {
                kafka.until_in_sync().await;
                let broker = rng.usize(0..3);
                world.timeline.crashed(format!("kill {kill} of broker {broker}"));
                kafka.kill(broker);
                away = Some((broker, kill + 2));
            }
            victim => {
                let number = until_one_delivers(&deliverers[..moving]).await;
                sleep(Duration::from_millis(rng.u64(0..1000))).await;
                let (number, held) = if victim == Victim::DeliverBeforeCommit {
                    kill_before_commit(&mut deliverers, moving, &proxy).await
                } else {
                    deliverers.remove(number).pushline.kill().await;
                    (number, false)
                };
                before_commit += usize::from(held);
                let when = if held { "between checkpoint and commit" } else { "at a random moment" };
                world.timeline.crashed(format!("kill {kill}, of deliver {when}"));
                deliverers.insert(number, starter.start(&world, "deliver").await);
            }
        }
        if kill % 8 == 1 && stopped.is_none() {
            deliverers[DELIVERERS - 1].pushline.pause();
            world.timeline.crashed(format!("SIGSTOP of {} after kill {kill}", deliverers[DELIVERERS - 1].client_id));
            (stopped, stops) = (Some(Instant::now()), stops + 1);
        }
        if kill % 4 == 2 {
            // A hand-over in order.
            let member = deliverers.remove(0);
            member.pushline.terminate().await;
            deliverers.insert(0, starter.start(&world, "deliver").await);
            hand_overs += 1;
        }
    }
    let killed_for = began.elapsed() - ready;
    if let Some(since) = stopped {
        sleep(STOPPED.saturating_sub(since.elapsed())).await;
        deliverers[DELIVERERS - 1].pushline.resume();
    }
    if let Some((broker, _)) = away {
        kafka.start_again(broker).await;
    }
    world.heal();
    proxy.be_prompt();
    devices.stop().await;
    until_settled(&world, &deliverers).await;
    world.ledger.check();
    let deliver_kills = (0..kills).filter(|kill| matches!(Victim::of(*kill), Victim::Deliver | Victim::DeliverBeforeCommit)).count();
    let what = format!(
        "{} packets acknowledged; brokers up after {brokers_up:.0?}; {kills} kills in {killed_for:.0?}, {deliver_kills} of deliver, {before_commit} of them between checkpoint and \
         commit, {hand_overs} hand-overs, {stops} processes stopped for {STOPPED:?}, {} reloads, {} commits; {:.0?} in all",
        world.ledger.count(),
        world.reloads,
        proxy.commits(),
        began.elapsed()
    );
    world.check(&what);
    assert!(world.ledger.count() > 50 * kills, "it wasn't under load: {what}");
    assert!(before_commit * 3 >= deliver_kills, "it shows too little: {what}");
    for member in deliverers.into_iter().chain(ingests) {
        member.pushline.terminate().await;
    }
}
