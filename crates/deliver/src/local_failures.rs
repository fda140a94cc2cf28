//! Local failures: attempts that this machine couldn't make (docs/delivery.md, Local failures). They keep the message and never mark a webhook.
//!
//! | the system says | what it means |
//! |---|---|
//! | ECONNREFUSED, ECONNRESET, ETIMEDOUT of `connect` | the endpoint's |
//! | what routers on the way report to `connect` (ENETUNREACH, EHOSTUNREACH, …) | the endpoint's if this machine has a route to the address at this moment; else local: no route |
//! | EMFILE, ENFILE | local: no file descriptor |
//! | ENOMEM, ENOBUFS, EAGAIN | local: no memory |
//! | EADDRINUSE; EADDRNOTAVAIL of `connect` | local: no port; no route, where there is none |
//! | EADDRNOTAVAIL of `bind` | local: this machine has lost its source address |
//! | EINVAL (a blackhole route), EAFNOSUPPORT, ENETDOWN | local: no route |
//! | anything else | local: this machine forbids it. Firewalls answer EPERM or EACCES, seccomp and BPF whatever they were told to |
//!
//! An egress proxy that doesn't work is local (`proxy.rs`); a server that it can't reach isn't. A lookup that fails though the name may exist is local if no name server of this machine answers (`name_servers.rs`).
//!
//! Connecting a UDP socket asks for the route and sends nothing.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics::counter;
use pushline_model::{LocalFailure, LocalFailureKind};
use rustix::io::Errno;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::metrics::LOCAL_FAILURES;

/// The first wait after a local failure. It doubles while failures go on.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait after a local failure.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Failures of a kind are over when none came for this long: every message that waits has tried again by then.
const QUIET: Duration = Duration::from_secs(10);

/// Addresses that stand for the public internet until a server was reached (RFC 5737, RFC 3849). Only the route to them is asked for.
const PUBLIC: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// The local failures of the process: how long to wait after one, and what `/readyz` and the log say.
#[derive(Debug, Default)]
pub struct LocalFailures(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By kind: what fails now.
    failing: [Option<Failing>; LocalFailureKind::ALL.len()],
    /// The server beyond this machine that was reached last, by IPv4 and by IPv6.
    reached: [Option<IpAddr>; 2],
}

/// Failures of one kind that go on.
#[derive(Debug)]
struct Failing {
    since: Instant,
    last: Instant,
    count: u64,
    /// The wait grows at most once in its own time: many attempts fail together.
    wait: Duration,
    grows_at: Instant,
    /// The last failure, for people.
    detail: String,
    /// Whether it concerns the whole process, and not only one endpoint's address.
    is_general: bool,
}

/// What the system was asked for when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A socket.
    Open,
    /// The address that the connection shall come from.
    Bind,
    /// The connection.
    Connect,
}

/// What a failure to open a connection means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    ThisMachine(LocalFailureKind),
    Endpoint,
}

impl LocalFailures {
    /// Why attempts fail on this machine, for `/readyz`: "no file descriptors: …". None while nothing fails, or only single addresses are out of
    /// reach.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let state = self.lock();
        let failing = |kind: LocalFailureKind| state.failing[place(kind)].as_ref().filter(|failing| failing.is_general).map(|_| kind);
        LocalFailureKind::ALL.into_iter().find_map(failing).map(|kind| format!("messages wait: {kind}"))
    }

    /// An attempt failed for a local reason. Returns how long to wait. The first failure of a kind is logged, and so is their end.
    pub(crate) fn failed(self: &Arc<Self>, kind: LocalFailureKind, detail: impl fmt::Display) -> LocalFailure {
        counter!(LOCAL_FAILURES, "reason" => kind.name()).increment(1);
        let is_general = self.is_general(kind);
        let (is_first, wait) = self.lock().failed(kind, detail.to_string(), is_general, Instant::now());
        if is_first {
            warn!(reason = kind.name(), %detail, "this machine can't make attempts: messages keep waiting; {kind}");
            tokio::spawn(Arc::clone(self).watch(kind));
        }
        LocalFailure { kind, retry_after: wait }
    }

    /// A connection to a server was made.
    pub(crate) fn reached(&self, address: IpAddr) {
        if !address.is_loopback() {
            self.lock().reached[usize::from(address.is_ipv6())] = Some(address);
        }
    }

    /// Whether this machine has a route to the outside: to a server that was reached before, else to the public internet.
    pub(crate) fn gets_out(&self) -> bool {
        let reached = self.lock().reached;
        let candidates = if reached == [None, None] { PUBLIC.map(Some) } else { reached };
        candidates.into_iter().flatten().any(|address| has_route(SocketAddr::new(address, 9)))
    }

    fn is_general(&self, kind: LocalFailureKind) -> bool {
        match kind {
            LocalFailureKind::FileDescriptors | LocalFailureKind::Ports | LocalFailureKind::SourceAddress => true,
            LocalFailureKind::Memory | LocalFailureKind::NameServers | LocalFailureKind::Proxy => true,
            LocalFailureKind::Route | LocalFailureKind::Forbidden => !self.gets_out(),
            // Names that answer go on, and it ends by itself.
            LocalFailureKind::LookupThreads | LocalFailureKind::Panic => false,
        }
    }

    /// Logs the end of failures of a kind.
    async fn watch(self: Arc<Self>, kind: LocalFailureKind) {
        loop {
            let quiet_at = self.lock().failing[place(kind)].as_ref().map(|failing| failing.last + QUIET);
            let Some(quiet_at) = quiet_at else { return };
            sleep_until(quiet_at).await;
            let ended = self.lock().ended(kind, Instant::now());
            if let Some(Failing { since, last, count, detail, .. }) = ended {
                let seconds = (last - since).as_secs();
                info!(reason = kind.name(), failures = count, seconds, last = detail, "this machine can make attempts again");
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns whether it is the first of its kind, and the wait.
    fn failed(&mut self, kind: LocalFailureKind, detail: String, is_general: bool, now: Instant) -> (bool, Duration) {
        let slot = &mut self.failing[place(kind)];
        let Some(failing) = slot else {
            let (wait, grows_at) = (FIRST_WAIT, now + FIRST_WAIT);
            *slot = Some(Failing { since: now, last: now, count: 1, wait, grows_at, detail, is_general });
            return (true, wait);
        };
        if now >= failing.grows_at {
            failing.wait = LONGEST_WAIT.min(failing.wait * 2);
            failing.grows_at = now + failing.wait;
        }
        failing.count += 1;
        (failing.last, failing.detail, failing.is_general) = (now, detail, is_general);
        (false, failing.wait)
    }

    /// What has ended: no failure of the kind came for [`QUIET`].
    fn ended(&mut self, kind: LocalFailureKind, now: Instant) -> Option<Failing> {
        self.failing[place(kind)].take_if(|failing| now >= failing.last + QUIET)
    }
}

fn place(kind: LocalFailureKind) -> usize {
    LocalFailureKind::ALL.iter().position(|other| *other == kind).expect("ALL has every kind")
}

impl Blame {
    /// For an error of opening a socket, binding it, or connecting it to an address.
    pub(crate) fn of(step: Step, error: &io::Error, address: SocketAddr) -> Self {
        Self::decide(step, error, address.is_ipv6(), || has_route(address))
    }

    fn decide(step: Step, error: &io::Error, is_ipv6: bool, has_route: impl Fn() -> bool) -> Self {
        use LocalFailureKind::{Forbidden, Ports, Route, SourceAddress};
        // Without an errno: Pushline's own limit of time.
        let Some(errno) = Errno::from_io_error(error) else { return Self::Endpoint };
        if let Some(kind) = lacking(errno) {
            return Self::ThisMachine(kind);
        }
        match (step, errno) {
            (Step::Connect, Errno::CONNREFUSED | Errno::CONNRESET | Errno::TIMEDOUT) => Self::Endpoint,
            (Step::Connect, errno) if is_of_a_router(errno, is_ipv6) && has_route() => Self::Endpoint,
            (Step::Bind, Errno::ADDRNOTAVAIL) => Self::ThisMachine(SourceAddress),
            (_, Errno::ADDRNOTAVAIL) if has_route() => Self::ThisMachine(Ports),
            (_, Errno::ADDRINUSE) => Self::ThisMachine(Ports),
            (_, Errno::ADDRNOTAVAIL | Errno::INVAL | Errno::AFNOSUPPORT | Errno::NETDOWN) => Self::ThisMachine(Route),
            (_, Errno::NETUNREACH | Errno::HOSTUNREACH) => Self::ThisMachine(Route),
            _ => Self::ThisMachine(Forbidden),
        }
    }

    /// For an error that has nothing to do with an address.
    pub(crate) fn of_any(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::PERM | Errno::ACCESS) => Self::ThisMachine(LocalFailureKind::Forbidden),
            errno => errno.and_then(lacking).map_or(Self::Endpoint, Self::ThisMachine),
        }
    }
}

/// What this machine lacks, whatever it was asked for.
fn lacking(errno: Errno) -> Option<LocalFailureKind> {
    match errno {
        Errno::MFILE | Errno::NFILE => Some(LocalFailureKind::FileDescriptors),
        Errno::NOMEM | Errno::NOBUFS | Errno::AGAIN => Some(LocalFailureKind::Memory),
        _ => None,
    }
}

/// What ICMP messages of routers become (RFC 1122 §3.2.2.1, RFC 4443 §3.1): Linux's `icmp_err_convert` and, where a firewall forbids the way,
/// `icmpv6_err_convert`.
fn is_of_a_router(errno: Errno, is_ipv6: bool) -> bool {
    match errno {
        Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::NONET => true,
        Errno::NOPROTOOPT | Errno::OPNOTSUPP | Errno::PROTO | Errno::MSGSIZE => true,
        Errno::ACCESS => is_ipv6,
        _ => false,
    }
}

/// Whether this machine has a route to an address now. Where that can't be asked for, the answer is yes.
pub(crate) fn has_route(address: SocketAddr) -> bool {
    let here: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    match UdpSocket::bind((here, 0)).and_then(|socket| socket.connect(address)) {
        Ok(()) => true,
        Err(error) => Errno::from_io_error(&error).is_none_or(|errno| lacking(errno).is_some()),
    }
}

/// Whether the process can open a socket now; the error if not.
pub(crate) fn can_open_a_socket() -> io::Result<()> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(errno: Errno) -> io::Error {
        errno.into()
    }

    /// Every error of bind(2) and connect(2), and whatever a policy of the system may answer.
    #[test]
    fn only_what_comes_from_the_network_is_the_endpoints_fault() {
        use LocalFailureKind::{FileDescriptors, Forbidden, Memory, Ports, Route, SourceAddress};
        let blame = |step, errno, is_ipv6, has_route| Blame::decide(step, &error(errno), is_ipv6, || has_route);
        let from_the_network = |number| match Errno::from_raw_os_error(number) {
            Errno::CONNREFUSED | Errno::CONNRESET | Errno::TIMEDOUT => true,
            // ICMP.
            Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::NONET => true,
            Errno::NOPROTOOPT | Errno::OPNOTSUPP | Errno::PROTO | Errno::MSGSIZE => true,
            _ => false,
        };
        for number in 1..=133 {
            let errno = Errno::from_raw_os_error(number);
            let is_endpoints = blame(Step::Connect, errno, false, true) == Blame::Endpoint;
            assert_eq!(is_endpoints, from_the_network(number), "{errno:?}");
            for step in [Step::Open, Step::Bind] {
                assert_ne!(blame(step, errno, false, true), Blame::Endpoint, "{step:?} {errno:?}");
            }
        }
        for (step, errno, has_route, kind) in [
            (Step::Open, Errno::MFILE, true, FileDescriptors),
            (Step::Open, Errno::NFILE, false, FileDescriptors),
            (Step::Open, Errno::AFNOSUPPORT, false, Route),
            (Step::Connect, Errno::NOMEM, true, Memory),
            (Step::Connect, Errno::NOBUFS, true, Memory),
            (Step::Connect, Errno::AGAIN, true, Memory),
            (Step::Connect, Errno::ADDRNOTAVAIL, true, Ports),
            (Step::Connect, Errno::ADDRNOTAVAIL, false, Route),
            (Step::Connect, Errno::ADDRINUSE, true, Ports),
            (Step::Bind, Errno::ADDRINUSE, true, Ports),
            (Step::Bind, Errno::ADDRNOTAVAIL, true, SourceAddress),
            (Step::Connect, Errno::INVAL, true, Route),
            (Step::Connect, Errno::NETDOWN, true, Route),
            (Step::Connect, Errno::NETUNREACH, false, Route),
            (Step::Connect, Errno::HOSTUNREACH, false, Route),
            (Step::Connect, Errno::PERM, true, Forbidden),
            (Step::Connect, Errno::ACCESS, true, Forbidden),
            (Step::Connect, Errno::NOSYS, true, Forbidden),
        ] {
            assert_eq!(blame(step, errno, false, has_route), Blame::ThisMachine(kind), "{step:?} {errno:?}");
        }
        // "Administratively prohibited" of ICMPv6, unless it is a route of this machine that prohibits it.
        assert_eq!(blame(Step::Connect, Errno::ACCESS, true, true), Blame::Endpoint);
        assert_eq!(blame(Step::Connect, Errno::ACCESS, true, false), Blame::ThisMachine(Forbidden));
    }

    #[test]
    fn a_loopback_address_has_a_route() {
        assert!(has_route(([127, 0, 0, 1], 9).into()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_doubles_once_in_its_own_time_however_many_attempts_fail() {
        let failures = Arc::<LocalFailures>::default();
        let fail = || failures.failed(LocalFailureKind::FileDescriptors, "EMFILE").retry_after;
        assert_eq!([fail(), fail(), fail()], [FIRST_WAIT; 3]);
        let mut wait = FIRST_WAIT;
        for _ in 0..9 {
            tokio::time::advance(wait).await;
            wait = LONGEST_WAIT.min(wait * 2);
            assert_eq!([fail(), fail()], [wait; 2]);
        }
        assert_eq!(wait, LONGEST_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_tells_of_what_fails_until_it_was_quiet_for_a_while() {
        let failures = Arc::<LocalFailures>::default();
        assert_eq!(failures.reason(), None);
        failures.failed(LocalFailureKind::FileDescriptors, "EMFILE");
        tokio::time::sleep(QUIET / 2).await;
        failures.failed(LocalFailureKind::FileDescriptors, "EMFILE");
        tokio::time::sleep(QUIET * 3 / 4).await;
        assert!(failures.reason().is_some_and(|reason| reason.contains("no file descriptors")));
        tokio::time::sleep(QUIET / 2).await;
        assert_eq!(failures.reason(), None);
        assert_eq!(failures.failed(LocalFailureKind::FileDescriptors, "EMFILE").retry_after, FIRST_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn one_attempt_that_panics_leaves_the_process_ready() {
        let failures = Arc::<LocalFailures>::default();
        failures.failed(LocalFailureKind::Panic, "a bug");
        assert_eq!(failures.reason(), None);
    }
}
