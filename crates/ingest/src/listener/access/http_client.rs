//! POSTs to one URL, over HTTP/1.1 connections that are kept for the next request.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use pushline_model::{Secret, Url};
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::TlsConnector;

use crate::{ClientConfigs, listener::stream::ByteStream};

/// The largest answer, in bytes.
const LARGEST_ANSWER: usize = 64 << 10;

/// How long a connection is kept. Servers close idle ones, mostly after a minute or more.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// A client of one URL.
#[derive(Debug)]
pub(super) struct HttpClient {
    url: Url,
    /// `Bearer …`
    authorization: Option<HeaderValue>,
    tls: Option<ClientConfigs>,
    /// The last is the one that was used last.
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: SendRequest<Full<Bytes>>,
    since: Instant,
}

impl HttpClient {
    /// `tls` is for an `https` URL.
    ///
    /// # Errors
    /// The token can't stand in a header.
    pub(super) fn new(url: Url, token: Option<&Secret>, tls: Option<ClientConfigs>) -> Result<Self, String> {
        let authorization = token.map(|token| {
            let value = HeaderValue::try_from(format!("Bearer {}", token.reveal()));
            value.map(|mut value| {
                value.set_sensitive(true);
                value
            })
        });
        let authorization = authorization.transpose().map_err(|_| "the token can't stand in a header")?;
        Ok(Self { url, authorization, tls, idle: Mutex::default() })
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Sends JSON, and reads the answer. A connection that was kept may have been closed meanwhile: then the request goes once more, over a new one.
    ///
    /// # Errors
    /// Why there is no answer, for people.
    pub(super) async fn post(&self, body: Bytes) -> Result<(StatusCode, Bytes), String> {
        if let Some(kept) = self.take_idle()
            && let Ok(answer) = self.exchange(kept, body.clone()).await
        {
            return Ok(answer);
        }
        self.exchange(self.connect().await?, body).await
    }

    async fn exchange(&self, mut connection: SendRequest<Full<Bytes>>, body: Bytes) -> Result<(StatusCode, Bytes), String> {
        let failed = |error: hyper::Error| format!("no answer: {error}");
        connection.ready().await.map_err(failed)?;
        let response = connection.send_request(self.request(body)).await.map_err(failed)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
        let body = body.map_err(|error| format!("its answer can't be read: {error}"))?.to_bytes();
        self.lock().push(Idle { connection, since: Instant::now() });
        Ok((status, body))
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.path_and_query().parse().expect("a URL's path is one");
        let headers = request.headers_mut();
        headers.insert(HOST, self.url.authority().parse().expect("a URL's authority is ASCII"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static("pushline"));
        headers.extend(self.authorization.clone().map(|authorization| (AUTHORIZATION, authorization)));
        request
    }

    /// Connects. Its own task drives the connection until it is dropped here or the server closes it.
    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let tcp = TcpStream::connect((self.url.host(), self.url.port())).await.map_err(|error| format!("can't connect: {error}"))?;
        drop(tcp.set_nodelay(true));
        let stream: Box<dyn ByteStream> = match &self.tls {
            Some(configs) if self.url.is_https() => Box::new(self.encrypt(tcp, configs).await?),
            _ => Box::new(tcp),
        };
        let (connection, driver) = handshake(TokioIo::new(stream)).await.map_err(|error| format!("can't connect: {error}"))?;
        tokio::spawn(driver);
        Ok(connection)
    }

    async fn encrypt(&self, tcp: TcpStream, configs: &ClientConfigs) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
        let name = ServerName::try_from(self.url.host().to_owned()).map_err(|error| error.to_string())?;
        let config = configs.read().await?;
        TlsConnector::from(Arc::clone(&config)).connect(name, tcp).await.map_err(|error| format!("TLS failed: {error}"))
    }

    /// The connection that was used last. Those that were kept too long end here.
    fn take_idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.lock();
        idle.retain(|one| !one.connection.is_closed() && one.since.elapsed() < KEPT_FOR);
        idle.pop().map(|one| one.connection)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
