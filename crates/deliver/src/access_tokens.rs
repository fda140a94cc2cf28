//! Access tokens of OAuth 2.0 client credentials (docs/document.md, Request; RFC 6749 §4.4): when one is fetched, and which attempts carry it.
//!
//! One fetch at a time: attempts that need its token wait for it, and share its failure. A token that still holds is renewed by one attempt while others
//! carry it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
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
    fetching: tokio::sync::Mutex<()>,
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
    /// The same, and it renews that one unless another attempt does.
    Renew(u64),
    /// It fetches one.
    Fetch,
}

impl AccessTokens {
    /// `None`: the webhook's requests carry no access token.
    pub(crate) fn of(webhook: &Webhook) -> Option<Self> {
        let Auth::OAuth2(credentials) = &webhook.auth else { return None };
        let carriers = webhook.credential_headers().into_iter().map(str::to_owned).collect();
        let request = TokenRequest::new(credentials);
        Some(Self { request, carriers, fetching: tokio::sync::Mutex::default(), state: Mutex::default() })
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
    pub(crate) async fn attempt<F: Future<Output = Outcome>>(&self, network: &Network, make: impl Fn() -> F) -> Outcome {
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
    async fn ready(&self, network: &Network) -> Result<u64, Outcome> {
        let (need, fetches) = self.need(Instant::now());
        match need {
            Need::Nothing(number) => return Ok(number),
            Need::Renew(number) => {
                let Ok(_fetching) = self.fetching.try_lock() else { return Ok(number) };
                // While the token holds, a failure has no consequence.
                drop(self.fetch(network).await);
            }
            Need::Fetch => self.fetch_after(fetches, network).await?,
        }
        Ok(self.state().token.as_ref().map_or(0, |token| token.number))
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
    use pushline_model::{ClientCredentials, NoResponse, Secret};

    use super::*;

    fn tokens() -> AccessTokens {
        let mut webhook = Webhook::new("w", "http://a.example/".parse().unwrap());
        webhook.auth = Auth::OAuth2(ClientCredentials {
            token_url: "http://id.example/token".parse().unwrap(),
            client_id: "c".into(),
            client_secret: Secret::new("s"),
            scope: None,
            audience: None,
        });
        AccessTokens::of(&webhook).unwrap()
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
}
