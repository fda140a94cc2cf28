//! Checks passwords against argon2 hashes: off the reactor, a few at a time, and only once for each password while the process remembers it.
//!
//! argon2 costs tens of milliseconds and megabytes on purpose. Gateways that connect again and again with the same password cost an HMAC.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    thread::available_parallelism,
    time::Duration,
};

use argon2::{Argon2, PasswordHasher, PasswordVerifier, password_hash::phc::PasswordHash};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::{sync::Semaphore, time::timeout};

/// How many right passwords are remembered in each of two halves.
const REMEMBERED: usize = 50_000;

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
    /// The key of the HMAC by which right passwords are remembered. It never leaves the process.
    key: [u8; 32],
    remembered: Mutex<Remembered>,
}

/// Two halves: when the young one is full, it replaces the old one.
#[derive(Debug, Default)]
struct Remembered {
    young: HashSet<[u8; 32]>,
    old: HashSet<[u8; 32]>,
}

impl Passwords {
    pub(crate) fn new() -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the system has random numbers");
        let cores = available_parallelism().map_or(1, usize::from);
        Self { turns: Arc::new(Semaphore::new(cores)), waiting: Semaphore::new(WAITING_AT_MOST), key, remembered: Mutex::default() }
    }

    /// Whether a password is the one of this hash; without a hash, it never is.
    ///
    /// # Errors
    /// Too many other passwords wait.
    pub(crate) async fn is_right(&self, hash: Option<&Arc<str>>, password: &[u8]) -> Result<bool, TooManyChecks> {
        let tag = hash.map(|hash| self.tag(hash, password));
        if tag.is_some_and(|tag| self.is_remembered(&tag)) {
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
            self.remember(tag);
        }
        Ok(is_right)
    }

    /// Forgets every password.
    pub(crate) fn forget(&self) {
        *self.remembered.lock().unwrap_or_else(PoisonError::into_inner) = Remembered::default();
    }

    fn tag(&self, hash: &str, password: &[u8]) -> [u8; 32] {
        let mut hmac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.key).expect("HMAC takes a key of any length");
        hmac.update(hash.as_bytes());
        hmac.update(&[0]);
        hmac.update(password);
        hmac.finalize().into_bytes().into()
    }

    fn is_remembered(&self, tag: &[u8; 32]) -> bool {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.young.contains(tag) || remembered.old.contains(tag)
    }

    fn remember(&self, tag: [u8; 32]) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.young.len() >= REMEMBERED {
            remembered.old = std::mem::take(&mut remembered.young);
        }
        remembered.young.insert(tag);
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
        assert!(!passwords.is_remembered(&passwords.tag(&hash, b"wrong")));
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
    fn what_is_remembered_is_bounded() {
        let passwords = Passwords::new();
        for number in 0..3 * u32::try_from(REMEMBERED).unwrap() {
            let mut tag = [0; 32];
            tag[..4].copy_from_slice(&number.to_be_bytes());
            passwords.remember(tag);
        }
        let remembered = passwords.remembered.lock().unwrap();
        assert!(remembered.young.len() + remembered.old.len() <= 2 * REMEMBERED);
    }

    #[test]
    fn the_hash_of_nobody_can_be_checked_and_a_printed_hash_is_right() {
        assert!(PasswordHash::new(NOBODY).is_ok());
        let hash = hash_password(b"secret").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$") && verify(&hash, b"secret") && !verify(&hash, b"Secret"));
    }
}
