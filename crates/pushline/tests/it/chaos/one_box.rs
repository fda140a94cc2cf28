//! One box: kill -9 beside a sync and at random moments, on a disk that stalls and fills up.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use pushline_testkit::{Pushline, SyncShim, folder};
use tokio::time::{sleep, timeout};

use super::{
    CUSTOMERS, Customer, DOWN, World, customer,
    devices::{Devices, Filler, Traffic},
    seed,
    servers::{Manner, Mode},
};
use crate::{BINARY, amount, command};

/// Its packets fill the disk; its server hangs as long as they do.
const FILLER: Customer = Customer { groups: 1, devices: 0, ..customer("filler", Traffic::Sparse, Manner::Answers, "concurrency = 1") };

/// In the first half of the kills packets become too old, in the second half they become too many.
const FIRST_MAX_AGE: &str = "3s";
const SECOND_MAX_AGE: &str = "1h";

/// The smallest backlog that can be set.
const MAX_BYTES: &str = "256MiB";

/// A process reads its configuration again at once.
const OLD_FORMS: Duration = Duration::from_secs(2);

/// The life before this kill lasts so long that packets become too old before they are sent.
const LONG_LIFE: usize = 5;
const GROWS_TOO_OLD: Duration = Duration::from_secs(5);

const STALLS_ONE_IN: u32 = 12;
const LONGEST_STALL: Duration = Duration::from_millis(1500);

fn configuration(world: &World, max_age: &str) -> String {
    let more = format!("[backlog]\nmax_age = \"{max_age}\"\n{}", world.definitions());
    Pushline::configuration(&more).replace("[queue]\n", &format!("[queue]\nmax_bytes = \"{MAX_BYTES}\"\n"))
}

fn write(dir: &Path, configuration: &str) {
    std::fs::write(dir.join("pushline.toml"), configuration).unwrap();
}

/// Waits for the moment of a kill. Returns it in words, and whether it lies beside a sync.
async fn moment(kill: usize, rng: &mut fastrand::Rng, shim: &SyncShim) -> (String, bool) {
    // A checkpoint is saved every second: most lives end before, and begin where an earlier one did; every third lasts longer.
    let life = if kill % 3 == 2 { 1000..2000 } else { 20..700 };
    sleep(Duration::from_millis(rng.u64(life))).await;
    if kill == LONG_LIFE {
        sleep(GROWS_TOO_OLD).await;
    }
    if kill.is_multiple_of(2) {
        return (format!("kill {kill} at a random moment"), false);
    }
    let part = ["", "packets", "checkpoint"][rng.usize(0..3)];
    let Ok(sync) = timeout(Duration::from_secs(3), shim.next_sync(|sync| sync.path.contains(part))).await else {
        return (format!("kill {kill} at a random moment: nothing was synced"), false);
    };
    // Before it, in its middle or after it.
    let later = sync.stall + Duration::from_millis(5);
    sleep(later.mul_f32(rng.f32())).await;
    let file = Path::new(&sync.path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    (format!("kill {kill}, {:.1?} into a sync of {file} that stalls for {:?}", sync.at.elapsed(), sync.stall), true)
}

/// The packets of a group's dead letters.
///
/// # Panics
/// One has no id: the group has had a webhook all the time.
async fn dead_letters_of(pushline: &Pushline, organisation: &str) -> Vec<String> {
    let lines = pushline.dead_letters_where("dead-letters", &format!("&group={organisation}%2Fg")).await;
    let without_id = lines.iter().find(|line| line.message_id.is_none());
    assert!(without_id.is_none(), "a dead letter without id: {without_id:?}");
    let payload = |payload: &str| String::from_utf8(base64_simd::STANDARD.decode_to_vec(payload).unwrap()).unwrap();
    lines.iter().map(|line| payload(&line.payload)).collect()
}

/// How many packets of the customer that is down are `expired`.
async fn expired(pushline: &Pushline) -> usize {
    let mut count = 0;
    for organisation in CUSTOMERS.into_iter().filter(|customer| customer.name == DOWN).flat_map(Customer::organisations) {
        count += pushline.dead_letters_where("dead-letters", &format!("&cause=expired&group={organisation}%2Fg")).await.len();
    }
    count
}

/// Replays the expired dead letters of the customer that is down. Each packet of them may have been sent before, under the same id.
async fn replay_expired(pushline: &Pushline) {
    for organisation in CUSTOMERS.into_iter().filter(|customer| customer.name == DOWN).flat_map(Customer::organisations) {
        let group = format!("{organisation}/g");
        let arguments = ["dead-letters", "replay", "--cause", "expired", "--group", &group, "--admin", &pushline.admin.to_string()];
        let output = command().args(arguments).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_one_box_each_stored_packet_comes_under_one_id_through_kills_stalls_reloads_expiry_and_eviction() {
    let (seed, began) = (seed(), Instant::now());
    println!("CHAOS_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let (dir, shim) = (folder(), SyncShim::compile().await);
    let mut world = World::begin(&[&CUSTOMERS[..], &[FILLER]].concat(), OLD_FORMS).await;
    world.set(FILLER.name, Mode::Down);
    let start = async |seed| {
        let environment = shim.environment(STALLS_ONE_IN, LONGEST_STALL, seed);
        Pushline::start_again_with("run", BINARY, dir.path(), &environment).await
    };
    write(dir.path(), &configuration(&world, FIRST_MAX_AGE));
    let mut pushline = start(rng.u64(..)).await;
    let devices = Devices::start(world.customers.iter().map(|(customer, _)| customer), &[pushline.mqtt], &world.ledger);

    let (kills, filling) = (amount(20, 200), amount(384, 1536) << 20);
    let (mut max_age, mut beside, mut expired_before) = (FIRST_MAX_AGE, 0, 0);
    let mut filler: Option<Filler> = None;
    for kill in 1..=kills {
        if let Some(filler) = &filler {
            filler.until(filling / (kills / 2) * (kill - kills / 2)).await;
        }
        if kill % 3 != 0 {
            sleep(Duration::from_millis(rng.u64(0..300))).await;
            world.reload();
            write(dir.path(), &configuration(&world, max_age));
            pushline.hang_up();
        }
        let (what, is_beside) = moment(kill, &mut rng, &shim).await;
        beside += usize::from(is_beside);
        devices.move_server(0, None);
        world.timeline.crashed(what);
        pushline.kill().await;
        if kill == kills / 2 {
            max_age = SECOND_MAX_AGE;
            write(dir.path(), &configuration(&world, max_age));
        }
        pushline = start(rng.u64(..)).await;
        devices.move_server(0, Some(pushline.mqtt));
        if kill == kills / 2 {
            expired_before = expired(&pushline).await;
            filler = Some(Filler::start(format!("{}0", FILLER.name), devices.server(0), filling));
        }
    }
    let killed_for = began.elapsed();
    filler.expect("half of the kills are over").stop().await;
    world.heal();
    devices.stop().await;
    pushline.until_quiet().await;

    let mut dead_letters = 0;
    for organisation in CUSTOMERS.into_iter().flat_map(Customer::organisations) {
        let packets = dead_letters_of(&pushline, &organisation).await;
        dead_letters += packets.len();
        world.ledger.dead(packets);
    }
    world.ledger.check();
    let evicted = expired(&pushline).await - expired_before;
    replay_expired(&pushline).await;
    pushline.until_quiet().await;

    let (syncs, stalled) = shim.counts();
    let what = format!(
        "{} packets acknowledged, {kills} kills in {killed_for:.0?}, {beside} of them beside a sync, {} reloads, {stalled} of {syncs} syncs \
         stalled; of the customer that was down {expired_before} packets grew too old and {evicted} too many, all replayed at the end; \
         {dead_letters} packets in dead letters; {:.0?} in all",
        world.ledger.count(),
        world.reloads,
        began.elapsed()
    );
    world.check(&what);
    assert!(world.ledger.count() > 50 * kills, "it wasn't under load: {what}");
    assert!(beside >= kills / 4 && expired_before > 0 && evicted > 0, "it shows too little: {what}");
}
