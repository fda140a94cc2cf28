//! A webhook's request (docs/document.md, Request): what all its messages have in common is put together once.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use base64_simd::STANDARD;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{
    Extensions, HeaderMap, HeaderValue, Method, Request, Uri,
    header::{self, HeaderName},
};
use http_body_util::Empty;
use hyper::{Response, service::service_fn};
use hyper_util::rt::TokioIo;
use pushline_model::{Auth, Compression, MessageId, Webhook};
use tokio::{
    io::{AsyncWriteExt, duplex},
    task::unconstrained,
};

use crate::{
    DeliverError,
    access_tokens::AccessTokens,
    connection::{Protocol, RequestBody},
    signature::SigningKeys,
};

const USER_AGENT: &str = concat!("Pushline/", env!("CARGO_PKG_VERSION"));
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What all requests of a webhook have in common.
#[derive(Debug)]
pub(crate) struct Template {
    /// For HTTP/1.1: path and query (RFC 9112 §3.2.1).
    path: Uri,
    /// For HTTP/2: the whole URL; scheme and authority become pseudo-header fields (RFC 9113 §8.3.1).
    uri: Uri,
    headers: HeaderMap,
    /// hyper's own record of how the names were written.
    case: Extensions,
    keys: SigningKeys,
    tokens: Option<Arc<AccessTokens>>,
}

/// hyper's record of how header names are written, one for all webhooks with the same names: a record keeps the 8 KiB that it was read from.
#[derive(Debug, Default)]
pub(crate) struct HeaderCaseCache(HashMap<Vec<String>, Extensions>);

impl HeaderCaseCache {
    fn of(&mut self, headers: &[(String, String)]) -> Option<Extensions> {
        let names: Vec<String> = headers.iter().map(|(name, _)| name.clone()).collect();
        if let Some(case) = self.0.get(&names) {
            return Some(case.clone());
        }
        let case = header_case(&names)?;
        self.0.insert(names, case.clone());
        Some(case)
    }
}

impl Template {
    /// `tokens`: what puts in the credentials that change.
    pub(crate) fn new(
        webhook: &Webhook,
        tokens: Option<Arc<AccessTokens>>,
        header_cases: &mut HeaderCaseCache,
    ) -> Result<Self, DeliverError> {
        let headers = headers(webhook);
        let case = header_cases.of(&headers).ok_or_else(|| DeliverError::Headers { webhook: webhook.name.clone() })?;
        let invalid = || DeliverError::Headers { webhook: webhook.name.clone() };
        let path = webhook.url.path_and_query().parse().map_err(|_| invalid())?;
        let uri = webhook.url.as_str().parse().map_err(|_| invalid())?;
        let mut map = HeaderMap::new();
        for (name, value) in &headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
            let mut value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| invalid())?;
            value.set_sensitive(webhook.credential_headers().iter().any(|carrier| name.as_str().eq_ignore_ascii_case(carrier)));
            map.append(name, value);
        }
        let keys = SigningKeys::of(webhook)?;
        // An attempt's own headers have their place already: its copy of the map doesn't have to grow.
        let signature = webhook.signing_secrets().next().map(|_| WEBHOOK_SIGNATURE);
        for name in [Some(WEBHOOK_ID), Some(WEBHOOK_TIMESTAMP), signature].into_iter().flatten() {
            map.insert(name, HeaderValue::from_static(""));
        }
        Ok(Self { path, uri, headers: map, case, keys, tokens })
    }

    /// One attempt's request. `at`: the wall clock in seconds since 1970.
    pub(crate) fn request(&self, protocol: Protocol, id: MessageId, at: u64, body: Bytes) -> Request<RequestBody> {
        let (id, at) = (id.to_string(), at.to_string());
        let signature = self.keys.sign(&id, &at, &body);
        let mut request = Request::new(RequestBody::new(body));
        *request.method_mut() = Method::POST;
        *request.headers_mut() = self.headers.clone();
        match protocol {
            Protocol::Http1 => {
                *request.uri_mut() = self.path.clone();
                *request.extensions_mut() = self.case.clone();
            }
            Protocol::Http2 => {
                *request.uri_mut() = self.uri.clone();
                request.headers_mut().remove(header::HOST);
            }
        }
        let headers = request.headers_mut();
        self.tokens.iter().for_each(|tokens| tokens.authorize(headers));
        let values = [(WEBHOOK_ID, Some(id)), (WEBHOOK_TIMESTAMP, Some(at)), (WEBHOOK_SIGNATURE, signature)];
        for (name, value) in values.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            headers.insert(name, HeaderValue::try_from(value).expect("letters, digits and base64 are a valid value"));
        }
        request
    }
}

/// All headers but those of the attempt, as they will be written.
fn headers(webhook: &Webhook) -> Vec<(String, String)> {
    let mut own = vec![("Host", webhook.url.authority()), ("Content-Type", "application/json; charset=utf-8")];
    if !webhook.headers.iter().any(|header| header.name().is("User-Agent")) {
        own.push(("User-Agent", USER_AGENT));
    }
    if webhook.compression == Compression::Gzip {
        own.push(("Content-Encoding", "gzip"));
    }
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let custom = webhook.headers.iter().map(|header| (header.name().as_str().to_owned(), header.value().to_owned()));
    own.chain(credentials(webhook)).chain(custom).collect()
}

/// The credentials (RFC 7617, RFC 6750, or a key), or where they will stand. `Webhook::credential_headers` alone decides which headers carry them.
fn credentials(webhook: &Webhook) -> Vec<(String, String)> {
    let value = match &webhook.auth {
        Auth::None => return vec![],
        Auth::Basic { username, password } => {
            format!("Basic {}", STANDARD.encode_to_string(format!("{username}:{}", password.reveal())))
        }
        Auth::Bearer { token } => format!("Bearer {}", token.reveal()),
        Auth::ApiKey { key, .. } => key.reveal().to_owned(),
        // `AccessTokens::authorize` puts in the token.
        Auth::OAuth2(_) => "Bearer".to_owned(),
    };
    webhook.credential_headers().into_iter().map(|name| (name.to_owned(), value.clone())).collect()
}

/// hyper writes header names as they were when it read them. Its record of that is private, but a request that its server side has read carries one.
/// So hyper reads a request from memory here.
fn header_case(names: &[String]) -> Option<Extensions> {
    let mut text = String::from("POST / HTTP/1.1\r\n");
    for name in names.iter().map(String::as_str).filter(|name| *name != "Host").chain(["Host", "Content-Length"]) {
        text.push_str(name);
        text.push_str(": 0\r\n");
    }
    text.push_str("\r\n");
    let (mut client, server) = duplex(text.len());
    // Unconstrained: tokio would make a task that did this for many webhooks yield.
    unconstrained(client.write_all(text.as_bytes())).now_or_never()?.ok()?;
    let read = Mutex::new(None);
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        *read.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(request.into_parts().0.extensions);
        async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
    });
    // The whole request lies in the pipe already: one poll reads it.
    let mut server_side = hyper::server::conn::http1::Builder::new();
    let serving = server_side.preserve_header_case(true).max_headers(1000).serve_connection(TokioIo::new(server), service);
    drop(unconstrained(serving).now_or_never());
    read.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use pushline_model::{AuthHeaders, CustomHeader, Secret};

    use super::*;

    fn webhook(auth: Auth) -> Webhook {
        let mut webhook = Webhook::new("w", "http://a.example:81/push?x=1".parse().unwrap());
        webhook.auth = auth;
        webhook
    }

    fn request(webhook: &Webhook) -> Request<RequestBody> {
        Template::new(webhook, None, &mut HeaderCaseCache::default()).unwrap().request(
            Protocol::Http1,
            MessageId([1; 16]),
            1_614_265_330,
            Bytes::from_static(b"{}"),
        )
    }

    fn header<'a>(request: &'a Request<RequestBody>, name: &str) -> Option<&'a str> {
        request.headers().get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn over_http2_a_request_has_an_absolute_uri_and_no_host() {
        let template = Template::new(&webhook(Auth::None), None, &mut HeaderCaseCache::default()).unwrap();
        let request = template.request(Protocol::Http2, MessageId([1; 16]), 1_614_265_330, Bytes::from_static(b"{}"));
        assert_eq!(request.uri(), "http://a.example:81/push?x=1");
        assert_eq!((header(&request, "host"), header(&request, "content-type")), (None, Some("application/json; charset=utf-8")));
    }

    #[test]
    fn each_kind_of_auth_stands_where_the_document_and_http_expect_it() {
        let basic = Auth::Basic { username: "test".into(), password: Secret::new("123456789") };
        let both = request(&webhook(basic.clone()));
        // The document's example 1.
        assert_eq!(header(&both, "Authentication"), Some("Basic dGVzdDoxMjM0NTY3ODk="));
        assert_eq!(header(&both, "Authorization"), Some("Basic dGVzdDoxMjM0NTY3ODk="));
        let mut one = webhook(basic);
        one.auth_headers = AuthHeaders::Authorization;
        assert_eq!(header(&request(&one), "Authentication"), None);
        assert_eq!(header(&request(&webhook(Auth::Bearer { token: Secret::new("t") })), "Authorization"), Some("Bearer t"));
        let name = pushline_model::HeaderName::new("X-API-Key").unwrap();
        assert_eq!(header(&request(&webhook(Auth::ApiKey { header: name, key: Secret::new("k") })), "x-api-key"), Some("k"));
        assert_eq!(header(&request(&webhook(Auth::None)), "Authorization"), None);
    }

    #[test]
    fn a_request_is_a_post_of_json_to_the_path_with_host_and_ids() {
        let mut webhook = webhook(Auth::None);
        webhook.secret = Some(Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
        webhook.headers = vec![CustomHeader::new("1_Area", "Tokyo").unwrap()];
        let request = request(&webhook);
        assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::POST, "/push?x=1"));
        assert_eq!(header(&request, "host"), Some("a.example:81"));
        assert_eq!(header(&request, "content-type"), Some("application/json; charset=utf-8"));
        assert_eq!(header(&request, "1_area"), Some("Tokyo"));
        assert_eq!(header(&request, "webhook-id"), Some("msg_AQEBAQEBAQEBAQEBAQEBAQ"));
        assert_eq!(header(&request, "webhook-timestamp"), Some("1614265330"));
        assert!(header(&request, "webhook-signature").unwrap().starts_with("v1,"));
    }
}
