//! A replay and a crash in its middle (docs/delivery.md, Replay): the record goes first, then the mark, so a crash in between repeats it under the same id.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use pushline_deliver::{DeadLetterLog, replay};
use pushline_model::{Cause, DeadLetter, DeadPacket, RecordPlace, Timestamp};
use pushline_queue::{
    Append as _, Filter, Kind, Queue as _, Record,
    embedded::{Embedded, Options},
};
use pushline_testkit::{Arrival, Gateway, Inbox, PATIENCE, Pushline, ScriptedReceiver, folder, get, payloads};
use tokio::{
    process::Command,
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{BINARY, command, group, packets, start, start_with_inbox, webhook};

/// Two messages that failed and are dead letters; the process is down, and its customer answers from now on. With them in order, and what comes later.
async fn two_dead_letters(dir: &Path) -> (Vec<Arrival>, mpsc::Receiver<Arrival>, ScriptedReceiver) {
    let answers = Arc::new(AtomicBool::new(false));
    let does = Arc::clone(&answers);
    let (arrived, mut arrivals) = mpsc::channel(1000);
    let receiver = ScriptedReceiver::start(move |arrival| {
        arrived.try_send(arrival).unwrap();
        let status = if does.load(Ordering::SeqCst) { 200 } else { 500 };
        async move { Some(status) }
    });
    let receiver = receiver.await;
    let pushline = start(dir, &receiver.url(), "order = \"strict\"").await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", (0..13).map(|number| number.to_string()))).await.unwrap();
    let failed = vec![next(&mut arrivals).await, next(&mut arrivals).await];
    pushline.until_quiet().await;
    pushline.terminate().await;
    answers.store(true, Ordering::SeqCst);
    (failed, arrivals, receiver)
}

async fn next(arrivals: &mut mpsc::Receiver<Arrival>) -> Arrival {
    timeout(PATIENCE, arrivals.recv()).await.expect("a message arrives").unwrap()
}

fn told(arrival: &Arrival) -> (&str, &[String]) {
    (&arrival.id, &arrival.payloads)
}

fn replay_all(pushline: &Pushline) -> Command {
    let mut command = command();
    command.args(["dead-letters", "replay", "--all", "--admin", &pushline.admin.to_string()]).kill_on_drop(true);
    command
}

async fn said(mut command: Command) -> String {
    String::from_utf8(command.output().await.unwrap().stdout).unwrap()
}

#[tokio::test]
async fn a_replay_that_was_appended_and_not_marked_before_a_crash_is_repeated_under_the_same_id() {
    let dir = folder();
    let (failed, mut arrivals, _receiver) = two_dead_letters(dir.path()).await;
    // What is on the disk after a crash in between: the replay's record, durable, and no mark.
    let queue = Embedded::open(&Options { min_free: 0, ..Options::new(dir.path().join("pushline-data")) }).unwrap();
    let letter = queue.dead_letters().list(&Filter::default(), 0, 1).await.unwrap().found.remove(0).dead_letter;
    let (group, at) = (letter.group.clone(), letter.time);
    let payload = replay(letter, DeadLetterLog::Groups, 0, false).encode();
    queue.append(&[Record { group: &group, at, kind: Kind::Replay, payload: &payload }]).await.unwrap();
    queue.close().await;
    drop(queue);

    let pushline = Pushline::start_again(BINARY, dir.path()).await;
    assert_eq!(told(&next(&mut arrivals).await), told(&failed[0]));
    let words = said(replay_all(&pushline)).await;
    assert!(words.starts_with("replayed 2 messages with 13 packets; skipped 0 that were replayed before"), "{words}");
    for before in &failed {
        assert_eq!(told(&next(&mut arrivals).await), told(before));
    }
    let words = said(replay_all(&pushline)).await;
    assert!(words.starts_with("replayed 0 messages with 0 packets; skipped 2 that were replayed before"), "{words}");
    pushline.until_quiet().await;
    assert!(arrivals.try_recv().is_err(), "once each");
}

#[tokio::test]
async fn two_dead_letters_of_one_packet_from_before_and_after_a_crash_are_replayed_under_one_id() {
    let dir = folder();
    let (pushline, mut inbox) = start_with_inbox(dir.path(), "").await;
    pushline.terminate().await;
    let queue = Embedded::open(&Options { min_free: 0, ..Options::new(dir.path().join("pushline-data")) }).unwrap();
    let packet = |payload: &str| DeadPacket {
        received_at: Timestamp(5),
        topic: "mti/1".to_owned(),
        iccid: "1".to_owned(),
        payload: payload.as_bytes().to_vec(),
    };
    for (payload, offset) in [("twice", 7), ("once", 8), ("twice", 7)] {
        let unsent = DeadLetter::unsent(Timestamp::of(SystemTime::now()), "mti/line".to_owned(), Cause::Expired, vec![packet(payload)]);
        let letter = DeadLetter { record: Some(RecordPlace { partition: 0, offset }), ..unsent };
        queue.dead_letters().append(&letter).await.unwrap();
    }
    queue.close().await;
    drop(queue);

    let pushline = Pushline::start_again(BINARY, dir.path()).await;
    assert!(said(replay_all(&pushline)).await.starts_with("replayed 3 messages"));
    let came = inbox.packets(3).await;
    let ids: BTreeMap<Vec<String>, BTreeSet<&str>> = came.iter().fold(BTreeMap::new(), |mut ids, push| {
        ids.entry(payloads(push)).or_default().insert(push.header("webhook-id"));
        ids
    });
    assert_eq!(ids.values().map(BTreeSet::len).collect::<Vec<_>>(), [1, 1], "{ids:?}");
    assert!(ids.values().collect::<BTreeSet<_>>().len() == 2, "{ids:?}");
    let metrics = get(pushline.admin, "/metrics").await.unwrap().1;
    assert!(metrics.contains("pushline_deliver_excused_cuts_total{reason=\"replay_without_id\"} 3"), "{metrics}");
}

#[tokio::test]
async fn a_replay_that_is_not_durable_before_a_crash_is_not_marked() {
    let dir = folder();
    let (failed, mut arrivals, _receiver) = two_dead_letters(dir.path()).await;
    // No disk has this much space: packets wait, while dead letters and their marks use the rest.
    let file = dir.path().join("pushline.toml");
    let configuration = std::fs::read_to_string(&file).unwrap();
    let pushline = Pushline::start(BINARY, dir.path(), &configuration.replace("\"1MiB\"", "\"1000000GiB\"")).await;
    let _waits = replay_all(&pushline).spawn().unwrap();
    let waits = async {
        while get(pushline.admin, "/readyz").await.unwrap().0 != 503 {
            sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, waits).await.expect("the replay waits for space");
    pushline.kill().await;

    let pushline = Pushline::start(BINARY, dir.path(), &configuration).await;
    let words = said(replay_all(&pushline)).await;
    assert!(words.starts_with("replayed 2 messages with 13 packets; skipped 0 that were replayed before"), "{words}");
    for before in &failed {
        assert_eq!(told(&next(&mut arrivals).await), told(before));
    }
}

/// Marks lie among the dead letters, so their numbers have gaps.
#[tokio::test]
async fn a_list_of_several_pages_with_marks_among_them_has_each_dead_letter_once() {
    const MESSAGES: usize = 600;
    let dir = folder();
    let receiver = ScriptedReceiver::start(|_| async { Some(500) }).await;
    let pushline = start(dir.path(), &receiver.url(), "max_packets = 1").await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", (0..MESSAGES).map(|number| number.to_string()))).await.unwrap();
    pushline.until_quiet().await;
    let words = said(replay_all(&pushline)).await;
    assert!(words.starts_with("replayed 600 messages with 600 packets"), "{words}");
    pushline.until_quiet().await;
    // Each failed again.
    assert_eq!(pushline.dead_letters("dead-letters").await.len(), 2 * MESSAGES);
    let mut list = command();
    list.args(["dead-letters", "list", "--json", "--admin", &pushline.admin.to_string()]);
    assert_eq!(said(list).await.lines().count(), 2 * MESSAGES);
}

#[tokio::test]
async fn unrouted_packets_are_routed_anew_once_the_configuration_is_mended_and_a_group_in_the_topic_never_falls_back() {
    let dir = folder();
    let (mut line, mut new) = (Inbox::start().await, Inbox::start().await);
    let webhooks = format!("{}{}", webhook("w", &line.url(), ""), webhook("v", &new.url(), ""));
    let with = |topics: &str, more: &str| {
        let configuration = Pushline::configuration(&format!("{webhooks}{}{more}", group("mti", "line", "w")));
        configuration.replace("[admin]", &format!("topics = [{topics}, \"g/{{org}}/{{group}}/{{iccid}}\"]\n[admin]"))
    };
    let pushline = Pushline::start(BINARY, dir.path(), &with("\"d/{org}/{iccid}\"", "")).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["no pattern matched"])).await.unwrap();
    gateway.publish(&packets("g/mti/new/2", ["to a group that isn't there yet"])).await.unwrap();
    let words = said(replay_all(&pushline)).await;
    assert!(words.starts_with("replayed 0 messages") && words.contains("2 that match no group"), "{words}");
    pushline.terminate().await;

    let pushline = Pushline::start(BINARY, dir.path(), &with("\"{org}/{iccid}\"", "")).await;
    let words = said(replay_all(&pushline)).await;
    assert!(words.starts_with("replayed 1 message") && words.contains("1 that match no group"), "{words}");
    let push = line.next().await;
    assert_eq!(
        (payloads(&push), String::from_utf8_lossy(&push.body).contains("\"ICCID\":1,")),
        (vec!["no pattern matched".to_owned()], true)
    );
    pushline.terminate().await;

    let more = group("mti", "new", "v").replace("default = true\n", "");
    let pushline = Pushline::start(BINARY, dir.path(), &with("\"{org}/{iccid}\"", &more)).await;
    let words = said(replay_all(&pushline)).await;
    assert!(words.starts_with("replayed 1 message") && words.contains("0 that match no group"), "{words}");
    assert_eq!(payloads(&new.next().await), ["to a group that isn't there yet"]);
}
