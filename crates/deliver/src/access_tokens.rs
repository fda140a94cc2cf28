//! Access tokens of OAuth 2.0 client credentials (docs/document.md, Request; RFC 6749 §4.4): when one is fetched, and which attempts carry it.
//!
//! One fetch at a time: attempts that need its token wait for it, and share its failure. A token that still holds is renewed by a task beside the attempts,
//! which carry it meanwhile.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderValue};
use pushline_model::{Auth, Outcome, Webhook};
use tokio::time::Instant;

use crate::{
    Network,
    token_request::{Granted, TokenRequest},
};

/// A token is renewed this long before it expires, or a tenth of its life before, whichever is shorter.
const BEFORE_EXPIRY: Duration = Duration::from_mins(1);

/// How long a failed renewal waits while the token still holds.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// A webhook's access tokens.
#[derive(Debug)]
pub(crate) struct AccessTokens {
    request: TokenRequest,
    /// The headers that carry the token.
    carriers: Vec<String>,
    fetching: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    token: Option<Token>,
    /// How many fetches have ended.
    fetches: u64,
    /// Why the last one failed, if it did.
    failure: Option<Outcome>,
}

/// A token that was granted.
#[derive(Debug)]
struct Token {
    authorization: HeaderValue,
    /// The fetch that it came by.
    number: u64,
    /// When it is renewed, and when it expires; `None`: the server told neither.
    life: Option<(Instant, Instant)>,
}

/// What an attempt has to do about its token.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    /// It carries the one of this fetch.
    Nothing(u64),
    /// The same, and that one is to be renewed.
    Renew(u64),
    /// It fetches one.
    Fetch,
}

impl AccessTokens {
    /// `None`: the webhook's requests carry no access token.
    pub(crate) fn of(webhook: &Webhook) -> Option<Self> {
        let Auth::OAuth2(credentials) = &webhook.auth else { return None };
        let carriers = webhook.credential_headers().into_iter().map(str::to_owned).collect();
        let request = TokenRequest::new(credentials, &webhook.tls);
        Some(Self { request, carriers, fetching: Arc::default(), state: Mutex::default() })
    }

    /// Puts the token into a request's headers.
    pub(crate) fn authorize(&self, headers: &mut HeaderMap) {
        let Some(authorization) = self.state().token.as_ref().map(|token| token.authorization.clone()) else { return };
        for carrier in &self.carriers {
            if let Some(value) = headers.get_mut(carrier) {
                value.clone_from(&authorization);
            }
        }
    }

    /// Makes an attempt with a token. If the server refuses the token (401), the attempt is made once more with a new one.
    pub(crate) async fn attempt<F: Future<Output = Outcome>>(self: &Arc<Self>, network: &Arc<Network>, make: impl Fn() -> F) -> Outcome {
        let number = match self.ready(network).await {
            Ok(number) => number,
            Err(outcome) => return outcome,
        };
        let outcome = make().await;
        if outcome.status() != Some(401) {
            return outcome;
        }
        match self.renew(number, network).await {
            Ok(()) => make().await,
            Err(outcome) => outcome,
        }
    }

    /// There is a token that holds. Returns its fetch's number.
    async fn ready(self: &Arc<Self>, network: &Arc<Network>) -> Result<u64, Outcome> {
        let (need, fetches) = self.need(Instant::now());
        match need {
            Need::Nothing(number) => Ok(number),
            Need::Renew(number) => {
                self.renew_beside(network);
                Ok(number)
            }
            Need::Fetch => {
                self.fetch_after(fetches, network).await?;
                Ok(self.state().token.as_ref().expect("a fetch that ended well leaves a token").number)
            }
        }
    }

    /// Renews the token in a task of its own, unless it is being fetched already. While the token holds, a failure changes nothing for attempts.
    fn renew_beside(self: &Arc<Self>, network: &Arc<Network>) {
        let Ok(fetching) = Arc::clone(&self.fetching).try_lock_owned() else { return };
        // Another task may have renewed it just now.
        if !matches!(self.need(Instant::now()).0, Need::Renew(_)) {
            return;
        }
        let (this, network) = (Arc::clone(self), Arc::clone(network));
        tokio::spawn(async move {
            drop(this.fetch(&network).await);
            drop(fetching);
        });
    }

    /// The token of that fetch was refused: there is another one.
    async fn renew(&self, refused: u64, network: &Network) -> Result<(), Outcome> {
        let fetches = {
            let state = self.state();
            if state.token.as_ref().is_some_and(|token| token.number != refused) {
                return Ok(());
            }
            state.fetches
        };
        self.fetch_after(fetches, network).await
    }

    fn need(&self, now: Instant) -> (Need, u64) {
        let state = self.state();
        let need = match &state.token {
            Some(Token { number, life: None, .. }) => Need::Nothing(*number),
            Some(Token { number, life: Some((renew_at, _)), .. }) if now < *renew_at => Need::Nothing(*number),
            Some(Token { number, life: Some((_, expires_at)), .. }) if now < *expires_at => Need::Renew(*number),
            _ => Need::Fetch,
        };
        (need, state.fetches)
    }

    /// Fetches a token, unless another attempt has done that since `fetches` had ended.
    async fn fetch_after(&self, fetches: u64, network: &Network) -> Result<(), Outcome> {
        let _fetching = self.fetching.lock().await;
        {
            let state = self.state();
            if state.fetches != fetches {
                return state.failure.clone().map_or(Ok(()), Err);
            }
        }
        self.fetch(network).await
    }

    async fn fetch(&self, network: &Network) -> Result<(), Outcome> {
        let fetched = self.request.send(network).await;
        self.ended(fetched, Instant::now())
    }

    fn ended(&self, fetched: Result<Granted, Outcome>, now: Instant) -> Result<(), Outcome> {
        let mut state = self.state();
        state.fetches += 1;
        match fetched {
            Ok(Granted { authorization, expires_in }) => {
                let life = expires_in.map(|life| (now + life - BEFORE_EXPIRY.min(life / 10), now + life));
                state.token = Some(Token { authorization, number: state.fetches, life });
                state.failure = None;
                Ok(())
            }
            Err(outcome) => {
                if let Some(Token { life: Some((renew_at, _)), .. }) = &mut state.token {
                    *renew_at = now + AFTER_FAILURE;
                }
                state.failure = Some(outcome.clone());
                Err(outcome)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use pushline_model::{ClientCredentials, NoResponse, ResponseHeaders, Secret, TokenEndpointAuthMethod};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn tokens() -> Arc<AccessTokens> {
        tokens_of("http://id.example/token")
    }

    fn tokens_of(token_url: &str) -> Arc<AccessTokens> {
        let mut webhook = Webhook::new("w", "http://a.example/".parse().unwrap());
        webhook.auth = Auth::OAuth2(ClientCredentials {
            token_url: token_url.parse().unwrap(),
            client_id: "c".into(),
            client_secret: Secret::new("s"),
            token_endpoint_auth_method: TokenEndpointAuthMethod::default(),
            scope: None,
            audience: None,
        });
        Arc::new(AccessTokens::of(&webhook).unwrap())
    }

    fn granted(tokens: &AccessTokens, token: &'static str, seconds: Option<u64>, now: Instant) {
        let authorization = HeaderValue::from_static(token);
        tokens.ended(Ok(Granted { authorization, expires_in: seconds.map(Duration::from_secs) }), now).unwrap();
    }

    #[test]
    fn a_token_is_renewed_a_minute_or_a_tenth_of_its_life_before_it_expires() {
        let (tokens, now) = (tokens(), Instant::now());
        let need = |seconds| tokens.need(now + Duration::from_secs(seconds)).0;
        assert_eq!(need(0), Need::Fetch);
        granted(&tokens, "Bearer a", Some(3600), now);
        assert_eq!([need(3539), need(3540), need(3599), need(3600)], [Need::Nothing(1), Need::Renew(1), Need::Renew(1), Need::Fetch]);
        granted(&tokens, "Bearer b", Some(100), now);
        assert_eq!([need(89), need(90), need(100)], [Need::Nothing(2), Need::Renew(2), Need::Fetch]);
        granted(&tokens, "Bearer c", None, now);
        assert_eq!(need(1_000_000), Need::Nothing(3), "until the server refuses it");
    }

    #[test]
    fn a_token_is_carried_on_while_its_renewal_fails() {
        let (tokens, now) = (tokens(), Instant::now());
        granted(&tokens, "Bearer a", Some(100), now);
        let at = |seconds| now + Duration::from_secs(seconds);
        let failure = Outcome::NoResponse(NoResponse::Token("busy".into()));
        assert_eq!(tokens.ended(Err(failure.clone()), at(90)), Err(failure));
        assert_eq!([94, 95, 100].map(|seconds| tokens.need(at(seconds)).0), [Need::Nothing(1), Need::Renew(1), Need::Fetch]);
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer"));
        tokens.authorize(&mut headers);
        assert_eq!((headers.len(), headers["authorization"].to_str().ok()), (1, Some("Bearer a")));
    }

    #[tokio::test]
    async fn an_attempt_carries_the_token_that_holds_and_does_not_wait_for_its_renewal() {
        // The token end point takes connections and never answers.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tokens = tokens_of(&format!("http://{}/token", silent.local_addr().unwrap()));
        let now = Instant::now();
        granted(&tokens, "Bearer a", Some(3600), now);
        tokens.state().token.as_mut().unwrap().life = Some((now, now + Duration::from_hours(1)));
        let network = Network::new(crate::Egress::new(vec!["127.0.0.0/8".parse().unwrap()])).unwrap();
        let made = tokens.attempt(&network, || async { Outcome::Accepted { status: 204 } });
        let outcome = tokio::select! {
            biased;
            outcome = made => Some(outcome),
            _ = silent.accept() => None,
        };
        assert_eq!(outcome, Some(Outcome::Accepted { status: 204 }), "no attempt waits for the token end point");
        silent.accept().await.unwrap();
    }

    /// A token end point on this machine, the tokens of a webhook that asks it, and how many it has granted.
    async fn granting() -> (Arc<AccessTokens>, Arc<Network>, Arc<AtomicUsize>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tokens = tokens_of(&format!("http://{}/token", listener.local_addr().unwrap()));
        let granted = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&granted);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let number = counted.fetch_add(1, Ordering::Relaxed) + 1;
                let mut request = Vec::new();
                while !request.ends_with(b"grant_type=client_credentials") {
                    assert!(stream.read_buf(&mut request).await.unwrap() > 0, "{:?}", String::from_utf8_lossy(&request));
                }
                // Longer than one read brings: the rest comes only while the connection moves.
                let note = "x".repeat(40_000);
                let body = format!("{{\"access_token\":\"t{number}\",\"token_type\":\"Bearer\",\"expires_in\":3600,\"note\":\"{note}\"}}");
                let response = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(response.as_bytes()).await.unwrap();
            }
        });
        let network = Network::new(crate::Egress::new(vec!["127.0.0.0/8".parse().unwrap()])).unwrap();
        (tokens, network, granted)
    }

    const REFUSED: Outcome =
        Outcome::ErrorResponse { status: 401, response: Vec::new(), headers: ResponseHeaders { location: None, retry_after: None } };
    const ACCEPTED: Outcome = Outcome::Accepted { status: 200 };

    #[tokio::test]
    async fn a_refused_token_is_renewed_and_the_attempt_made_once_more() {
        let (tokens, network, granted) = granting().await;
        let made = AtomicUsize::new(0);
        let make = || async {
            made.fetch_add(1, Ordering::Relaxed);
            REFUSED
        };
        assert_eq!(tokens.attempt(&network, make).await, REFUSED);
        assert_eq!((made.load(Ordering::Relaxed), granted.load(Ordering::Relaxed)), (2, 2));
        assert_eq!(tokens.attempt(&network, || async { ACCEPTED }).await, ACCEPTED);
        assert_eq!(granted.load(Ordering::Relaxed), 2, "a token that is accepted stays");
    }

    #[tokio::test]
    async fn attempts_that_need_a_token_at_once_share_a_fetch() {
        let (tokens, network, granted) = granting().await;
        let attempts = (0..5).map(|_| tokens.attempt(&network, || async { ACCEPTED }));
        assert_eq!(futures_util::future::join_all(attempts).await, vec![ACCEPTED; 5]);
        assert_eq!(granted.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn an_attempt_whose_token_was_renewed_meanwhile_carries_the_new_one() {
        let (tokens, network, granted) = granting().await;
        let (resume, renewed) = tokio::sync::oneshot::channel();
        let renewed = Mutex::new(Some(renewed));
        let late = tokens.attempt(&network, || async {
            let renewed = renewed.lock().unwrap().take();
            match renewed {
                Some(renewed) => {
                    renewed.await.unwrap();
                    REFUSED
                }
                None => ACCEPTED,
            }
        });
        let first = AtomicUsize::new(0);
        let early = async {
            let outcome =
                tokens.attempt(&network, || async { if first.fetch_add(1, Ordering::Relaxed) == 0 { REFUSED } else { ACCEPTED } }).await;
            resume.send(()).unwrap();
            outcome
        };
        assert_eq!(tokio::join!(late, early), (ACCEPTED, ACCEPTED));
        assert_eq!(granted.load(Ordering::Relaxed), 2, "the one that both carried, and the one that replaced it");
    }
}
