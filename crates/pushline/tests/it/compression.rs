//! Compressed bodies, unpacked by a program that knows nothing of Pushline.

use std::process::Stdio;

use pushline_testkit::{Gateway, RawReceiver, folder};
use tokio::{io::AsyncWriteExt, process::Command, sync::mpsc};

use crate::{packets, start};

/// Python's own gzip.
async fn unpacked(body: &[u8]) -> String {
    let script = "import gzip, sys; sys.stdout.buffer.write(gzip.decompress(sys.stdin.buffer.read()))";
    let mut command = Command::new("python3");
    let mut child = command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 is installed");
    child.stdin.take().unwrap().write_all(body).await.unwrap();
    String::from_utf8(child.wait_with_output().await.unwrap().stdout).unwrap()
}

#[tokio::test]
async fn a_packed_body_says_so_and_is_the_same_in_each_attempt() {
    let dir = folder();
    let (arrived, mut arrivals) = mpsc::channel(100);
    let receiver = RawReceiver::start(move |request| {
        arrived.try_send(request).unwrap();
        "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".into()
    });
    let options = "compression = \"gzip\"\nretry_on_status = [503]\nretries = 1\nretry_delays = [\"10ms\"]\nwindow = \"100ms\"";
    let receiver = receiver.await;
    let pushline = start(dir.path(), &receiver.url(), options).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", (0..10).map(|number| format!("a payload that looks like others {number}")))).await.unwrap();
    let (first, second) = (arrivals.recv().await.unwrap(), arrivals.recv().await.unwrap());
    assert_eq!((first.header("content-encoding"), first.header("content-type")), (Some("gzip"), Some("application/json; charset=utf-8")));
    assert_eq!((first.header("webhook-id"), &first.body), (second.header("webhook-id"), &second.body));
    let body = unpacked(&first.body).await;
    assert!(body.starts_with(r#"[{"ICCID":1,"Timestamp":""#) && body.contains("others 9") && body.len() > 3 * first.body.len(), "{body}");
    // A dead letter has the packets as they came.
    pushline.until_quiet().await;
    assert_eq!(pushline.dead_letters("dead-letters").await.len(), 10);
}
