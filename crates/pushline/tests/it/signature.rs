//! Signatures, checked by two implementations that know nothing of Pushline: one in Python, one in JavaScript.

use std::{path::Path, process::Stdio};

use pushline_testkit::{Gateway, Pushline, RawReceiver, RawRequest, folder};
use serde_json::json;
use tokio::{io::AsyncWriteExt, process::Command, sync::mpsc};

use crate::{BINARY, group, packets, webhook};

const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const FOREIGN: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";

/// The programs that verify. Each says the same of every push.
const VERIFIERS: [(&str, &str); 2] = [("python3", "verify.py"), ("node", "verify.cjs")];

/// Whether a push is one of the holder of this secret.
async fn is_valid(push: &RawRequest, secret: &str) -> bool {
    let header = |name| push.header(name).unwrap();
    let input = json!({
        "secret": secret,
        "id": header("webhook-id"),
        "timestamp": header("webhook-timestamp"),
        "signature": header("webhook-signature"),
        "body": std::str::from_utf8(&push.body).unwrap(),
    });
    let mut verdicts = Vec::new();
    for (program, script) in VERIFIERS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/signature").join(script);
        let mut command = Command::new(program);
        let mut child = command.arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 and node are installed");
        child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).await.unwrap();
        verdicts.push(String::from_utf8(child.wait_with_output().await.unwrap().stdout).unwrap());
    }
    assert_eq!(verdicts[0], verdicts[1], "{input}");
    match verdicts[0].trim() {
        "valid" => true,
        "invalid" => false,
        other => panic!("{other}"),
    }
}

async fn are_valid(push: &RawRequest) -> [bool; 3] {
    [is_valid(push, OLD).await, is_valid(push, NEW).await, is_valid(push, FOREIGN).await]
}

#[tokio::test]
async fn a_receiver_accepts_every_push_while_its_secret_moves_from_the_old_one_to_the_new_one() {
    let dir = folder();
    let (arrived, mut arrivals) = mpsc::channel(100);
    let receiver = RawReceiver::start(move |request| {
        arrived.try_send(request).unwrap();
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into()
    });
    let url = receiver.await;
    let configuration = |signing: &str| {
        Pushline::configuration(&(webhook("w", &url.url(), &format!("{signing}\nwindow = \"10ms\"")) + &group("mti", "g", "w")))
    };
    let rotation = [
        (format!("secret = \"{OLD}\""), 1, [true, false, false]),
        (format!("secrets = [\"{NEW}\", \"{OLD}\"]"), 2, [true, true, false]),
        (format!("secret = \"{NEW}\""), 1, [false, true, false]),
    ];
    let pushline = Pushline::start(BINARY, dir.path(), &configuration(&rotation[0].0)).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    for (step, (signing, signatures, expected)) in rotation.iter().enumerate() {
        if step > 0 {
            std::fs::write(dir.path().join("pushline.toml"), configuration(signing)).unwrap();
            pushline.hang_up();
            crate::reload::until_logged(&pushline, "configuration reloaded", step).await;
        }
        gateway.publish(&packets("mti/1", [format!("größe {step}")])).await.unwrap();
        let push = arrivals.recv().await.unwrap();
        assert_eq!(push.header("webhook-signature").unwrap().split(' ').count(), *signatures);
        assert_eq!(are_valid(&push).await, *expected, "{signing}");
    }
}
