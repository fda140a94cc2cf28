//! `webhook-signature` (Standard Webhooks 1.0, *Signature scheme*): `v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`; one after the other, by
//! spaces, where several secrets sign.

use base64_simd::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use pushline_model::{Secret, Webhook};
use sha2::Sha256;

use crate::DeliverError;

/// A webhook's signing keys; none: its attempts aren't signed.
#[derive(Debug, Clone)]
pub(crate) struct SigningKeys(Vec<SigningKey>);

/// A signing key. Never printed.
#[derive(Clone)]
pub(crate) struct SigningKey(Hmac<Sha256>);

impl SigningKeys {
    pub(crate) fn of(webhook: &Webhook) -> Result<Self, DeliverError> {
        webhook.signing_secrets().map(SigningKey::new).collect::<Result<_, _>>().map(Self)
    }

    /// The header's value, if there is one.
    pub(crate) fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> Option<String> {
        let signatures: Vec<String> = self.0.iter().map(|key| key.sign(id, timestamp, body)).collect();
        (!signatures.is_empty()).then(|| signatures.join(" "))
    }
}

impl SigningKey {
    /// From `whsec_` and base64.
    pub(crate) fn new(secret: &Secret) -> Result<Self, DeliverError> {
        let key = secret.reveal().strip_prefix("whsec_").and_then(|base64| STANDARD.decode_to_vec(base64).ok());
        let mac = key.filter(|key| (24..=64).contains(&key.len())).and_then(|key| Hmac::new_from_slice(&key).ok());
        mac.map(Self).ok_or(DeliverError::SigningSecret)
    }

    /// One signature.
    fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let mut mac = self.0.clone();
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        format!("v1,{}", STANDARD.encode_to_string(mac.finalize().into_bytes()))
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_standards_own_test_vector() {
        // From the reference libraries of Standard Webhooks.
        let key = SigningKey::new(&Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).unwrap();
        let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn several_secrets_sign_one_after_the_other() {
        let mut webhook = Webhook::new("w", "http://a.example/".parse().unwrap());
        let sign = |webhook: &Webhook| SigningKeys::of(webhook).unwrap().sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b"{}");
        assert_eq!(sign(&webhook), None);
        let secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"].map(Secret::new);
        let alone = secrets.clone().map(|secret| sign(&Webhook { secret: Some(secret), ..webhook.clone() }).unwrap());
        webhook.secrets = secrets.to_vec();
        assert_eq!(sign(&webhook), Some(alone.join(" ")));
    }

    #[test]
    fn a_secret_of_another_shape_is_refused() {
        for wrong in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!!", "whsec_QUJD"] {
            assert!(SigningKey::new(&Secret::new(wrong)).is_err(), "{wrong}");
        }
    }
}
