//! May this token and key open a session on this machine? Pure; the answer is carried out by one compare and swap on the object it was judged on.

use agent_protocol::token::BootClaims;
use api::discovery::AgentSession;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Redemption {
    /// A new session.
    Fresh,
    /// The same key redeems the same token again: its answer was lost. The same session.
    Repeat(String),
    /// Another key redeems a token that was redeemed: somebody listened.
    OtherKey,
    /// A token that is not newer than the one redeemed last: an old one was kept.
    Old,
}

/// Judges.
pub(crate) fn judge(stored: Option<&AgentSession>, claims: &BootClaims, thumbprint: &str) -> Redemption {
    let Some(stored) = stored else { return Redemption::Fresh };
    if stored.nonce == claims.nonce {
        return if stored.thumbprint == thumbprint {
            Redemption::Repeat(stored.id.clone())
        } else {
            Redemption::OtherKey
        };
    }
    if claims.issued_at > stored.token_issued_at {
        Redemption::Fresh
    } else {
        Redemption::Old
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::identity::MacAddress;
    use api::discovery::IdentityProof;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn a_token_opens_one_session_for_one_key() {
        let claims = |nonce: &str, issued_at| BootClaims {
            uuid: None,
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            elsewhere: Vec::new(),
            nonce: nonce.to_owned(),
            issued_at,
        };
        let stored = AgentSession {
            id: "s".to_owned(),
            nonce: "n".to_owned(),
            token_issued_at: 100,
            thumbprint: "t".to_owned(),
            signing_key: String::new(),
            sealing_key: String::new(),
            boot_mac: MacAddress([2, 0, 0, 0, 0, 1]),
            uuid: None,
            address: String::new(),
            replica: String::new(),
            opened_at: Time(jiff::Timestamp::UNIX_EPOCH),
            agent_version: String::new(),
            proof: IdentityProof::Asserted,
        };
        assert_eq!(judge(None, &claims("n", 1), "t"), Redemption::Fresh);
        let stored = Some(&stored);
        assert_eq!(judge(stored, &claims("n", 100), "t"), Redemption::Repeat("s".to_owned()));
        assert_eq!(judge(stored, &claims("n", 100), "other"), Redemption::OtherKey);
        assert_eq!(judge(stored, &claims("m", 100), "other"), Redemption::Old);
        assert_eq!(judge(stored, &claims("m", 99), "t"), Redemption::Old);
        assert_eq!(judge(stored, &claims("m", 101), "t"), Redemption::Fresh);
    }
}
