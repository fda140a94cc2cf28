//! A proxy between a client and each broker that reads the requests along and can hold back a commit, so that a test may kill the client between a
//! checkpoint and the commit that goes with it. It is a slow network too: one answer in so many is late. Requests and answers pass unchanged and in
//! order.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// Kafka's numbers of requests (Kafka protocol guide, "The Messages").
const PRODUCE: i16 = 0;
const OFFSET_COMMIT: i16 = 8;

/// Where a topic's name stands in a Produce request at the latest.
const HEAD: usize = 512;

/// What a broker sends is late once in this many times, by up to this long.
const LATE_ONE_IN: u32 = 4;
const LATEST: Duration = Duration::from_millis(500);

/// How long a commit is held back at most: what isn't killed meanwhile goes on.
const LONGEST_HOLD: Duration = Duration::from_secs(2);

/// Proxies in front of the brokers of a cluster. Dropping it closes them and their connections.
#[derive(Debug)]
pub struct CommitProxy {
    shared: Arc<Shared>,
    /// One for each broker, in their order.
    pub(crate) addresses: Vec<SocketAddr>,
    accepting: Vec<JoinHandle<()>>,
}

/// A commit that hasn't reached Kafka, while the checkpoint that goes with it has. Dropping it lets the commit pass.
#[derive(Debug)]
pub struct HeldCommit(oneshot::Sender<Discard>);

/// The commit never reaches Kafka.
#[derive(Debug)]
struct Discard;

#[derive(Debug, Default)]
struct Shared {
    /// Ends in this: the topic of the checkpoints.
    checkpoints: String,
    state: Mutex<State>,
    commits: AtomicUsize,
    /// Nothing is late any more.
    is_prompt: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Client ids: a checkpoint has passed since the last commit of each.
    saved: HashSet<String>,
    wanted: Option<Wanted>,
}

/// A call that waits for a commit of one of these clients.
#[derive(Debug)]
struct Wanted {
    client_ids: Vec<String>,
    found: oneshot::Sender<(String, HeldCommit)>,
}

impl CommitProxy {
    /// Listens on a free port for each broker. It serves once the brokers' addresses are known.
    pub(crate) async fn listen(brokers: &[SocketAddr], checkpoints: &str) -> io::Result<Self> {
        let shared = Arc::new(Shared { checkpoints: checkpoints.to_owned(), ..Shared::default() });
        let (mut addresses, mut accepting) = (Vec::new(), Vec::new());
        for broker in brokers {
            let socket = TcpListener::bind("127.0.0.1:0").await?;
            addresses.push(socket.local_addr()?);
            accepting.push(tokio::spawn(accept(socket, *broker, Arc::clone(&shared))));
        }
        Ok(Self { shared, addresses, accepting })
    }

    /// All addresses, as a client's `bootstrap.servers`.
    #[must_use]
    pub fn brokers(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(SocketAddr::to_string).collect();
        addresses.join(",")
    }

    /// Holds back the first commit of one of these clients (`client.id` in librdkafka's properties) that follows a checkpoint of the same client.
    /// Resolves once it is held, with the client's id. A later call replaces this one, which is `None` then.
    pub async fn hold_commit(&self, client_ids: Vec<String>) -> Option<(String, HeldCommit)> {
        let (found, receiver) = oneshot::channel();
        self.want(Wanted { client_ids, found });
        receiver.await.ok()
    }

    fn want(&self, wanted: Wanted) {
        let mut state = self.shared.state();
        state.saved.clear();
        state.wanted = Some(wanted);
    }

    /// From now on nothing is late. A slow network passes a megabyte a second, and a backlog would take an hour to settle.
    pub fn be_prompt(&self) {
        self.shared.is_prompt.store(true, Ordering::Relaxed);
    }

    /// How many commits it has seen.
    #[must_use]
    pub fn commits(&self) -> usize {
        self.shared.commits.load(Ordering::Relaxed)
    }
}

impl HeldCommit {
    /// Closes the connection instead: its client was killed meanwhile.
    pub fn discard(self) {
        // The proxy may have given up holding it.
        drop(self.0.send(Discard));
    }
}

impl Drop for CommitProxy {
    fn drop(&mut self) {
        self.accepting.iter().for_each(JoinHandle::abort);
    }
}

async fn accept(socket: TcpListener, broker: SocketAddr, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = socket.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let shared = Arc::clone(&shared);
                // How a connection ends is the business of its two ends.
                connections.spawn(async move { drop(relay(client, broker, &shared).await) });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Passes on what each end sends until one of them closes the connection.
async fn relay(client: TcpStream, broker: SocketAddr, shared: &Shared) -> io::Result<()> {
    let server = TcpStream::connect(broker).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.into_split(), server.into_split());
    let requests = async {
        loop {
            let length = from_client.read_u32().await?;
            let mut request = vec![0; length as usize];
            from_client.read_exact(&mut request).await?;
            shared.look_at(&request).await?;
            to_server.write_all(&[&length.to_be_bytes(), request.as_slice()].concat()).await?;
        }
    };
    let answers = async {
        let mut answers = vec![0; 64 << 10];
        loop {
            let count = from_server.read(&mut answers).await?;
            if count == 0 {
                return Ok(());
            }
            if !shared.is_prompt.load(Ordering::Relaxed) && fastrand::u32(0..LATE_ONE_IN) == 0 {
                sleep(LATEST.mul_f32(fastrand::f32())).await;
            }
            to_client.write_all(&answers[..count]).await?;
        }
    };
    tokio::select! {
        ended = requests => ended,
        ended = answers => ended,
    }
}

impl Shared {
    /// Returns when the request may pass; an error if it may not.
    async fn look_at(&self, request: &[u8]) -> io::Result<()> {
        let Some((kind, client_id)) = head_of(request) else { return Ok(()) };
        match kind {
            PRODUCE => {
                let head = &request[..request.len().min(HEAD)];
                if head.windows(self.checkpoints.len()).any(|name| name == self.checkpoints.as_bytes()) {
                    self.state().saved.insert(client_id.to_owned());
                }
            }
            OFFSET_COMMIT => {
                self.commits.fetch_add(1, Ordering::Relaxed);
                if let Some(wanted) = self.take_wanted(client_id) {
                    let (held, released) = oneshot::channel();
                    if wanted.found.send((client_id.to_owned(), HeldCommit(held))).is_ok()
                        && let Ok(Ok(Discard)) = timeout(LONGEST_HOLD, released).await
                    {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes the call that waits for this commit.
    fn take_wanted(&self, client_id: &str) -> Option<Wanted> {
        let mut state = self.state();
        let saved = state.saved.remove(client_id);
        state.wanted.take_if(|wanted| saved && wanted.client_ids.iter().any(|wanted| wanted == client_id))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kind of a request and the `client.id` of its sender: the key, the version, the correlation id, then a text (request header v1 and later).
fn head_of(request: &[u8]) -> Option<(i16, &str)> {
    let kind = i16::from_be_bytes(request.get(..2)?.try_into().ok()?);
    let length = usize::try_from(i16::from_be_bytes(request.get(8..10)?.try_into().ok()?)).ok()?;
    Some((kind, std::str::from_utf8(request.get(10..10 + length)?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request as a client frames it, without its length.
    fn request(kind: i16, client_id: &str, body: &[u8]) -> Vec<u8> {
        let length = i16::try_from(client_id.len()).expect("a client id is short");
        [&kind.to_be_bytes()[..], &[0; 6], &length.to_be_bytes(), client_id.as_bytes(), body].concat()
    }

    async fn send(client: &mut TcpStream, request: &[u8]) {
        client.write_u32(u32::try_from(request.len()).expect("a request is short")).await.expect("the proxy reads");
        client.write_all(request).await.expect("the proxy reads");
    }

    #[tokio::test]
    async fn the_commit_after_a_checkpoint_is_held_until_it_is_released_and_what_comes_before_passes() {
        let broker = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let proxy = CommitProxy::listen(&[broker.local_addr().expect("it is bound")], "t.checkpoints").await.expect("a port is free");
        let mut client = TcpStream::connect(proxy.addresses[0]).await.expect("the proxy listens");
        let (mut server, _) = broker.accept().await.expect("the proxy connects");
        let (early, save, commit) =
            (request(OFFSET_COMMIT, "d", b"early"), request(PRODUCE, "d", b"..t.checkpoints.."), request(OFFSET_COMMIT, "d", b"with it"));
        let hold = proxy.hold_commit(vec!["e".to_owned(), "d".to_owned()]);
        let passes = async {
            for request in [&early, &save, &commit] {
                send(&mut client, request).await;
            }
            let mut passed = vec![0; 8 + early.len() + save.len()];
            server.read_exact(&mut passed).await.expect("both pass");
            assert!(passed.ends_with(&save));
        };
        let (held, ()) = tokio::join!(hold, passes);
        let mut byte = [0];
        assert_eq!(server.try_read(&mut byte).expect_err("the commit is held").kind(), io::ErrorKind::WouldBlock);
        drop(held);
        let mut passed = vec![0; 4 + commit.len()];
        server.read_exact(&mut passed).await.expect("the commit passes");
        assert!(passed.ends_with(&commit));

        // The next one never arrives.
        let passes = async {
            send(&mut client, &save).await;
            send(&mut client, &commit).await;
        };
        let (held, ()) = tokio::join!(proxy.hold_commit(vec!["d".to_owned()]), passes);
        let (client_id, held) = held.expect("no later call replaces this one");
        assert_eq!(client_id, "d");
        held.discard();
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.expect("the connection is closed in order");
        assert!(rest.ends_with(&save), "{rest:?}");
        assert_eq!(proxy.commits(), 3);
    }
}
