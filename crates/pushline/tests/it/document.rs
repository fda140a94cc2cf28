//! The document, field by field: bodies, headers, auth, payloads.

use pushline_testkit::{Gateway, Inbox, folder, mosquitto_pub, payloads};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;

use crate::{packets, start, start_with_inbox};

const TOPIC: &str = "mti/897612653856781234";

#[tokio::test]
async fn the_documents_example_one_field_by_field() {
    let dir = folder();
    let options = "auth = { kind = \"basic\", username = \"test\", password = \"123456789\" }\nheaders = { \"1_Area\" = \"Tokyo\" }";
    let (pushline, mut inbox) = start_with_inbox(dir.path(), options).await;
    assert!(mosquitto_pub(pushline.mqtt, &["-q", "1", "-t", TOPIC, "-m", "ABC"]).await.0);
    let push = inbox.next().await;
    let body = std::str::from_utf8(&push.body).unwrap();
    let timestamp = serde_json::from_str::<Value>(body).unwrap()["Timestamp"].as_str().unwrap().to_owned();
    assert_eq!(body, format!(r#"{{"ICCID":897612653856781234,"Timestamp":"{timestamp}","Payload":"ABC"}}"#));
    assert_eq!((timestamp.len(), &timestamp[10..11], &timestamp[19..20], &timestamp[27..]), (28, "T", ".", "Z"));
    for (name, value) in [
        ("authentication", "Basic dGVzdDoxMjM0NTY3ODk="),
        ("authorization", "Basic dGVzdDoxMjM0NTY3ODk="),
        ("content-type", "application/json; charset=utf-8"),
        ("content-length", body.len().to_string().as_str()),
        ("host", inbox.url()["http://".len()..].split('/').next().unwrap()),
        ("1_area", "Tokyo"),
    ] {
        assert_eq!(push.header(name), value, "{name}");
    }
    assert!(push.header("webhook-id").starts_with("msg_") && push.header("webhook-id").len() == 26);
    assert!(push.header("webhook-timestamp").parse::<u64>().is_ok());
    assert_eq!(push.header("webhook-signature"), "");
    assert_eq!(push.path, "/push");
}

#[tokio::test]
async fn the_documents_example_two_is_an_array_in_the_documents_order() {
    let dir = folder();
    let (pushline, mut inbox) = start_with_inbox(dir.path(), "").await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway
        .publish(&[("mti/897612653856781234".into(), b"ABC".to_vec()), ("/mti/897612653856787890".into(), b"123".to_vec())])
        .await
        .unwrap();
    let push = inbox.next().await;
    let body = std::str::from_utf8(&push.body).unwrap();
    let value: Value = serde_json::from_str(body).unwrap();
    let at = |place: usize| value[place]["Timestamp"].as_str().unwrap();
    let expected = format!(
        r#"[{{"ICCID":897612653856781234,"Timestamp":"{}","Payload":"ABC"}},{{"ICCID":897612653856787890,"Timestamp":"{}","Payload":"123"}}]"#,
        at(0),
        at(1)
    );
    assert_eq!(body, expected);
}

#[tokio::test]
async fn header_names_are_written_as_the_customer_wrote_them() {
    // A receiver of the testkit would lower them: read the bytes.
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", socket.local_addr().unwrap());
    let dir = folder();
    let pushline =
        start(dir.path(), &url, "headers = { \"1_Area\" = \"Tokyo\", \"X-MiXeD\" = \"yes\" }\nauth = { kind = \"bearer\", token = \"t\" }")
            .await;
    assert!(mosquitto_pub(pushline.mqtt, &["-q", "1", "-t", TOPIC, "-m", "ABC"]).await.0);
    let (mut stream, _) = socket.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"}") {
        assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0, "it hung up");
    }
    let head = String::from_utf8(head).unwrap();
    for line in [
        "POST / HTTP/1.1\r\n",
        "\r\n1_Area: Tokyo\r\n",
        "\r\nX-MiXeD: yes\r\n",
        "\r\nAuthorization: Bearer t\r\n",
        "\r\nAuthentication: Bearer t\r\n",
        "\r\nContent-Type: application/json; charset=utf-8\r\n",
    ] {
        assert!(head.contains(line), "{line:?} in\n{head}");
    }
}

#[tokio::test]
async fn the_other_kinds_of_auth_and_a_signature() {
    for (options, header, value) in [
        ("auth = { kind = \"none\" }", "authorization", ""),
        ("auth = { kind = \"bearer\", token = \"abc\" }\nauth_headers = \"authorization\"", "authorization", "Bearer abc"),
        ("auth = { kind = \"bearer\", token = \"abc\" }\nauth_headers = \"authorization\"", "authentication", ""),
        ("auth = { kind = \"api_key\", key = \"k\" }", "x-api-key", "k"),
        ("auth = { kind = \"api_key\", header = \"X-Mine\", key = \"k\" }", "x-mine", "k"),
    ] {
        let dir = folder();
        let (pushline, mut inbox) = start_with_inbox(dir.path(), options).await;
        assert!(mosquitto_pub(pushline.mqtt, &["-q", "1", "-t", TOPIC, "-m", "ABC"]).await.0);
        assert_eq!(inbox.next().await.header(header), value, "{options}");
    }
    let dir = folder();
    let (pushline, mut inbox) = start_with_inbox(dir.path(), "secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"").await;
    assert!(mosquitto_pub(pushline.mqtt, &["-q", "1", "-t", TOPIC, "-m", "ABC"]).await.0);
    // The signature itself is held against the standard's own vector where it is made.
    assert!(inbox.next().await.header("webhook-signature").starts_with("v1,"));
}

#[tokio::test]
async fn iccid_or_topic_identifies_the_packet() {
    let dir = folder();
    let (pushline, mut inbox) = start_with_inbox(dir.path(), "max_packets = 1\norder = \"strict\"").await;
    for iccid in ["89761265385678123499", "01234", "ABC"] {
        assert!(mosquitto_pub(pushline.mqtt, &["-q", "1", "-t", &format!("mti/{iccid}"), "-m", "x"]).await.0);
    }
    for expected in [r#"{"ICCID":89761265385678123499,"#, r#"{"ICCID":"01234","#, r#"{"ICCID":"ABC","#] {
        let push = inbox.next().await;
        assert!(push.body.starts_with(expected.as_bytes()), "{push:?}");
    }
    let dir = folder();
    let (pushline, mut inbox) = start_with_inbox(dir.path(), "send = \"topic\"").await;
    assert!(mosquitto_pub(pushline.mqtt, &["-q", "1", "-t", "/mti/89761265385678123499", "-m", "x"]).await.0);
    assert!(inbox.next().await.body.starts_with(br#"{"Topic":"/mti/89761265385678123499","Timestamp":""#));
}

#[tokio::test]
async fn payloads_of_every_kind_arrive_as_they_were_published() {
    let dir = folder();
    let (pushline, mut inbox) = start_with_inbox(dir.path(), "max_packets = 1\norder = \"strict\"").await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    let controls: String = (0u8..0x20).map(char::from).collect();
    let texts = ["".to_owned(), controls, "\"quotes\" and \\backslashes\\".into(), "😀 𝄞 é \u{2028} \u{7f}".into(), "y".repeat(256 << 10)];
    gateway.publish(&packets(TOPIC, texts.clone())).await.unwrap();
    for text in texts {
        let push = inbox.next().await;
        assert_eq!(payloads(&push), [text]);
        assert!(!String::from_utf8_lossy(&push.body).contains("PayloadEncoding"));
    }
    gateway.publish(&packets(TOPIC, [vec![0xff, 0, 0xfe]])).await.unwrap();
    let body: Value = serde_json::from_slice(&inbox.next().await.body).unwrap();
    assert_eq!((body["Payload"].as_str(), body["PayloadEncoding"].as_str()), (Some("/wD+"), Some("base64")));
}

#[tokio::test]
async fn a_mebibyte_goes_through_where_the_limit_is_raised_and_is_refused_where_not() {
    let dir = folder();
    let inbox = Inbox::start().await;
    let pushline = start(dir.path(), &inbox.url(), "").await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    let mebibyte = "z".repeat(1 << 20);
    gateway.publish(&packets(TOPIC, [mebibyte.clone()])).await.unwrap_err();
    assert_eq!(pushline.metric("pushline_ingest_packets_total", "refused_too_large").await, 1.0);
    pushline.terminate().await;

    let dir = folder();
    let mut inbox = Inbox::start().await;
    let raised = format!("{}{}", crate::webhook("w", &inbox.url(), "max_body_bytes = \"2MiB\""), crate::group("mti", "line", "w"));
    let configuration = pushline_testkit::Pushline::configuration(&raised)
        .replace("[[mqtt.listeners]]\n", "[[mqtt.listeners]]\nmax_payload_bytes = \"1MiB\"\n");
    let pushline = pushline_testkit::Pushline::start(crate::BINARY, dir.path(), &configuration).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets(TOPIC, [mebibyte.clone()])).await.unwrap();
    assert_eq!(payloads(&inbox.next().await), [mebibyte]);
}

#[tokio::test]
async fn a_body_is_split_before_it_passes_max_body_bytes() {
    let dir = folder();
    let (pushline, mut inbox) = start_with_inbox(dir.path(), "max_body_bytes = 4096\norder = \"strict\"").await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    // Beside the payload a packet takes 87 bytes here, and the brackets two: this one fills the body to the last byte.
    let fills = 4096 - 2 - 87 + 3;
    gateway.publish(&packets(TOPIC, ["a".repeat(fills), "b".into(), "c".repeat(9000), "d".into()])).await.unwrap();
    let pushes = inbox.packets(4).await;
    let shapes: Vec<(usize, bool)> = pushes.iter().map(|push| (payloads(push).len(), push.body.starts_with(b"["))).collect();
    assert_eq!(shapes, [(1, true), (1, true), (1, true), (1, true)]);
    assert_eq!(pushes[0].body.len(), 4096);
}

#[tokio::test]
async fn a_payload_of_json_is_embedded_where_the_customer_wants_it() {
    let dir = folder();
    let (pushline, mut inbox) = start_with_inbox(dir.path(), "payload = \"json\"\nmax_packets = 1\norder = \"strict\"").await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets(TOPIC, ["{\"t\": 1.50}", "{broken"])).await.unwrap();
    assert!(inbox.next().await.body.ends_with(br#""Payload":{"t": 1.50}}"#));
    assert!(inbox.next().await.body.ends_with(br#""Payload":"{broken"}"#));
}
