//! OAuth 2.0 client credentials (RFC 6749 §4.4): how to get an access token for a webhook.

use serde::{Deserialize, Serialize};

use crate::{Invalid, Secret, Url};

/// Who asks which token end point for an access token, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClientCredentials {
    /// The token end point (§3.2).
    pub token_url: Url,
    /// The client identifier (§2.2).
    pub client_id: String,
    /// The client's password (§2.3.1).
    pub client_secret: Secret,
    /// How the client proves who it is.
    pub token_endpoint_auth_method: TokenEndpointAuthMethod,
    /// The scopes that are asked for, separated by spaces (§3.3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// For which service the token is; no part of the standard, and asked for by Auth0 and others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

/// How a client proves to a token end point who it is (RFC 6749 §2.3.1). The names are OAuth's own (RFC 7591 §2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenEndpointAuthMethod {
    /// By Basic credentials, which every server must read.
    #[default]
    ClientSecretBasic,
    /// By `client_id` and `client_secret` in the request's body, for servers that read nothing else.
    ClientSecretPost,
}

impl ClientCredentials {
    /// Each field that is wrong, and what is wrong with it.
    pub(crate) fn validate(&self) -> Vec<(&'static str, Invalid)> {
        let is_text = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
        let texts = [
            ("client_id", Some(self.client_id.as_str())),
            ("client_secret", Some(self.client_secret.reveal())),
            ("scope", self.scope.as_deref()),
            ("audience", self.audience.as_deref()),
        ];
        let wrong = texts.into_iter().filter(|(_, text)| text.is_some_and(|text| !is_text(text)));
        wrong.map(|(field, _)| (field, Invalid::Credential(field))).collect()
    }

    /// The same with the token end point's query hidden.
    pub(crate) fn redacted(&self) -> Self {
        Self { token_url: self.token_url.redacted(), ..self.clone() }
    }
}
