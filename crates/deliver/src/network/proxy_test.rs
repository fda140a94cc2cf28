//! The egress proxy on real sockets: tunnels for http and https, and what may go through them.

use std::sync::Mutex;

use pushline_model::{LocalFailure, MessageId, Outcome, Webhook};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::TcpListener,
};

use super::*;
use crate::{endpoint::Endpoint, request::HeaderCaseCache};

/// A proxy that opens each tunnel that it is asked for, and the first line of each request.
async fn proxy() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.9:0").await.unwrap();
    let (address, lines) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
    let seen = Arc::clone(&lines);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    if client.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let line = String::from_utf8(head).unwrap().lines().next().unwrap().to_owned();
                let target = line.split(' ').nth(1).unwrap().to_owned();
                seen.lock().unwrap().push(line);
                match TcpStream::connect(target).await {
                    Ok(mut server) => {
                        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                        drop(copy_bidirectional(&mut client, &mut server).await);
                    }
                    Err(_) => client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await.unwrap(),
                }
            });
        }
    });
    (address, lines)
}

/// A server that answers each connection's request with 204, and where its connections come from.
async fn server() -> (SocketAddr, Arc<Mutex<Vec<IpAddr>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, peers) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<IpAddr>>>::default());
    let seen = Arc::clone(&peers);
    tokio::spawn(async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            seen.lock().unwrap().push(peer.ip());
            let mut request = Vec::new();
            while !request.ends_with(b"ABC") && stream.read_buf(&mut request).await.unwrap() > 0 {}
            stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await.unwrap();
        }
    });
    (address, peers)
}

fn egress() -> Egress {
    Egress::new(vec!["127.0.0.0/8".parse().unwrap()])
}

/// An attempt on a URL, by a network whose names all lead to 127.0.0.1.
async fn attempt(egress: Egress, url: &str) -> Outcome {
    let mut network = Arc::into_inner(Network::new(egress).unwrap()).unwrap();
    network.lookups = Lookups::by(|_| Ok(vec![([127, 0, 0, 1], 0).into()]), 8);
    let webhook = Arc::new(Webhook::new("w", url.parse().unwrap()));
    let endpoint = Endpoint::new(webhook, Arc::new(network), &mut HeaderCaseCache::default()).unwrap();
    endpoint.attempt(MessageId([7; 16]), "ABC".into(), true).await
}

fn through(proxy: SocketAddr) -> Egress {
    egress().through(Proxy::new(&proxy.ip().to_string(), proxy.port()))
}

#[tokio::test]
async fn a_tunnel_leads_to_the_address_that_the_guard_has_seen_and_not_to_a_name() {
    let ((proxy, lines), (server, _)) = (proxy().await, server().await);
    let port = server.port();
    assert_eq!(attempt(through(proxy), &format!("http://a.example:{port}/")).await, Outcome::Accepted { status: 204 });
    // The server speaks no TLS, which shows that the tunnel leads there.
    let outcome = attempt(through(proxy), &format!("https://a.example:{port}/")).await;
    assert!(matches!(outcome, Outcome::NoResponse(NoResponse::Tls(_))), "{outcome:?}");
    assert_eq!(*lines.lock().unwrap(), vec![format!("CONNECT 127.0.0.1:{port} HTTP/1.1"); 2]);
}

#[tokio::test]
async fn no_webhook_reaches_the_proxy_or_a_private_address_behind_it() {
    let (proxy, lines) = proxy().await;
    for url in [
        format!("http://{proxy}/"),
        "https://127.0.0.9:1/".to_owned(),
        "http://[::ffff:127.0.0.9]/".to_owned(),
        "http://10.0.0.1/".to_owned(),
    ] {
        let outcome = attempt(through(proxy), &url).await;
        let Outcome::BlockedAddress { what } = outcome else { panic!("{url}: {outcome:?}") };
        // Nothing permits the proxy's own address.
        assert_eq!(what.contains("[egress] allow"), url.contains("10.0.0.1"), "{what}");
    }
    assert_eq!(lines.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_server_that_the_proxy_does_not_reach_is_to_blame_and_a_proxy_that_is_away_is_a_local_failure() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (proxy, _) = proxy().await;
    let outcome = attempt(through(proxy), &format!("http://{closed}/")).await;
    assert!(matches!(&outcome, Outcome::NoResponse(NoResponse::Connect(why)) if why.contains("502")), "{outcome:?}");
    let away = SocketAddr::new([127, 0, 0, 9].into(), closed.port());
    let outcome = attempt(through(away), "http://a.example/").await;
    assert!(matches!(outcome, Outcome::LocalFailure(LocalFailure { kind: LocalFailureKind::Proxy, .. })), "{outcome:?}");
}

/// A proxy that opens no tunnel: what it answers to CONNECT and to everything else; `None`: nothing.
async fn useless_proxy(to_connect: Option<u16>, to_others: Option<u16>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.9:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && client.read_buf(&mut head).await.unwrap_or(0) > 0 {}
                let answer = if head.starts_with(b"CONNECT ") { to_connect } else { to_others };
                match answer {
                    Some(status) => client.write_all(format!("HTTP/1.1 {status} X\r\n\r\n").as_bytes()).await.unwrap_or(()),
                    None => std::future::pending().await,
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_proxy_that_opens_no_tunnel_and_does_not_answer_about_itself_is_a_local_failure() {
    for (to_connect, to_others, is_local) in [
        (Some(503), Some(503), true),
        (Some(500), Some(500), true),
        (Some(503), None, true),
        (None, None, true),
        (Some(503), Some(200), false),
        (Some(500), Some(400), false),
        (None, Some(405), false),
    ] {
        let proxy = useless_proxy(to_connect, to_others).await;
        let network = Network::new(egress()).unwrap();
        let (named, server) = (Proxy::new("127.0.0.9", proxy.port()), ([127, 0, 0, 1], 9).into());
        let no_tunnel = network.dial_through(&named, &[proxy], &[server], Instant::now() + Duration::from_secs(1)).await;
        let fits = match &no_tunnel {
            Err(ConnectError::Local(LocalFailureKind::Proxy, _)) => is_local,
            Err(ConnectError::NoResponse(NoResponse::Connect(_))) => !is_local,
            _ => false,
        };
        assert!(fits, "{to_connect:?} {to_others:?}: {no_tunnel:?}");
    }
}

#[tokio::test]
async fn connections_come_from_the_source_address_and_one_that_this_machine_has_not_is_refused_at_the_start() {
    let (server, peers) = server().await;
    let source = IpAddr::from([127, 0, 0, 5]);
    assert_eq!(attempt(egress().dialling_from(source), &format!("http://{server}/")).await, Outcome::Accepted { status: 204 });
    assert_eq!(*peers.lock().unwrap(), [source]);
    let refused = Network::new(egress().dialling_from([192, 0, 2, 1].into()));
    assert!(matches!(refused, Err(DeliverError::SourceAddress { .. })), "{refused:?}");
}
