//! Digest access authentication (RFC 7616) with `qop=auth`: an answer to a server's challenge. Pure.
//!
//! Who answers says which hashes it takes: MD5 is for servers that have nothing else, and is never taken by somebody who can have SHA-256.
//!
//! What it does not do: `auth-int`, hashed user names, servers that send several challenges in one header.

use md5::Md5;
use sha2::{Digest, Sha256};

/// With what a challenge is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// MD5, as RFC 2617 had it. Also where a server names none.
    Md5,
    /// SHA-256.
    Sha256,
}

impl Algorithm {
    const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        }
    }

    fn hash(self, text: &str) -> String {
        match self {
            Self::Md5 => hex::encode(Md5::digest(text)),
            Self::Sha256 => hex::encode(Sha256::digest(text)),
        }
    }
}

/// A server's challenge, as far as it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    algorithm: Algorithm,
    realm: String,
    nonce: String,
    opaque: Option<String>,
}

impl Challenge {
    /// Reads the header `WWW-Authenticate`. None: another scheme, or an algorithm that is not among those that are taken.
    #[must_use]
    pub fn parse(header: &str, taken: &[Algorithm]) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("digest") {
            return None;
        }
        let parameters = parameters(rest)?;
        let get = |name: &str| {
            parameters
                .iter()
                .find(|(own, _)| own.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.clone())
        };
        let named = get("algorithm").unwrap_or_else(|| Algorithm::Md5.name().to_owned());
        let algorithm = taken.iter().copied().find(|one| named.eq_ignore_ascii_case(one.name()))?;
        let qualities = get("qop")?;
        qualities
            .split(',')
            .any(|one| one.trim().eq_ignore_ascii_case("auth"))
            .then_some(())?;
        Some(Self {
            algorithm,
            realm: get("realm")?,
            nonce: get("nonce")?,
            opaque: get("opaque"),
        })
    }

    /// The header `Authorization` for the first request with this challenge. `own_nonce` is a random text of ours, without quotes.
    #[must_use]
    pub fn answer(&self, method: &str, path: &str, user: &str, password: &str, own_nonce: &str) -> String {
        let hash = |text: String| self.algorithm.hash(&text);
        let secret = hash(format!("{user}:{}:{password}", self.realm));
        let request = hash(format!("{method}:{path}"));
        let response = hash(format!("{secret}:{}:00000001:{own_nonce}:auth:{request}", self.nonce));
        let mut out = format!(
            "Digest username=\"{user}\", realm=\"{}\", uri=\"{path}\", algorithm={}, nonce=\"{}\", nc=00000001, cnonce=\"{own_nonce}\", qop=auth, response=\"{response}\"",
            self.realm,
            self.algorithm.name(),
            self.nonce
        );
        if let Some(opaque) = &self.opaque {
            out.push_str(&format!(", opaque=\"{opaque}\""));
        }
        out
    }
}

/// Names and values, quoted or not, between commas. None: it is not that.
fn parameters(mut rest: &str) -> Option<Vec<(String, String)>> {
    let mut all = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if rest.is_empty() {
            return Some(all);
        }
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            // What is quoted here holds no quotes of its own: a realm or nonce with some is refused by the comparison at the server.
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        all.push((name.trim().to_owned(), value.trim().to_owned()));
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7616, section 3.9.1, with both of its algorithms.
    #[test]
    fn the_example_of_the_rfc() {
        for (algorithm, response) in [
            (
                Algorithm::Sha256,
                "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
            ),
            (Algorithm::Md5, "8ca523f5e9506fed4657c9700eebdbec"),
        ] {
            let challenge = Challenge::parse(
                &format!(
                    "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm={}, nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", \
                     opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"",
                    algorithm.name()
                ),
                &[algorithm],
            )
            .expect("a challenge");
            let answer = challenge.answer(
                "GET",
                "/dir/index.html",
                "Mufasa",
                "Circle of Life",
                "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
            );
            assert!(answer.contains(&format!("response=\"{response}\"")), "{answer}");
            assert!(
                answer.ends_with("opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""),
                "{answer}"
            );
        }
    }

    #[test]
    fn what_is_not_answered_is_not_taken_for_a_challenge() {
        for header in [
            "",
            "Basic realm=\"x\"",
            "Digest realm=\"x\", nonce=\"y\", qop=\"auth\", algorithm=MD5",
            "Digest realm=\"x\", nonce=\"y\", qop=\"auth\"",
            "Digest realm=\"x",
            "Digest nonce=\"y\", qop=auth, algorithm=SHA-256",
            "Digest realm=\"x\", nonce=\"y\", algorithm=SHA-256",
        ] {
            assert_eq!(Challenge::parse(header, &[Algorithm::Sha256]), None, "{header}");
        }
        // AMT and other old servers name no algorithm.
        let old = Challenge::parse("Digest realm=\"x\", nonce=\"y\", qop=\"auth\"", &[Algorithm::Md5]);
        assert_eq!(old.map(|old| old.algorithm), Some(Algorithm::Md5));
    }
}
