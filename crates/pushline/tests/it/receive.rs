//! `pushline receive`, the sample receiver that an operator tries a configuration against.

use std::{
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use pushline_testkit::PATIENCE;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStdout},
    time::timeout,
};

use crate::command;

struct Receive {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Receive {
    async fn start(options: &[&str]) -> Self {
        let mut command = command();
        command.args(["receive", "--listen", "127.0.0.1:0"]).args(options).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut receive = Self { child, lines, address: ([127, 0, 0, 1], 0).into() };
        let line = receive.line().await;
        receive.address = line.strip_prefix("listening on http://").unwrap().parse().unwrap();
        receive
    }

    async fn line(&mut self) -> String {
        timeout(PATIENCE, self.lines.next_line()).await.expect("it prints a line").unwrap().unwrap()
    }

    async fn until_line(&mut self, text: &str) {
        while !self.line().await.contains(text) {}
    }

    async fn post(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream
            .write_all(b"POST /push HTTP/1.1\r\nHost: h\r\nwebhook-id: msg_1\r\nX-Area: Tokyo\r\nContent-Length: 3\r\n\r\nABC")
            .await
            .unwrap();
        stream
    }

    async fn status(&self) -> u16 {
        status(self.post().await).await
    }
}

async fn status(mut stream: TcpStream) -> u16 {
    let mut answer = Vec::new();
    while answer.len() < 12 {
        assert_ne!(timeout(PATIENCE, stream.read_buf(&mut answer)).await.expect("it answers").unwrap(), 0);
    }
    String::from_utf8_lossy(&answer[9..12]).parse().unwrap()
}

#[tokio::test]
async fn receive_prints_what_it_gets_answers_200_and_ends_with_ctrl_c() {
    let mut receive = Receive::start(&[]).await;
    assert_eq!(receive.status().await, 200);
    assert_eq!(receive.line().await, "1 POST /push msg_1 -> 200");
    receive.until_line("  x-area: Tokyo").await;
    receive.until_line("  ABC").await;
    let pid = i32::try_from(receive.child.id().unwrap()).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert!(timeout(PATIENCE, receive.child.wait()).await.expect("it ends").unwrap().success());
}

#[tokio::test]
async fn receive_answers_each_nth_push_with_the_status_it_was_told() {
    let receive = Receive::start(&["--status", "503", "--every", "3"]).await;
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(receive.status().await);
    }
    assert_eq!(statuses, [200, 200, 503, 200, 200, 503]);
}

#[tokio::test]
async fn receive_answers_after_the_delay_it_was_told() {
    let receive = Receive::start(&["--delay", "300", "--status", "202"]).await;
    let began = Instant::now();
    assert_eq!(receive.status().await, 202);
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn receive_never_answers_where_it_was_told_to_hang() {
    let mut receive = Receive::start(&["--hang", "--every", "2"]).await;
    assert_eq!(receive.status().await, 200);
    let hung = receive.post().await;
    receive.until_line("2 POST /push msg_1 -> no response").await;
    // A later one has its answer long before.
    assert_eq!(receive.status().await, 200);
    assert!(hung.try_read(&mut [0; 1]).is_err(), "it was answered");
}

#[tokio::test]
async fn receive_refuses_options_that_make_no_sense() {
    for (options, about) in [(["--status", "99"], "--status"), (["--every", "0"], "--every"), (["--listen", "nowhere"], "--listen")] {
        let output = command().arg("receive").args(options).output().await.unwrap();
        assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains(about), "{options:?}");
    }
}
