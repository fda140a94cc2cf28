//! By which way Pushline's requests leave the machine.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use pushline_testkit::{Behaviour, Gateway, Inbox, Push, Pushline, Receiver, folder, get, payloads};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
};

use crate::{BINARY, group, packets, webhook};

#[tokio::test]
async fn a_proxy_that_only_the_environment_names_is_not_used() {
    let (dir, inbox) = (folder(), Inbox::start().await);
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (proxy, connections) = (format!("http://{}", trap.local_addr().unwrap()), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while trap.accept().await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let names = ["http_proxy", "https_proxy", "all_proxy"];
    let environment: Vec<_> =
        names.iter().flat_map(|name| [(*name).to_owned(), name.to_uppercase()]).map(|name| (name, proxy.clone())).collect();
    let configuration = Pushline::configuration(&(webhook("w", &inbox.url(), "window = \"50ms\"") + &group("mti", "line", "w")));
    std::fs::write(dir.path().join("pushline.toml"), configuration).unwrap();
    let pushline = Pushline::start_again_with("run", BINARY, dir.path(), &environment).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["x"])).await.unwrap();
    pushline.until_quiet().await;
    assert_eq!(pushline.metric("pushline_packets_delivered_total", "").await, 1.0);
    assert_eq!(connections.load(Ordering::Relaxed), 0);
}

/// Passes each connection on to a server. Returns its address and the addresses that connections come from.
async fn observing(server: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<IpAddr>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<IpAddr>>>::default());
    let noted = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((client, peer)) = listener.accept().await {
            noted.lock().unwrap().push(peer.ip());
            tokio::spawn(relay(client, server));
        }
    });
    (address, seen)
}

/// An HTTP proxy on this socket. Returns the heads of the requests that it gets.
fn proxy_on(listener: TcpListener) -> Arc<Mutex<Vec<String>>> {
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let noted = Arc::clone(&noted);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
                noted.lock().unwrap().push(head);
                client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
                relay(client, target).await;
            });
        }
    });
    heads
}

async fn relay(mut client: TcpStream, server: SocketAddr) {
    let mut server = TcpStream::connect(server).await.unwrap();
    // How a connection ends is its ends' business.
    drop(copy_bidirectional(&mut client, &mut server).await);
}

/// The proxy's own address may not be dialled, so the server has another one.
async fn server_beside_the_proxy() -> (Receiver, mpsc::Receiver<Push>) {
    let (sender, pushes) = mpsc::channel(1000);
    let receive = move |push| sender.try_send(push).unwrap();
    (Receiver::start(([127, 0, 0, 2], 0).into(), Behaviour::default(), receive).await.unwrap(), pushes)
}

fn configuration(egress: &str, url: &str) -> String {
    let more = webhook("w", url, "max_packets = 1") + &group("mti", "line", "w");
    Pushline::configuration(&more).replace("[egress]\n", &format!("[egress]\n{egress}\n"))
}

#[tokio::test]
async fn connections_come_from_the_source_address() {
    let (dir, inbox) = (folder(), Inbox::start().await);
    let (address, seen) = observing(inbox.address()).await;
    let configuration = configuration("source_address = \"127.0.0.2\"", &format!("http://{address}/"));
    let pushline = Pushline::start(BINARY, dir.path(), &configuration).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["a", "b"])).await.unwrap();
    pushline.until_quiet().await;
    assert_eq!(pushline.metric("pushline_packets_delivered_total", "").await, 2.0);
    let seen = seen.lock().unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|peer| *peer == IpAddr::from([127, 0, 0, 2])), "{seen:?}");
}

#[tokio::test]
async fn connections_go_through_the_proxy_with_its_credentials_and_name_the_address_of_the_server() {
    let (dir, (receiver, mut pushes)) = (folder(), server_beside_the_proxy().await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let heads = proxy_on(listener);
    let egress = format!("proxy = {{ url = \"http://{proxy}\", username = \"pushline\", password = \"open sesame\" }}");
    let configuration = configuration(&egress, &format!("http://{}/", receiver.address()));
    let pushline = Pushline::start(BINARY, dir.path(), &configuration).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["through"])).await.unwrap();
    pushline.until_quiet().await;
    assert_eq!(payloads(&pushes.try_recv().unwrap()), ["through"]);
    // `pushline:open sesame` in base64.
    let expected =
        format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\nProxy-Authorization: Basic cHVzaGxpbmU6b3BlbiBzZXNhbWU=\r\n\r\n", receiver.address());
    assert_eq!(*heads.lock().unwrap(), [expected]);
    assert!(!pushline.log().contains("sesame"), "{}", pushline.log());
}

#[tokio::test]
async fn while_the_proxy_is_away_messages_wait_and_no_webhook_is_blamed() {
    let (dir, (receiver, mut pushes)) = (folder(), server_beside_the_proxy().await);
    // A port that is bound belongs to this test, and it refuses connections until a listener is there.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let egress = format!("proxy = {{ url = \"http://{}\" }}", socket.local_addr().unwrap());
    let configuration = configuration(&egress, &format!("http://{}/", receiver.address()));
    let pushline = Pushline::start(BINARY, dir.path(), &configuration).await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("mti/1", ["waits"])).await.unwrap();
    // More failures than a message has attempts.
    pushline.until_metric("pushline_deliver_local_failures_total", "reason=\"proxy\"", |failures| failures > 5.0).await;
    let (status, why) = get(pushline.admin, "/readyz").await.unwrap();
    assert!(status == 503 && why.contains("egress proxy"), "{status} {why}");
    assert_eq!(pushline.metric("pushline_webhooks_unresponsive", "").await, 0.0);
    assert_eq!(pushline.metric("pushline_packets_dead_lettered_total", "").await, 0.0);

    let heads = proxy_on(socket.listen(16).unwrap());
    pushline.until_quiet().await;
    assert_eq!(payloads(&pushes.try_recv().unwrap()), ["waits"]);
    assert_eq!(heads.lock().unwrap().len(), 1);
}
