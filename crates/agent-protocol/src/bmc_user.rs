//! A dedicated user in a machine's controller: what the operator asks of an agent, sealed, and what the agent answers.
//!
//! The operator makes the password, keeps it in a Secret of its own namespace, and seals it to the key of one session (HPKE as for [`seed`](crate::seed), with an `info` of its own). What is
//! handed on is ciphertext, which only that boot of the agent can read.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::seed::{SealingKey, SeedError, open_bytes, seal_bytes};

const INFO: &[u8] = b"kube-baremetal bmc user v1";

/// With this parameter of [`PATH_ORDER`](crate::session::PATH_ORDER), followed by the id of the user that it has seen to last or by nothing, an agent says that it makes users.
pub const QUERY_BMC_USER: &str = "bmc-user=";
/// Takes a [`BmcUserReport`].
pub const PATH_BMC_USER: &str = "/agent/v1/bmc-user";

/// What a user of a controller may do, at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum BmcPrivilege {
    /// Switch the machine, and choose what it boots.
    #[default]
    Operator,
    /// Everything.
    Administrator,
}

/// The user that is wanted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BmcUser {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: String,
    /// What it may do.
    pub privilege: BmcPrivilege,
    /// The LAN channel on which it logs in.
    pub channel: u8,
}

impl std::fmt::Debug for BmcUser {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BmcUser")
            .field("name", &self.name)
            .field("privilege", &self.privilege)
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}

/// A sealed user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SealedBmcUser {
    /// Names the wish; the report carries it.
    pub id: String,
    /// Thumbprint of the session keys it is sealed to.
    pub thumbprint: String,
    /// Base64 of the encapsulated key.
    pub encapsulated_key: String,
    /// Base64 of the ciphertext.
    pub ciphertext: String,
}

/// `POST /agent/v1/bmc-user`: what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BmcUserReport {
    /// Of which wish.
    pub id: String,
    /// Why there is no such user, for people. Left out: it is there, and its password was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// Seals a user to a session's public key.
///
/// # Errors
/// [`SeedError::Key`] for a malformed key.
pub fn seal(user: &BmcUser, id: &str, thumbprint: &str, sealing_key: &str) -> Result<SealedBmcUser, SeedError> {
    let plain = serde_json::to_vec(user).map_err(|e| SeedError::Content(e.to_string()))?;
    let (encapsulated_key, ciphertext) = seal_bytes(INFO, &plain, sealing_key, id.as_bytes())?;
    Ok(SealedBmcUser {
        id: id.to_owned(),
        thumbprint: thumbprint.to_owned(),
        encapsulated_key,
        ciphertext,
    })
}

/// Opens a sealed user.
///
/// # Errors
/// [`SeedError::Sealed`] when it was sealed to another key, or for another wish.
pub fn open(sealed: &SealedBmcUser, key: &SealingKey) -> Result<BmcUser, SeedError> {
    let plain = open_bytes(INFO, &sealed.encapsulated_key, &sealed.ciphertext, key, sealed.id.as_bytes())?;
    // What serde says of it could quote it.
    serde_json::from_slice(&plain).map_err(|_| SeedError::Content("it is no user of a BMC".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::generate_sealing_key;

    #[test]
    fn only_the_session_it_was_sealed_for_opens_it_and_nothing_shows_the_password() {
        let (mine, public) = generate_sealing_key().unwrap();
        let (other, _) = generate_sealing_key().unwrap();
        let user = BmcUser {
            name: "kube-baremetal".to_owned(),
            password: "hunter2hunter2".to_owned(),
            privilege: BmcPrivilege::Operator,
            channel: 1,
        };
        let sealed = seal(&user, "bmc-1", "t", &public).unwrap();
        assert_eq!(open(&sealed, &mine).unwrap(), user);
        assert_eq!(open(&sealed, &other).unwrap_err(), SeedError::Sealed);
        let moved = SealedBmcUser {
            id: "bmc-2".to_owned(),
            ..sealed.clone()
        };
        assert_eq!(open(&moved, &mine).unwrap_err(), SeedError::Sealed, "bound to its wish");
        assert!(!format!("{user:?} {sealed:?}").contains("hunter2"));
        assert!(!serde_json::to_string(&sealed).unwrap().contains("hunter2"));
    }
}
