//! Lookups of names: one at a time for each name, however many attempts wait for it.
//!
//! A name that no server answers for costs one thread, and all such names together leave threads to the others. docs/network.md, Names, has what was
//! measured before threads were chosen.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use dns_lookup::{LookupErrorKind, lookup_host};
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use hashbrown::{HashMap, HashSet};
use pushline_model::{LocalFailureKind, NoResponse};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::{Instant, timeout},
};

use crate::{
    local_failures::{Blame, can_open_a_socket},
    name_servers,
    recent_addresses::{RecentAddresses, Standing},
};

/// How many names are looked up at once at the most. Each takes a thread until the system gives up, even if no attempt waits for it any more; of the
/// 512 threads that may block, the others are left to those that read logs and save checkpoints.
const AT_ONCE: usize = 384;

/// Which part of them may be names that had no address last time: two thirds.
const DOUBTFUL: (usize, usize) = (2, 3);

/// The longest wait for a thread (docs/document.md, Outcome): an attempt that has none by then is over.
const IN_LINE: Duration = Duration::from_secs(10);

/// A lookup that takes longer may never end, and the next attempt begins another. The system gives a name this long with three silent servers.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// Looks up a name, blocking.
type LookUp = dyn Fn(&str) -> Result<Vec<SocketAddr>, LookupFailure> + Send + Sync;

/// A lookup that several attempts may wait for.
type Active = Shared<BoxFuture<'static, Result<Vec<SocketAddr>, LookupFailure>>>;

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LookupFailure {
    /// The name doesn't exist, or has no address.
    NoSuchName,
    /// No name server answered, or one answered that it failed.
    ServerFailure,
    /// The lookup didn't end in time.
    TimedOut,
    /// This machine couldn't look it up.
    Local(LocalFailureKind, String),
}

/// What is being looked up. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Lookups {
    look_up: Arc<LookUp>,
    threads: Arc<Semaphore>,
    /// For names that had no address last time.
    doubtful: Arc<Semaphore>,
    names: Arc<Mutex<Names>>,
}

#[derive(Default)]
struct Names {
    active: HashMap<String, Active>,
    without_address: HashSet<String>,
    /// Of names that connections lead to.
    recent: HashMap<String, Weak<RecentAddresses>>,
    /// Whether the name servers answer, while that is being found out.
    probe: Option<Shared<BoxFuture<'static, bool>>>,
}

/// The right to a thread.
type Permits = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

impl LookupFailure {
    /// As an attempt's end.
    pub(crate) fn no_response(&self, host: &str) -> NoResponse {
        NoResponse::Dns(match self {
            Self::NoSuchName => format!("no such name: {host} doesn't exist or has no address").into(),
            Self::ServerFailure => format!("name server failure: no name server could tell the address of {host}").into(),
            Self::TimedOut => format!("the lookup of {host} didn't end in time").into(),
            Self::Local(kind, detail) => format!("{kind}: {detail}").into(),
        })
    }

    /// By the error codes of `getaddrinfo`. It hides some failures of this machine in "try again" and "no name": without a descriptor it can read
    /// neither its configuration nor an answer.
    fn of(error: dns_lookup::LookupError) -> Self {
        use LookupErrorKind as K;
        let kind = error.kind();
        if let Err(error) = can_open_a_socket()
            && let Blame::ThisMachine(kind) = Blame::of_any(&error)
        {
            return Self::Local(kind, format!("the resolver can't open a socket: {error}"));
        }
        match kind {
            K::NoName | K::NoData => Self::NoSuchName,
            K::Memory => Self::Local(LocalFailureKind::Memory, "the resolver has no memory".to_owned()),
            K::System | K::IO | K::Unknown => match io::Error::from(error) {
                error if let Blame::ThisMachine(kind) = Blame::of_any(&error) => Self::Local(kind, format!("the resolver failed: {error}")),
                _ => Self::ServerFailure,
            },
            K::Again | K::Fail | K::Badflags | K::Family | K::Socktype | K::Service => Self::ServerFailure,
        }
    }
}

impl Lookups {
    /// By the system's resolver, `at_once` names at once: each may take two descriptors.
    pub(crate) fn of_the_system(at_once: usize) -> Self {
        let look_up = |host: &str| match lookup_host(host) {
            Ok(addresses) => Ok(addresses.map(|address| SocketAddr::new(address, 0)).collect()),
            Err(error) => match LookupFailure::of(error) {
                LookupFailure::ServerFailure if name_servers::refuse(host) => {
                    Err(LookupFailure::Local(LocalFailureKind::NameServers, format!("they refuse to look up {host}")))
                }
                failure => Err(failure),
            },
        };
        Self::by(look_up, at_once.min(AT_ONCE))
    }

    pub(crate) fn by(look_up: impl Fn(&str) -> Result<Vec<SocketAddr>, LookupFailure> + Send + Sync + 'static, at_once: usize) -> Self {
        let [threads, doubtful] = [at_once, at_once * DOUBTFUL.0 / DOUBTFUL.1].map(|permits| Arc::new(Semaphore::new(permits)));
        Self { look_up: Arc::new(look_up), threads, doubtful, names: Arc::default() }
    }

    /// A name's addresses: one at least.
    pub(crate) async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, LookupFailure> {
        let mut addresses = self.join(host).await?;
        addresses.iter_mut().for_each(|address| address.set_port(port));
        if addresses.is_empty() { Err(LookupFailure::NoSuchName) } else { Ok(addresses) }
    }

    /// What lookups tell of a name's addresses from now on.
    pub(crate) fn recent(&self, host: &str) -> Arc<RecentAddresses> {
        let mut names = self.lock();
        if let Some(recent) = names.recent.get(host).and_then(Weak::upgrade) {
            return recent;
        }
        if names.recent.len() == names.recent.capacity() {
            names.recent.retain(|_, recent| recent.strong_count() > 0);
        }
        let recent = Arc::new(RecentAddresses::new(Instant::now()));
        names.recent.insert(host.to_owned(), Arc::downgrade(&recent));
        recent
    }

    /// Whether a name still has an address that a lookup has given. It begins a lookup when it is time for one, and doesn't wait for it.
    pub(crate) fn still_has(&self, host: &str, recent: &RecentAddresses, address: IpAddr) -> bool {
        let standing = recent.standing(address, Instant::now());
        if standing == Standing::Due {
            drop(self.join(host));
        }
        standing != Standing::Left
    }

    /// Whether the name servers of this machine answer, found out once for all lookups that failed meanwhile.
    pub(crate) async fn name_servers_answer(&self) -> bool {
        let begin = || {
            let this = self.clone();
            let asking = async move {
                let answer = spawn_blocking(name_servers::answer).await.unwrap_or(true);
                this.lock().probe = None;
                answer
            };
            asking.boxed().shared()
        };
        let probe = self.lock().probe.get_or_insert_with(begin).clone();
        probe.await
    }

    /// The active lookup of a name, or a new one, which goes on when no attempt waits for it any more.
    fn join(&self, host: &str) -> Active {
        let begin = || {
            let task = tokio::spawn(self.clone().run(host.to_owned()));
            async { task.await.unwrap_or_else(|ended| Err(panicked(&ended))) }.boxed().shared()
        };
        self.lock().active.entry_ref(host).or_insert_with(begin).clone()
    }

    async fn run(self, host: String) -> Result<Vec<SocketAddr>, LookupFailure> {
        let permits = timeout(IN_LINE, self.permits(&host)).await;
        let looked_up = permits.is_ok();
        let found = match permits {
            Ok(permits) => timeout(GIVEN_UP, self.on_a_thread(host.clone(), permits)).await.unwrap_or(Err(LookupFailure::TimedOut)),
            Err(_) => Err(LookupFailure::TimedOut),
        };
        let mut names = self.lock();
        names.active.remove(&host);
        match &found {
            Ok(addresses) => {
                names.without_address.remove(&host);
                if let Some(recent) = names.recent.get(&host).and_then(Weak::upgrade) {
                    recent.note(addresses.iter().map(SocketAddr::ip), Instant::now());
                }
            }
            Err(LookupFailure::Local(..)) => {}
            Err(_) if looked_up => _ = names.without_address.insert(host),
            Err(_) => {}
        }
        found
    }

    async fn permits(&self, host: &str) -> Permits {
        const OPEN: &str = "the semaphores are never closed";
        let is_doubtful = self.lock().without_address.contains(host);
        let doubtful = if is_doubtful { Some(Arc::clone(&self.doubtful).acquire_owned().await.expect(OPEN)) } else { None };
        (Arc::clone(&self.threads).acquire_owned().await.expect(OPEN), doubtful)
    }

    /// The thread keeps its permits until it ends, even if no attempt waits for it any more.
    async fn on_a_thread(&self, host: String, permits: Permits) -> Result<Vec<SocketAddr>, LookupFailure> {
        let look_up = Arc::clone(&self.look_up);
        let looking = move || {
            let found = look_up(&host);
            drop(permits);
            found
        };
        spawn_blocking(looking).await.unwrap_or_else(|ended| Err(panicked(&ended)))
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lookup that panicked, or that the shutdown cut off, tells nothing about the name.
fn panicked(ended: &tokio::task::JoinError) -> LookupFailure {
    LookupFailure::Local(LocalFailureKind::Panic, ended.to_string())
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookups").field("active", &self.lock().active.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use tokio::task::JoinSet;

    use super::*;
    use crate::namespace::is_inside;

    const fn doubtful_at_once() -> usize {
        AT_ONCE * DOUBTFUL.0 / DOUBTFUL.1
    }

    #[tokio::test]
    async fn a_name_that_no_server_answers_for_is_looked_up_once_however_many_attempts_give_up_on_it() {
        let (answer, answers) = mpsc::channel::<()>();
        let (answers, begun) = (Mutex::new(answers), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&begun);
        let lookups = Lookups::by(
            move |host| {
                if host == "dead.example" {
                    count.fetch_add(1, Ordering::Relaxed);
                    drop(answers.lock().map(|answers| answers.recv()));
                }
                Ok(vec![([192, 0, 2, 1], 0).into()])
            },
            AT_ONCE,
        );
        let patience = Duration::from_millis(50);
        for _ in 0..3 {
            let attempts: JoinSet<bool> = (0..AT_ONCE)
                .map(|_| {
                    let lookups = lookups.clone();
                    async move { timeout(patience, lookups.addresses("dead.example", 80)).await.is_err() }
                })
                .collect();
            assert!(attempts.join_all().await.into_iter().all(|gave_up| gave_up));
            let other = timeout(Duration::from_secs(10), lookups.addresses("other.example", 81)).await;
            assert_eq!(other, Ok(Ok(vec![([192, 0, 2, 1], 81).into()])));
        }
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        // A lookup that has ended is forgotten: the next attempts begin another.
        for _ in 0..2 {
            let answered = async { answer.send(()).unwrap() };
            let (found, ()) = tokio::join!(lookups.addresses("dead.example", 80), answered);
            assert_eq!(found, Ok(vec![([192, 0, 2, 1], 80).into()]));
        }
        assert_eq!(begun.load(Ordering::Relaxed), 2);
        assert!(lookups.lock().active.is_empty());
    }

    /// Names that hang until the sender is dropped, and how many lookups of them have begun.
    fn hanging() -> (Lookups, mpsc::Sender<()>, Arc<AtomicUsize>) {
        let (hangs, until) = mpsc::channel::<()>();
        let (until, count) = (Mutex::new(until), Arc::new(AtomicUsize::new(0)));
        let begun = Arc::clone(&count);
        let lookups = Lookups::by(
            move |host| {
                if host.starts_with("dead") {
                    begun.fetch_add(1, Ordering::Relaxed);
                    // One waits for the sender to go, the others for that one.
                    drop(until.lock().map(|until| until.recv()));
                    return Err(LookupFailure::ServerFailure);
                }
                Ok(vec![([192, 0, 2, 1], 0).into()])
            },
            AT_ONCE,
        );
        (lookups, hangs, count)
    }

    #[tokio::test]
    async fn names_that_no_server_answers_for_leave_threads_to_the_others() {
        let (lookups, hangs, begun) = hanging();
        let dead: Vec<String> = (0..2 * AT_ONCE).map(|number| format!("dead-{number}.example")).collect();
        lookups.lock().without_address.extend(dead.iter().cloned());
        let waiting: Vec<_> = dead.iter().map(|name| tokio::spawn(lookups.join(name))).collect();
        while begun.load(Ordering::Relaxed) < doubtful_at_once() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(lookups.addresses("other.example", 80).await.is_ok());
        assert_eq!(begun.load(Ordering::Relaxed), doubtful_at_once());
        drop(hangs);
        for lookup in waiting {
            assert_eq!(lookup.await.unwrap(), Err(LookupFailure::ServerFailure));
        }
        // One that has an address again is like others.
        lookups.lock().without_address.insert("other.example".to_owned());
        assert!(lookups.addresses("other.example", 80).await.is_ok());
        assert!(!lookups.lock().without_address.contains("other.example"));
    }

    #[tokio::test]
    async fn a_lookup_that_never_ends_is_given_up_and_the_next_attempt_begins_another() {
        let (lookups, hangs, begun) = hanging();
        for lookup in 1..=2 {
            let asked = tokio::spawn(lookups.join("dead.example"));
            while begun.load(Ordering::Relaxed) < lookup {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::pause();
            tokio::time::advance(GIVEN_UP).await;
            tokio::time::resume();
            assert_eq!(asked.await.unwrap(), Err(LookupFailure::TimedOut));
        }
        drop(hangs);
    }

    #[tokio::test]
    async fn a_lookup_that_fails_on_this_machine_makes_no_name_doubtful() {
        let local = LookupFailure::Local(LocalFailureKind::FileDescriptors, "EMFILE".to_owned());
        let answer = local.clone();
        let lookups = Lookups::by(move |_| Err(answer.clone()), 1);
        assert_eq!(lookups.addresses("a.example", 80).await, Err(local));
        assert!(lookups.lock().without_address.is_empty());
    }

    /// A lookup by the system, in a namespace whose name server answers each query with this code. `None` elsewhere.
    fn by_a_name_server_that_answers(code: u8, test: &str) -> Option<Result<Vec<SocketAddr>, LookupFailure>> {
        let configuration = "file=$(mktemp) && echo nameserver 127.0.0.1 >$file && mount --bind $file /etc/resolv.conf && rm $file";
        if !is_inside(&format!("lookups::tests::{test}"), configuration) {
            return None;
        }
        let socket = std::net::UdpSocket::bind("127.0.0.1:53").unwrap();
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut query) {
                (query[2], query[3]) = (0x81, 0x80 | code);
                socket.send_to(&query[..length], client).unwrap();
            }
        });
        Some(Lookups::of_the_system(1).look_up.as_ref()("no-such-name.example"))
    }

    #[test]
    fn the_system_tells_a_name_that_does_not_exist() {
        let found = by_a_name_server_that_answers(3, "the_system_tells_a_name_that_does_not_exist");
        assert!(matches!(found, None | Some(Err(LookupFailure::NoSuchName))), "{found:?}");
    }

    #[test]
    fn the_system_tells_a_name_whose_own_servers_fail() {
        let found = by_a_name_server_that_answers(2, "the_system_tells_a_name_whose_own_servers_fail");
        assert!(matches!(found, None | Some(Err(LookupFailure::ServerFailure))), "{found:?}");
    }

    #[test]
    fn a_name_server_that_serves_this_machine_no_longer_is_no_fault_of_a_name() {
        let found = by_a_name_server_that_answers(5, "a_name_server_that_serves_this_machine_no_longer_is_no_fault_of_a_name");
        assert!(matches!(found, None | Some(Err(LookupFailure::Local(LocalFailureKind::NameServers, _)))), "{found:?}");
    }

    #[tokio::test]
    async fn a_lookup_that_panics_is_a_local_failure_and_the_next_attempt_begins_another() {
        let lookups = Lookups::by(|host| if host == "panics.example" { panic!("a bug") } else { Ok(vec![([192, 0, 2, 1], 0).into()]) }, 1);
        for _ in 0..2 {
            let found = lookups.addresses("panics.example", 80).await;
            assert!(matches!(found, Err(LookupFailure::Local(LocalFailureKind::Panic, _))), "{found:?}");
        }
        assert!(lookups.addresses("other.example", 80).await.is_ok(), "its thread is free again");
    }
}
