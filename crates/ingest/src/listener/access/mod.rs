//! Who may connect to a listener, and which topics they may publish to.

mod passwords;
mod remembered;
mod topic_rule;
mod users;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;

pub use self::{
    passwords::hash_password,
    topic_rule::{InvalidTopicRule, TopicRule},
};

use self::{
    passwords::{Passwords, TooManyChecks},
    users::Users,
};
use super::{DisconnectReason, connect::Connect};

/// The users and the topic rules of a listener.
#[derive(Debug)]
pub(crate) struct Access {
    users: Option<UsersFile>,
    /// What every client may publish to, unless its line in the users file has rules of its own. `None`: everything.
    rules: Option<Arc<[TopicRule]>>,
    passwords: Passwords,
}

#[derive(Debug)]
struct UsersFile {
    path: PathBuf,
    users: ArcSwap<Users>,
}

/// Who a client is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClientIdentity {
    /// The user name, or the name in the certificate; `None`: clients prove nothing here.
    pub(crate) name: Option<Arc<str>>,
    rules: Option<Arc<[TopicRule]>>,
    /// Of the password that was given, where the client is a user of the file.
    hash: Option<Arc<str>>,
}

impl Access {
    /// Reads the users file. It blocks.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn read(users_file: Option<PathBuf>, rules: &[TopicRule]) -> Result<Self, String> {
        let users = users_file.map(|path| Users::read(&path).map(|users| UsersFile { path, users: ArcSwap::from_pointee(users) }));
        let rules = if rules.is_empty() { None } else { Some(rules.into()) };
        Ok(Self { users: users.transpose()?, rules, passwords: Passwords::new() })
    }

    pub(crate) fn users_file(&self) -> Option<&Path> {
        self.users.as_ref().map(|file| file.path.as_path())
    }

    /// Reads the users file again, and forgets which passwords were right. It blocks.
    ///
    /// # Errors
    /// What is wrong with the file: the users that were read before stay.
    pub(crate) fn read_again(&self) -> Result<(), String> {
        if let Some(file) = &self.users {
            file.users.store(Arc::new(Users::read(&file.path)?));
            self.passwords.forget();
        }
        Ok(())
    }

    /// Finds out who a client is. `certificate`: the name in the certificate that it has shown.
    ///
    /// # Errors
    /// The reason to refuse it.
    pub(crate) async fn identify(&self, connect: &Connect, certificate: Option<&str>) -> Result<ClientIdentity, DisconnectReason> {
        let Some(file) = &self.users else {
            return Ok(ClientIdentity { name: certificate.map(Into::into), rules: self.rules.clone(), hash: None });
        };
        let (Some(name), Some(password)) = (&connect.user_name, &connect.password) else {
            return Err(DisconnectReason::BadUserNameOrPassword);
        };
        let user = file.users.load().get(name).cloned();
        match self.passwords.is_right(user.as_ref().map(|user| &user.hash), password).await {
            Ok(true) => {}
            Ok(false) => return Err(DisconnectReason::BadUserNameOrPassword),
            Err(TooManyChecks) => return Err(DisconnectReason::ServerBusy),
        }
        let user = user.expect("only the password of a user is right");
        let rules = user.rules.or_else(|| self.rules.clone());
        Ok(ClientIdentity { name: Some(name.as_str().into()), rules, hash: Some(user.hash) })
    }

    /// Whether a connected client is still a user, with the same password and rules.
    pub(crate) fn is_current(&self, identity: &ClientIdentity) -> bool {
        let (Some(file), Some(name)) = (&self.users, &identity.name) else { return true };
        let users = file.users.load();
        users.get(name).is_some_and(|user| {
            Some(&user.hash) == identity.hash.as_ref() && user.rules.as_ref().or(self.rules.as_ref()) == identity.rules.as_ref()
        })
    }
}

impl ClientIdentity {
    /// Whether the client may publish to a topic.
    pub(crate) fn may_publish(&self, topic: &str) -> bool {
        self.rules.as_ref().is_none_or(|rules| rules.iter().any(|rule| rule.allows(topic, self.name.as_deref())))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::packets::Version, *};

    fn connect(user: Option<&str>, password: Option<&str>) -> Connect {
        Connect {
            version: Version::V5,
            client_id: "d".into(),
            clean: true,
            keep_alive: 0,
            will_qos2: false,
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
        let access = Access::read(Some(file.clone()), &["+/{user}".parse().unwrap()]).unwrap();
        for (user, password) in
            [(None, None), (None, Some("secret")), (Some("bare"), None), (Some("bare"), Some("x")), (Some("nobody"), Some("secret"))]
        {
            let refused = access.identify(&connect(user, password), Some("certificate")).await;
            assert_eq!(refused, Err(DisconnectReason::BadUserNameOrPassword), "{user:?}");
        }
        let bare = access.identify(&connect(Some("bare"), Some("secret")), Some("certificate")).await.unwrap();
        assert_eq!((bare.name.as_deref(), bare.may_publish("x/bare"), bare.may_publish("x/1")), (Some("bare"), true, false));
        let ruled = access.identify(&connect(Some("ruled"), Some("secret")), None).await.unwrap();
        assert_eq!((ruled.may_publish("mti/1"), ruled.may_publish("x/ruled")), (true, false));

        fs::write(&file, format!("ruled:{hash} mti/#\n")).unwrap();
        access.read_again().unwrap();
        assert_eq!((access.is_current(&bare), access.is_current(&ruled)), (false, true));
        assert!(
            access.identify(&connect(Some("bare"), Some("secret")), None).await.is_err(),
            "what is remembered doesn't let a removed user in"
        );
        fs::write(&file, "nonsense").unwrap();
        assert!(access.read_again().unwrap_err().contains("users:1: expected name:hash"));
        assert!(access.is_current(&ruled), "a file with a mistake changes nothing");
    }

    #[tokio::test]
    async fn without_a_users_file_the_certificate_names_the_client() {
        let access = Access::read(None, &["{user}/#".parse().unwrap()]).unwrap();
        let named = access.identify(&connect(Some("liar"), None), Some("mti")).await.unwrap();
        assert_eq!((named.may_publish("mti/1"), named.may_publish("liar/1")), (true, false));
        let nameless = access.identify(&connect(Some("liar"), None), None).await.unwrap();
        assert_eq!((nameless.name.as_deref(), nameless.may_publish("liar/1")), (None, false));
    }
}
