//! What a server under test gets: a folder, a port, certificates, and somewhere to record what arrives.

use std::{
    fs::{self, Permissions},
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
};

use pushline_testkit::{Behaviour, Push, Receiver, folder};
use tempfile::TempDir;

use super::{certificates, transport::Transport};

/// A place for one server. A server that passes requests on has the recording receiver behind it; one that answers itself writes each request
/// into the file `record`, as a line of protocol, `webhook-id` and body with tabs between them.
pub(super) struct Site {
    folder: TempDir,
    receiver: Receiver,
    pushes: Arc<Mutex<Vec<Push>>>,
    pub(super) transport: Transport,
    pub(super) port: u16,
    /// Counts the configurations that a server has had. One that passes requests on adds it as `X-Seen-Generation`.
    pub(super) generation: usize,
}

/// A request that arrived.
#[derive(Debug)]
pub(super) struct Arrival {
    /// HTTP's version as the server names it: `HTTP/1.1`, `1.1`, `2`.
    pub(super) protocol: String,
    pub(super) body: Vec<u8>,
}

impl Site {
    pub(super) async fn new(transport: Transport) -> Self {
        let folder = folder();
        certificates::write(folder.path()).unwrap();
        fs::write(folder.path().join("record"), "").unwrap();
        // A server that root starts may go on as another user.
        let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        open(folder.path(), 0o755);
        open(&folder.path().join("record"), 0o666);
        let pushes = Arc::new(Mutex::new(Vec::new()));
        let recorded = Arc::clone(&pushes);
        let receive = move |push| recorded.lock().unwrap().push(push);
        let receiver = Receiver::start(([127, 0, 0, 1], 0).into(), Behaviour::default(), receive).await.unwrap();
        Self { folder, receiver, pushes, transport, port: 0, generation: 0 }
    }

    /// Takes another port, which was free a moment ago.
    pub(super) fn take_port(&mut self) {
        self.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    }

    /// The path of a file in the folder.
    pub(super) fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Writes a file into the folder. Returns its path.
    pub(super) fn write(&self, name: &str, text: &str) -> String {
        let path = self.file(name);
        fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// The recording receiver.
    pub(super) fn receiver(&self) -> SocketAddr {
        self.receiver.address()
    }

    /// Whether a request has passed through a server with the last configuration.
    pub(super) fn has_arrived_by_this_generation(&self) -> bool {
        let generation = self.generation.to_string();
        self.pushes.lock().unwrap().iter().rev().any(|push| push.header("x-seen-generation") == generation)
    }

    /// What has arrived, each request as often as it came.
    pub(super) fn arrivals(&self) -> Vec<Arrival> {
        let recorded = fs::read(self.file("record")).unwrap();
        let lines = recorded.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let mut arrivals: Vec<Arrival> = lines.map(Arrival::of_line).collect();
        arrivals.extend(self.pushes.lock().unwrap().iter().map(Arrival::of_push));
        arrivals
    }
}

impl Arrival {
    fn of_line(line: &[u8]) -> Self {
        let mut fields = line.splitn(3, |byte| *byte == b'\t');
        let (Some(protocol), Some(_), Some(body)) = (fields.next(), fields.next(), fields.next()) else {
            panic!("a line has three fields: {}", String::from_utf8_lossy(line))
        };
        Self { protocol: String::from_utf8_lossy(protocol).into_owned(), body: body.to_vec() }
    }

    fn of_push(push: &Push) -> Self {
        // nghttpx names the protocol in `Via`.
        let protocol = [push.header("x-seen-protocol"), push.header("via")].concat();
        Self { protocol, body: push.body.to_vec() }
    }
}
