//! The admin server as its clients see it: monitors, operators' tools, and web pages in an operator's browser.

use std::net::SocketAddr;

use pushline_testkit::{Gateway, Pushline, folder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{BINARY, command, packets, start_with_inbox, webhook};

/// A response: its status, its head with names in lower case, its body.
struct Response {
    status: u16,
    head: String,
    body: String,
}

async fn ask(admin: SocketAddr, method: &str, path: &str, headers: &str) -> Response {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    let host = if headers.contains("Host:") { String::new() } else { format!("Host: {admin}\r\n") };
    let request = format!("{method} {path} HTTP/1.1\r\n{host}{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{response:?}"));
    Response { status: head[9..12].parse().unwrap(), head: head.to_lowercase(), body: body.to_owned() }
}

#[tokio::test]
async fn whatever_answers_get_answers_head_with_the_same_status_and_no_body() {
    let dir = folder();
    let (pushline, _inbox) = start_with_inbox(dir.path(), "").await;
    for path in ["/healthz", "/readyz", "/metrics", "/dead-letters", "/unrouted?limit=3", "/nothing", "/dead-letters?colour=red"] {
        let (get, head) = (ask(pushline.admin, "GET", path, "").await, ask(pushline.admin, "HEAD", path, "").await);
        assert_eq!((head.status, head.body.as_str()), (get.status, ""), "{path}");
        assert_eq!(
            get.head.lines().find(|line| line.starts_with("content-type")),
            head.head.lines().find(|line| line.starts_with("content-type"))
        );
    }
}

#[tokio::test]
async fn a_method_that_a_path_does_not_take_is_answered_with_those_that_it_takes() {
    let dir = folder();
    let (pushline, _inbox) = start_with_inbox(dir.path(), "").await;
    for (method, path, allow, says) in [
        ("POST", "/metrics", "allow: get,head", "use GET or HEAD\n"),
        ("DELETE", "/dead-letters", "allow: get,head", "use GET or HEAD\n"),
        ("GET", "/losses/acknowledge", "allow: post", "use POST\n"),
        ("PUT", "/unrouted/replay", "allow: post", "use POST\n"),
    ] {
        let response = ask(pushline.admin, method, path, "").await;
        assert!(response.status == 405 && response.head.contains(allow), "{method} {path}: {}", response.head);
        assert_eq!(response.body, says, "{method} {path}");
    }
}

#[tokio::test]
async fn a_replay_needs_a_filter_or_the_word_that_it_means_all() {
    let dir = folder();
    let (pushline, _inbox) = start_with_inbox(dir.path(), "").await;
    for path in ["/dead-letters/replay", "/unrouted/replay", "/dead-letters/replay?limit=3", "/unrouted/replay?group=mti/a&group=mti/b"] {
        assert_eq!(ask(pushline.admin, "POST", path, "").await.status, 400, "{path}");
    }
    for path in ["/dead-letters/replay?all=true", "/unrouted/replay?cause=unrouted"] {
        assert_eq!(ask(pushline.admin, "POST", path, "").await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_web_page_neither_changes_anything_nor_reads_packets_and_tools_do_both() {
    let dir = folder();
    let (pushline, _inbox) = start_with_inbox(dir.path(), "").await;
    let mut gateway = Gateway::connect(pushline.mqtt, "g").await.unwrap();
    gateway.publish(&packets("nobody/1", ["secret"])).await.unwrap();
    let page = "Origin: http://evil.example\r\nSec-Fetch-Site: cross-site\r\n";
    let rebound = "Host: evil.example:9090\r\nOrigin: http://evil.example:9090\r\nSec-Fetch-Site: same-origin\r\n";
    for path in ["/losses/acknowledge", "/dead-letters/replay?all=true", "/unrouted/replay?all=true"] {
        for headers in [page, rebound, "Origin: null\r\n", "Sec-Fetch-Site: same-site\r\n"] {
            let response = ask(pushline.admin, "POST", path, headers).await;
            assert_eq!(response.status, 403, "{path} {headers}: {}", response.body);
        }
        let own = format!("Host: localhost:{0}\r\nOrigin: http://localhost:{0}\r\n", pushline.admin.port());
        for headers in ["", "Host: pushline.monitoring.svc.cluster.local\r\n", own.as_str()] {
            assert_eq!(ask(pushline.admin, "POST", path, headers).await.status, 200, "{path} {headers}");
        }
    }
    let read = ask(pushline.admin, "GET", "/unrouted", "Host: evil.example\r\n").await;
    assert!(read.status == 403 && read.body.contains("evil.example"), "{}", read.body);
    // Monitoring by any name goes on.
    assert_eq!(ask(pushline.admin, "GET", "/metrics", "Host: metrics.example.com\r\n").await.status, 200);
    let admin = format!("localhost:{}", pushline.admin.port());
    for arguments in [&["list"][..], &["replay", "--all"]] {
        let output = command().arg("dead-letters").args(arguments).args(["--admin", &admin]).output().await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn the_metrics_address_answers_monitoring_and_nothing_else() {
    let dir = folder();
    let more = format!("{}[metrics]\naddress = \"127.0.0.1:0\"\n", webhook("w", "http://127.0.0.1:1/", ""));
    let pushline = Pushline::start(BINARY, dir.path(), &Pushline::configuration(&more)).await;
    let log = pushline.log();
    let listening = log.lines().find(|line| line.contains("admin server listening")).unwrap();
    let metrics = listening.split(" metrics=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    for (method, path, status) in [
        ("GET", "/healthz", 200),
        ("HEAD", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("POST", "/metrics", 405),
        ("GET", "/dead-letters", 404),
        ("GET", "/devices", 404),
        ("POST", "/losses/acknowledge", 404),
        ("POST", "/dead-letters/replay?all=true", 404),
    ] {
        assert_eq!(ask(metrics, method, path, "").await.status, status, "{method} {path}");
    }
    let shown = ask(metrics, "GET", "/metrics", "").await.body;
    for line in ["pushline_ready 1", "pushline_queue_stalled 0", "pushline_config_webhooks 1", "pushline_config_last_reload_successful 1"] {
        assert!(shown.lines().any(|shown| shown == line), "{line} in\n{shown}");
    }
    assert!(shown.contains("process_resident_memory_bytes ") && shown.contains("role=\"run\""), "{shown}");
}
