//! Appending with fsync: the embedded queue beside a bare file with the same group commit. 200-byte records, a hundred a batch, sixteen batches at once.

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::{fs::File, io::Write, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pushline_model::Timestamp;
use pushline_queue::{
    Append, Kind, Record,
    embedded::{Embedded, Options},
};

const BATCHES: usize = 16;
const RECORDS: usize = 100;

fn append(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let payload = [b'x'; 200];
    let iccid = "897612653856781234".parse().unwrap();
    let kind = Kind::Packet { iccid, topic: "mti/897612653856781234" };
    let record = Record { group: "mti/line", at: Timestamp(7), kind, payload: &payload };

    let mut group = c.benchmark_group("append with fsync");
    group.throughput(Throughput::Elements((BATCHES * RECORDS) as u64));
    let queue = Arc::new(Embedded::open(&Options { min_free: 0, ..Options::new(dir.path().join("queue")) }).unwrap());
    group.bench_function("embedded queue", |bencher| {
        bencher.iter(|| {
            let batch = [record; RECORDS];
            let waiting: Vec<_> = (0..BATCHES).map(|_| queue.append(&batch)).collect();
            runtime.block_on(async {
                for appended in waiting {
                    appended.await.unwrap();
                }
            });
        });
    });
    let mut file = File::create(dir.path().join("bare")).unwrap();
    // What a record takes in a frame: 16 + 16 bytes of header, group and topic beside the payload.
    let bytes = vec![b'x'; RECORDS * (32 + "mti/line".len() + "mti/897612653856781234".len() + payload.len())];
    group.bench_function("bare file", |bencher| {
        bencher.iter(|| {
            (0..BATCHES).for_each(|_| file.write_all(&bytes).unwrap());
            file.sync_data().unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
