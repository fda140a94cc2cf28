//! How much of the log is read to dead-letter it: each record once, and little of it again.

use pushline_model::{Iccid, Packet, RegistryBuilder};
use pushline_queue::{Frame, FrameBuilder, Record};

use super::{
    bench::{BEGIN, Bench, at, checkpoint, restart, seconds, webhook},
    expiry::Limit,
    *,
};
use crate::checkpoint::{Checkpoint, LaneCheckpoint};

/// Bytes of the backlog.
const BACKLOG: usize = 4 << 20;

/// Records of a frame.
const FRAME: usize = 20;

/// When dead letters become durable.
#[derive(Debug, Clone, Copy)]
enum Durable {
    /// Before the next block is read.
    AtOnce,
    /// All together, once no block is asked for.
    Together,
    /// One batch after the other, and a block is read in between if one is asked for.
    OneByOne,
}

fn group(number: usize) -> String {
    format!("o/{number}")
}

/// A backlog of packets, which the groups have in turn.
fn backlog(groups: usize, payload: usize) -> Vec<Frame> {
    let payload = vec![b'x'; payload];
    let (mut frames, mut bytes, mut offset) = (Vec::new(), 0, 0);
    while bytes < BACKLOG {
        let mut builder = FrameBuilder::default();
        for record in offset..offset + FRAME {
            let iccid = Iccid::from_bytes(b"897612653856781234").unwrap();
            let packet = Packet { iccid, topic: "o/897612653856781234", received_at: BEGIN, payload: &payload };
            builder.push(&Record::packet(&group(record % groups), &packet));
        }
        let frame = builder.seal(offset as Offset, offset as Offset, BEGIN);
        bytes += frame.bytes().len();
        offset += FRAME;
        frames.push(frame);
    }
    frames
}

/// A start behind the backlog, of which nothing has settled.
fn bench(groups: usize, frames: Vec<Frame>) -> Bench {
    let mut builder = RegistryBuilder::default();
    builder.webhook(webhook()).unwrap();
    (0..groups).for_each(|number| builder.group(group(number).parse().unwrap(), Some("w"), false).unwrap());
    let end = frames.last().map_or(0, Frame::end);
    let Checkpoint { lanes, .. } = checkpoint(end, 0, None);
    let lane = |number| LaneCheckpoint { group: group(number), batched_until: number as Offset, ..lanes[0].clone() };
    let saved = Checkpoint { lanes: (0..groups).map(lane).collect(), ..checkpoint(end, 0, None) };
    let mut bench = Bench::with(Arc::new(builder.build()), restart(saved), 1 << 20);
    bench.frames = frames;
    bench
}

/// Bytes that catch-up reads read for each byte of a backlog that expires.
fn read_for_each_byte(groups: usize, payload: usize, durable: Durable) -> f64 {
    let mut bench = bench(groups, backlog(groups, payload));
    bench.now.wall = BEGIN.plus(seconds(10));
    bench.expire(Some(Limit { before: at(5), below: 0 }));
    loop {
        let has_read = bench.catch_up().is_some();
        let count = match durable {
            Durable::AtOnce => bench.dead_letters.len(),
            Durable::Together if !has_read => bench.dead_letters.len(),
            Durable::OneByOne if !has_read => 1,
            Durable::Together | Durable::OneByOne => 0,
        };
        let written: usize = (0..count).map(|_| bench.write_dead_letters().len()).sum();
        if !has_read && written == 0 {
            break;
        }
    }
    // The last messages are open until their window is over.
    bench.pass(seconds(2));
    bench.accept_all();
    assert!(bench.delivered < 10 * groups as u64, "{} packets are left of those that expire", bench.delivered);
    assert_eq!(bench.core.watermark(), bench.end(), "all of it has expired");
    let log: usize = bench.frames.iter().map(|frame| frame.bytes().len()).sum();
    bench.bytes_read as f64 / log as f64
}

#[test]
fn expiring_a_backlog_reads_it_less_than_twice() {
    for groups in [1, 10, 100] {
        for payload in [20, 200, 10_000] {
            for durable in [Durable::AtOnce, Durable::Together, Durable::OneByOne] {
                let read = read_for_each_byte(groups, payload, durable);
                println!("{groups} groups, payloads of {payload} bytes, durable {durable:?}: {read:.2}");
                assert!(read < 2.0, "{read:.2} bytes are read for each byte of a backlog of {groups} groups, {payload}, {durable:?}");
            }
        }
    }
}
