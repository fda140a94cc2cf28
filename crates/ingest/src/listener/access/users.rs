//! The users file: one user a line, with the hash of the password, and the topics that the user may publish to.
//!
//! ```text
//! # name:hash of the password, and topic rules
//! gateway-1:$argon2id$v=19$m=19456,t=2,p=1$…$…
//! mti:$argon2id$v=19$m=19456,t=2,p=1$…$… mti/#
//! ```

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use argon2::password_hash::phc::PasswordHash;

use super::TopicRule;

/// The most memory, in KiB, that a check of a password may take. Beyond it, a few logins at once would take the machine's.
const MAX_MEMORY_KIB: u32 = 256 << 10;

/// The users of a listener, by name.
#[derive(Debug, Default)]
pub(crate) struct Users(HashMap<String, User>);

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// In the PHC string format, of the algorithm argon2.
    pub(crate) hash: Arc<str>,
    /// `None`: the listener's rules hold.
    pub(crate) rules: Option<Arc<[TopicRule]>>,
}

impl Users {
    /// Reads a file. It blocks.
    ///
    /// # Errors
    /// What is wrong, with the file and the line, and what would be right.
    pub(crate) fn read(file: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(file).map_err(|error| format!("can't read {}: {error}", file.display()))?;
        Self::parse(&text).map_err(|(line, problem)| format!("{}:{line}: {problem}", file.display()))
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut users = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, user) = user(line).map_err(|problem| (index + 1, problem))?;
            if users.insert(name.to_owned(), user).is_some() {
                return Err((index + 1, format!("duplicate user {name:?}")));
            }
        }
        Ok(Self(users))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&User> {
        self.0.get(name)
    }
}

fn user(line: &str) -> Result<(&str, User), String> {
    const EXPECTED: &str = "expected name:hash, where `pushline hash-password` prints the hash, and topic rules behind it";
    let (name, rest) = line.split_once(':').ok_or(EXPECTED)?;
    let mut words = rest.split_whitespace();
    let hash = words.next().ok_or(EXPECTED)?;
    check_hash(hash)?;
    let rules: Vec<TopicRule> =
        words.map(str::parse).collect::<Result<_, _>>().map_err(|invalid: super::InvalidTopicRule| invalid.to_string())?;
    if let Some(claim) = rules.iter().find_map(TopicRule::claim) {
        return Err(format!("{{{claim}}} stands for a claim of a token, and users of this file have none"));
    }
    Ok((name, User { hash: hash.into(), rules: if rules.is_empty() { None } else { Some(rules.into()) } }))
}

/// The hash isn't shown: it is a secret to guess passwords from.
fn check_hash(hash: &str) -> Result<(), String> {
    let hash = PasswordHash::new(hash).map_err(|error| format!("the hash isn't in the PHC string format: {error}"))?;
    if !hash.algorithm.as_str().starts_with("argon2") || hash.hash.is_none() {
        return Err(format!("the hash is of {:?}, expected argon2id: `pushline hash-password` prints one", hash.algorithm.as_str()));
    }
    let params = argon2::Params::try_from(&hash).map_err(|error| format!("the hash has parameters that can't be used: {error}"))?;
    if params.m_cost() > MAX_MEMORY_KIB {
        return Err(format!("the hash needs {} KiB of memory, at most {MAX_MEMORY_KIB} are allowed", params.m_cost()));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn hash_of(password: &str) -> String {
        super::super::passwords::hash_cheaply(password.as_bytes())
    }

    #[test]
    fn users_are_read_with_their_rules() {
        let hash = hash_of("secret");
        let users = Users::parse(&format!("# comment\n\nbare:{hash}\n  ruled:{hash} mti/# +/{{user}}\n")).unwrap();
        assert_eq!(users.get("bare").unwrap().rules, None);
        assert_eq!(users.get("ruled").unwrap().rules.as_ref().unwrap().len(), 2);
        assert_eq!(users.get("other"), None);
    }

    #[test]
    fn a_line_that_is_no_user_is_refused_with_its_number() {
        let hash = hash_of("secret");
        for (line, says) in [
            ("no hash".to_owned(), "expected name:hash"),
            ("u:".to_owned(), "expected name:hash"),
            ("u:secret".to_owned(), "PHC string format"),
            ("u:$5$rounds=5000$abcdefgh$abcdefgh".to_owned(), ""),
            (hash.clone(), "expected name:hash"),
            (format!("u:{hash} a//b"), "not a topic rule"),
            (format!("u:{hash} {{org}}/#"), "{org} stands for a claim"),
            (format!("u:{}", hash.replace("m=8", "m=1000000")), "KiB of memory"),
            (format!("a:{hash}"), "duplicate user"),
        ] {
            let (number, problem) = Users::parse(&format!("a:{hash}\n{line}")).unwrap_err();
            assert!(number == 2 && problem.contains(says), "{line}: {problem}");
            assert!(!problem.contains("secret"), "{problem}");
        }
    }
}
