//! Digest access authentication (RFC 7616), the server's side: a challenge, and whether an answer to it is right. `qop=auth` only.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use md5::Md5;
use sha2::{Digest, Sha256};

/// The most challenges that are still good.
const GOOD: usize = 64;

/// How is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256, as Shelly wants it.
    Sha256,
    /// MD5, as AMT has it.
    Md5,
}

impl Algorithm {
    const fn word(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA-256",
            Self::Md5 => "MD5",
        }
    }

    fn hash(self, text: &str) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256 => hex(&Sha256::digest(text)),
            Self::Md5 => hex(&Md5::digest(text)),
        }
    }
}

/// Challenges that were made.
#[derive(Debug, Default)]
pub struct Nonces(Mutex<VecDeque<String>>);

/// Who may come in, and what is asked of him.
#[derive(Debug, Clone, Copy)]
pub struct Door<'a> {
    /// How is hashed.
    pub algorithm: Algorithm,
    /// The realm.
    pub realm: &'a str,
    /// The user.
    pub user: &'a str,
    /// The password.
    pub password: &'a str,
}

impl Nonces {
    /// The header `WWW-Authenticate` with a new challenge.
    #[must_use]
    pub fn challenge(&self, door: Door<'_>) -> String {
        let nonce = format!("{:032x}", rand::random::<u128>());
        let mut good = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if good.len() == GOOD {
            good.pop_front();
        }
        good.push_back(nonce.clone());
        format!(
            "Digest qop=\"auth\", realm=\"{}\", nonce=\"{nonce}\", algorithm={}",
            door.realm,
            door.algorithm.word()
        )
    }

    /// Whether the header `Authorization` is the right answer to one of the challenges.
    #[must_use]
    pub fn lets_in(&self, door: Door<'_>, method: &str, authorization: &str) -> bool {
        let Some(rest) = authorization.strip_prefix("Digest ") else {
            return false;
        };
        let get = |name: &str| {
            rest.split(',').find_map(|part| {
                let (own, value) = part.trim().split_once('=')?;
                own.trim()
                    .eq_ignore_ascii_case(name)
                    .then(|| value.trim().trim_matches('"').to_owned())
            })
        };
        let said = |name: &str| get(name).unwrap_or_default();
        let nonce = said("nonce");
        let good = self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&nonce);
        let secret = door.algorithm.hash(&format!("{}:{}:{}", door.user, door.realm, door.password));
        let request = door.algorithm.hash(&format!("{method}:{}", said("uri")));
        let wanted = door.algorithm.hash(&format!(
            "{secret}:{nonce}:{}:{}:{}:{request}",
            said("nc"),
            said("cnonce"),
            said("qop")
        ));
        good && said("username") == door.user && said("realm") == door.realm && said("qop") == "auth" && said("response") == wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_answer_to_an_own_challenge_is_taken() {
        let nonces = Nonces::default();
        let door = Door {
            algorithm: Algorithm::Sha256,
            realm: "plug",
            user: "admin",
            password: "x",
        };
        let challenge = nonces.challenge(door);
        let nonce = challenge
            .split("nonce=\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .expect("a nonce");
        let answer = |nonce: &str, password: &str| {
            let hash = |text: String| Algorithm::Sha256.hash(&text);
            let (secret, request) = (hash(format!("admin:plug:{password}")), hash("POST:/rpc".to_owned()));
            let response = hash(format!("{secret}:{nonce}:00000001:c:auth:{request}"));
            format!(
                "Digest username=\"admin\", realm=\"plug\", uri=\"/rpc\", nonce=\"{nonce}\", nc=00000001, cnonce=\"c\", qop=auth, response=\"{response}\""
            )
        };
        assert!(nonces.lets_in(door, "POST", &answer(nonce, "x")));
        assert!(!nonces.lets_in(door, "POST", &answer(nonce, "y")));
        assert!(!nonces.lets_in(door, "GET", &answer(nonce, "x")));
        assert!(!nonces.lets_in(door, "POST", &answer("0", "x")));
        assert!(!nonces.lets_in(door, "POST", "Basic x"));
    }
}
