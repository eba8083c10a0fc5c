//! Digest access authentication (RFC 7616) with SHA-256 and `qop=auth`: an answer to a server's challenge. Pure.
//!
//! What it does not do: MD5, which the RFC keeps for old servers only, `auth-int`, hashed user names, servers that send several challenges in one header.

use sha2::{Digest, Sha256};

/// A server's challenge, as far as it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
}

impl Challenge {
    /// Reads the header `WWW-Authenticate`. None: another scheme or algorithm.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
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
        let offers = |value: Option<String>, wanted: &str| {
            value.is_some_and(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case(wanted)))
        };
        (offers(get("algorithm"), "SHA-256") && offers(get("qop"), "auth")).then_some(())?;
        Some(Self {
            realm: get("realm")?,
            nonce: get("nonce")?,
            opaque: get("opaque"),
        })
    }

    /// The header `Authorization` for the first request with this challenge. `own_nonce` is a random text of ours, without quotes.
    #[must_use]
    pub fn answer(&self, method: &str, path: &str, user: &str, password: &str, own_nonce: &str) -> String {
        let hash = |text: String| hex::encode(Sha256::digest(text));
        let secret = hash(format!("{user}:{}:{password}", self.realm));
        let request = hash(format!("{method}:{path}"));
        let response = hash(format!("{secret}:{}:00000001:{own_nonce}:auth:{request}", self.nonce));
        let mut out = format!(
            "Digest username=\"{user}\", realm=\"{}\", uri=\"{path}\", algorithm=SHA-256, nonce=\"{}\", nc=00000001, cnonce=\"{own_nonce}\", qop=auth, response=\"{response}\"",
            self.realm, self.nonce
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

    /// RFC 7616, section 3.9.1.
    #[test]
    fn the_example_of_the_rfc() {
        let challenge = Challenge::parse(
            "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm=SHA-256, nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", \
             opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"",
        )
        .expect("a challenge");
        let answer = challenge.answer(
            "GET",
            "/dir/index.html",
            "Mufasa",
            "Circle of Life",
            "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
        );
        assert!(
            answer.contains("response=\"753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1\""),
            "{answer}"
        );
        assert!(
            answer.ends_with("opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""),
            "{answer}"
        );
    }

    #[test]
    fn what_is_not_answered_is_not_taken_for_a_challenge() {
        for header in [
            "",
            "Basic realm=\"x\"",
            "Digest realm=\"x\", nonce=\"y\", qop=\"auth\", algorithm=MD5",
            "Digest realm=\"x",
            "Digest nonce=\"y\", qop=auth, algorithm=SHA-256",
        ] {
            assert_eq!(Challenge::parse(header), None, "{header}");
        }
    }
}
