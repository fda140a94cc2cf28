//! What an operator sees of it on Kafka with other tools: raw payloads, lag, records of another producer, dead letters from any process.

use pushline_testkit::{Behaviour, Gateway, Inbox, Kafka, PATIENCE, Pushline, folder, kcat, payloads};
use tokio::time::timeout;

use crate::{
    command, group,
    kafka::{configuration, start},
    packets, webhook,
};

/// Waits until a group has committed an offset, or a later one: a tick has an offset, too. Returns it.
pub(crate) async fn until_committed(kafka: &Kafka, prefix: &str, partition: i32, wanted: i64) -> i64 {
    let (group, topic) = (format!("{prefix}-deliver"), format!("{prefix}.packets"));
    let committed = async {
        loop {
            let committed = kafka.committed(&group, &topic, partition).await;
            if committed >= wanted {
                return committed;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    match timeout(PATIENCE, committed).await {
        Ok(committed) => committed,
        Err(_) => panic!("the group's offset is {}, below {wanted}", kafka.committed(&group, &topic, partition).await),
    }
}

async fn pushline(arguments: &[&str]) -> String {
    let output = command().args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_consumer_reads_raw_payloads_and_whose_they_are() {
    let (kafka, dir) = (Kafka::shared().await, folder());
    let (inbox, prefix) = (Inbox::start().await, kafka.prefix());
    let more = webhook("w", &inbox.url(), "") + &group("mti", "line 1", "w");
    let ingest = start("ingest", dir.path(), &configuration(kafka.brokers(), &prefix, 2, &more)).await;
    let mut gateway = Gateway::connect(ingest.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/8976", [&b"\x00\xff{raw}"[..]])).await.unwrap();
    let topic = format!("{prefix}.packets");
    let read = kcat(kafka.brokers(), &["-C", "-t", &topic, "-o", "beginning", "-e", "-f", "%k|%S|%s|%h"], b"").await;
    let (start, header) = read.split_at(b"mti/line 1|7|\x00\xff{raw}|pushline=".len());
    assert_eq!(start, b"mti/line 1|7|\x00\xff{raw}|pushline=");
    // kcat prints a header up to its first zero byte: of this one the version. `header.rs` has the rest.
    assert_eq!(header, [2]);
    ingest.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_records_become_dead_letters_and_hold_nobody_up() {
    let (kafka, dir) = (Kafka::shared().await, folder());
    let (mut inbox, prefix) = (Inbox::start().await, kafka.prefix());
    let more = webhook("w", &inbox.url(), "") + &group("mti", "line", "w");
    let configuration = configuration(kafka.brokers(), &prefix, 1, &more);
    let ingest = start("ingest", dir.path(), &configuration).await;
    let deliver = start("deliver", dir.path(), &configuration).await;
    let mut gateway = Gateway::connect(ingest.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["before"])).await.unwrap();
    let topic = format!("{prefix}.packets");
    kcat(kafka.brokers(), &["-P", "-t", &topic, "-p", "0", "-k", "mti/line"], b"somebody else's").await;
    kcat(kafka.brokers(), &["-P", "-t", &topic, "-p", "0", "-k", "mti/line", "-H", "pushline=\u{2}nonsense"], b"worse").await;
    gateway.publish(&packets("mti/1", ["after"])).await.unwrap();
    let texts: Vec<String> = inbox.packets(2).await.iter().flat_map(payloads).collect();
    assert_eq!(texts, ["before", "after"]);
    deliver.until_metric("pushline_packets_dead_lettered_total", "unreadable", |count| count == 2.0).await;
    until_committed(kafka, &prefix, 0, 4).await;
    let listed = pushline(&["dead-letters", "list", "--cause", "unreadable", "--admin", &deliver.admin.to_string()]).await;
    assert!(listed.contains("\"somebody else's\"") && listed.contains("\"worse\"") && listed.lines().count() == 2, "{listed}");
    let told = deliver.dead_letters("dead-letters").await;
    assert!(told[0].response.contains("no header") && told[1].response.contains("can't be read"), "{told:?}");
    deliver.terminate().await;
    ingest.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafkas_own_lag_is_what_is_unsettled_and_ours_is_what_is_unread() {
    let (kafka, dir) = (Kafka::shared().await, folder());
    let (mut fine, prefix) = (Inbox::start().await, kafka.prefix());
    let mut hanging = Inbox::behaving(Behaviour { hang: true, ..Behaviour::default() }).await;
    let more = webhook("fine", &fine.url(), "")
        + &group("mti", "line", "fine")
        + &webhook("sick", &hanging.url(), "")
        + &group("oti", "line", "sick");
    let configuration = configuration(kafka.brokers(), &prefix, 1, &more);
    let ingest = start("ingest", dir.path(), &configuration).await;
    let deliver = start("deliver", dir.path(), &configuration).await;
    let mut gateway = Gateway::connect(ingest.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["0", "1", "2"])).await.unwrap();
    fine.packets(3).await;
    let settled = until_committed(kafka, &prefix, 0, 3).await;
    gateway.publish(&packets("oti/1", ["hangs"])).await.unwrap();
    hanging.next().await;
    gateway.publish(&packets("mti/1", (0..50).map(|number| number.to_string()))).await.unwrap();
    fine.packets(50).await;
    // Everything is read, one packet isn't settled: 51 lie from the hanging one on, and ticks.
    deliver.until_metric("pushline_queue_unsettled_packets", "", |unsettled| unsettled == 1.0).await;
    deliver.until_metric("pushline_queue_lag_records", "", |lag| lag == 0.0).await;
    assert_eq!(until_committed(kafka, &prefix, 0, settled).await, settled);
    let end = kcat(kafka.brokers(), &["-Q", "-t", &format!("{prefix}.packets:0:-1")], b"").await;
    let end: i64 = String::from_utf8_lossy(&end).trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(end >= settled + 51, "{end} {settled}");
    deliver.kill().await;
    ingest.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_seen_from_any_process_and_replayed_once_whichever_is_asked() {
    let (kafka, dir) = (Kafka::shared().await, folder());
    let (mut inbox, prefix) = (Inbox::behaving(Behaviour { status: 500, every: 1, ..Behaviour::default() }).await, kafka.prefix());
    let mut fine = Inbox::start().await;
    let of = |url: &str| configuration(kafka.brokers(), &prefix, 2, &(webhook("w", url, "") + &group("mti", "line", "w")));
    let ingest = start("ingest", dir.path(), &of(&inbox.url())).await;
    let deliver = start("deliver", dir.path(), &of(&inbox.url())).await;
    let mut gateway = Gateway::connect(ingest.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["a"])).await.unwrap();
    gateway.publish(&packets("nobody/1", ["nobody's"])).await.unwrap();
    let refused = inbox.next().await;
    deliver.until_metric("pushline_packets_dead_lettered_total", "error_response", |count| count == 1.0).await;
    for process in [&ingest, &deliver] {
        let listed = pushline(&["dead-letters", "list", "--admin", &process.admin.to_string()]).await;
        assert!(listed.contains("error_response 500") && listed.contains("unrouted") && listed.lines().count() == 2, "{listed}");
    }
    deliver.terminate().await;
    let deliver = start("deliver", dir.path(), &of(&fine.url())).await;
    let replay = async |process: &Pushline| {
        let admin = process.admin.to_string();
        pushline(&["dead-letters", "replay", "--group", "mti/line", "--admin", &admin]).await
    };
    // Both have looked at the log before: each must see what the other has done since.
    assert!(replay(&ingest).await.starts_with("replayed 1 message with 1 packet"), "the first time it goes");
    let again = fine.next().await;
    assert_eq!((payloads(&again), again.header("webhook-id")), (vec!["a".to_owned()], refused.header("webhook-id")));
    for process in [&deliver, &ingest] {
        assert!(replay(process).await.starts_with("replayed 0 messages with 0 packets; skipped 1 that were replayed before"));
    }
    deliver.until_metric("pushline_queue_unsettled_packets", "", |unsettled| unsettled == 0.0).await;
    deliver.terminate().await;
    ingest.terminate().await;
    assert!(fine.rest(std::time::Duration::from_millis(200)).await.is_empty(), "it went once");
}
