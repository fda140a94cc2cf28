//! A receiver whose pushes a test takes one after the other.

use std::time::Duration;

use pushline_sample::{Behaviour, Push, Receiver};
use serde_json::Value;
use tokio::{sync::mpsc, time::timeout};

use crate::PATIENCE;

/// What arrived at a receiver, in order.
#[derive(Debug)]
pub struct Inbox {
    receiver: Receiver,
    pushes: mpsc::Receiver<Push>,
}

impl Inbox {
    /// Listens on a free port and answers 200.
    pub async fn start() -> Self {
        Self::behaving(Behaviour::default()).await
    }

    /// Listens on a free port.
    ///
    /// # Panics
    /// When no port is free, or a test takes none of a hundred thousand pushes.
    pub async fn behaving(behaviour: Behaviour) -> Self {
        let (sender, pushes) = mpsc::channel(100_000);
        let receive = move |push| sender.try_send(push).expect("the test takes what arrives");
        let receiver = Receiver::start(([127, 0, 0, 1], 0).into(), behaviour, receive).await.expect("a port is free");
        Self { receiver, pushes }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        self.receiver.address()
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/push", self.receiver.address())
    }

    /// The next push.
    ///
    /// # Panics
    /// When none comes.
    pub async fn next(&mut self) -> Push {
        timeout(PATIENCE, self.pushes.recv()).await.expect("a push arrives").expect("the receiver runs")
    }

    /// Pushes until they hold so many packets.
    pub async fn packets(&mut self, count: usize) -> Vec<Push> {
        let (mut pushes, mut packets) = (Vec::new(), 0);
        while packets < count {
            let push = self.next().await;
            packets += payloads(&push).len();
            pushes.push(push);
        }
        pushes
    }

    /// What arrived and wasn't taken, after a while in which more could have come.
    pub async fn rest(&mut self, wait: Duration) -> Vec<Push> {
        let mut pushes = Vec::new();
        while let Ok(Some(push)) = timeout(wait, self.pushes.recv()).await {
            pushes.push(push);
        }
        pushes
    }
}

/// The payloads of a push, as text.
///
/// # Panics
/// When the body isn't what the document says.
#[must_use]
pub fn payloads(push: &Push) -> Vec<String> {
    payloads_of(&push.body)
}

/// The same of a body.
pub fn payloads_of(body: &[u8]) -> Vec<String> {
    let body: Value = serde_json::from_slice(body).expect("a body is JSON");
    let payload = |packet: &Value| packet["Payload"].as_str().expect("a payload is a text").to_owned();
    body.as_array().map_or_else(|| vec![payload(&body)], |packets| packets.iter().map(payload).collect())
}
