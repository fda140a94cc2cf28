//! The admin server's connections: bounded in number, closed when their client is slow or idle.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

/// How long a client may take to send a request's head, counted from the connection or from the response before: so an idle connection is closed
/// too. Longer than the usual 15 s between two scrapes.
pub(super) const REQUEST_HEAD: Duration = Duration::from_secs(30);

/// Open connections. More clients wait until one is closed.
const MAX_CONNECTIONS: usize = 128;

/// How long the server waits after an error of `accept`, such as too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves until it is aborted. A client has `request_head` for each head.
pub(super) async fn serve(socket: TcpListener, router: Router, request_head: Duration) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(request_head);
    let service = TowerToHyperService::new(router);
    let mut connections = JoinSet::new();
    loop {
        let has_place = connections.len() < MAX_CONNECTIONS;
        let accepted = tokio::select! {
            accepted = socket.accept(), if has_place => accepted,
            // How a connection ends is its client's business.
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = http.serve_connection(TokioIo::new(stream), service.clone());
                connections.spawn(async move { drop(connection.await) });
            }
            Err(_) => sleep(ACCEPT_AGAIN).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        time::timeout,
    };

    use super::*;

    /// Sends the beginning of a request to a server without patience, and waits until the server closes the connection. Returns its response.
    async fn until_closed(request: &[u8]) -> String {
        let socket = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let router = Router::new().route("/", get(async || "alive"));
        let server = tokio::spawn(serve(socket, router, Duration::from_millis(200)));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(request).await.unwrap();
        let mut response = String::new();
        let closed = timeout(Duration::from_secs(60), client.read_to_string(&mut response));
        closed.await.expect("the server closes the connection").unwrap();
        server.abort();
        response
    }

    #[tokio::test]
    async fn a_client_that_never_ends_its_request_is_disconnected() {
        let response = until_closed(b"GET / HTTP/1.1\r\nHost: h\r\nX-Slow: ").await;
        assert!(!response.contains("alive"), "{response}");
    }

    #[tokio::test]
    async fn an_idle_client_is_disconnected_after_its_response() {
        let response = until_closed(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert!(response.ends_with("alive"), "{response}");
    }
}
