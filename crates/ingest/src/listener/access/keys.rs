//! The keys that tokens are signed with: a JWK Set (RFC 7517) in a file. Pure but for reading it.
//!
//! A key fits one algorithm only, whatever a token's header says (RFC 8725 §3.1): so no public key is ever taken for a secret of HMAC.

use std::{fs, path::Path, sync::Arc};

use base64_simd::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;

use super::JwtAlgorithm;

/// The most keys of a file.
const MOST_KEYS: usize = 100;

/// The shortest modulus of an RSA key, in bytes (RFC 7518 §3.3: 2048 bits).
const SHORTEST_MODULUS: usize = 256;

/// The keys of a file that tokens may be signed with.
#[derive(Debug)]
pub(super) struct Keys(Vec<Arc<Key>>);

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// `kid`.
    id: Option<String>,
    public: PublicKey,
}

#[derive(Debug, PartialEq, Eq)]
enum PublicKey {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The uncompressed point.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// A key as it is written (RFC 7518 §6, RFC 8037 §2).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// A private key has it. It isn't read.
    d: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

impl Keys {
    /// Reads a file. It blocks.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub(super) fn read(file: &Path, allowed: &[JwtAlgorithm]) -> Result<Self, String> {
        let text = fs::read_to_string(file).map_err(|error| format!("can't read {}: {error}", file.display()))?;
        Self::parse(&text, allowed).map_err(|problem| format!("{}: {problem}", file.display()))
    }

    /// Keys for other uses and of other algorithms are passed over (RFC 7517 §5).
    pub(super) fn parse(text: &str, allowed: &[JwtAlgorithm]) -> Result<Self, String> {
        let set: JwkSet =
            serde_json::from_str(text).map_err(|error| format!("expected a JWK Set, {{\"keys\": [{{\"kty\": …}}]}}: {error}"))?;
        if set.keys.len() > MOST_KEYS {
            return Err(format!("it has {} keys, at most {MOST_KEYS} are allowed", set.keys.len()));
        }
        let mut keys = Vec::new();
        for (index, value) in set.keys.into_iter().enumerate() {
            let of_key = |problem: String| format!("keys[{index}]: {problem}");
            let jwk: Jwk = serde_json::from_value(value).map_err(|error| of_key(error.to_string()))?;
            keys.extend(jwk.key(allowed).map_err(of_key)?.map(Arc::new));
        }
        if keys.is_empty() {
            return Err(
                "no key of it can be used: RSA for RS256, EC with curve P-256 for ES256, OKP with curve Ed25519 for EdDSA".to_owned()
            );
        }
        Ok(Self(keys))
    }

    /// The key of a token with this header. Without `kid` there must be one key only that fits.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub(super) fn find(&self, id: Option<&str>, algorithm: JwtAlgorithm) -> Result<&Arc<Key>, String> {
        let mut fitting = self.0.iter().filter(|key| key.algorithm() == algorithm && id.is_none_or(|id| key.id.as_deref() == Some(id)));
        match (fitting.next(), fitting.next(), id) {
            (Some(key), None, _) => Ok(key),
            (None, _, Some(id)) => Err(format!("jwks_file has no key {:?} for {algorithm}", super::shorten(id))),
            (None, _, None) => Err(format!("jwks_file has no key for {algorithm}")),
            (Some(_), Some(_), _) => Err(format!("the token's kid doesn't name one key for {algorithm} alone")),
        }
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.0.iter().any(|one| **one == *key)
    }
}

impl Key {
    fn algorithm(&self) -> JwtAlgorithm {
        match self.public {
            PublicKey::Rsa { .. } => JwtAlgorithm::Rs256,
            PublicKey::P256(_) => JwtAlgorithm::Es256,
            PublicKey::Ed25519(_) => JwtAlgorithm::EdDsa,
        }
    }

    /// Whether the signature is this key's.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.public {
            PublicKey::Rsa { n, e } => RsaPublicKeyComponents { n, e }.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature),
            PublicKey::P256(point) => UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature),
            PublicKey::Ed25519(key) => UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature),
        };
        verified.is_ok()
    }
}

impl Jwk {
    /// `None`: it isn't for us.
    fn key(self, allowed: &[JwtAlgorithm]) -> Result<Option<Key>, String> {
        let algorithm = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => JwtAlgorithm::Rs256,
            ("EC", Some("P-256")) => JwtAlgorithm::Es256,
            ("OKP", Some("Ed25519")) => JwtAlgorithm::EdDsa,
            _ => return Ok(None),
        };
        let is_named = self.alg.as_ref().is_none_or(|alg| algorithm.names().contains(&alg.as_str()));
        if !is_named || !allowed.contains(&algorithm) || self.usage.as_ref().is_some_and(|usage| usage != "sig") {
            return Ok(None);
        }
        if self.d.is_some() {
            return Err("it is a private key (it has d): only public keys belong here".to_owned());
        }
        let public = match algorithm {
            JwtAlgorithm::Rs256 => PublicKey::Rsa { n: modulus(self.n.as_deref())?, e: field("e", self.e.as_deref())? },
            JwtAlgorithm::Es256 => {
                let coordinates = [field_of("x", self.x.as_deref(), 32)?, field_of("y", self.y.as_deref(), 32)?];
                PublicKey::P256([&[4][..], &coordinates.concat()].concat())
            }
            JwtAlgorithm::EdDsa => PublicKey::Ed25519(field_of("x", self.x.as_deref(), 32)?),
        };
        Ok(Some(Key { id: self.kid, public }))
    }
}

fn field(name: &str, text: Option<&str>) -> Result<Vec<u8>, String> {
    let text = text.ok_or_else(|| format!("{name} is missing"))?;
    URL_SAFE_NO_PAD.decode_to_vec(text).map_err(|_| format!("{name} isn't base64url without padding"))
}

fn field_of(name: &str, text: Option<&str>, length: usize) -> Result<Vec<u8>, String> {
    let bytes = field(name, text)?;
    if bytes.len() == length { Ok(bytes) } else { Err(format!("{name} has {} bytes, expected {length}", bytes.len())) }
}

/// Some writers put a zero byte first.
fn modulus(text: Option<&str>) -> Result<Vec<u8>, String> {
    let mut bytes = field("n", text)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.drain(..zeros);
    if bytes.len() < SHORTEST_MODULUS {
        return Err(format!("the RSA key has {} bits, expected 2048 at least", 8 * bytes.len()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{
        super::jwt::tests::{ED25519, P256, RSA},
        *,
    };

    const ALL: [JwtAlgorithm; 3] = JwtAlgorithm::ALL;

    fn parse(keys: &str) -> Result<Keys, String> {
        Keys::parse(&format!("{{\"keys\": [{keys}]}}"), &ALL)
    }

    #[test]
    fn the_standards_own_signatures_are_right_and_each_changed_byte_is_wrong() {
        const PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        for (key, algorithm, header, payload, signature) in [
            // RFC 7515 appendix A.2 and A.3, RFC 8037 appendix A.4.
            (
                RSA,
                JwtAlgorithm::Rs256,
                "eyJhbGciOiJSUzI1NiJ9",
                PAYLOAD,
                "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
            ),
            (
                P256,
                JwtAlgorithm::Es256,
                "eyJhbGciOiJFUzI1NiJ9",
                PAYLOAD,
                "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            ),
            (
                ED25519,
                JwtAlgorithm::EdDsa,
                "eyJhbGciOiJFZERTQSJ9",
                "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
                "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            ),
        ] {
            let keys = parse(key).unwrap();
            let key = keys.find(None, algorithm).unwrap();
            let message = format!("{header}.{payload}");
            let mut signature = URL_SAFE_NO_PAD.decode_to_vec(signature).unwrap();
            assert!(key.verifies(message.as_bytes(), &signature), "{algorithm}");
            assert!(!key.verifies(format!("{message}x").as_bytes(), &signature), "{algorithm}");
            assert!(!key.verifies(message.as_bytes(), &[]), "{algorithm}");
            signature[7] ^= 1;
            assert!(!key.verifies(message.as_bytes(), &signature), "{algorithm}");
        }
    }

    #[test]
    fn a_key_is_found_by_its_id_and_its_algorithm() {
        let with_id = |key: &str, id: &str| key.replacen('{', &format!("{{\"kid\": \"{id}\", "), 1);
        let keys = parse(&[with_id(P256, "old"), with_id(P256, "new"), with_id(ED25519, "ed")].join(",")).unwrap();
        let id = |id: Option<&str>, algorithm| keys.find(id, algorithm).map(|key| key.id.clone().unwrap());
        assert_eq!(id(Some("new"), JwtAlgorithm::Es256), Ok("new".to_owned()));
        assert_eq!(id(None, JwtAlgorithm::EdDsa), Ok("ed".to_owned()));
        assert!(id(None, JwtAlgorithm::Es256).unwrap_err().contains("doesn't name one key"));
        assert!(id(Some("ed"), JwtAlgorithm::Es256).unwrap_err().contains("no key \"ed\" for ES256"));
        assert!(id(None, JwtAlgorithm::Rs256).unwrap_err().contains("no key for RS256"));
        assert!(keys.contains(keys.find(Some("old"), JwtAlgorithm::Es256).unwrap()));
        assert!(!parse(&with_id(P256, "other")).unwrap().contains(keys.find(Some("old"), JwtAlgorithm::Es256).unwrap()));
    }

    #[test]
    fn keys_for_another_use_are_passed_over_and_a_set_without_any_key_is_refused() {
        let unused = [
            "{\"kty\": \"oct\", \"k\": \"AAAA\"}",
            "{\"kty\": \"EC\", \"crv\": \"P-384\", \"x\": \"\", \"y\": \"\"}",
            &P256.replacen('{', "{\"use\": \"enc\", ", 1),
            &RSA.replacen('{', "{\"alg\": \"RS512\", ", 1),
        ];
        for key in unused {
            assert!(parse(key).unwrap_err().contains("no key of it can be used"), "{key}");
            assert!(parse(&format!("{key},{ED25519}")).is_ok(), "{key}");
        }
        let all = format!("{{\"keys\": [{RSA}]}}");
        assert!(Keys::parse(&all, &[JwtAlgorithm::Es256]).is_err(), "the list of algorithms holds for keys too");
    }

    #[test]
    fn a_key_that_is_wrong_is_refused_with_its_number() {
        for (key, says) in [
            (P256.replacen('{', "{\"d\": \"secret\", ", 1), "it is a private key"),
            ("{\"kty\": \"RSA\", \"n\": \"AQAB\", \"e\": \"AQAB\"}".to_owned(), "24 bits, expected 2048"),
            ("{\"kty\": \"RSA\", \"e\": \"AQAB\"}".to_owned(), "n is missing"),
            ("{\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"x\": \"AAAA\"}".to_owned(), "x has 3 bytes, expected 32"),
            ("{\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"x\": \"+/==\"}".to_owned(), "isn't base64url"),
            ("{}".to_owned(), "missing field `kty`"),
        ] {
            let problem = parse(&format!("{ED25519},{key}")).unwrap_err();
            assert!(problem.starts_with("keys[1]: ") && problem.contains(says) && !problem.contains("secret"), "{problem}");
        }
        assert!(Keys::parse("[]", &ALL).unwrap_err().contains("expected a JWK Set"));
    }
}
