//! Dialling: the addresses of a name in the order and at the pace of Happy Eyeballs (RFC 8305), until one takes the connection.

#[cfg(test)]
mod namespace_test;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use pushline_model::{DescriptorPermit, LocalFailureKind, NoResponse};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    local_failures::{Blame, Step},
    network::ConnectError,
};

/// The next address is tried this long after the last one, if none has taken the connection meanwhile (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How many addresses of a name are tried at once.
const AT_ONCE: usize = 4;

/// Dials the addresses, from one address of this machine if it is given. The next one is tried when the last one has failed, or beside it after
/// [`ATTEMPT_DELAY`] if `spare` has a file descriptor for it. Each has a part of the time: one that swallows what it is sent leaves some for the next.
///
/// If none takes the connection, an address that couldn't be tried for lack of resources decides first, then one that failed by itself. Only where this
/// machine has no route to any of them is that the reason: many machines have no IPv6, and most hosts have addresses of both kinds.
pub(crate) async fn first_of(
    addresses: &[SocketAddr],
    deadline: Instant,
    source: Option<IpAddr>,
    spare: impl Fn() -> Option<DescriptorPermit>,
) -> Result<TcpStream, ConnectError> {
    let each = part_of(deadline, addresses.len());
    let mut rest = interleaved(addresses).into_iter();
    let (mut attempts, mut failures) = (FuturesUnordered::new(), Failures::default());
    let mut next_at = Instant::now();
    loop {
        tokio::select! {
            biased;
            Some((address, connected)) = attempts.next() => match connected {
                Ok(stream) => return Ok(stream),
                Err(refused) => {
                    failures.note(&refused, address, source);
                    next_at = Instant::now();
                }
            },
            () = sleep_until(next_at), if rest.len() > 0 && attempts.len() < AT_ONCE => {
                next_at = Instant::now() + ATTEMPT_DELAY;
                // The first of those that run has the connection's own descriptor.
                let permit = if attempts.is_empty() { None } else { spare() };
                if (attempts.is_empty() || permit.is_some()) && let Some(address) = rest.next() {
                    attempts.push(attempt(address, source, each, permit));
                }
            },
            else => return Err(failures.decide()),
        }
    }
}

/// One address's part of the time that is left for this many.
pub(crate) fn part_of(deadline: Instant, addresses: usize) -> Duration {
    let parts = u32::try_from(addresses.max(1)).expect("a name has fewer than 2^32 addresses");
    deadline.saturating_duration_since(Instant::now()) / parts
}

/// Gives the spare descriptor back when it ends: all others are dropped with the first that takes the connection.
async fn attempt(
    address: SocketAddr,
    source: Option<IpAddr>,
    within: Duration,
    _permit: Option<DescriptorPermit>,
) -> (SocketAddr, Result<TcpStream, Refused>) {
    let connected = timeout(within, connect(address, source)).await;
    (address, connected.unwrap_or_else(|_| Err((Step::Connect, io::ErrorKind::TimedOut.into()))))
}

/// What the system refused, and why.
type Refused = (Step, io::Error);

async fn connect(address: SocketAddr, source: Option<IpAddr>) -> Result<TcpStream, Refused> {
    let socket = open(address).map_err(|error| (Step::Open, error))?;
    if let Some(source) = source {
        bind(&socket, source).map_err(|error| (Step::Bind, error))?;
    }
    socket.connect(address).await.map_err(|error| (Step::Connect, error))
}

fn open(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Takes the address, but no port: `connect` takes one that is free towards the server. Otherwise the ports of the address, some thirty thousand, would
/// have to do for the connections to all servers together (ip(7), IP_BIND_ADDRESS_NO_PORT).
fn bind(socket: &TcpSocket, source: IpAddr) -> io::Result<()> {
    // A system that hasn't the option takes the port here.
    _ = setsockopt(socket, IpBindAddressNoPort, &true);
    socket.bind((source, 0).into())
}

/// By turns one address of each family, in the order of each; the family of the first begins (RFC 8305 §4).
fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first = addresses.first().map(SocketAddr::is_ipv4);
    let (mut these, mut those) = (Vec::new(), Vec::new());
    for (place, address) in addresses.iter().enumerate() {
        if !addresses[..place].contains(address) {
            let family = if Some(address.is_ipv4()) == first { &mut these } else { &mut those };
            family.push(*address);
        }
    }
    let (mut these, mut those) = (these.into_iter(), those.into_iter());
    let mut order = Vec::with_capacity(addresses.len());
    while these.len() + those.len() > 0 {
        order.extend(these.next());
        order.extend(those.next());
    }
    order
}

/// Why addresses took no connection: the last of each kind.
#[derive(Default)]
struct Failures {
    local: Option<ConnectError>,
    remote: Option<ConnectError>,
    no_route: Option<ConnectError>,
}

impl Failures {
    fn note(&mut self, (step, error): &Refused, address: SocketAddr, source: Option<IpAddr>) {
        if let Some(source) = source.filter(|source| source.is_ipv4() != address.is_ipv4()) {
            let detail = format!("[egress] source_address is {source}, and {address} is of the other family");
            self.no_route = Some(ConnectError::Local(LocalFailureKind::Route, detail));
            return;
        }
        match Blame::of(*step, error, address) {
            Blame::Endpoint => self.remote = Some(ConnectError::NoResponse(NoResponse::Connect(refused(error, address).into()))),
            Blame::ThisMachine(kind) => {
                let what = match (step, source) {
                    (Step::Bind, Some(source)) => format!("connections can't come from {source}"),
                    _ => format!("can't connect to {address}"),
                };
                let failure = Some(ConnectError::Local(kind, format!("{what}: {error}")));
                let place = if kind == LocalFailureKind::Route { &mut self.no_route } else { &mut self.local };
                *place = failure;
            }
        }
    }

    fn decide(self) -> ConnectError {
        self.local.or(self.remote).or(self.no_route).expect("there is an address, and each failed")
    }
}

fn refused(error: &io::Error, address: SocketAddr) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("connection refused by {address}"),
        io::ErrorKind::TimedOut => format!("{address} didn't take the connection in time"),
        io::ErrorKind::ConnectionReset => format!("{address} reset the connection before it took it"),
        _ => format!("{address} is unreachable: a router on the way reports \"{error}\""),
    }
}

#[cfg(test)]
mod tests {
    use pushline_model::{DescriptorBudget, DescriptorUse};
    use tokio::net::TcpListener;

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
    async fn the_next_address_is_tried_beside_one_that_swallows_what_it_is_sent() {
        let (swallows, _held) = swallows().await;
        let answers = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [swallows, answers.local_addr().unwrap()];
        let budget = DescriptorBudget::of(0, 1);
        let spare = || budget.try_acquire(DescriptorUse::Push);
        // Far less than the first address's part of the time.
        let dialled = timeout(Duration::from_secs(20), first_of(&addresses, Instant::now() + Duration::from_secs(120), None, spare)).await;
        assert_eq!(dialled.unwrap().unwrap().peer_addr().unwrap(), addresses[1]);
        assert_eq!(budget.in_use(DescriptorUse::Push), 0);
    }

    #[tokio::test]
    async fn without_a_spare_descriptor_an_address_that_swallows_what_it_is_sent_leaves_time_for_the_next() {
        let (swallows, _held) = swallows().await;
        let answers = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [swallows, answers.local_addr().unwrap()];
        let within = Duration::from_secs(4);
        let dialled = timeout(within, first_of(&addresses, Instant::now() + within, None, || None)).await;
        assert_eq!(dialled.unwrap().unwrap().peer_addr().unwrap(), addresses[1]);
    }

    #[test]
    fn families_take_turns_and_the_first_of_the_name_begins() {
        let addresses = |hosts: &[&str]| hosts.iter().map(|host| SocketAddr::new(host.parse().unwrap(), 80)).collect::<Vec<_>>();
        let ordered = |hosts: &[&str]| interleaved(&addresses(hosts));
        assert_eq!(ordered(&["::1", "::2", "::3", "0.0.0.1", "0.0.0.2"]), addresses(&["::1", "0.0.0.1", "::2", "0.0.0.2", "::3"]));
        assert_eq!(ordered(&["0.0.0.1", "0.0.0.1", "::1"]), addresses(&["0.0.0.1", "::1"]));
    }

    #[tokio::test]
    async fn a_connection_comes_from_the_address_that_is_given() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, deadline) = (server.local_addr().unwrap(), Instant::now() + Duration::from_secs(20));
        let source = IpAddr::from([127, 0, 0, 3]);
        let dialled = first_of(&[address], deadline, Some(source), || None).await.unwrap();
        assert_eq!(dialled.local_addr().unwrap().ip(), source);
        let other = first_of(&[address], deadline, Some(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])), || None).await;
        assert!(matches!(&other, Err(ConnectError::Local(LocalFailureKind::Route, why)) if why.contains("source_address")), "{other:?}");
    }
}
