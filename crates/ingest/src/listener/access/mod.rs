//! Who may connect to a listener, and which topics they may publish to.

mod http_client;
mod jwt;
mod keys;
mod login_endpoint;
mod passwords;
mod remembered;
mod topic_rule;
mod users;

use std::{
    borrow::Cow,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use pushline_model::Timestamp;

pub use self::{
    jwt::{JwtAlgorithm, JwtOptions},
    login_endpoint::LoginEndpointOptions,
    passwords::hash_password,
    topic_rule::{InvalidTopicRule, TopicRule},
};

use self::{
    jwt::Tokens,
    keys::Key,
    login_endpoint::{Login, LoginEndpoint},
    passwords::{Passwords, TooManyChecks},
    users::{User, Users},
};
use super::{DisconnectReason, connect::Connect, options::InvalidOption, shared::now};

/// The longest text of a client or an end point that an error quotes, in characters.
const LONGEST_QUOTE: usize = 64;

/// Who decides about a listener's logins, in this order, and its topic rules. docs/listeners.md has the order.
#[derive(Debug)]
pub(crate) struct Access {
    tokens: Option<Tokens>,
    users: Option<UsersFile>,
    endpoint: Option<LoginEndpoint>,
    /// What a client may publish to, unless its own login says so. `None`: everything.
    rules: Option<Arc<[TopicRule]>>,
    passwords: Passwords,
}

/// Where logins are decided.
#[derive(Debug, Clone, Default)]
pub(crate) struct Logins {
    pub(crate) jwt: Option<JwtOptions>,
    pub(crate) users_file: Option<PathBuf>,
    pub(crate) endpoint: Option<LoginEndpointOptions>,
}

#[derive(Debug)]
struct UsersFile {
    path: PathBuf,
    users: ArcSwap<Users>,
}

/// Who a client is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClientIdentity {
    /// The user name, the name in the token, or the one in the certificate; `None`: clients prove nothing here.
    pub(crate) name: Option<Arc<str>>,
    rules: Option<Arc<[TopicRule]>>,
    proof: Proof,
    /// When the client has to log in again.
    pub(crate) expires: Option<Timestamp>,
}

/// What has let a client in, as far as it can cease to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Proof {
    #[default]
    None,
    /// The hash of the password in the users file.
    Password(Arc<str>),
    /// The key that signed the token.
    Token(Arc<Key>),
}

/// Why a client isn't let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) reason: DisconnectReason,
    /// For the log: what is wrong, without any secret.
    pub(crate) detail: Cow<'static, str>,
}

impl From<DisconnectReason> for Denied {
    fn from(reason: DisconnectReason) -> Self {
        Self { reason, detail: reason.describe().into() }
    }
}

#[cfg(test)]
impl ClientIdentity {
    /// A client without a name that may publish only by these rules.
    pub(crate) fn only(rules: &[&str]) -> Self {
        Self { rules: Some(rules.iter().map(|rule| rule.parse().expect("it is a topic rule")).collect()), ..Self::default() }
    }
}

impl Access {
    /// Reads the files. It blocks.
    ///
    /// # Errors
    /// What is wrong with one.
    pub(crate) fn read(logins: Logins, rules: &[TopicRule]) -> Result<Self, InvalidOption> {
        let invalid = |field| move |problem| InvalidOption { field, problem };
        let Logins { jwt, users_file, endpoint } = logins;
        let tokens = jwt.map(Tokens::read).transpose().map_err(invalid("jwt.jwks_file"))?;
        let users = users_file.map(|path| Users::read(&path).map(|users| UsersFile { path, users: ArcSwap::from_pointee(users) }));
        let users = users.transpose().map_err(invalid("users_file"))?;
        let endpoint = endpoint.map(LoginEndpoint::new).transpose().map_err(invalid("login_endpoint.token"))?;
        let rules = if rules.is_empty() { None } else { Some(rules.into()) };
        Ok(Self { tokens, users, endpoint, rules, passwords: Passwords::new() })
    }

    /// The files that are read again when they change.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let users = self.users.iter().map(|file| file.path.as_path());
        users.chain(self.tokens.iter().map(Tokens::file))
    }

    /// Reads the files again, and forgets which passwords were right. It blocks.
    ///
    /// # Errors
    /// What is wrong with one: what was read of it before stays.
    pub(crate) fn read_again(&self) -> Result<(), String> {
        self.tokens.as_ref().map_or(Ok(()), Tokens::read_again)?;
        if let Some(file) = &self.users {
            file.users.store(Arc::new(Users::read(&file.path)?));
            self.passwords.forget();
        }
        Ok(())
    }

    /// Finds out who a client is. `certificate`: the name in the certificate that it has shown.
    ///
    /// # Errors
    /// Why it isn't let in.
    pub(crate) async fn identify(&self, connect: &Connect, certificate: Option<&str>, address: IpAddr) -> Result<ClientIdentity, Denied> {
        let password = connect.password.as_deref().unwrap_or_default();
        if let Some(tokens) = self.tokens.as_ref().filter(|_| jwt::is_token(password)) {
            return self.by_token(tokens, password);
        }
        if let Some(file) = &self.users {
            let user = connect.user_name.as_ref().and_then(|name| file.users.load().get(name).cloned());
            if user.is_some() || self.endpoint.is_none() {
                return self.by_password(connect, user).await;
            }
        }
        match &self.endpoint {
            Some(endpoint) => self.by_endpoint(endpoint, connect, certificate, address).await,
            None if self.tokens.is_some() => {
                Err(Denied { reason: DisconnectReason::BadUserNameOrPassword, detail: "the password isn't a token (jwt)".into() })
            }
            None => Ok(ClientIdentity { name: certificate.map(Into::into), rules: self.rules.clone(), ..ClientIdentity::default() }),
        }
    }

    fn by_token(&self, tokens: &Tokens, password: &[u8]) -> Result<ClientIdentity, Denied> {
        let token = tokens.check(password, now());
        let token = token.map_err(|problem| Denied { reason: DisconnectReason::BadUserNameOrPassword, detail: problem.into() })?;
        let of_token = |rules: &Arc<[TopicRule]>| rules.iter().flat_map(|rule| rule.with_claims(&|claim| token.texts(claim))).collect();
        let (rules, expires) = (self.rules.as_ref().map(of_token), Some(token.expires));
        Ok(ClientIdentity { name: Some(token.name.into()), rules, proof: Proof::Token(token.key), expires })
    }

    /// `user`: what the users file has for the client's user name.
    async fn by_password(&self, connect: &Connect, user: Option<User>) -> Result<ClientIdentity, Denied> {
        let (Some(name), Some(password)) = (&connect.user_name, &connect.password) else {
            return Err(DisconnectReason::BadUserNameOrPassword.into());
        };
        match self.passwords.is_right(user.as_ref().map(|user| &user.hash), password).await {
            Ok(true) => {}
            Ok(false) => return Err(DisconnectReason::BadUserNameOrPassword.into()),
            Err(TooManyChecks) => return Err(DisconnectReason::ServerBusy.into()),
        }
        let user = user.expect("only the password of a user is right");
        let rules = user.rules.or_else(|| self.rules.clone());
        Ok(ClientIdentity { name: Some(name.as_str().into()), rules, proof: Proof::Password(user.hash), expires: None })
    }

    async fn by_endpoint(
        &self,
        endpoint: &LoginEndpoint,
        connect: &Connect,
        certificate: Option<&str>,
        address: IpAddr,
    ) -> Result<ClientIdentity, Denied> {
        let password = connect.password.as_deref().map(std::str::from_utf8).transpose();
        let password = password.map_err(|_| Denied {
            reason: DisconnectReason::BadUserNameOrPassword,
            detail: "the password isn't UTF-8, so it can't be asked about".into(),
        })?;
        let user = connect.user_name.as_deref();
        let login = Login { client_id: &connect.client_id, user, password, address, certificate };
        let (rules, expires) = endpoint.decide(&login, now()).await?;
        let rules = rules.or_else(|| self.rules.clone());
        Ok(ClientIdentity { name: user.or(certificate).map(Into::into), rules, proof: Proof::None, expires })
    }

    /// Whether what has let a connected client in still holds: the same password and rules, or the key of its token.
    pub(crate) fn is_current(&self, identity: &ClientIdentity) -> bool {
        match (&identity.proof, &self.users, &self.tokens, &identity.name) {
            (Proof::Password(hash), Some(file), _, Some(name)) => file
                .users
                .load()
                .get(name)
                .is_some_and(|user| user.hash == *hash && user.rules.as_ref().or(self.rules.as_ref()) == identity.rules.as_ref()),
            (Proof::Token(key), _, Some(tokens), _) => tokens.has(key),
            _ => true,
        }
    }
}

impl ClientIdentity {
    /// Whether the client may publish to a topic.
    pub(crate) fn may_publish(&self, topic: &str) -> bool {
        self.rules.as_ref().is_none_or(|rules| rules.iter().any(|rule| rule.allows(topic, self.name.as_deref())))
    }
}

/// The beginning of a text that is quoted.
fn shorten(text: &str) -> &str {
    text.char_indices().nth(LONGEST_QUOTE).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use serde_json::json;

    use super::{super::packets::Version, *};

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn bad_password<T>() -> Result<T, Denied> {
        Err(DisconnectReason::BadUserNameOrPassword.into())
    }

    fn users(file: &Path) -> Logins {
        Logins { users_file: Some(file.into()), ..Logins::default() }
    }

    fn connect(user: Option<&str>, password: Option<&str>) -> Connect {
        Connect {
            version: Version::V5,
            client_id: "d".into(),
            clean: true,
            keep_alive: 0,
            will: None,
            session_expiry: None,
            max_packet: None,
            has_authentication_method: false,
            user_name: user.map(Into::into),
            password: password.map(Into::into),
        }
    }

    #[tokio::test]
    async fn a_user_is_let_in_by_its_password_and_bound_to_its_topics() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users");
        let hash = users::tests::hash_of("secret");
        fs::write(&file, format!("bare:{hash}\nruled:{hash} mti/#\n")).unwrap();
        let access = Access::read(users(&file), &["+/{user}".parse().unwrap()]).unwrap();
        for (user, password) in
            [(None, None), (None, Some("secret")), (Some("bare"), None), (Some("bare"), Some("x")), (Some("nobody"), Some("secret"))]
        {
            let refused = access.identify(&connect(user, password), Some("certificate"), ADDRESS).await;
            assert_eq!(refused, bad_password(), "{user:?}");
        }
        let bare = access.identify(&connect(Some("bare"), Some("secret")), Some("certificate"), ADDRESS).await.unwrap();
        assert_eq!((bare.name.as_deref(), bare.may_publish("x/bare"), bare.may_publish("x/1")), (Some("bare"), true, false));
        let ruled = access.identify(&connect(Some("ruled"), Some("secret")), None, ADDRESS).await.unwrap();
        assert_eq!((ruled.may_publish("mti/1"), ruled.may_publish("x/ruled")), (true, false));

        fs::write(&file, format!("ruled:{hash} mti/#\n")).unwrap();
        access.read_again().unwrap();
        assert_eq!((access.is_current(&bare), access.is_current(&ruled)), (false, true));
        assert!(
            access.identify(&connect(Some("bare"), Some("secret")), None, ADDRESS).await.is_err(),
            "what is remembered doesn't let a removed user in"
        );
        fs::write(&file, "nonsense").unwrap();
        assert!(access.read_again().unwrap_err().contains("users:1: expected name:hash"));
        assert!(access.is_current(&ruled), "a file with a mistake changes nothing");
    }

    #[tokio::test]
    async fn without_a_users_file_the_certificate_names_the_client() {
        let access = Access::read(Logins::default(), &["{user}/#".parse().unwrap()]).unwrap();
        let named = access.identify(&connect(Some("liar"), None), Some("mti"), ADDRESS).await.unwrap();
        assert_eq!((named.may_publish("mti/1"), named.may_publish("liar/1")), (true, false));
        let nameless = access.identify(&connect(Some("liar"), None), None, ADDRESS).await.unwrap();
        assert_eq!((nameless.name.as_deref(), nameless.may_publish("liar/1")), (None, false));
    }

    #[tokio::test]
    async fn a_token_names_its_client_binds_it_to_its_claims_and_holds_while_its_key_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (file, issuer) = (dir.path().join("jwks.json"), jwt::tests::Issuer::new());
        fs::write(&file, issuer.key_set()).unwrap();
        let logins = Logins { jwt: Some(jwt::tests::options(file.clone())), ..Logins::default() };
        let access = Access::read(logins, &["{orgs}/{user}".parse().unwrap()]).unwrap();
        let exp = now().plus(Duration::from_secs(60));
        let token = issuer.token(&json!({ "sub": "897", "orgs": ["mti", "x"], "exp": exp.0 / 10_000_000 }));
        let identity = access.identify(&connect(Some("unused"), Some(&token)), Some("certificate"), ADDRESS).await.unwrap();
        assert_eq!(identity.name.as_deref(), Some("897"));
        let may = ["mti/897", "x/897", "a/897", "mti/898", "{orgs}/897"].map(|topic| identity.may_publish(topic));
        assert_eq!(may, [true, true, false, false, false]);
        assert!(identity.expires.unwrap().distance(exp) <= Duration::from_secs(31), "leeway included");
        let claimless = issuer.token(&json!({ "sub": "897", "exp": exp.0 / 10_000_000 }));
        let claimless = access.identify(&connect(None, Some(&claimless)), None, ADDRESS).await.unwrap();
        assert!(!claimless.may_publish("mti/897") && !claimless.may_publish("/897"), "without the claim no rule is left, not all topics");
        for (password, says) in [(Some("secret"), "isn't a token"), (None, "isn't a token"), (Some("eyJ.a.b"), "token")] {
            let denied = access.identify(&connect(Some("897"), password), Some("certificate"), ADDRESS).await.unwrap_err();
            assert!(denied.reason == DisconnectReason::BadUserNameOrPassword && denied.detail.contains(says), "{denied:?}");
        }
        fs::write(&file, "nonsense").unwrap();
        assert!(access.read_again().is_err() && access.is_current(&identity), "a file with a mistake changes nothing");
        fs::write(&file, jwt::tests::Issuer::new().key_set()).unwrap();
        access.read_again().unwrap();
        assert!(!access.is_current(&identity), "its key is gone");
    }

    #[tokio::test]
    async fn a_token_is_decided_by_its_key_then_a_user_by_the_file_and_all_others_by_the_end_point() {
        let dir = tempfile::tempdir().unwrap();
        let (jwks, file, issuer) = (dir.path().join("jwks.json"), dir.path().join("users"), jwt::tests::Issuer::new());
        fs::write(&jwks, issuer.key_set()).unwrap();
        fs::write(&file, format!("bare:{}\n", users::tests::hash_of("secret"))).unwrap();
        // Nothing listens there: who asks the end point hears that the server is unavailable.
        let endpoint = LoginEndpointOptions {
            url: "http://127.0.0.1:1/".parse().unwrap(),
            token: None,
            tls: None,
            timeout: Duration::from_secs(5),
            concurrency: 1,
            remember: Duration::ZERO,
        };
        let jwt = Some(jwt::tests::options(jwks));
        let access = Access::read(Logins { jwt, endpoint: Some(endpoint), ..users(&file) }, &[]).unwrap();
        let exp = now().0 / 10_000_000 + 60;
        let token = issuer.token(&json!({ "sub": "bare", "exp": exp }));
        let forged = jwt::tests::Issuer::new().token(&json!({ "sub": "bare", "exp": exp }));
        let reason =
            async |user, password| access.identify(&connect(user, password), None, ADDRESS).await.map_err(|denied| denied.reason).err();
        assert_eq!(reason(Some("stranger"), Some(&token)).await, None);
        assert_eq!(reason(Some("stranger"), Some(&forged)).await, Some(DisconnectReason::BadUserNameOrPassword));
        assert_eq!(reason(Some("bare"), Some("secret")).await, None);
        assert_eq!(reason(Some("bare"), Some("wrong")).await, Some(DisconnectReason::BadUserNameOrPassword));
        assert_eq!(reason(Some("stranger"), Some("secret")).await, Some(DisconnectReason::ServerUnavailable));
        assert_eq!(reason(None, None).await, Some(DisconnectReason::ServerUnavailable));
    }
}
