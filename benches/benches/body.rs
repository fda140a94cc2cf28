//! Escaping a payload into a body: ours (eight bytes at a time, safe code), the SIMD escape that sonic-rs uses, and serde_json. And a whole message of
//! ten packets beside serde_json's way to write it.

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pushline_batch::{Body, CutRules, escape};
use pushline_model::{Packet, Timestamp, Webhook};

fn payloads() -> [(&'static str, String); 3] {
    let json = "{\"temperature\":21.5,\"humidity\":40,\"ok\":true},".repeat(5);
    [("plain 200 B", "a".repeat(200)), ("JSON 225 B", json), ("plain 4 KiB", "a".repeat(4096))]
}

fn escapes(c: &mut Criterion) {
    for (name, payload) in payloads() {
        let mut group = c.benchmark_group(format!("escape {name}"));
        group.throughput(Throughput::Bytes(payload.len() as u64));
        let mut into = Vec::with_capacity(32 << 10);
        group.bench_function("ours", |bencher| {
            bencher.iter(|| {
                into.clear();
                escape(black_box(&payload), &mut into);
                into.len()
            });
        });
        group.bench_function("json-escape-simd", |bencher| {
            bencher.iter(|| {
                into.clear();
                json_escape_simd::escape_into(black_box(&payload), &mut into);
                into.len()
            });
        });
        group.bench_function("serde_json", |bencher| {
            bencher.iter(|| {
                into.clear();
                serde_json::to_writer(&mut into, black_box(&payload)).unwrap();
                into.len()
            });
        });
        group.finish();
    }
}

fn messages(c: &mut Criterion) {
    let rules = CutRules::of(&Webhook::new("w", "http://a.example/".parse().unwrap()));
    let payload = "a".repeat(200);
    let iccid = "897612653856781234".parse().unwrap();
    let packet =
        Packet { iccid, topic: "mti/897612653856781234", received_at: Timestamp(16_974_478_521_233_516), payload: payload.as_bytes() };
    let mut group = c.benchmark_group("a message of ten packets");
    group.throughput(Throughput::Elements(10));
    group.bench_function("Body", |bencher| {
        bencher.iter(|| {
            let mut body = Body::default();
            (0..10).for_each(|_| body.push(&rules, black_box(&packet)));
            body.seal(true).bytes().len()
        });
    });
    group.bench_function("serde_json::Value", |bencher| {
        bencher.iter(|| {
            let object = |_| {
                serde_json::json!({
                    "ICCID": 897_612_653_856_781_234_u64,
                    "Timestamp": packet.received_at.to_string(),
                    "Payload": std::str::from_utf8(black_box(packet.payload)).unwrap(),
                })
            };
            serde_json::to_vec(&(0..10).map(object).collect::<Vec<_>>()).unwrap().len()
        });
    });
    group.finish();
}

criterion_group!(benches, escapes, messages);
criterion_main!(benches);
