//! Appending with fsync: the embedded queue beside a bare append-only file with the same group commit. 200-byte records, a hundred a batch, as sixteen
//! connections append them: each waits until its batch is durable. Both sides take all that arrived meanwhile in one write and one sync, on a
//! thread of their own. The last line is what counts: the ratio of the two, in turns.

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use pushline_model::Timestamp;
use pushline_queue::{
    Append, Kind, Record,
    embedded::{Embedded, Options},
};
use tokio::{sync::oneshot, task::JoinSet};

const CONNECTIONS: usize = 16;
const RECORDS: usize = 100;
const ROUNDS: usize = 8;
const ROUND: Duration = Duration::from_secs(2);
const TOPIC: &str = "mti/897612653856781234";
const GROUP: &str = "mti/line";
const PAYLOAD: [u8; 200] = [b'x'; 200];

/// The bare file: bytes in, one write and one sync for all that arrived meanwhile.
#[derive(Default)]
struct Bare {
    pending: Mutex<(Vec<u8>, Vec<oneshot::Sender<()>>)>,
    arrived: Condvar,
}

impl Bare {
    fn append(&self, bytes: &[u8]) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut pending = self.pending.lock().unwrap();
        pending.0.extend_from_slice(bytes);
        pending.1.push(sender);
        self.arrived.notify_one();
        receiver
    }

    fn commit(&self, mut file: &File) {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let pending = self.pending.lock().unwrap();
            let mut pending = self.arrived.wait_while(pending, |pending| pending.1.is_empty()).unwrap();
            std::mem::swap(&mut bytes, &mut pending.0);
            let waiting = std::mem::take(&mut pending.1);
            drop(pending);
            file.write_all(&bytes).unwrap();
            file.sync_data().unwrap();
            waiting.into_iter().for_each(|waiting| waiting.send(()).unwrap());
        }
    }
}

/// Records a second of sixteen connections that append one batch after the other.
async fn rate<F: Future<Output = ()> + Send>(append: impl Fn() -> F + Clone + Send + 'static) -> f64 {
    let began = Instant::now();
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let append = append.clone();
        connections.spawn(async move {
            let mut batches = 0;
            while began.elapsed() < ROUND {
                append().await;
                batches += 1;
            }
            batches
        });
    }
    let batches: usize = connections.join_all().await.into_iter().sum();
    (batches * RECORDS) as f64 / began.elapsed().as_secs_f64()
}

async fn embedded(dir: &Path) -> f64 {
    let queue = Arc::new(Embedded::open(&Options { min_free: 0, ..Options::new(dir.join("queue")) }).unwrap());
    let rate = rate(move || {
        let kind = Kind::Packet { iccid: "897612653856781234".parse().unwrap(), topic: TOPIC, held: None };
        let appended = queue.append(&[Record { group: GROUP, at: Timestamp(7), kind, payload: &PAYLOAD }; RECORDS]);
        async move { appended.await.unwrap() }
    });
    rate.await
}

async fn bare(dir: &Path) -> f64 {
    let (log, file) = (Arc::new(Bare::default()), File::create(dir.join("bare")).unwrap());
    let committer = Arc::clone(&log);
    std::thread::spawn(move || committer.commit(&file));
    // What a record takes in a frame: 16 + 16 bytes of header, group and topic beside the payload.
    let bytes = vec![b'x'; RECORDS * (32 + GROUP.len() + TOPIC.len() + PAYLOAD.len())];
    let rate = rate(move || {
        let appended = log.append(&bytes);
        async move { appended.await.unwrap() }
    });
    rate.await
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut ratios: Vec<f64> = (1..=ROUNDS)
        .map(|round| {
            let dir = tempfile::tempdir().unwrap();
            // The disk isn't as fast all the time: each side goes first in turns.
            let ours_first = (round % 2 == 1).then(|| runtime.block_on(embedded(dir.path())));
            let bare = runtime.block_on(bare(dir.path()));
            let ours = ours_first.unwrap_or_else(|| runtime.block_on(embedded(dir.path())));
            println!("round {round}: embedded queue {ours:9.0} records/s, bare file {bare:9.0} records/s, {:.2} times", ours / bare);
            ours / bare
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let median = f64::midpoint(ratios[ROUNDS / 2 - 1], ratios[ROUNDS / 2]);
    println!("median of {ROUNDS} rounds: {median:.2} times a bare file with the same group commit");
}
