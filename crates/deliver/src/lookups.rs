//! Names are looked up once for all who ask meanwhile: a name that no server answers for costs one thread, however many messages wait for it.

use std::{
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use hashbrown::HashMap;
use tokio::{sync::Semaphore, task::spawn_blocking};

/// How many names are looked up at once. Each takes a thread until the system gives up, whoever still waits for it; of the 512 that may block
/// the others are left to those who read logs and save progress.
const AT_ONCE: usize = 384;

/// Looks up a name, blocking.
type LookUp = dyn Fn(&str) -> Option<Vec<SocketAddr>> + Send + Sync;

/// A lookup that others may wait for too. `None`: there is no address.
type UnderWay = Shared<BoxFuture<'static, Option<Vec<SocketAddr>>>>;

/// What is being looked up. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Lookups {
    look_up: Arc<LookUp>,
    threads: Arc<Semaphore>,
    under_way: Arc<Mutex<HashMap<String, UnderWay>>>,
}

impl Lookups {
    /// By the system's resolver.
    pub(crate) fn of_the_system() -> Self {
        Self::by(|host| (host, 0).to_socket_addrs().map(Vec::from_iter).ok())
    }

    fn by(look_up: impl Fn(&str) -> Option<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self { look_up: Arc::new(look_up), threads: Arc::new(Semaphore::new(AT_ONCE)), under_way: Arc::default() }
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
        self.lock().entry_ref(host).or_insert_with(begin).clone()
    }

    async fn run(self, host: String) -> Option<Vec<SocketAddr>> {
        let thread = self.threads.acquire().await;
        let (look_up, name) = (Arc::clone(&self.look_up), host.clone());
        let found = spawn_blocking(move || look_up(&name)).await;
        drop(thread);
        self.lock().remove(&host);
        found.ok().flatten()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookups").field("under_way", &self.lock().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        time::Duration,
    };

    use tokio::{task::JoinSet, time::timeout};

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
        assert!(lookups.lock().is_empty());
    }
}
