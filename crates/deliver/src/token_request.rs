//! One fetch of an access token (RFC 6749 §4.4.2, §4.4.3): the request, over a connection of its own through the egress guard, and what the answer means.
//!
//! The connection is made with the webhook's `tls`, except for its `server_name`, which is the webhook's own server's. What goes wrong is told without the client's secret and without anything that the server says beside an error code.

use std::{future::poll_fn, pin::pin, time::Duration};

use base64_simd::STANDARD;
use bytes::Bytes;
use form_urlencoded::{Serializer, byte_serialize};
use http::{
    HeaderValue, Method, Request, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt, Limited};
use pushline_model::{ClientCredentials, NoResponse, Outcome, Secret, Tls, TokenEndpointAuthMethod, Url};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    Network,
    connection::{Connection, Deadline, RequestBody},
    network::ConnectError,
    pool::{Checkout, Origin},
};

/// How long the token end point may take to answer once it is connected.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest answer, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// The longest life of a token that is counted.
const LONGEST_LIFE: Duration = Duration::from_hours(24 * 365);

/// The request of one webhook. Never printed whole: it holds the client's secret.
pub(crate) struct TokenRequest {
    url: Url,
    /// `Basic …`, unless the body has the client's secret.
    authorization: Option<HeaderValue>,
    body: Bytes,
    secret: Secret,
    tls: Tls,
}

/// A token that the server granted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    /// `Bearer …`.
    pub(crate) authorization: HeaderValue,
    /// For how long it holds; `None`: the server doesn't say.
    pub(crate) expires_in: Option<Duration>,
}

impl TokenRequest {
    pub(crate) fn new(credentials: &ClientCredentials, tls: &Tls) -> Self {
        let ClientCredentials { token_url, client_id, client_secret, token_endpoint_auth_method, scope, audience } = credentials;
        let is_basic = *token_endpoint_auth_method == TokenEndpointAuthMethod::ClientSecretBasic;
        let in_body = |text| (!is_basic).then_some(text);
        let fields = [
            ("grant_type", Some("client_credentials")),
            ("client_id", in_body(client_id.as_str())),
            ("client_secret", in_body(client_secret.reveal())),
            ("scope", scope.as_deref()),
            ("audience", audience.as_deref()),
        ];
        let mut form = Serializer::new(String::new());
        form.extend_pairs(fields.into_iter().filter_map(|(name, value)| Some((name, value?))));
        let authorization = is_basic.then(|| basic(client_id, client_secret));
        let tls = Tls { server_name: None, ..tls.clone() };
        Self { url: token_url.clone(), authorization, body: form.finish().into(), secret: client_secret.clone(), tls }
    }

    /// Fetches a token.
    ///
    /// # Errors
    /// The outcome of an attempt that needs it.
    pub(crate) async fn send(&self, network: &Network) -> Result<Granted, Outcome> {
        let identity = network.identity(&self.tls).map_err(|error| self.failed(&error.to_string()))?;
        let sharer = network.pool().join(Origin::over_http1(&self.url), identity);
        let Checkout { permit: _permit, connection } = match sharer.connection(network, &self.url, true).await {
            Ok(checkout) => checkout,
            Err(ConnectError::Blocked(what)) => return Err(Outcome::BlockedAddress { what: format!("token end point: {what}") }),
            Err(ConnectError::NoResponse(why)) => return Err(self.failed(&why.to_string())),
            Err(ConnectError::Local(kind, detail)) => return Err(Outcome::LocalFailure(network.local_failures().failed(kind, detail))),
        };
        let answer = match timeout(ANSWER_TIMEOUT, exchange(connection, self.request())).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => return Err(self.failed(&why)),
            Err(_) => return Err(self.failed("it didn't answer within 30 s")),
        };
        self.read(answer.0, &answer.1).map_err(|why| self.failed(&why))
    }

    fn request(&self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.path_and_query().parse().expect("a URL's path is one");
        let headers = request.headers_mut();
        headers.insert(HOST, self.url.authority().parse().expect("a URL's authority is ASCII"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.extend(self.authorization.clone().map(|authorization| (AUTHORIZATION, authorization)));
        request
    }

    fn read(&self, status: StatusCode, body: &[u8]) -> Result<Granted, String> {
        let answer: Result<Value, _> = serde_json::from_slice(body);
        if status != StatusCode::OK {
            let error = answer.as_ref().ok().and_then(|answer| answer["error"].as_str());
            let code = error.filter(|code| self.may_tell(code)).map_or(String::new(), |code| format!(" {code}"));
            return Err(format!("it answered with HTTP status {}{code}", status.as_u16()));
        }
        let answer = answer.map_err(|_| "its answer isn't JSON")?;
        let token = answer["access_token"].as_str().ok_or("its answer has no access_token")?;
        let kind = answer["token_type"].as_str().unwrap_or("Bearer");
        if !kind.eq_ignore_ascii_case("Bearer") {
            return Err("its token_type isn't Bearer".into());
        }
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| "its access_token can't stand in a header")?;
        authorization.set_sensitive(true);
        // Some servers write the number as text.
        let seconds = answer["expires_in"].as_f64().or_else(|| answer["expires_in"].as_str()?.parse().ok());
        let life = |seconds: f64| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(LONGEST_LIFE).min(LONGEST_LIFE);
        Ok(Granted { authorization, expires_in: seconds.map(life) })
    }

    /// An error code (RFC 6749 §5.2) that can't be anything else.
    fn may_tell(&self, code: &str) -> bool {
        let is_code = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        (1..=64).contains(&code.len()) && code.bytes().all(is_code) && !code.contains(self.secret.reveal())
    }

    fn failed(&self, why: &str) -> Outcome {
        Outcome::NoResponse(NoResponse::Token(format!("no access token from {}: {why}", self.url.authority()).into()))
    }
}

impl std::fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TokenRequest").field(&self.url.authority()).finish()
    }
}

/// The client's credentials, each encoded as in a form (RFC 6749 §2.3.1).
fn basic(client_id: &str, client_secret: &Secret) -> HeaderValue {
    let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let pair = format!("{}:{}", encoded(client_id), encoded(client_secret.reveal()));
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode_to_string(pair))).expect("base64 is a valid value");
    value.set_sensitive(true);
    value
}

/// Sends the request and reads the answer. The connection ends with it.
async fn exchange(connection: Connection, request: Request<RequestBody>) -> Result<(StatusCode, Bytes), String> {
    let mut deadline = Deadline::new(ANSWER_TIMEOUT);
    let (response, mut connection) = connection.send(request, &mut deadline).await.map_err(|error| NoResponse::from(error).to_string())?;
    let status = response.status();
    let mut body = pin!(Limited::new(response.into_body(), MAX_ANSWER).collect());
    let body = poll_fn(|cx| connection.poll_with(cx, |cx| body.as_mut().poll(cx))).await;
    let body = body.map_err(|error| format!("its answer can't be read: {error}"))?;
    Ok((status, body.to_bytes()))
}

#[cfg(test)]
mod tests {
    use TokenEndpointAuthMethod::{ClientSecretBasic, ClientSecretPost};

    use super::*;

    fn request(client_secret: &str, scope: Option<&str>, method: TokenEndpointAuthMethod) -> TokenRequest {
        let credentials = ClientCredentials {
            token_url: "https://id.example/oauth/token?tenant=1".parse().unwrap(),
            client_id: "s6BhdRkqt3".into(),
            client_secret: Secret::new(client_secret),
            token_endpoint_auth_method: method,
            scope: scope.map(str::to_owned),
            audience: scope.map(|_| "https://api.example/".to_owned()),
        };
        TokenRequest::new(&credentials, &Tls { server_name: Some("a.example".into()), ..Tls::default() })
    }

    #[test]
    fn the_request_is_the_standards_own() {
        // RFC 6749 §4.4.2.
        let plain = request("gX1fBat3bV", None, ClientSecretBasic);
        assert_eq!(plain.request().headers()[AUTHORIZATION], "Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW");
        assert_eq!(plain.body, "grant_type=client_credentials");
        assert!(!format!("{plain:?}").contains("gX1f") && !format!("{:?}", plain.request()).contains("czZC"));
        let request = request("a b:ü", Some("push read"), ClientSecretBasic);
        assert_eq!(request.body, "grant_type=client_credentials&scope=push+read&audience=https%3A%2F%2Fapi.example%2F");
        let sent = request.request();
        assert_eq!(sent.headers()[AUTHORIZATION], format!("Basic {}", STANDARD.encode_to_string("s6BhdRkqt3:a+b%3A%C3%BC")).as_str());
        assert_eq!(
            (sent.uri().to_string().as_str(), &sent.headers()[HOST]),
            ("/oauth/token?tenant=1", &HeaderValue::from_static("id.example"))
        );
    }

    #[test]
    fn a_server_that_reads_the_secret_in_the_body_gets_it_there_alone() {
        // RFC 6749 §2.3.1.
        let plain = request("7Fjfp0ZBr1KtDRbnfVdmIw", None, ClientSecretPost);
        assert_eq!(plain.body, "grant_type=client_credentials&client_id=s6BhdRkqt3&client_secret=7Fjfp0ZBr1KtDRbnfVdmIw");
        assert!(!plain.request().headers().contains_key(AUTHORIZATION));
        assert!(!format!("{plain:?}").contains("7Fjf") && !format!("{:?}", plain.request()).contains("7Fjf"));
        let form = "grant_type=client_credentials&client_id=s6BhdRkqt3&client_secret=a+b%3A%C3%BC&scope=push&audience=https%3A%2F%2Fapi.example%2F";
        assert_eq!(request("a b:ü", Some("push"), ClientSecretPost).body, form);
    }

    #[test]
    fn an_answer_grants_a_token_or_says_why_not_and_never_tells_the_secret() {
        let request = request("hush", None, ClientSecretBasic);
        let read = |status: u16, body: &str| {
            let granted = request.read(StatusCode::from_u16(status).unwrap(), body.as_bytes());
            granted.map(|granted| (granted.authorization.to_str().unwrap().to_owned(), granted.expires_in.map(|life| life.as_secs())))
        };
        let granted = |expires_in: &str| read(200, &format!(r#"{{"access_token":"t","token_type":"bearer"{expires_in}}}"#));
        for (expires_in, seconds) in [
            ("", None),
            (r#","expires_in":3600"#, Some(3600)),
            (r#","expires_in":"60""#, Some(60)),
            (r#","expires_in":-5"#, Some(0)),
            (r#","expires_in":1e300"#, Some(LONGEST_LIFE.as_secs())),
        ] {
            assert_eq!(granted(expires_in), Ok(("Bearer t".to_owned(), seconds)), "{expires_in}");
        }
        let refused = |status, body| read(status, body).unwrap_err();
        assert_eq!(
            refused(401, r#"{"error":"invalid_client","error_description":"hush"}"#),
            "it answered with HTTP status 401 invalid_client"
        );
        for body in [r#"{"error":"hush"}"#, r#"{"error":"<b>"}"#, r#"{"error":5}"#, "<html>", ""] {
            assert_eq!(refused(400, body), "it answered with HTTP status 400", "{body}");
        }
        assert_eq!(refused(200, "{}"), "its answer has no access_token");
        for body in ["<html>", "", "access_token=t"] {
            assert_eq!(refused(200, body), "its answer isn't JSON", "{body}");
        }
        assert_eq!(refused(200, r#"{"access_token":"t","token_type":"mac"}"#), "its token_type isn't Bearer");
        assert_eq!(refused(200, r#"{"access_token":"a\nb","token_type":"Bearer"}"#), "its access_token can't stand in a header");
        assert_eq!(refused(302, ""), "it answered with HTTP status 302");
    }
}
