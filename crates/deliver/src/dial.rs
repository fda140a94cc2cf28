//! Dialling: addresses in turn, until one takes the connection.

use std::{io, net::SocketAddr};

use pushline_model::{LocalFailureKind, NoResponse};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{local_failures::Blame, network::ConnectError};

/// Dials one address after the other until one takes the connection. Each has a part of the time: one that swallows what it is sent leaves some for
/// the next.
///
/// If none does, an address that couldn't be tried for lack of resources decides first, then one that failed by itself. Only where this machine has
/// no route to any of them is that the reason: many machines have no IPv6, and most hosts have addresses of both kinds.
pub(crate) async fn first_of(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, ConnectError> {
    let each = (deadline - Instant::now()) / u32::try_from(addresses.len().max(1)).expect("a name has fewer than 2^32 addresses");
    let (mut local, mut remote, mut no_route) = (None, None, None);
    for address in addresses {
        let connected = timeout(each, TcpStream::connect(address)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let error = match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        match Blame::of(&error, *address) {
            Blame::Endpoint => remote = Some(ConnectError::NoResponse(NoResponse::Connect(refused(&error, *address).into()))),
            Blame::ThisMachine(kind) => {
                let failure = Some(ConnectError::Local(kind, format!("can't connect to {address}: {error}")));
                let place = if kind == LocalFailureKind::Route { &mut no_route } else { &mut local };
                *place = failure;
            }
        }
    }
    Err(local.or(remote).or(no_route).expect("there is an address, and each failed"))
}

fn refused(error: &io::Error, address: SocketAddr) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("connection refused by {address}"),
        io::ErrorKind::TimedOut => format!("{address} didn't take the connection in time"),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            format!("{address} is unreachable: a router on the way said so")
        }
        _ => format!("can't connect to {address}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    /// An address that takes no connection and refuses none: its queue is full.
    async fn swallows() -> (SocketAddr, (TcpListener, Vec<TcpStream>)) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            waiting.push(stream.unwrap());
        }
        (address, (listener, waiting))
    }

    #[tokio::test]
    async fn an_address_that_swallows_what_it_is_sent_leaves_time_for_the_next() {
        let (swallows, _held) = swallows().await;
        let answers = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [swallows, answers.local_addr().unwrap()];
        let within = Duration::from_secs(4);
        let dialled = timeout(within, first_of(&addresses, Instant::now() + within)).await;
        assert_eq!(dialled.unwrap().unwrap().peer_addr().unwrap(), addresses[1]);
    }
}
