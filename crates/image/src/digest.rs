//! The digest that names an image: SHA-256 or SHA-512 over the bytes as they are stored at the source.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha512};

use crate::error::ImageError;

/// An image digest, `sha256:<hex>` or `sha512:<hex>`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Digest {
    /// SHA-256.
    Sha256([u8; 32]),
    /// SHA-512, which some distributors publish alone.
    Sha512([u8; 64]),
}

impl Digest {
    /// Reads `sha256:<64 hex digits>` or `sha512:<128 hex digits>`, in either case of letters.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let invalid = |reason| ImageError::InvalidDigest {
            text: text.chars().take(160).collect(),
            reason,
        };
        let (algorithm, value) = text.split_once(':').ok_or_else(|| invalid("the algorithm is missing"))?;
        match algorithm {
            "sha256" => {
                let mut bytes = [0; 32];
                hex::decode_to_slice(value, &mut bytes).map_err(|_| invalid("sha256 takes 64 hexadecimal digits"))?;
                Ok(Self::Sha256(bytes))
            }
            "sha512" => {
                let mut bytes = [0; 64];
                hex::decode_to_slice(value, &mut bytes).map_err(|_| invalid("sha512 takes 128 hexadecimal digits"))?;
                Ok(Self::Sha512(bytes))
            }
            _ => Err(invalid("the algorithm is not known")),
        }
    }

    /// SHA-256 of bytes at hand.
    pub fn sha256_of(bytes: &[u8]) -> Self {
        Self::Sha256(Sha256::digest(bytes).into())
    }

    /// SHA-512 of bytes at hand.
    pub fn sha512_of(bytes: &[u8]) -> Self {
        Self::Sha512(Sha512::digest(bytes).into())
    }

    /// A hasher of the same algorithm.
    pub fn hasher(&self) -> DigestHasher {
        match self {
            Self::Sha256(_) => DigestHasher::Sha256(Sha256::new()),
            Self::Sha512(_) => DigestHasher::Sha512(Sha512::new()),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(bytes) => write!(f, "sha256:{}", hex::encode(bytes)),
            Self::Sha512(bytes) => write!(f, "sha512:{}", hex::encode(bytes)),
        }
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// A running computation of a [`Digest`].
#[derive(Clone)]
pub enum DigestHasher {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-512.
    Sha512(Sha512),
}

impl DigestHasher {
    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of everything taken in.
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest::Sha256(hasher.finalize().into()),
            Self::Sha512(hasher) => Digest::Sha512(hasher.finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_vectors() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::sha256_of(b"").to_string(), empty);
        let mut hasher = Digest::parse(empty).unwrap().hasher();
        hasher.update(b"");
        assert_eq!(hasher.finish(), Digest::parse(&empty.to_uppercase().replace("SHA", "sha")).unwrap());
        assert!(
            Digest::sha512_of(b"abc")
                .to_string()
                .starts_with("sha512:ddaf35a193617abacc417349ae204131")
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("e3b0", "algorithm is missing"),
            ("md5:00", "not known"),
            ("sha256:00", "64 hexadecimal"),
            ("sha512:zz", "128 hexadecimal"),
        ] {
            let message = Digest::parse(text).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains(text), "{message}");
        }
    }
}
