//! Seeds: one instance's configuration, readable by one agent only.
//!
//! The operator renders a [`Seed`], seals it to the X25519 key of the session it was rendered for (HPKE, RFC 9180, base mode:
//! DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305), bound to order and instance by the associated data, and stores only the
//! ciphertext. Whoever hands it on cannot read it.

use std::collections::BTreeMap;

use hpke::{Deserializable, Kem as _, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305, kdf::HkdfSha256, kem::X25519HkdfSha256};
use serde::{Deserialize, Serialize};

use crate::session::{decode, encode};

type Kem = X25519HkdfSha256;

const INFO: &[u8] = b"kube-baremetal seed v1";

/// The largest sealed seed in bytes of plain text.
pub const MAX_SEED_BYTES: usize = 512 * 1024;

/// What goes onto the config drive: paths below its root and their text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seed {
    /// Path (such as `openstack/latest/user_data`) to contents.
    pub files: BTreeMap<String, String>,
    /// Whether the guest helper's binary goes onto the drive too.
    #[serde(default)]
    pub guest_helper: bool,
}

impl std::fmt::Debug for Seed {
    /// Names only: contents are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seed")
            .field("files", &self.files.keys())
            .field("guest_helper", &self.guest_helper)
            .finish_non_exhaustive()
    }
}

/// A sealed seed: `GET /agent/v1/seed`, and what stands in the Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealedSeed {
    /// The order it belongs to.
    pub order_id: String,
    /// UID of the instance.
    pub instance_uid: String,
    /// Thumbprint of the session keys it is sealed to.
    pub thumbprint: String,
    /// Base64 of the encapsulated key.
    pub encapsulated_key: String,
    /// Base64 of the ciphertext.
    pub ciphertext: String,
}

/// Why a seed could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// The public key is malformed.
    #[error("the session's sealing key is not a valid X25519 key in base64")]
    Key,
    /// Larger than [`MAX_SEED_BYTES`].
    #[error("the seed has {0} bytes; at most {MAX_SEED_BYTES} are allowed: make the user data smaller")]
    TooLarge(usize),
    /// Sealed to another session, damaged, or of another order.
    #[error("the seed does not open with this session's key: it was sealed for another boot of this machine, or it is damaged")]
    Sealed,
    /// Opened, and is not a seed.
    #[error("the opened seed is not valid: {0}")]
    Content(String),
    /// No randomness.
    #[error("no randomness from the kernel")]
    Random,
}

fn associated_data(order_id: &str, instance_uid: &str) -> Vec<u8> {
    format!("{order_id}\n{instance_uid}").into_bytes()
}

/// A fresh X25519 key pair: the private key, and the public key in base64.
///
/// # Errors
/// [`SeedError::Random`] when the kernel gives no randomness.
pub fn generate_sealing_key() -> Result<(SealingKey, String), SeedError> {
    let mut ikm = [0; 32];
    getrandom::fill(&mut ikm).map_err(|_| SeedError::Random)?;
    Ok(sealing_key_from(&ikm))
}

/// The key pair that RFC 9180 derives from `ikm`, which must be secret and random. For recorded vectors; agents use [`generate_sealing_key`].
pub fn sealing_key_from(ikm: &[u8; 32]) -> (SealingKey, String) {
    let (private, public) = Kem::derive_keypair(ikm);
    (SealingKey(private), encode(&public.to_bytes()))
}

/// The private half; prints nothing.
pub struct SealingKey(<Kem as hpke::Kem>::PrivateKey);

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey")
    }
}

/// Seals `plain` to a session's public key: the encapsulated key and the ciphertext, both in base64. `info` keeps kinds of contents apart, `data` binds them to what they are for.
pub(crate) fn seal_bytes(info: &[u8], plain: &[u8], sealing_key: &str, data: &[u8]) -> Result<(String, String), SeedError> {
    let public = decode::<32>(sealing_key).ok_or(SeedError::Key)?;
    let public = <Kem as hpke::Kem>::PublicKey::from_bytes(&public).map_err(|_| SeedError::Key)?;
    let (encapped, ciphertext) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, Kem>(&OpModeS::Base, &public, info, plain, data)
        .map_err(|_| SeedError::Key)?;
    Ok((encode(&encapped.to_bytes()), encode(&ciphertext)))
}

/// Opens what [`seal_bytes`] made.
pub(crate) fn open_bytes(
    info: &[u8],
    encapsulated_key: &str,
    ciphertext: &str,
    key: &SealingKey,
    data: &[u8],
) -> Result<Vec<u8>, SeedError> {
    use base64::Engine;
    let encapped = decode::<32>(encapsulated_key).ok_or(SeedError::Sealed)?;
    let encapped = <Kem as hpke::Kem>::EncappedKey::from_bytes(&encapped).map_err(|_| SeedError::Sealed)?;
    let ciphertext = base64::engine::general_purpose::STANDARD
        .decode(ciphertext)
        .map_err(|_| SeedError::Sealed)?;
    hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(&OpModeR::Base, &key.0, &encapped, info, &ciphertext, data)
        .map_err(|_| SeedError::Sealed)
}

/// Seals `seed` to the public key of a session.
///
/// # Errors
/// [`SeedError::Key`] for a malformed key, [`SeedError::TooLarge`] for a seed that is too large.
pub fn seal(seed: &Seed, sealing_key: &str, thumbprint: &str, order_id: &str, instance_uid: &str) -> Result<SealedSeed, SeedError> {
    let plain = serde_json::to_vec(seed).map_err(|e| SeedError::Content(e.to_string()))?;
    if plain.len() > MAX_SEED_BYTES {
        return Err(SeedError::TooLarge(plain.len()));
    }
    let (encapsulated_key, ciphertext) = seal_bytes(INFO, &plain, sealing_key, &associated_data(order_id, instance_uid))?;
    Ok(SealedSeed {
        order_id: order_id.to_owned(),
        instance_uid: instance_uid.to_owned(),
        thumbprint: thumbprint.to_owned(),
        encapsulated_key,
        ciphertext,
    })
}

/// Opens a sealed seed.
///
/// # Errors
/// [`SeedError::Sealed`] when it was sealed to another key, order or instance.
pub fn open(sealed: &SealedSeed, key: &SealingKey) -> Result<Seed, SeedError> {
    let data = associated_data(&sealed.order_id, &sealed.instance_uid);
    let plain = open_bytes(INFO, &sealed.encapsulated_key, &sealed.ciphertext, key, &data)?;
    serde_json::from_slice(&plain).map_err(|e| SeedError::Content(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_session_it_was_sealed_for_opens_a_seed() {
        let (mine, public) = generate_sealing_key().unwrap();
        let (other, _) = generate_sealing_key().unwrap();
        let seed = Seed {
            files: [("openstack/latest/user_data".to_owned(), "#cloud-config".to_owned())].into(),
            guest_helper: true,
        };
        let sealed = seal(&seed, &public, "t", "order-1", "uid-1").unwrap();
        assert_eq!(open(&sealed, &mine).unwrap(), seed);
        assert_eq!(open(&sealed, &other), Err(SeedError::Sealed));
        let moved = SealedSeed {
            instance_uid: "uid-2".to_owned(),
            ..sealed.clone()
        };
        assert_eq!(open(&moved, &mine), Err(SeedError::Sealed), "bound to its instance");
        let moved = SealedSeed {
            order_id: "order-2".to_owned(),
            ..sealed
        };
        assert_eq!(open(&moved, &mine), Err(SeedError::Sealed), "bound to its order");
    }

    #[test]
    fn debug_does_not_print_contents() {
        let seed = Seed {
            files: [("user_data".to_owned(), "hunter2".to_owned())].into(),
            guest_helper: false,
        };
        assert!(!format!("{seed:?}").contains("hunter2"));
    }
}
