//! The guest helper's words. It runs inside an installed system, has one purpose (bring the machine back when its instance is released),
//! and may be left out per instance.
//!
//! It redeems its one-time token for its own Ed25519 key, then long-polls. The only thing it obeys is a [`GuestOrder`] that is signed by the
//! server's guest-order key and names its own instance uid. Requests are signed as in [`crate::session`], with the instance uid as session.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::session::{decode, encode};

/// Redeems the token.
pub const PATH_GUEST_REGISTER: &str = "/guest/v1/register";
/// Long poll for an order.
pub const PATH_GUEST_ORDER: &str = "/guest/v1/order";

/// What stands on the config drive as `kube-baremetal/guest.json`, and later, with mode 0600, in the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestConfig {
    /// Base URLs of the server, `https://...`, tried in order.
    pub servers: Vec<String>,
    /// SHA-256 of the CA's public key, lower-case hexadecimal.
    pub ca: String,
    /// UID of the instance.
    pub instance_uid: String,
    /// One-time token.
    pub token: String,
    /// Base64 Ed25519 public key that signs guest orders.
    pub order_key: String,
}

/// Body of `POST /guest/v1/register`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestRegistration {
    /// The one-time token.
    pub token: String,
    /// Base64 Ed25519 public key of the helper.
    pub signing_key: String,
    /// Host name the system gave itself.
    pub hostname: String,
    /// Addresses in CIDR form, for people.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// `/proc/sys/kernel/random/boot_id`: tells one boot from the next.
    pub boot_id: String,
    /// The boot in which this system was last told to leave for the agent, where it was: this one came after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_to_leave: Option<String>,
    /// For how long this system has been running, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_seconds: Option<u64>,
}

/// What a guest may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestAction {
    /// Nothing; ask again.
    Wait,
    /// Restart into the agent: set BootNext to the network where firmware allows it, then reboot.
    RebootToAgent,
    /// Shut down (instance `running: false`).
    PowerOff,
}

/// Answer to `GET /guest/v1/order`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestOrder {
    /// For which instance.
    pub instance_uid: String,
    /// What to do.
    pub action: GuestAction,
    /// The boot this order is meant for: a recorded order does nothing to a later boot.
    pub boot_id: String,
    /// Base64 Ed25519 signature of the server.
    pub signature: String,
}

fn signed_text(instance_uid: &str, action: GuestAction, boot_id: &str) -> String {
    format!("kbm-guest-v1\n{instance_uid}\n{action:?}\n{boot_id}\n")
}

impl GuestOrder {
    /// Makes and signs an order.
    pub fn sign(key: &SigningKey, instance_uid: &str, action: GuestAction, boot_id: &str) -> Self {
        let signature = encode(&key.sign(signed_text(instance_uid, action, boot_id).as_bytes()).to_bytes());
        Self {
            instance_uid: instance_uid.to_owned(),
            action,
            boot_id: boot_id.to_owned(),
            signature,
        }
    }

    /// Whether the order is signed by `order_key` (base64) and means this instance and this boot.
    pub fn is_for(&self, order_key: &str, instance_uid: &str, boot_id: &str) -> bool {
        let Some(key) = decode::<32>(order_key).and_then(|k| VerifyingKey::from_bytes(&k).ok()) else {
            return false;
        };
        let Some(signature) = decode::<64>(&self.signature) else {
            return false;
        };
        self.instance_uid == instance_uid
            && self.boot_id == boot_id
            && key
                .verify_strict(
                    signed_text(instance_uid, self.action, boot_id).as_bytes(),
                    &Signature::from_bytes(&signature),
                )
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_obeys_only_its_own_signed_order_of_this_boot() {
        let key = SigningKey::from_bytes(&[3; 32]);
        let public = encode(key.verifying_key().as_bytes());
        let order = GuestOrder::sign(&key, "uid", GuestAction::RebootToAgent, "boot");
        assert!(order.is_for(&public, "uid", "boot"));
        assert!(!order.is_for(&public, "other", "boot"));
        assert!(!order.is_for(&public, "uid", "next boot"));
        let other = SigningKey::from_bytes(&[4; 32]);
        assert!(!order.is_for(&encode(other.verifying_key().as_bytes()), "uid", "boot"));
        let changed = GuestOrder {
            action: GuestAction::PowerOff,
            ..order
        };
        assert!(!changed.is_for(&public, "uid", "boot"));
    }
}
