//! The egress guard on real sockets: in each way to write an address, by name, and with a name that changes its answer.

use std::sync::atomic::{AtomicUsize, Ordering};

use pushline_model::Webhook;
use tokio::net::TcpListener;

use super::*;
use crate::pool::Origin;

/// A network whose names have the addresses that `look_up` gives.
fn network(allow: &[&str], look_up: impl Fn(&str) -> Vec<IpAddr> + Send + Sync + 'static) -> Network {
    let egress = Egress::new(allow.iter().map(|range| range.parse().unwrap()).collect());
    let mut network = Arc::into_inner(Network::new(egress).unwrap()).unwrap();
    network.lookups = Lookups::by(move |host| Ok(look_up(host).into_iter().map(|address| (address, 0).into()).collect()), 8);
    network
}

async fn connect(network: &Network, host: &str, port: u16) -> Result<Connection, ConnectError> {
    let webhook = Webhook::new("w", format!("http://{host}:{port}/push").parse().unwrap());
    let sharer = network.pool().join(Origin::of(&webhook), network.identity(&webhook.tls).unwrap());
    sharer.connection(network, &webhook.url, true).await.map(|checkout| checkout.connection)
}

/// Two servers at one port. Each counts its connections.
async fn servers() -> (u16, [Arc<AtomicUsize>; 2]) {
    let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = first.local_addr().unwrap().port();
    let second = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let counting = |listener: TcpListener| {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        count
    };
    (port, [counting(first), counting(second)])
}

/// Once a connection that was made before this call has been counted.
async fn counts(servers: &[Arc<AtomicUsize>; 2]) -> [usize; 2] {
    tokio::time::sleep(Duration::from_millis(50)).await;
    [0, 1].map(|server| servers[server].load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_private_address_is_refused_however_the_url_writes_it() {
    let (port, servers) = servers().await;
    let network = network(&[], |_| vec![]);
    for literal in [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7F.1",
        "0177.0.0.1",
        "%31%32%37.0.0.1",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "0",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:0:7f00:1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::fefe:fefe]",
    ] {
        let refused = connect(&network, literal, port).await;
        assert!(matches!(refused, Err(ConnectError::Blocked(_))), "{literal}: {refused:?}");
    }
    assert_eq!(counts(&servers).await, [0, 0]);
}

#[tokio::test]
async fn a_name_leads_to_no_private_address() {
    let network = network(&[], |host| match host {
        "mixed.example" => vec!["::ffff:127.0.0.1".parse().unwrap(), "10.0.0.1".parse().unwrap(), "fe80::1".parse().unwrap()],
        _ => vec![IpAddr::from([169, 254, 169, 254])],
    });
    for (host, why) in
        [("metadata.example", "169.254.169.254: link local (RFC 3927)"), ("mixed.example", "10.0.0.1: private use (RFC 1918)")]
    {
        match connect(&network, host, 80).await {
            Err(ConnectError::Blocked(told)) if told.contains(why) && told.contains("[egress] allow") => {}
            other => panic!("{host}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn this_machines_own_addresses_are_refused_whatever_range_they_are_in() {
    let network = network(&[], |_| vec![]);
    for own in network.own_addresses.get().iter() {
        let host = if own.is_ipv6() { format!("[{own}]") } else { own.to_string() };
        assert!(matches!(connect(&network, &host, 80).await, Err(ConnectError::Blocked(_))), "{own}");
    }
}

#[tokio::test]
async fn the_address_that_was_checked_is_dialled_though_the_name_has_another_one_meanwhile() {
    let (port, servers) = servers().await;
    let lookups = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&lookups);
    // The first answer is permitted, each later one isn't.
    let network = network(&["127.0.0.1/32"], move |_| {
        vec![if count.fetch_add(1, Ordering::Relaxed) == 0 { [127, 0, 0, 1] } else { [127, 0, 0, 2] }.into()]
    });
    assert!(connect(&network, "rebinds.example", port).await.is_ok());
    assert_eq!(lookups.load(Ordering::Relaxed), 1, "a second lookup would be dialled unchecked");
    assert_eq!(counts(&servers).await, [1, 0]);
}

#[tokio::test]
async fn of_a_names_addresses_only_those_that_are_permitted_are_dialled() {
    let (port, servers) = servers().await;
    let network = network(&["127.0.0.1/32"], |_| vec![[127, 0, 0, 2].into(), [127, 0, 0, 1].into()]);
    for _ in 0..4 {
        assert!(connect(&network, "both.example", port).await.is_ok());
    }
    assert_eq!(counts(&servers).await, [4, 0]);
}
