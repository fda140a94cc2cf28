//! A start with all names at once, by tokio's paused clock: how long names that answer wait beside names that no server answers for.

use futures_util::future::join_all;
use tokio::time::sleep;

use super::*;

/// Names that answer.
const LIVE: usize = 10_000;

/// How long a name server takes to answer.
const ANSWER: Duration = Duration::from_millis(20);

/// How long the system's resolver waits for a silent name server: two queries of 5 s each.
const SILENCE: Duration = Duration::from_secs(10);

/// How long an attempt may take to connect.
const ATTEMPT: Duration = Duration::from_secs(10);

/// How long a message waits after an attempt that this machine couldn't make, at the most.
const LOCAL_WAIT: Duration = Duration::from_secs(5);

/// What the names that answer saw.
#[derive(Debug, Default)]
struct Seen {
    /// The longest wait for an address.
    longest: Duration,
    /// Attempts that count and failed.
    lost: usize,
    /// Attempts that failed on this machine.
    local: usize,
}

fn lookups(threads: usize) -> Lookups {
    let look_up = |host: String| {
        async move {
            let is_dead = host.starts_with("dead");
            sleep(if is_dead { SILENCE } else { ANSWER }).await;
            if is_dead { Err(LookupFailure::ServerFailure) } else { Ok(vec![([192, 0, 2, 1], 0).into()]) }
        }
        .boxed()
    };
    Lookups::by_tasks(look_up, threads)
}

/// Attempts of one name until it has an address, or for a minute more than the others need.
async fn attempts(lookups: &Lookups, host: &str, until: Instant) -> Seen {
    let (began, mut seen) = (Instant::now(), Seen::default());
    while Instant::now() < until {
        match lookups.addresses(host, 80, Instant::now() + ATTEMPT).await {
            Ok(_) => break,
            Err(LookupFailure::Local(..)) => {
                seen.local += 1;
                sleep(LOCAL_WAIT).await;
            }
            Err(_) => seen.lost += 1,
        }
    }
    seen.longest = began.elapsed();
    seen
}

/// All names are looked up for the first time, one that is dead after a number of live ones.
async fn start(lookups: &Lookups, dead: usize) -> Seen {
    let until = Instant::now() + Duration::from_secs(300);
    let names = (0..LIVE).flat_map(|number| {
        let is_next = (number + 1) * dead / LIVE > number * dead / LIVE;
        is_next.then(|| format!("dead-{number}")).into_iter().chain([format!("live-{number}")])
    });
    let names: Vec<String> = names.collect();
    let seen = join_all(names.iter().map(|name| attempts(lookups, name, until))).await;
    let live = names.iter().zip(seen).filter(|(name, _)| name.starts_with("live")).map(|(_, seen)| seen);
    let all = live.fold(Seen::default(), |all, one| Seen {
        longest: all.longest.max(one.longest),
        lost: all.lost + one.lost,
        local: all.local + one.local,
    });
    println!("{dead} dead of {}: {all:?}", names.len());
    all
}

#[tokio::test(start_paused = true)]
async fn at_a_start_with_five_hundred_dead_zones_no_name_waits_for_them() {
    let alone = start(&lookups(LOOKUP_THREADS), 0).await;
    let seen = start(&lookups(LOOKUP_THREADS), 500).await;
    assert!(seen.lost == 0 && seen.local == 0, "{seen:?}");
    // Some threads fewer, and none of them for as long as a dead name holds one.
    assert!(seen.longest < 4 * alone.longest && seen.longest < SILENCE / 5, "{seen:?}, {alone:?}");
}

#[tokio::test(start_paused = true)]
async fn at_a_start_with_five_thousand_dead_zones_no_name_loses_an_attempt() {
    let seen = start(&lookups(LOOKUP_THREADS), 5000).await;
    assert!(seen.lost == 0 && seen.local > 0, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn names_that_have_answered_wait_for_no_dead_zones_however_many_come() {
    let lookups = lookups(LOOKUP_THREADS);
    start(&lookups, 0).await;
    let dead: Vec<_> = (0..5000).map(|number| lookups.join(&format!("dead-{number}"))).collect();
    for round in 0..20 {
        let began = Instant::now();
        let found = join_all((0..100).map(|number| {
            let lookups = lookups.clone();
            async move { lookups.addresses(&format!("live-{}", 100 * round + number), 80, Instant::now() + ATTEMPT).await }
        }));
        assert!(found.await.iter().all(Result::is_ok));
        assert!(began.elapsed() < 2 * ANSWER, "{:?}", began.elapsed());
        sleep(Duration::from_secs(1)).await;
    }
    drop(dead);
}
