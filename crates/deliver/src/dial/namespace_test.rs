//! Dialling in a network namespace of its own, where ports and routes are scarce.

use tokio::net::TcpListener;

use super::*;
use crate::namespace::is_inside;

async fn dial(address: SocketAddr, source: Option<IpAddr>) -> Result<TcpStream, ConnectError> {
    first_of(&[address], Instant::now() + Duration::from_secs(20), source, || None).await
}

#[tokio::test]
async fn connections_from_one_address_to_different_servers_may_have_the_same_port() {
    let range = "echo 40000 40009 >/proc/sys/net/ipv4/ip_local_port_range";
    if !is_inside("dial::namespace_test::connections_from_one_address_to_different_servers_may_have_the_same_port", range) {
        return;
    }
    let source = Some(IpAddr::from([127, 0, 0, 1]));
    let (mut servers, mut connections) = (Vec::new(), Vec::new());
    for port in 9001..=9003 {
        servers.push(TcpListener::bind(("127.0.0.1", port)).await.unwrap());
    }
    for connection in 0..24 {
        let address = servers[connection % servers.len()].local_addr().unwrap();
        connections.push(dial(address, source).await.unwrap());
    }
    let mut refused = None;
    for _ in 0..10 {
        match dial(servers[0].local_addr().unwrap(), source).await {
            Ok(connection) => connections.push(connection),
            Err(error) => refused = Some(error),
        }
    }
    assert!(matches!(refused, Some(ConnectError::Local(LocalFailureKind::Ports, _))), "{refused:?}");
}

#[tokio::test]
async fn a_route_that_leads_nowhere_is_this_machines() {
    if !is_inside("dial::namespace_test::a_route_that_leads_nowhere_is_this_machines", "ip route add blackhole default") {
        return;
    }
    let dialled = dial("203.0.113.1:443".parse().unwrap(), None).await;
    assert!(matches!(dialled, Err(ConnectError::Local(LocalFailureKind::Route, _))), "{dialled:?}");
}

#[tokio::test]
async fn a_source_address_that_has_left_this_machine_is_named() {
    let (address, source) = ("127.0.0.1:9".parse().unwrap(), IpAddr::from([192, 0, 2, 1]));
    let dialled = dial(address, Some(source)).await;
    let Err(ConnectError::Local(LocalFailureKind::SourceAddress, why)) = dialled else { panic!("{dialled:?}") };
    assert!(why.contains("192.0.2.1"), "{why}");
}
