//! Logins that an HTTP end point decides: fleets that no file holds. docs/listeners.md has the request and its answers.
//!
//! An end point that gives no answer is no refusal: the client hears that the server is unavailable, and comes again.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use metrics::counter;
use pushline_model::{Secret, Timestamp, Url};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::{Denied, TopicRule, http_client::HttpClient, remembered::Remembered, shorten};
use crate::{ClientConfigs, listener::DisconnectReason, log_limit::LogLimit, metrics as names};

/// How many logins may wait for their turn.
const WAITING_AT_MOST: usize = 10_000;

/// A denial is remembered for no longer than this: an operator may have just let the client in.
const DENIAL_REMEMBERED: Duration = Duration::from_secs(10);

/// The most topic rules of an answer.
const MOST_RULES: usize = 100;

/// A listener's `login_endpoint`: who decides about clients that no file has.
#[derive(Debug, Clone)]
pub struct LoginEndpointOptions {
    /// Where logins are posted to.
    pub url: Url,
    /// A bearer token that the end point asks for.
    pub token: Option<Secret>,
    /// For an `https` URL.
    pub tls: Option<ClientConfigs>,
    /// How long a client waits for the decision, the wait for its turn included.
    pub timeout: Duration,
    /// How many requests are on their way at a time.
    pub concurrency: usize,
    /// How long a decision holds for the same client, password and address; zero: not at all.
    pub remember: Duration,
}

/// The end point of a listener.
#[derive(Debug)]
pub(super) struct LoginEndpoint {
    client: HttpClient,
    timeout: Duration,
    remember: Duration,
    turns: Semaphore,
    waiting: Semaphore,
    decisions: Remembered<(Decision, Instant)>,
    is_down: AtomicBool,
    log: Mutex<LogLimit>,
}

/// What is asked.
#[derive(Debug, Serialize)]
pub(super) struct Login<'a> {
    pub(super) client_id: &'a str,
    pub(super) user: Option<&'a str>,
    pub(super) password: Option<&'a str>,
    pub(super) address: IpAddr,
    /// The name in the certificate that the client has shown.
    pub(super) certificate: Option<&'a str>,
}

/// What is answered.
#[derive(Deserialize)]
struct Answer {
    allow: bool,
    topics: Option<Vec<String>>,
    /// In seconds.
    expires_in: Option<u64>,
    reason: Option<String>,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    Allowed {
        /// `None`: the listener's rules hold.
        rules: Option<Arc<[TopicRule]>>,
        /// When the client has to log in again.
        expires: Option<Timestamp>,
    },
    /// With the reason, for people.
    Denied(Option<Arc<str>>),
}

impl LoginEndpoint {
    /// # Errors
    /// The token can't stand in a header.
    pub(super) fn new(options: LoginEndpointOptions) -> Result<Self, String> {
        let LoginEndpointOptions { url, token, tls, timeout, concurrency, remember } = options;
        Ok(Self {
            client: HttpClient::new(url, token.as_ref(), tls)?,
            timeout,
            remember,
            turns: Semaphore::new(concurrency),
            waiting: Semaphore::new(WAITING_AT_MOST),
            decisions: Remembered::new(),
            is_down: AtomicBool::new(false),
            log: Mutex::default(),
        })
    }

    /// Decides about a login.
    ///
    /// # Errors
    /// The end point has denied it, or gave no answer.
    pub(super) async fn decide(&self, login: &Login<'_>, now: Timestamp) -> Result<(Option<Arc<[TopicRule]>>, Option<Timestamp>), Denied> {
        let body = Bytes::from(serde_json::to_vec(login).expect("texts are JSON"));
        let tag = self.decisions.tag(&[&body]);
        let remembered = self.decisions.get(&tag).filter(|(decision, until)| *until > Instant::now() && decision.holds(now));
        let decision = match remembered {
            Some((decision, _)) => decision,
            None => {
                let decision = self.ask(body, now).await?;
                self.decisions.insert(tag, (decision.clone(), Instant::now() + decision.remembered_for(self.remember)));
                decision
            }
        };
        match decision {
            Decision::Allowed { rules, expires } => Ok((rules, expires)),
            Decision::Denied(reason) => Err(Denied {
                reason: DisconnectReason::BadUserNameOrPassword,
                detail: reason.map_or("the login end point has denied it".into(), |reason| {
                    format!("the login end point has denied it: {reason}").into()
                }),
            }),
        }
    }

    async fn ask(&self, body: Bytes, now: Timestamp) -> Result<Decision, Denied> {
        let answered = match self.waiting.try_acquire() {
            Ok(_waiting) => timeout(self.timeout, self.in_turn(body)).await.unwrap_or_else(|_| Err("no answer in time".to_owned())),
            Err(_) => Err("too many logins wait for it".to_owned()),
        };
        let decided = answered.and_then(|(status, body)| read(status, &body, now));
        self.note(decided.as_ref().err().map(String::as_str));
        let result = match &decided {
            Ok(Decision::Allowed { .. }) => "allowed",
            Ok(Decision::Denied(_)) => "denied",
            Err(_) => "failed",
        };
        counter!(names::LOGIN_REQUESTS, "result" => result).increment(1);
        decided.map_err(|problem| Denied {
            reason: DisconnectReason::ServerUnavailable,
            detail: format!("the login end point {} gave no decision: {problem}", self.client.url().authority()).into(),
        })
    }

    async fn in_turn(&self, body: Bytes) -> Result<(StatusCode, Bytes), String> {
        let _turn = self.turns.acquire().await.expect("the turns are never closed");
        self.client.post(body).await
    }

    /// Logs that the end point is down, at most once a minute, and that it is up again.
    fn note(&self, problem: Option<&str>) {
        let was_down = self.is_down.swap(problem.is_some(), Ordering::Relaxed);
        let url = self.client.url().redacted();
        if let Some(problem) = problem {
            let line = self.log.lock().unwrap_or_else(PoisonError::into_inner).pass(Instant::now());
            if let Some(unlogged) = line {
                warn!(
                    url = url.as_str(),
                    problem, unlogged, "login end point down: clients hear that the server is unavailable, and have to come again"
                );
            }
        } else if was_down {
            info!(url = url.as_str(), "login end point answers again");
        }
    }
}

impl Decision {
    fn holds(&self, now: Timestamp) -> bool {
        !matches!(self, Self::Allowed { expires: Some(expires), .. } if *expires <= now)
    }

    fn remembered_for(&self, longest: Duration) -> Duration {
        if matches!(self, Self::Denied(_)) { longest.min(DENIAL_REMEMBERED) } else { longest }
    }
}

/// What an answer means. Only 200 with `allow` is a decision: any other status may come from what stands between.
fn read(status: StatusCode, body: &[u8], now: Timestamp) -> Result<Decision, String> {
    if status != StatusCode::OK {
        return Err(format!("it answered with HTTP status {}, expected 200", status.as_u16()));
    }
    let answer: Answer = serde_json::from_slice(body).map_err(|_| "its answer isn't {\"allow\": true} or {\"allow\": false}")?;
    if !answer.allow {
        return Ok(Decision::Denied(answer.reason.map(|reason| shorten(&reason).into())));
    }
    let rules = answer.topics.map(|topics| topics.iter().map(|topic| rule(topic)).collect::<Result<Vec<_>, _>>()).transpose()?;
    if rules.as_ref().is_some_and(|rules| rules.len() > MOST_RULES) {
        return Err(format!("its answer has more than {MOST_RULES} topics"));
    }
    let expires = answer.expires_in.map(|seconds| now.plus(Duration::from_secs(seconds)));
    Ok(Decision::Allowed { rules: rules.map(Into::into), expires })
}

fn rule(text: &str) -> Result<TopicRule, String> {
    let rule: TopicRule = text.parse().map_err(|_| format!("its answer has {:?}, which is not a topic rule", shorten(text)))?;
    if rule.claim().is_some() {
        return Err(format!("its answer has {:?}: only {{user}} stands for anything there", shorten(text)));
    }
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::watch,
    };

    use super::*;

    /// A server that answers each request with the text that is in `answer`: empty, it closes the connection; `None`, it is silent.
    struct Server {
        url: Url,
        answer: watch::Sender<Option<String>>,
        requests: Arc<AtomicUsize>,
        connections: Arc<AtomicUsize>,
        last: Arc<Mutex<String>>,
    }

    impl Server {
        async fn start(answer: &str) -> Self {
            let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/login?tenant=1", socket.local_addr().unwrap()).parse().unwrap();
            let (answer, answers) = watch::channel(Some(answer.to_owned()));
            let (requests, connections, last) = (Arc::default(), Arc::default(), Arc::default());
            let this = Self { url, answer, requests, connections, last };
            let (requests, connections, last) = (Arc::clone(&this.requests), Arc::clone(&this.connections), Arc::clone(&this.last));
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = socket.accept().await {
                    connections.fetch_add(1, Ordering::Relaxed);
                    let (answers, requests, last) = (answers.clone(), Arc::clone(&requests), Arc::clone(&last));
                    tokio::spawn(async move {
                        let mut bytes = vec![0; 4096];
                        while let Ok(1..) = stream
                            .read(&mut bytes)
                            .await
                            .inspect(|read| *last.lock().unwrap() = String::from_utf8_lossy(&bytes[..*read]).into_owned())
                        {
                            requests.fetch_add(1, Ordering::Relaxed);
                            let answer = answers.borrow().clone();
                            match answer {
                                None => std::future::pending().await,
                                Some(answer) if answer.is_empty() => return,
                                Some(answer) => drop(stream.write_all(answer.as_bytes()).await),
                            }
                        }
                    });
                }
            });
            this
        }

        fn endpoint(&self, remember: Duration) -> LoginEndpoint {
            let token = Some(Secret::new("hush"));
            let options = LoginEndpointOptions {
                url: self.url.clone(),
                token,
                tls: None,
                timeout: Duration::from_millis(300),
                concurrency: 2,
                remember,
            };
            LoginEndpoint::new(options).unwrap()
        }

        fn requests(&self) -> usize {
            self.requests.load(Ordering::Relaxed)
        }
    }

    fn ok(json: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{json}", json.len())
    }

    fn login(client_id: &str) -> Login<'_> {
        Login { client_id, user: Some("u"), password: Some("secret"), address: [192, 0, 2, 7].into(), certificate: Some("897") }
    }

    const NOW: Timestamp = Timestamp(7);

    #[tokio::test]
    async fn a_login_is_posted_as_json_and_connections_are_used_again() {
        let server = Server::start(&ok("{\"allow\":true,\"topics\":[\"mti/#\",\"{user}\"],\"expires_in\":60,\"more\":1}")).await;
        let endpoint = server.endpoint(Duration::ZERO);
        let (rules, expires) = endpoint.decide(&login("d"), NOW).await.unwrap();
        assert_eq!((rules.unwrap().len(), expires), (2, Some(NOW.plus(Duration::from_secs(60)))));
        let request = server.last.lock().unwrap().to_lowercase();
        assert!(
            request.starts_with("post /login?tenant=1 http/1.1\r\n") && request.contains("authorization: bearer hush\r\n"),
            "{request}"
        );
        let body = "{\"client_id\":\"d\",\"user\":\"u\",\"password\":\"secret\",\"address\":\"192.0.2.7\",\"certificate\":\"897\"}";
        assert!(request.ends_with(body), "{request}");
        endpoint.decide(&login("d"), NOW).await.unwrap();
        assert_eq!((server.requests(), server.connections.load(Ordering::Relaxed)), (2, 1));
        assert!(!format!("{endpoint:?}").contains("hush"));
    }

    #[tokio::test]
    async fn a_server_that_closes_idle_connections_is_asked_over_a_new_one() {
        let server = Server::start(&ok("{\"allow\":true}")).await;
        let endpoint = server.endpoint(Duration::ZERO);
        endpoint.decide(&login("d"), NOW).await.unwrap();
        server.answer.send_replace(Some(String::new()));
        let restored = async {
            while server.requests() < 2 {
                tokio::task::yield_now().await;
            }
            server.answer.send_replace(Some(ok("{\"allow\":true}")));
        };
        let login = login("d");
        let (decided, ()) = tokio::join!(endpoint.decide(&login, NOW), restored);
        assert!(decided.is_ok() && server.connections.load(Ordering::Relaxed) == 2, "{decided:?}");
    }

    #[tokio::test]
    async fn no_decision_is_server_unavailable_and_never_a_wrong_password() {
        let server = Server::start("").await;
        let endpoint = server.endpoint(Duration::from_secs(60));
        let status = |line: &str| format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n");
        for (answer, says) in [
            (Some(String::new()), "no answer"),
            (None, "no answer in time"),
            (Some("nonsense\r\n\r\n".to_owned()), "no answer"),
            (Some(status("500 Oh")), "HTTP status 500"),
            (Some(status("401 Unauthorized")), "HTTP status 401"),
            (Some(status("403 Forbidden")), "HTTP status 403"),
            (Some(status("302 Found")), "HTTP status 302"),
            (Some(ok("{}")), "isn't {\"allow\""),
            (Some(ok("{\"allow\":\"yes\"}")), "isn't {\"allow\""),
            (Some(ok("{\"allow\":true,\"topics\":[\"a//b\"]}")), "not a topic rule"),
            (Some(ok("{\"allow\":true,\"topics\":[\"{org}/#\"]}")), "only {user}"),
            (Some(format!("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{}", " ".repeat(100_000))), "can't be read"),
        ] {
            server.answer.send_replace(answer.clone());
            let denied = endpoint.decide(&login("d"), NOW).await.unwrap_err();
            assert!(denied.reason == DisconnectReason::ServerUnavailable && denied.detail.contains(says), "{answer:?}: {denied:?}");
            assert!(endpoint.is_down.load(Ordering::Relaxed));
        }
        server.answer.send_replace(Some(ok("{\"allow\":true}")));
        assert!(endpoint.decide(&login("d"), NOW).await.is_ok(), "a failure isn't remembered");
        assert!(!endpoint.is_down.load(Ordering::Relaxed));
        let nowhere = LoginEndpointOptions {
            url: "http://127.0.0.1:1/".parse().unwrap(),
            token: None,
            tls: None,
            timeout: Duration::from_secs(5),
            concurrency: 1,
            remember: Duration::ZERO,
        };
        let denied = LoginEndpoint::new(nowhere).unwrap().decide(&login("d"), NOW).await.unwrap_err();
        assert!(denied.detail.contains("can't connect"), "{denied:?}");
    }

    #[tokio::test]
    async fn a_decision_is_remembered_for_the_same_login_until_it_expires() {
        let server = Server::start(&ok("{\"allow\":true,\"expires_in\":60}")).await;
        let endpoint = server.endpoint(Duration::from_secs(60));
        for _ in 0..3 {
            endpoint.decide(&login("d"), NOW).await.unwrap();
        }
        assert_eq!(server.requests(), 1);
        for other in [login("e"), Login { password: Some("other"), ..login("d") }, Login { address: [192, 0, 2, 8].into(), ..login("d") }] {
            endpoint.decide(&other, NOW).await.unwrap();
        }
        assert_eq!(server.requests(), 4);
        endpoint.decide(&login("d"), NOW.plus(Duration::from_secs(60))).await.unwrap();
        assert_eq!(server.requests(), 5, "its own expiry counts");
        server.answer.send_replace(Some(ok("{\"allow\":false,\"reason\":\"not paid\"}")));
        for _ in 0..3 {
            let denied = endpoint.decide(&login("f"), NOW).await.unwrap_err();
            assert_eq!(
                (denied.reason, &*denied.detail),
                (DisconnectReason::BadUserNameOrPassword, "the login end point has denied it: not paid")
            );
        }
        assert_eq!(server.requests(), 6);
        assert_eq!(Decision::Denied(None).remembered_for(Duration::from_secs(60)), DENIAL_REMEMBERED);
    }

    #[tokio::test]
    async fn requests_on_their_way_are_bounded_and_a_wait_ends_by_the_timeout() {
        let server = Server::start("").await;
        server.answer.send_replace(None);
        let endpoint = server.endpoint(Duration::ZERO);
        let ids: Vec<String> = (0..10).map(|number| number.to_string()).collect();
        let decided = futures_util::future::join_all(ids.iter().map(|id| async { endpoint.decide(&login(id), NOW).await })).await;
        assert!(decided.iter().all(Result::is_err));
        assert_eq!(server.requests(), 2, "the concurrency");
    }
}
