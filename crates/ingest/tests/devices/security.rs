//! The listener's security with real clients: TLS and certificates, users, topic rules, load balancers, WebSocket, limits.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use futures_util::{SinkExt, StreamExt};
use pushline_ingest::{Device, Options, Selection, ServerTlsFiles, hash_password};
use tokio::{io::AsyncWriteExt, net::TcpStream, process::Command, time::timeout};
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

use super::{Listening, MUST_COME_WITHIN, authority::Authority, listen, read_packet};

const CONNECT_V3: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01d";
const CONNECT_V5: &[u8] = b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01d";
const PUBLISH_V5: &[u8] = b"\x32\x0b\0\x05mti/1\0\x07\0A";

/// Publishes a packet at QoS 1 with `mosquitto_pub`. Returns whether it was acknowledged, and what the client says.
pub(crate) async fn publish(listener: SocketAddr, topic: &str, options: &[String]) -> (bool, String) {
    let mut client = Command::new("mosquitto_pub");
    client
        .args(["-h", "localhost", "-p", &listener.port().to_string(), "-q", "1", "-t", topic, "-m", "A"])
        .args(options)
        .kill_on_drop(true);
    let output = timeout(MUST_COME_WITHIN, client.output()).await.expect("the client ends");
    let output = output.expect("mosquitto_pub is installed (Debian: apt-get install mosquitto-clients)");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// The reasons of the refused clients, the newest first.
pub(crate) fn refused(listening: &Listening) -> Vec<&'static str> {
    listening.clients.refused.last().iter().map(|refusal| refusal.reason).collect()
}

async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let polled = async {
        while !is_true() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(MUST_COME_WITHIN, polled).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn a_client_connects_by_tls_and_shows_its_certificate() {
    let authority = Authority::new(&["897"]);
    let plain = listen(|options| options.tls = Some(authority.files(false))).await;
    assert_eq!(publish(plain.address, "mti/1", &authority.options(None)).await, (true, String::new()));

    let both = listen(|options| {
        options.tls = Some(authority.files(true));
        options.allow_topics = vec!["mti/{user}".parse().unwrap()];
    })
    .await;
    assert_eq!(publish(both.address, "mti/897", &authority.options(Some("897"))).await, (true, String::new()));
    assert!(!publish(both.address, "mti/897", &authority.options(None)).await.0, "without a certificate");
    assert_eq!(refused(&both), ["refused_tls"]);
    assert!(!publish(both.address, "mti/898", &authority.options(Some("897"))).await.0, "the topic of another device");
    assert_eq!(refused(&both)[0], "refused_not_authorized");
    let other = Authority::new(&["897"]);
    let [mut options, stranger] = [&authority, &other].map(|authority| authority.options(Some("897")));
    options[3..].clone_from_slice(&stranger[3..]);
    assert!(!publish(both.address, "mti/897", &options).await.0, "of another authority");
}

#[tokio::test]
async fn a_client_whose_certificate_is_revoked_is_disconnected_and_another_stays() {
    let authority = Authority::new(&["stays", "goes"]);
    let listening = listen(|options| options.tls = Some(authority.files(true))).await;
    let stay = |name: &str| {
        let mut client = Command::new("mosquitto_sub");
        client
            .args(["-h", "localhost", "-p", &listening.address.port().to_string(), "-t", "x", "-i", name])
            .args(authority.options(Some(name)));
        client.kill_on_drop(true).spawn().expect("mosquitto_sub is installed (Debian: apt-get install mosquitto-clients)")
    };
    let _clients = [stay("stays"), stay("goes")];
    let devices = || listening.clients.devices.page(None, 10);
    until("both connect", || devices().len() == 2).await;
    assert_eq!(devices()[0].user.as_deref(), Some("goes"));
    authority.revoke(&[1]);
    until("the revoked one is disconnected", || refused(&listening).contains(&"refused_not_authorized")).await;
    // It connects again by itself, and isn't let in.
    until("it is refused", || refused(&listening).contains(&"refused_tls")).await;
    let ids: Vec<String> = devices().into_iter().map(|device| device.client_id).collect();
    assert_eq!(ids, ["stays"]);
}

#[tokio::test]
async fn a_user_is_let_in_by_its_password_and_bound_to_its_topics_in_each_version() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    fs::write(&users, format!("gateway:{} mti/#\n", hash_password(b"secret").unwrap())).unwrap();
    let listening = listen(|options| options.users_file = Some(users.clone())).await;
    let as_user = |version: &str, user: &str, password: &str| ["-V", version, "-u", user, "-P", password].map(str::to_owned).to_vec();
    for (version, says) in [("mqttv311", "bad user name or password"), ("mqttv5", "Bad User Name or Password")] {
        let right = as_user(version, "gateway", "secret");
        assert_eq!(publish(listening.address, "mti/1", &right).await, (true, String::new()));
        for (user, password) in [("gateway", "wrong"), ("nobody", "secret")] {
            let (is_let_in, said) = publish(listening.address, "mti/1", &as_user(version, user, password)).await;
            assert!(!is_let_in && said.to_lowercase().contains(&says.to_lowercase()), "{version} {user}: {said}");
        }
        let (_, said) = publish(listening.address, "other/1", &right).await;
        assert_eq!(refused(&listening)[0], "refused_not_authorized", "{said}");
    }
    // The user is removed while it is connected.
    let mut stream = TcpStream::connect(listening.address).await.unwrap();
    stream.write_all(b"\x10\x1f\0\x04MQTT\x05\xc2\0\x3c\0\0\x01d\0\x07gateway\0\x06secret").await.unwrap();
    assert_eq!(read_packet(&mut stream).await.unwrap().1[1], 0);
    fs::write(&users, "").unwrap();
    assert_eq!(read_packet(&mut stream).await, Some((0xe0, vec![0x87, 0])));
    assert!(!publish(listening.address, "mti/1", &as_user("mqttv5", "gateway", "secret")).await.0);
}

#[tokio::test]
async fn an_unauthorised_publish_is_refused_in_the_words_of_each_version() {
    let listening = listen(|options| options.allow_topics = vec!["o/#".parse().unwrap()]).await;
    let mut v5 = TcpStream::connect(listening.address).await.unwrap();
    v5.write_all(&[CONNECT_V5, PUBLISH_V5, b"\xc0\0"].concat()).await.unwrap();
    assert_eq!(read_packet(&mut v5).await.unwrap().0, 0x20);
    let mut answers = [read_packet(&mut v5).await.unwrap(), read_packet(&mut v5).await.unwrap()];
    answers.sort_unstable();
    assert_eq!(answers, [(0x40, vec![0, 7, 0x87]), (0xd0, vec![])], "the connection stays");
    let refusal = listening.clients.refused.last().remove(0);
    assert_eq!((refusal.client_id.as_str(), refusal.topic.as_deref(), refusal.times), ("d", Some("mti/1"), 1));
    drop(v5);
    let mut v3 = TcpStream::connect(listening.address).await.unwrap();
    v3.write_all(&[CONNECT_V3, b"\x32\x0a\0\x05mti/1\0\x07A"].concat()).await.unwrap();
    assert_eq!(read_packet(&mut v3).await.unwrap().0, 0x20);
    assert_eq!(read_packet(&mut v3).await, None);
}

#[tokio::test]
async fn a_load_balancer_names_the_client_and_only_a_trusted_one_may() {
    let trusted = listen(|options| options.proxy_protocol = vec!["127.0.0.0/8".parse().unwrap()]).await;
    let mut stream = TcpStream::connect(trusted.address).await.unwrap();
    stream.write_all(&[b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 1883\r\n", CONNECT_V5].concat()).await.unwrap();
    assert_eq!(read_packet(&mut stream).await.unwrap().1[1], 0);
    let Device { address, .. } = trusted.clients.devices.page(None, 1).remove(0);
    assert_eq!(address.to_string(), "192.0.2.7:4660");
    let mut without = TcpStream::connect(trusted.address).await.unwrap();
    without.write_all(CONNECT_V5).await.unwrap();
    assert_eq!(read_packet(&mut without).await, None);
    assert_eq!(refused(&trusted), ["refused_proxy_header"]);

    let others = listen(|options| options.proxy_protocol = vec!["10.0.0.0/8".parse().unwrap()]).await;
    let mut stream = TcpStream::connect(others.address).await.unwrap();
    stream.write_all(CONNECT_V5).await.unwrap();
    assert_eq!(read_packet(&mut stream).await.unwrap().1[1], 0, "an address that isn't a load balancer's is served as it is");
}

#[tokio::test]
async fn mqtt_comes_over_websocket_in_messages_of_any_size() {
    let listening = listen(|options| options.websocket = true).await;
    let request = |subprotocol: &'static str| {
        let mut request = format!("ws://{}/mqtt", listening.address).into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(subprotocol));
        request
    };
    let stream = TcpStream::connect(listening.address).await.unwrap();
    assert!(client_async(request("chat"), stream).await.is_err(), "another protocol");
    let stream = TcpStream::connect(listening.address).await.unwrap();
    let (mut socket, response) = client_async(request("mqtt"), stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "mqtt");
    let bytes = [CONNECT_V5, PUBLISH_V5].concat();
    for part in bytes.chunks(5) {
        socket.send(Message::Binary(part.to_vec().into())).await.unwrap();
    }
    let mut heard = Vec::new();
    while !heard.ends_with(b"\x40\x02\0\x07") {
        match timeout(MUST_COME_WITHIN, socket.next()).await.unwrap().unwrap().unwrap() {
            Message::Binary(bytes) => heard.extend(bytes),
            other => panic!("{other:?}"),
        }
    }
    socket.send(Message::Text("text".into())).await.unwrap();
    let ended = timeout(MUST_COME_WITHIN, socket.next()).await.unwrap();
    assert!(!matches!(ended, Some(Ok(Message::Binary(_)))), "a message that isn't binary ends the connection: {ended:?}");
}

#[tokio::test]
async fn limits_hold_for_each_address_and_an_operator_disconnects() {
    let listening = listen(|options| options.limits.connections_per_address = 1).await;
    let mut first = TcpStream::connect(listening.address).await.unwrap();
    first.write_all(CONNECT_V5).await.unwrap();
    assert_eq!(read_packet(&mut first).await.unwrap().1[1], 0);
    let mut second = TcpStream::connect(listening.address).await.unwrap();
    assert_eq!(read_packet(&mut second).await, None);
    assert_eq!(refused(&listening), ["refused_connections"]);
    assert_eq!(listening.clients.devices.disconnect(&Selection::ClientId("d".into())), 1);
    assert_eq!(read_packet(&mut first).await, Some((0xe0, vec![0x98, 0])));
    assert_eq!(read_packet(&mut first).await, None);
    until("the address is free again", || listening.clients.devices.page(None, 1).is_empty()).await;
}

#[tokio::test]
async fn a_listener_whose_files_are_of_no_use_is_not_started() {
    let authority = Authority::new(&[]);
    let broken = authority.path("broken.pem");
    fs::write(&broken, "no PEM").unwrap();
    let define = |define: &dyn Fn(&mut ServerTlsFiles)| {
        let mut files = authority.files(true);
        define(&mut files);
        let mut options = Options::new(([127, 0, 0, 1], 0).into(), vec![]);
        options.tls = Some(files);
        options.check_files()
    };
    assert_eq!(define(&|_| {}), Ok(()));
    let broken: &Path = &broken;
    for (field, wrong) in [
        ("tls.cert_file", define(&|files| files.cert_file = broken.into())),
        ("tls.key_file", define(&|files| files.key_file = broken.into())),
        ("tls.client_ca_file", define(&|files| files.client_ca_file = Some(broken.into()))),
        ("tls.client_crl_file", define(&|files| files.client_crl_file = Some(broken.into()))),
    ] {
        assert_eq!(wrong.as_ref().unwrap_err().field, field, "{wrong:?}");
    }
    let other = Authority::new(&["client"]);
    let wrong = define(&|files| files.key_file = other.path("client.key")).unwrap_err();
    assert!(wrong.field == "tls.key_file" && wrong.problem.contains("can't be used with the certificate"), "{wrong}");
}
