//! Boot tokens and guest tokens: statements of the server to itself, carried by a machine that cannot change them.
//!
//! Form: `kbm1.<base64url of JSON>.<base64url of HMAC-SHA-256>` (RFC 2104). Any replica that knows the key can check one. A token alone proves
//! only that the server answered a boot request from that address; that it is used once is ensured where it is redeemed (compare and
//! swap in the BareMetalDiscovery), not here.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::Sha256;

use crate::identity::{MacAddress, SystemUuid};

/// Longest token that is looked at.
pub const MAX_TOKEN_BYTES: usize = 2048;
/// By how many milliseconds the clocks of two replicas may differ; a minute is more than any that keeps time.
const CLOCK_SKEW: i64 = 60_000;

/// What a boot token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootClaims {
    /// UUID the firmware named, where it named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<SystemUuid>,
    /// MAC the firmware named.
    pub mac: MacAddress,
    /// Address from which the boot script was asked for; the session must come from it too.
    pub address: std::net::IpAddr,
    /// Prefixes, in CIDR form, of the network that the machine was told to go on in: the session may come from there as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<String>,
    /// Random; names this boot.
    pub nonce: String,
    /// Milliseconds since the epoch, by the server's clock: a machine's next boot has a newer token, however soon it comes.
    pub issued_at: i64,
}

/// What the token on a boot medium says: it was made for one act of a machine's power driver, and is the same whichever replica makes it, however often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MediumClaims {
    /// Name of the hardware whose driver was told to boot it.
    pub hardware: String,
    /// Id of the act.
    pub act: String,
    /// As in the token of a boot script. Its address is the fixed one of the machine; its nonce and time are made of the act.
    pub boot: BootClaims,
}

/// What a guest token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestClaims {
    /// UID of the instance it was made for.
    pub instance_uid: String,
    /// Name of the hardware it runs on.
    pub hardware: String,
    /// Random.
    pub nonce: String,
}

/// Why a token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token at all.
    #[error("the token is malformed")]
    Malformed,
    /// Not made with our key, or changed.
    #[error("the token was not issued by this server, or was changed")]
    Forged,
    /// Too old, or from the future.
    #[error("the token has expired: reboot the machine to get a new one")]
    Expired,
}

/// The HMAC key, from a Secret in netboot's namespace. Prints nothing.
#[derive(Clone)]
pub struct TokenKey(Vec<u8>);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey")
    }
}

impl TokenKey {
    /// At least 32 bytes; `None` for less.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= 32).then(|| Self(bytes.to_vec()))
    }

    fn mac(&self, domain: &str, payload: &str) -> Hmac<Sha256> {
        let mut mac = match <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0) {
            Ok(mac) => mac,
            Err(_) => unreachable!("HMAC takes a key of any length"),
        };
        mac.update(domain.as_bytes());
        mac.update(b"\n");
        mac.update(payload.as_bytes());
        mac
    }

    fn issue<T: Serialize>(&self, domain: &str, claims: &T) -> String {
        let payload = URL_SAFE_NO_PAD.encode(serde_json::to_vec(claims).unwrap_or_default());
        let tag = URL_SAFE_NO_PAD.encode(self.mac(domain, &payload).finalize().into_bytes());
        format!("kbm1.{payload}.{tag}")
    }

    fn check<T: DeserializeOwned>(&self, domain: &str, token: &str) -> Result<T, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        let mut parts = token.split('.');
        let (Some("kbm1"), Some(payload), Some(tag), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(TokenError::Malformed);
        };
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| TokenError::Malformed)?;
        self.mac(domain, payload).verify_slice(&tag).map_err(|_| TokenError::Forged)?;
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenError::Malformed)?;
        serde_json::from_slice(&payload).map_err(|_| TokenError::Malformed)
    }

    /// What follows from the key for a purpose and a name: 32 bytes that nobody guesses who does not know the key, the same in every replica.
    pub fn derived(&self, purpose: &str, name: &str) -> [u8; 32] {
        self.mac(&format!("derived {purpose}"), name).finalize().into_bytes().into()
    }

    /// Makes a boot token.
    pub fn issue_boot(&self, claims: &BootClaims) -> String {
        self.issue("boot", claims)
    }

    /// Checks a boot token: made with this key, and at most `max_age` old at `now` (both in milliseconds, `now` since the epoch).
    ///
    /// # Errors
    /// [`TokenError`] as its variants say.
    pub fn check_boot(&self, token: &str, now: i64, max_age: i64) -> Result<BootClaims, TokenError> {
        let claims: BootClaims = self.check("boot", token)?;
        if claims.issued_at > now.saturating_add(CLOCK_SKEW) || now.saturating_sub(claims.issued_at) > max_age {
            return Err(TokenError::Expired);
        }
        Ok(claims)
    }

    /// Makes the token of a boot medium. Equal claims give equal tokens.
    pub fn issue_medium(&self, claims: &MediumClaims) -> String {
        self.issue("medium", claims)
    }

    /// Checks the token of a boot medium. It has no age of its own: it is good for as long as its act is, which is for the caller to judge.
    ///
    /// # Errors
    /// [`TokenError`] as its variants say.
    pub fn check_medium(&self, token: &str) -> Result<MediumClaims, TokenError> {
        self.check("medium", token)
    }

    /// Makes a guest token.
    pub fn issue_guest(&self, claims: &GuestClaims) -> String {
        self.issue("guest", claims)
    }

    /// Checks a guest token. It has no age: an installed system may first boot weeks after it was written.
    ///
    /// # Errors
    /// [`TokenError`] as its variants say.
    pub fn check_guest(&self, token: &str) -> Result<GuestClaims, TokenError> {
        self.check("guest", token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claims() -> BootClaims {
        BootClaims {
            uuid: None,
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            elsewhere: Vec::new(),
            nonce: "n".to_owned(),
            issued_at: 1_000_000,
        }
    }

    #[test]
    fn a_token_is_good_for_its_key_its_kind_and_its_time() {
        let key = TokenKey::new(&[1; 32]).unwrap();
        let token = key.issue_boot(&claims());
        assert_eq!(key.check_boot(&token, 1_300_000, 300_000), Ok(claims()));
        assert_eq!(key.check_boot(&token, 1_300_001, 300_000), Err(TokenError::Expired));
        assert_eq!(key.check_boot(&token, 939_999, 300_000), Err(TokenError::Expired));
        assert_eq!(key.check_guest(&token), Err(TokenError::Forged), "a boot token is no guest token");
        assert_eq!(
            TokenKey::new(&[2; 32]).unwrap().check_boot(&token, 1_000_000, 300_000),
            Err(TokenError::Forged)
        );
        assert!(TokenKey::new(&[1; 31]).is_none());
    }

    #[test]
    fn the_token_of_a_medium_is_always_the_same_and_no_other_kind() {
        let key = TokenKey::new(&[1; 32]).unwrap();
        let medium = MediumClaims {
            hardware: "rack1-u12".to_owned(),
            act: "3-0000abcd".to_owned(),
            boot: claims(),
        };
        let token = key.issue_medium(&medium);
        assert_eq!(key.issue_medium(&medium.clone()), token);
        assert_eq!(key.check_medium(&token), Ok(medium));
        assert_eq!(key.check_boot(&token, 1_000_000, 300_000), Err(TokenError::Forged));
        assert_eq!(key.check_medium(&key.issue_boot(&claims())), Err(TokenError::Forged));
    }

    proptest! {
        #[test]
        fn no_changed_token_passes(position in 5usize..100, byte in 0x21u8..0x7f) {
            let key = TokenKey::new(&[1; 32]).unwrap();
            let token = key.issue_boot(&claims());
            let mut changed = token.clone().into_bytes();
            let position = position % changed.len();
            prop_assume!(changed[position] != byte);
            changed[position] = byte;
            let changed = String::from_utf8(changed).unwrap();
            // The last base64 character of a tag has unused bits; strict decoding refuses them.
            prop_assert!(key.check_boot(&changed, 1_000_000, 300_000).is_err());
        }
    }
}
