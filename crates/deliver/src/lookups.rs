//! Names are looked up once for all who ask meanwhile: a name that no server answers for costs one thread, however many messages wait for it; and
//! all such names together leave threads to the others.

use std::{
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use hashbrown::{HashMap, HashSet};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::timeout,
};

/// How many names are looked up at once. Each takes a thread until the system gives up, whoever still waits for it; of the 512 that may block
/// the others are left to those who read logs and save checkpoint.
const AT_ONCE: usize = 384;

/// How many of them may be names that had no address last time.
const DOUBTFUL_AT_ONCE: usize = 256;

/// Nobody waits longer for an address (DESIGN.md, *Outcome*): who has no thread by then needs none.
const IN_LINE: Duration = Duration::from_secs(10);

/// A lookup that takes longer may never end, and who asks next begins another. What the system gives a name, with three servers that are silent.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// Looks up a name, blocking.
type LookUp = dyn Fn(&str) -> Option<Vec<SocketAddr>> + Send + Sync;

/// A lookup that others may wait for too. `None`: there is no address.
type UnderWay = Shared<BoxFuture<'static, Option<Vec<SocketAddr>>>>;

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
    under_way: HashMap<String, UnderWay>,
    without_address: HashSet<String>,
}

/// The right to a thread.
type Permits = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

impl Lookups {
    /// By the system's resolver.
    pub(crate) fn of_the_system() -> Self {
        Self::by(|host| (host, 0).to_socket_addrs().map(Vec::from_iter).ok())
    }

    fn by(look_up: impl Fn(&str) -> Option<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        let [threads, doubtful] = [AT_ONCE, DOUBTFUL_AT_ONCE].map(|permits| Arc::new(Semaphore::new(permits)));
        Self { look_up: Arc::new(look_up), threads, doubtful, names: Arc::default() }
    }

    /// A name's addresses. `None`: there is none.
    pub(crate) async fn addresses(&self, host: &str, port: u16) -> Option<Vec<SocketAddr>> {
        let mut addresses = self.join(host).await?;
        addresses.iter_mut().for_each(|address| address.set_port(port));
        Some(addresses).filter(|addresses| !addresses.is_empty())
    }

    /// The lookup that is under way, or a new one, which goes on without those who asked for it.
    fn join(&self, host: &str) -> UnderWay {
        let begin = || {
            let task = tokio::spawn(self.clone().run(host.to_owned()));
            async { task.await.ok().flatten() }.boxed().shared()
        };
        self.lock().under_way.entry_ref(host).or_insert_with(begin).clone()
    }

    async fn run(self, host: String) -> Option<Vec<SocketAddr>> {
        let permits = timeout(IN_LINE, self.permits(&host)).await.ok().flatten();
        let looked_up = permits.is_some();
        let found = match permits {
            Some(permits) => timeout(GIVEN_UP, self.on_a_thread(host.clone(), permits)).await.ok().flatten(),
            None => None,
        };
        let mut names = self.lock();
        names.under_way.remove(&host);
        if found.is_some() {
            names.without_address.remove(&host);
        } else if looked_up {
            names.without_address.insert(host);
        }
        found
    }

    async fn permits(&self, host: &str) -> Option<Permits> {
        let is_doubtful = self.lock().without_address.contains(host);
        let doubtful = if is_doubtful { Some(Arc::clone(&self.doubtful).acquire_owned().await.ok()?) } else { None };
        Some((Arc::clone(&self.threads).acquire_owned().await.ok()?, doubtful))
    }

    /// The thread keeps its permits until it ends, whoever still waits for it.
    async fn on_a_thread(&self, host: String, permits: Permits) -> Option<Vec<SocketAddr>> {
        let look_up = Arc::clone(&self.look_up);
        let looking = move || {
            let found = look_up(&host);
            drop(permits);
            found
        };
        spawn_blocking(looking).await.ok().flatten()
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookups").field("under_way", &self.lock().under_way.len()).finish_non_exhaustive()
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

    #[tokio::test]
    async fn a_name_that_nobody_answers_for_is_looked_up_once_whoever_gives_up_on_it() {
        let (answer, answers) = mpsc::channel::<()>();
        let (answers, begun) = (Mutex::new(answers), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&begun);
        let lookups = Lookups::by(move |host| {
            if host == "dead.example" {
                count.fetch_add(1, Ordering::Relaxed);
                drop(answers.lock().map(|answers| answers.recv()));
            }
            Some(vec![([192, 0, 2, 1], 0).into()])
        });
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
            assert_eq!(other, Ok(Some(vec![([192, 0, 2, 1], 81).into()])));
        }
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        // What is over is forgotten: the next who ask hear what is so then.
        for _ in 0..2 {
            let answered = async { answer.send(()).unwrap() };
            let (found, ()) = tokio::join!(lookups.addresses("dead.example", 80), answered);
            assert_eq!(found, Some(vec![([192, 0, 2, 1], 80).into()]));
        }
        assert_eq!(begun.load(Ordering::Relaxed), 2);
        assert!(lookups.lock().under_way.is_empty());
    }

    /// Names that hang until the sender is dropped, and how many lookups of them are under way.
    fn hanging() -> (Lookups, mpsc::Sender<()>, Arc<AtomicUsize>) {
        let (hangs, until) = mpsc::channel::<()>();
        let (until, count) = (Mutex::new(until), Arc::new(AtomicUsize::new(0)));
        let begun = Arc::clone(&count);
        let lookups = Lookups::by(move |host| {
            if host.starts_with("dead") {
                begun.fetch_add(1, Ordering::Relaxed);
                // One waits for the sender to go, the others for that one.
                drop(until.lock().map(|until| until.recv()));
                return None;
            }
            Some(vec![([192, 0, 2, 1], 0).into()])
        });
        (lookups, hangs, count)
    }

    #[tokio::test]
    async fn however_many_names_nobody_answers_for_they_leave_threads_to_the_others() {
        let (lookups, hangs, begun) = hanging();
        let dead: Vec<String> = (0..2 * AT_ONCE).map(|number| format!("dead-{number}.example")).collect();
        lookups.lock().without_address.extend(dead.iter().cloned());
        let waiting: Vec<_> = dead.iter().map(|name| tokio::spawn(lookups.join(name))).collect();
        while begun.load(Ordering::Relaxed) < DOUBTFUL_AT_ONCE {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(lookups.addresses("other.example", 80).await.is_some());
        assert_eq!(begun.load(Ordering::Relaxed), DOUBTFUL_AT_ONCE);
        drop(hangs);
        for lookup in waiting {
            assert_eq!(lookup.await.unwrap(), None);
        }
        // One that has an address again is like others.
        lookups.lock().without_address.insert("other.example".to_owned());
        assert!(lookups.addresses("other.example", 80).await.is_some());
        assert!(!lookups.lock().without_address.contains("other.example"));
    }

    #[tokio::test]
    async fn a_lookup_that_never_ends_is_given_up_and_the_next_who_asks_begins_another() {
        let (lookups, hangs, begun) = hanging();
        for lookup in 1..=2 {
            let asked = tokio::spawn(lookups.join("dead.example"));
            while begun.load(Ordering::Relaxed) < lookup {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::pause();
            tokio::time::advance(GIVEN_UP).await;
            tokio::time::resume();
            assert_eq!(asked.await.unwrap(), None);
        }
        drop(hangs);
    }
}
