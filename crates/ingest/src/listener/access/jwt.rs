//! Tokens as passwords (JWT, RFC 7519): who signed one, whether it holds now and for us, and what it claims. Pure but for reading the keys' file.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use base64_simd::URL_SAFE_NO_PAD;
use pushline_model::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::{Key, Keys};

/// The longest token, in bytes.
const LONGEST: usize = 16 << 10;

/// A listener's `jwt`: clients may log in with a token as their password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtOptions {
    /// The public keys: a JWK Set (RFC 7517).
    pub jwks_file: PathBuf,
    /// Which algorithms a token may be signed with.
    pub algorithms: Vec<JwtAlgorithm>,
    /// What `iss` has to be.
    pub issuer: Option<String>,
    /// What `aud` has to be or contain. Without it, a token with `aud` is for another server (RFC 7519 §4.1.3).
    pub audience: Option<String>,
    /// By how much the clocks of issuer and listener may differ.
    pub leeway: Duration,
    /// The claim that names the client.
    pub name_claim: String,
}

/// An algorithm of a token's signature (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwtAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

/// What tokens are checked against.
#[derive(Debug)]
pub(super) struct Tokens {
    options: JwtOptions,
    keys: ArcSwap<Keys>,
}

/// A token that is right.
#[derive(Debug, PartialEq)]
pub(super) struct Token {
    pub(super) name: String,
    claims: Map<String, Value>,
    /// Who signed it.
    pub(super) key: Arc<Key>,
    /// From when on it holds no more, leeway included.
    pub(super) expires: Timestamp,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that have to be understood (RFC 7515 §4.1.11). There is none here.
    crit: Option<serde::de::IgnoredAny>,
}

impl JwtAlgorithm {
    /// All that there are.
    pub const ALL: [Self; 3] = [Self::Rs256, Self::Es256, Self::EdDsa];

    /// The names in a token's header and in a key. RFC 9864 §2.2 has a new one for the same signature.
    pub(super) fn names(self) -> &'static [&'static str] {
        match self {
            Self::Rs256 => &["RS256"],
            Self::Es256 => &["ES256"],
            Self::EdDsa => &["EdDSA", "Ed25519"],
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.names().contains(&name))
    }
}

impl fmt::Display for JwtAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.names()[0])
    }
}

impl FromStr for JwtAlgorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::named(text).ok_or_else(|| format!("{text:?} can't be used: expected \"RS256\", \"ES256\" or \"EdDSA\""))
    }
}

impl Tokens {
    /// Reads the keys. It blocks.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(super) fn read(options: JwtOptions) -> Result<Self, String> {
        let keys = ArcSwap::from_pointee(Keys::read(&options.jwks_file, &options.algorithms)?);
        Ok(Self { options, keys })
    }

    /// Reads the keys again. It blocks.
    ///
    /// # Errors
    /// What is wrong with the file: the keys that were read before stay.
    pub(super) fn read_again(&self) -> Result<(), String> {
        self.keys.store(Arc::new(Keys::read(&self.options.jwks_file, &self.options.algorithms)?));
        Ok(())
    }

    pub(super) fn file(&self) -> &Path {
        &self.options.jwks_file
    }

    /// Whether a token that this key signed would still be accepted.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.keys.load().contains(key)
    }

    /// Checks a token, as it is at this time.
    ///
    /// # Errors
    /// What is wrong, for people. The text has nothing of the token but what its header names.
    pub(super) fn check(&self, token: &[u8], now: Timestamp) -> Result<Token, String> {
        let [header, payload, signature] = parts(token).ok_or("the token isn't three parts with dots between them")?;
        let header: Header = serde_json::from_slice(&decoded(header)?).map_err(|_| "the token's header isn't one of a JWT")?;
        if header.crit.is_some() {
            return Err("the token's header has crit: extensions aren't understood".to_owned());
        }
        let algorithm = JwtAlgorithm::named(&header.alg).filter(|algorithm| self.options.algorithms.contains(algorithm));
        let algorithm =
            algorithm.ok_or_else(|| format!("the token's alg is {:?}, which algorithms doesn't allow", super::shorten(&header.alg)))?;
        let keys = self.keys.load();
        let key = keys.find(header.kid.as_deref(), algorithm)?;
        let signed = &token[..token.len() - signature.len() - 1];
        if !key.verifies(signed, &decoded(signature)?) {
            return Err("the token's signature is wrong".to_owned());
        }
        let claims = serde_json::from_slice(&decoded(payload)?).map_err(|_| "the token's claims aren't a JSON object")?;
        self.check_claims(claims, Arc::clone(key), now)
    }

    /// RFC 7519 §4.1.
    fn check_claims(&self, claims: Map<String, Value>, key: Arc<Key>, now: Timestamp) -> Result<Token, String> {
        let JwtOptions { issuer, audience, leeway, name_claim, .. } = &self.options;
        let expires = time(&claims, "exp")?.ok_or("the token has no exp")?.plus(*leeway);
        if expires <= now {
            return Err("the token has expired".to_owned());
        }
        if time(&claims, "nbf")?.is_some_and(|from| now.plus(*leeway) < from) {
            return Err("the token doesn't hold yet (nbf)".to_owned());
        }
        if issuer.is_some() && claims.get("iss").and_then(Value::as_str) != issuer.as_deref() {
            return Err("the token's iss isn't issuer".to_owned());
        }
        let is_for = |audience: &str| texts(&claims, "aud").iter().any(|one| one == audience);
        match audience {
            Some(audience) if !is_for(audience) => return Err("the token's aud isn't audience".to_owned()),
            None if claims.contains_key("aud") => {
                return Err("the token is for another server: it has aud, and audience isn't set".to_owned());
            }
            _ => {}
        }
        let name = texts(&claims, name_claim).into_iter().next().ok_or_else(|| format!("the token has no text as claim {name_claim:?}"))?;
        Ok(Token { name, claims, key, expires })
    }
}

impl Token {
    /// The texts of a claim: one, or several of a list.
    pub(super) fn texts(&self, claim: &str) -> Vec<String> {
        texts(&self.claims, claim)
    }
}

/// Whether a password has the form of a token (RFC 7515 §3.1): three parts with dots, of which the first begins like an object of JSON.
pub(super) fn is_token(password: &[u8]) -> bool {
    password.starts_with(b"eyJ") && parts(password).is_some()
}

fn parts(token: &[u8]) -> Option<[&[u8]; 3]> {
    let mut parts = token.split(|byte| *byte == b'.');
    let all = [parts.next()?, parts.next()?, parts.next()?];
    (parts.next().is_none() && token.len() <= LONGEST).then_some(all)
}

fn decoded(part: &[u8]) -> Result<Vec<u8>, &'static str> {
    URL_SAFE_NO_PAD.decode_to_vec(part).map_err(|_| "a part of the token isn't base64url")
}

/// A NumericDate (RFC 7519 §2): seconds since 1970, which may have a fraction.
fn time(claims: &Map<String, Value>, claim: &str) -> Result<Option<Timestamp>, String> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let since = value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    since.map(|since| Some(Timestamp(0).plus(since))).ok_or_else(|| format!("the token's {claim} isn't a number of seconds since 1970"))
}

/// A text or a whole number, or each of a list.
fn texts(claims: &Map<String, Value>, claim: &str) -> Vec<String> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if number.is_u64() => Some(number.to_string()),
        _ => None,
    };
    let values = match claims.get(claim) {
        Some(Value::Array(values)) => values.as_slice(),
        Some(value) => std::slice::from_ref(value),
        None => &[],
    };
    values.iter().filter_map(one).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
    };
    use serde_json::json;

    use super::*;

    /// The public keys of RFC 7515 appendix A.2 and A.3, and of RFC 8037 appendix A.2.
    pub(crate) const RSA: &str = "{\"kty\": \"RSA\", \"e\": \"AQAB\", \"n\": \"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ\"}";
    pub(crate) const P256: &str = "{\"kty\": \"EC\", \"crv\": \"P-256\", \"x\": \"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\", \"y\": \"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}";
    pub(crate) const ED25519: &str = "{\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"x\": \"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}";

    const NOW: Timestamp = Timestamp(2_000_000_000 * 10_000_000);

    fn encoded(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode_to_string(bytes)
    }

    /// An issuer with a key of Ed25519, whose id is `a`.
    pub(crate) struct Issuer(Ed25519KeyPair);

    impl Issuer {
        pub(crate) fn new() -> Self {
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
            Self(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
        }

        pub(crate) fn key_set(&self) -> String {
            let x = encoded(self.0.public_key().as_ref());
            json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "a", "x": x }] }).to_string()
        }

        pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
            let signed = format!("{}.{}", encoded(header.to_string().as_bytes()), encoded(claims.to_string().as_bytes()));
            format!("{signed}.{}", encoded(self.0.sign(signed.as_bytes()).as_ref()))
        }

        pub(crate) fn token(&self, claims: &Value) -> String {
            self.sign(&json!({ "alg": "EdDSA", "kid": "a" }), claims)
        }
    }

    pub(crate) fn options(jwks_file: PathBuf) -> JwtOptions {
        let (algorithms, leeway) = (JwtAlgorithm::ALL.to_vec(), Duration::from_secs(30));
        JwtOptions { jwks_file, algorithms, issuer: None, audience: None, leeway, name_claim: "sub".into() }
    }

    fn tokens(keys: &str, options: JwtOptions) -> Tokens {
        let keys = ArcSwap::from_pointee(Keys::parse(keys, &options.algorithms).unwrap());
        Tokens { options, keys }
    }

    #[test]
    fn a_token_is_checked_by_its_times_issuer_audience_and_name() {
        let issuer = Issuer::new();
        let tokens =
            tokens(&issuer.key_set(), JwtOptions { issuer: Some("us".into()), audience: Some("pushline".into()), ..options("".into()) });
        let right = json!({ "sub": "897", "exp": 2_000_000_060.5, "nbf": 1_999_999_999, "iss": "us", "aud": ["other", "pushline"], "org": ["mti", "x"], "n": 7 });
        let check = |claims: &Value| tokens.check(issuer.token(claims).as_bytes(), NOW);
        let token = check(&right).unwrap();
        assert_eq!((token.name.as_str(), token.expires), ("897", NOW.plus(Duration::from_millis(90_500))));
        assert_eq!(token.texts("org"), ["mti", "x"]);
        assert_eq!((token.texts("n"), token.texts("none")), (vec!["7".to_owned()], vec![]));
        for (claim, value, says) in [
            ("exp", json!(1_999_999_970), Some("has expired")),
            ("exp", json!(1_999_999_971), None),
            ("exp", json!("soon"), Some("exp isn't a number")),
            ("exp", json!(-1), Some("exp isn't a number")),
            ("exp", json!(null), Some("exp isn't a number")),
            ("nbf", json!(2_000_000_031), Some("doesn't hold yet")),
            ("nbf", json!(2_000_000_030), None),
            ("iss", json!("them"), Some("iss isn't issuer")),
            ("iss", json!(null), Some("iss isn't issuer")),
            ("aud", json!("other"), Some("aud isn't audience")),
            ("aud", json!("pushline"), None),
            ("sub", json!(null), Some("no text as claim \"sub\"")),
            ("sub", json!(897), None),
        ] {
            let mut claims = right.clone();
            claims[claim] = value;
            let checked = check(&claims).err();
            assert_eq!(
                checked.as_deref().is_some_and(|problem| problem.contains(says.unwrap_or("?"))),
                says.is_some(),
                "{claim}: {checked:?}"
            );
            assert_eq!(checked.is_some(), says.is_some(), "{claim}: {checked:?}");
        }
        let mut without = right;
        without.as_object_mut().unwrap().remove("exp");
        assert!(check(&without).unwrap_err().contains("no exp"));
    }

    #[test]
    fn without_an_audience_a_token_for_another_server_is_refused() {
        let issuer = Issuer::new();
        let tokens = tokens(&issuer.key_set(), options("".into()));
        let check = |claims: Value| tokens.check(issuer.token(&claims).as_bytes(), NOW);
        assert!(check(json!({ "sub": "a", "exp": 2_000_000_060 })).is_ok());
        assert!(check(json!({ "sub": "a", "exp": 2_000_000_060, "aud": "bank" })).unwrap_err().contains("another server"));
    }

    #[test]
    fn the_key_decides_the_algorithm_and_neither_none_nor_hmac_with_a_public_key_passes() {
        let issuer = Issuer::new();
        let tokens = tokens(&issuer.key_set(), options("".into()));
        let claims = json!({ "sub": "a", "exp": 2_000_000_060 });
        let check = |token: &str| tokens.check(token.as_bytes(), NOW).map(|token| token.name);
        assert_eq!(check(&issuer.token(&claims)), Ok("a".to_owned()));
        for (header, says) in [
            (json!({ "alg": "none", "kid": "a" }), "alg is \"none\""),
            (json!({ "alg": "HS256", "kid": "a" }), "alg is \"HS256\""),
            (json!({ "alg": "eddsa", "kid": "a" }), "alg is \"eddsa\""),
            (json!({ "alg": "ES256", "kid": "a" }), "no key \"a\" for ES256"),
            (json!({ "alg": "EdDSA", "kid": "b" }), "no key \"b\""),
            (json!({ "alg": "EdDSA", "kid": "a", "crit": ["exp"] }), "crit"),
            (json!({ "kid": "a" }), "header"),
            (json!([]), "header"),
        ] {
            let problem = check(&issuer.sign(&header, &claims)).unwrap_err();
            assert!(problem.contains(says), "{header}: {problem}");
        }
        let token = issuer.token(&claims);
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = signed.split_once('.').unwrap();
        let other = encoded(json!({ "sub": "b", "exp": 2_000_000_060 }).to_string().as_bytes());
        for wrong in [format!("{signed}."), format!("{header}.{other}.{signature}"), Issuer::new().token(&claims)] {
            assert!(check(&wrong).unwrap_err().contains("signature is wrong"), "{wrong}");
        }
        for wrong in ["", "a.b", "a.b.c.d", &"x.".repeat(LONGEST), "e30.e30.!"] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_token_of_each_algorithm_is_right_only_where_the_list_has_it() {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let keys = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "x": encoded(x), "y": encoded(y) }, serde_json::from_str::<Value>(ED25519).unwrap()] });
        let signed = format!("{}.{}", encoded(b"{\"alg\":\"ES256\"}"), encoded(b"{\"sub\":\"a\",\"exp\":2000000060}"));
        let token = format!("{signed}.{}", encoded(pair.sign(&random, signed.as_bytes()).unwrap().as_ref()));
        assert_eq!(tokens(&keys.to_string(), options("".into())).check(token.as_bytes(), NOW).unwrap().name, "a");
        let narrow = JwtOptions { algorithms: vec![JwtAlgorithm::EdDsa], ..options("".into()) };
        assert!(tokens(&keys.to_string(), narrow).check(token.as_bytes(), NOW).unwrap_err().contains("which algorithms doesn't allow"));
    }

    #[test]
    fn a_password_has_the_form_of_a_token_or_it_is_a_password() {
        assert!(is_token(Issuer::new().token(&json!({})).as_bytes()));
        for password in ["secret", "eyJhbGciOiJub25l", "eyJ.a", "a.b.c", "eyJ.a.b.c", ""] {
            assert!(!is_token(password.as_bytes()), "{password}");
        }
    }
}
