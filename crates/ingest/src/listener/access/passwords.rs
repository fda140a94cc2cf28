//! Checks passwords against argon2 hashes: off the reactor, a few at a time, and only once for each password while the process remembers it.
//!
//! argon2 costs tens of milliseconds and megabytes on purpose. Gateways that connect again and again with the same password cost an HMAC.

use std::{sync::Arc, thread::available_parallelism, time::Duration};

use argon2::{Argon2, PasswordHasher, PasswordVerifier, password_hash::phc::PasswordHash};
use tokio::{sync::Semaphore, time::timeout};

use super::remembered::Remembered;

/// How long a check may wait for its turn.
const WAIT_AT_MOST: Duration = Duration::from_secs(10);

/// How many checks may wait for their turn.
const WAITING_AT_MOST: usize = 10_000;

/// The hash that is checked for a user that doesn't exist, so that the answer takes as long as for one that does.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5$YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY";

/// Too many passwords wait to be checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyChecks;

/// The checks of a process.
#[derive(Debug)]
pub(crate) struct Passwords {
    /// One permit a core.
    turns: Arc<Semaphore>,
    waiting: Semaphore,
    /// The right ones, each with its hash.
    remembered: Remembered<()>,
}

impl Passwords {
    pub(crate) fn new() -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Self { turns: Arc::new(Semaphore::new(cores)), waiting: Semaphore::new(WAITING_AT_MOST), remembered: Remembered::new() }
    }

    /// Whether a password is the one of this hash; without a hash, it never is.
    ///
    /// # Errors
    /// Too many other passwords wait.
    pub(crate) async fn is_right(&self, hash: Option<&Arc<str>>, password: &[u8]) -> Result<bool, TooManyChecks> {
        let tag = hash.map(|hash| self.remembered.tag(&[hash.as_bytes(), password]));
        if tag.is_some_and(|tag| self.remembered.get(&tag).is_some()) {
            return Ok(true);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| TooManyChecks)?;
        let turn = timeout(WAIT_AT_MOST, Arc::clone(&self.turns).acquire_owned()).await.map_err(|_| TooManyChecks)?;
        let (hash, password) = (hash.map_or_else(|| NOBODY.into(), Arc::clone), password.to_vec());
        let checking = tokio::task::spawn_blocking(move || {
            // The turn ends with the work, also when the client has left meanwhile.
            let _turn = turn;
            verify(&hash, &password)
        });
        let is_right = checking.await.unwrap_or(false) && tag.is_some();
        if let Some(tag) = tag.filter(|_| is_right) {
            self.remembered.insert(tag, ());
        }
        Ok(is_right)
    }

    /// Forgets every password.
    pub(crate) fn forget(&self) {
        self.remembered.clear();
    }
}

fn verify(hash: &str, password: &[u8]) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

/// The hash of a password for a users file, with a random salt (argon2id; the parameters that OWASP recommends).
///
/// # Errors
/// What argon2 refuses, for people: a password of gigabytes.
pub fn hash_password(password: &[u8]) -> Result<String, String> {
    Argon2::default().hash_password(password).map(|hash| hash.to_string()).map_err(|error| error.to_string())
}

/// The same with parameters that take no time.
#[cfg(test)]
pub(super) fn hash_cheaply(password: &[u8]) -> String {
    let params = argon2::Params::new(8, 1, 1, None).unwrap();
    Argon2::from(params).hash_password(password).unwrap().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_right_password_is_remembered_until_the_file_changes() {
        let passwords = Passwords::new();
        let hash: Arc<str> = hash_cheaply(b"secret").into();
        assert_eq!(passwords.is_right(Some(&hash), b"wrong").await, Ok(false));
        assert_eq!(passwords.is_right(None, b"secret").await, Ok(false));
        let tag = |password: &[u8]| passwords.remembered.tag(&[hash.as_bytes(), password]);
        assert_eq!(passwords.remembered.get(&tag(b"wrong")), None);
        assert_eq!(passwords.is_right(Some(&hash), b"secret").await, Ok(true));
        // With no turn left, only what is remembered has an answer.
        let turns = Arc::clone(&passwords.turns).acquire_many_owned(passwords.turns.available_permits().try_into().unwrap()).await.unwrap();
        assert_eq!(passwords.is_right(Some(&hash), b"secret").await, Ok(true));
        passwords.forget();
        tokio::time::pause();
        assert_eq!(passwords.is_right(Some(&hash), b"secret").await, Err(TooManyChecks));
        drop(turns);
        assert_eq!(passwords.is_right(Some(&hash), b"secret").await, Ok(true));
    }

    #[test]
    fn the_hash_of_nobody_can_be_checked_and_a_printed_hash_is_right() {
        assert!(PasswordHash::new(NOBODY).is_ok());
        let hash = hash_password(b"secret").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$") && verify(&hash, b"secret") && !verify(&hash, b"Secret"));
    }
}
