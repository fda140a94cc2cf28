//! One GET over a socket, for tests that ask the admin address.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The status and the body.
///
/// # Errors
/// When no server answers, or not in HTTP.
pub async fn get(server: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let (status, _, body) = get_whole(server, path).await?;
    Ok((status, body))
}

/// The status, the head with its names in lower case, and the body.
pub(crate) async fn get_whole(server: SocketAddr, path: &str) -> io::Result<(u16, String, String)> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.get(9..12).and_then(|status| status.parse().ok());
    let parts = answer.split_once("\r\n\r\n");
    let whole = status.zip(parts).map(|(status, (head, body))| (status, head.to_lowercase(), body.to_owned()));
    whole.ok_or_else(|| io::Error::other(format!("not HTTP: {answer:?}")))
}
