//! How the commands ask the admin server of a running process.

use std::{fmt, io, net::SocketAddr, str::FromStr};

use anyhow::Context;
use axum::http::{Method, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A host name or address, and a port. The name is resolved when it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort(String);

/// Sends one request and reads the whole response, whatever its status.
///
/// # Errors
/// Nothing answers there, or what answers isn't HTTP.
pub(crate) async fn request(admin: &HostPort, method: Method, path_and_query: &str) -> anyhow::Result<Response<String>> {
    let stream = TcpStream::connect(&*admin.0).await.with_context(|| format!("can't reach a running Pushline at {admin} (--admin)"))?;
    // The server refuses names that a web page could take; its address always passes.
    let host = stream.peer_addr()?.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path_and_query).header("host", host);
    let (head, body) = sender.send_request(request.body(Empty::<Bytes>::new())?).await?.into_parts();
    let body = String::from_utf8(body.collect().await?.to_bytes().into())?;
    connection.abort();
    Ok(Response::from_parts(head, body))
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_valid = text.rsplit_once(':').is_some_and(|(host, port)| {
            let is_bare_ipv6 = host.contains(':') && !host.starts_with('[');
            !host.is_empty() && !host.contains('/') && !is_bare_ipv6 && port.parse::<u16>().is_ok()
        });
        let problem = || format!("{text:?} isn't host:port: write 127.0.0.1:9090, [::1]:9090 or localhost:9090");
        if is_valid { Ok(Self(text.to_owned())) } else { Err(problem()) }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HostPort {
    /// The addresses that the name has now.
    ///
    /// # Errors
    /// The name can't be resolved.
    pub(crate) async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host(&self.0).await?.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_address_or_host_name_and_always_by_port() {
        for right in ["127.0.0.1:9090", "[::1]:9090", "localhost:9090", "pushline.monitoring.svc:1"] {
            assert!(right.parse::<HostPort>().is_ok(), "{right}");
        }
        for wrong in
            ["localhost", "127.0.0.1", "::1:9090", "http://127.0.0.1:9090", "http://localhost:9090/", ":9090", "localhost:99999", ""]
        {
            assert!(wrong.parse::<HostPort>().is_err_and(|problem| problem.contains("localhost:9090")), "{wrong}");
        }
    }
}
