//! Lookups of names: one at a time for each name, however many attempts wait for it.
//!
//! A lookup keeps its place in line for a thread when its attempts give up. docs/network.md, Names, has what was measured before threads were chosen.

#[cfg(test)]
mod start_test;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use dns_lookup::{LookupErrorKind, lookup_host};
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use hashbrown::HashMap;
use pushline_model::{LocalFailureKind, NoResponse};
use tokio::{
    task::{JoinError, spawn_blocking},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    local_failures::{Blame, can_open_a_socket},
    lookup_threads::{LOOKUP_THREADS, LookupThreads, NameClass},
    name_servers,
    recent_addresses::{RecentAddresses, Standing},
};

/// A lookup that takes longer may never end, and the next attempt begins another. The system gives a name this long with three silent servers.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// Of how many names the class is remembered. Beyond it all are forgotten, and each is unproven again.
const REMEMBERED_NAMES: usize = 1 << 16;

/// The addresses of a name, with port 0.
type Found = Result<Vec<SocketAddr>, LookupFailure>;

/// Looks up a name. It has begun when it returns, and goes on when it is dropped.
type LookUp = dyn Fn(String) -> BoxFuture<'static, Found> + Send + Sync;

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
    threads: LookupThreads,
    names: Arc<Mutex<Names>>,
}

#[derive(Default)]
struct Names {
    active: HashMap<String, Active>,
    /// Of names that were looked up before.
    classes: HashMap<String, NameClass>,
    /// Of names that connections lead to.
    recent: HashMap<String, Weak<RecentAddresses>>,
    /// Whether the name servers answer, while that is being found out.
    probe: Option<Shared<BoxFuture<'static, bool>>>,
}

/// A lookup that several attempts may wait for.
#[derive(Clone)]
struct Active {
    found: Shared<BoxFuture<'static, Found>>,
    class: NameClass,
    /// Since when it has a thread.
    begun: Arc<OnceLock<Instant>>,
}

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
    /// By the system's resolver, `threads` names at once: each may take two descriptors.
    pub(crate) fn of_the_system(threads: usize) -> Self {
        let look_up = |host: &str| match lookup_host(host) {
            Ok(addresses) => Ok(addresses.map(|address| SocketAddr::new(address, 0)).collect()),
            Err(error) => match LookupFailure::of(error) {
                LookupFailure::ServerFailure if name_servers::refuse(host) => {
                    Err(LookupFailure::Local(LocalFailureKind::NameServers, format!("they refuse to look up {host}")))
                }
                failure => Err(failure),
            },
        };
        Self::by(look_up, threads.min(LOOKUP_THREADS))
    }

    pub(crate) fn by(look_up: impl Fn(&str) -> Found + Send + Sync + 'static, threads: usize) -> Self {
        let look_up = Arc::new(look_up);
        let on_a_thread = move |host: String| {
            let look_up = Arc::clone(&look_up);
            let looking = spawn_blocking(move || look_up(&host));
            looking.map(|ended| ended.unwrap_or_else(|error| Err(panicked(&error)))).boxed()
        };
        Self::by_tasks(on_a_thread, threads)
    }

    fn by_tasks(look_up: impl Fn(String) -> BoxFuture<'static, Found> + Send + Sync + 'static, threads: usize) -> Self {
        Self { look_up: Arc::new(look_up), threads: LookupThreads::new(threads), names: Arc::default() }
    }

    /// A name's addresses: one at least.
    pub(crate) async fn addresses(&self, host: &str, port: u16, deadline: Instant) -> Found {
        let (lookup, joined) = (self.join(host), Instant::now());
        let mut addresses = timeout_at(deadline, lookup.found.clone()).await.unwrap_or_else(|_| Err(lookup.overdue(joined)))?;
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
        let mut names = self.lock();
        if let Some(active) = names.active.get(host) {
            return active.clone();
        }
        let class = names.classes.get(host).copied().unwrap_or(NameClass::Unproven);
        let begun = Arc::<OnceLock<Instant>>::default();
        let task = tokio::spawn(self.clone().run(host.to_owned(), class, Arc::clone(&begun)));
        let found = async { task.await.unwrap_or_else(|ended| Err(panicked(&ended))) }.boxed().shared();
        let active = Active { found, class, begun };
        names.active.insert(host.to_owned(), active.clone());
        active
    }

    async fn run(self, host: String, class: NameClass, begun: Arc<OnceLock<Instant>>) -> Found {
        let permit = self.threads.acquire(class).await;
        begun.get_or_init(Instant::now);
        let looking = (self.look_up)(host.clone());
        // The thread keeps its permit until it ends, even if the lookup is given up before.
        let looking = tokio::spawn(async move {
            let found = looking.await;
            drop(permit);
            found
        });
        let ended = timeout(GIVEN_UP, looking).await.map(|ended| ended.unwrap_or_else(|error| Err(panicked(&error))));
        let found = ended.unwrap_or(Err(LookupFailure::TimedOut));
        self.lock().ended(host, &found);
        found
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names {
    fn ended(&mut self, host: String, found: &Found) {
        self.active.remove(&host);
        if let Ok(addresses) = found
            && let Some(recent) = self.recent.get(&host).and_then(Weak::upgrade)
        {
            recent.note(addresses.iter().map(SocketAddr::ip), Instant::now());
        }
        let class = match found {
            Ok(_) | Err(LookupFailure::NoSuchName) => NameClass::Answering,
            Err(LookupFailure::ServerFailure | LookupFailure::TimedOut) => NameClass::Silent,
            Err(LookupFailure::Local(..)) => return,
        };
        if self.classes.len() >= REMEMBERED_NAMES {
            self.classes.clear();
        }
        self.classes.insert(host, class);
    }
}

impl Active {
    /// Why an attempt that has waited since then has no address. Only a silent name has a part in the lack of a thread: for any other, the attempt
    /// doesn't count unless the lookup had its thread for half of the time.
    fn overdue(&self, joined: Instant) -> LookupFailure {
        let looking = self.begun.get().map_or(Duration::ZERO, Instant::elapsed);
        if self.class == NameClass::Silent || looking >= joined.elapsed() / 2 {
            return LookupFailure::TimedOut;
        }
        LookupFailure::Local(LocalFailureKind::LookupThreads, "names that no server answers for hold the threads".to_owned())
    }
}

/// A lookup that panicked, or that the shutdown cut off, tells nothing about the name.
fn panicked(ended: &JoinError) -> LookupFailure {
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

    /// Threads in these tests: four for silent names, two more for unproven ones, and one for those that answer.
    const THREADS: usize = 7;

    /// Far longer than a lookup of these tests takes.
    fn deadline() -> Instant {
        Instant::now() + Duration::from_secs(10)
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
            THREADS,
        );
        let patience = Duration::from_millis(50);
        for _ in 0..3 {
            let attempts: JoinSet<Found> = (0..100)
                .map(|_| {
                    let lookups = lookups.clone();
                    async move { lookups.addresses("dead.example", 80, Instant::now() + patience).await }
                })
                .collect();
            assert!(attempts.join_all().await.into_iter().all(|found| found == Err(LookupFailure::TimedOut)));
            let other = lookups.addresses("other.example", 81, deadline()).await;
            assert_eq!(other, Ok(vec![([192, 0, 2, 1], 81).into()]));
        }
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        // A lookup that has ended is forgotten: the next attempts begin another.
        for _ in 0..2 {
            let answered = async { answer.send(()).unwrap() };
            let (found, ()) = tokio::join!(lookups.addresses("dead.example", 80, deadline()), answered);
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
            THREADS,
        );
        (lookups, hangs, count)
    }

    async fn until_begun(begun: &AtomicUsize, lookups: usize) {
        while begun.load(Ordering::Relaxed) < lookups {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn names_that_no_server_answers_for_leave_threads_to_the_others() {
        let (lookups, hangs, begun) = hanging();
        assert!(lookups.addresses("known.example", 80, deadline()).await.is_ok());
        let silent: Vec<String> = (0..2 * THREADS).map(|number| format!("dead-{number}.example")).collect();
        lookups.lock().classes.extend(silent.iter().map(|name| (name.clone(), NameClass::Silent)));
        let mut waiting: Vec<_> = silent.iter().map(|name| lookups.join(name).found).collect();
        until_begun(&begun, 4).await;
        // A name that wasn't looked up before.
        assert!(lookups.addresses("other.example", 80, deadline()).await.is_ok());
        waiting.extend((0..2).map(|number| lookups.join(&format!("dead-new-{number}.example")).found));
        until_begun(&begun, 6).await;
        assert!(lookups.addresses("known.example", 80, deadline()).await.is_ok());
        // Out of time for lack of a thread: a silent name has timed out, another one is not to blame.
        let in_line = |name| lookups.addresses(name, 80, Instant::now() + Duration::from_millis(1));
        assert_eq!(in_line("dead-13.example").await, Err(LookupFailure::TimedOut));
        assert!(matches!(in_line("new.example").await, Err(LookupFailure::Local(LocalFailureKind::LookupThreads, _))));
        assert_eq!(begun.load(Ordering::Relaxed), 6);
        drop(hangs);
        for lookup in waiting {
            assert_eq!(lookup.await, Err(LookupFailure::ServerFailure));
        }
        assert!(lookups.addresses("new.example", 80, deadline()).await.is_ok(), "it has kept its place in line");
    }

    #[tokio::test]
    async fn a_name_has_the_class_of_its_last_lookup_and_a_failure_of_this_machine_leaves_it() {
        let next = Arc::new(Mutex::new(Ok(vec![([192, 0, 2, 1], 0).into()])));
        let answer = Arc::clone(&next);
        let lookups = Lookups::by(move |_| answer.lock().unwrap().clone(), THREADS);
        let local = LookupFailure::Local(LocalFailureKind::FileDescriptors, "EMFILE".to_owned());
        for (found, class) in [
            (Err(local.clone()), None),
            (Err(LookupFailure::ServerFailure), Some(NameClass::Silent)),
            (Err(local), Some(NameClass::Silent)),
            (Err(LookupFailure::NoSuchName), Some(NameClass::Answering)),
            (Err(LookupFailure::TimedOut), Some(NameClass::Silent)),
            (Ok(vec![([192, 0, 2, 1], 80).into()]), Some(NameClass::Answering)),
        ] {
            next.lock().unwrap().clone_from(&found);
            assert_eq!(lookups.addresses("a.example", 80, deadline()).await, found);
            assert_eq!(lookups.lock().classes.get("a.example").copied(), class);
        }
    }

    #[tokio::test]
    async fn the_memory_for_the_classes_of_names_is_bounded() {
        let lookups = Lookups::by(|_| Err(LookupFailure::NoSuchName), THREADS);
        lookups.lock().classes.extend((0..REMEMBERED_NAMES).map(|number| (number.to_string(), NameClass::Silent)));
        assert_eq!(lookups.addresses("a.example", 80, deadline()).await, Err(LookupFailure::NoSuchName));
        assert_eq!(lookups.lock().classes.len(), 1);
    }

    #[tokio::test]
    async fn a_lookup_that_never_ends_is_given_up_and_the_next_attempt_begins_another() {
        let (lookups, hangs, begun) = hanging();
        for lookup in 1..=2 {
            let asked = tokio::spawn(lookups.join("dead.example").found);
            until_begun(&begun, lookup).await;
            tokio::time::pause();
            tokio::time::advance(GIVEN_UP).await;
            tokio::time::resume();
            assert_eq!(asked.await.unwrap(), Err(LookupFailure::TimedOut));
        }
        drop(hangs);
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Some(runtime.block_on(async { Lookups::of_the_system(1).look_up.as_ref()("no-such-name.example".to_owned()).await }))
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
            let found = lookups.addresses("panics.example", 80, deadline()).await;
            assert!(matches!(found, Err(LookupFailure::Local(LocalFailureKind::Panic, _))), "{found:?}");
        }
        assert!(lookups.addresses("other.example", 80, deadline()).await.is_ok(), "its thread is free again");
    }
}
