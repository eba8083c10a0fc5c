//! The two cipher suites that are spoken: 3 (RAKP-HMAC-SHA1, HMAC-SHA1-96, AES-CBC-128) and 17 (RAKP-HMAC-SHA256, HMAC-SHA256-128, AES-CBC-128). IPMI v2.0, 13.28 to 13.32.

use aes::Aes128;
use cbc::cipher::{Block, BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::Sha256;

/// Bytes of a block of AES.
const BLOCK: usize = 16;
/// What stands at the end of a sealed datagram before its code (13.6).
const NEXT_HEADER: u8 = 0x07;

/// A cipher suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suite {
    Three,
    Seventeen,
}

impl Suite {
    /// The suite of these algorithms: authentication, integrity, confidentiality.
    pub fn of(algorithms: [u8; 3]) -> Option<Self> {
        match algorithms {
            [1, 1, 1] => Some(Self::Three),
            [3, 4, 1] => Some(Self::Seventeen),
            _ => None,
        }
    }

    /// Bytes of a datagram's code, and of that of RAKP message 4.
    pub const fn short(self) -> usize {
        match self {
            Self::Three => 12,
            Self::Seventeen => 16,
        }
    }

    /// A keyed code over these parts.
    pub fn code(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        match self {
            Self::Three => code::<Hmac<Sha1>>(key, parts),
            Self::Seventeen => code::<Hmac<Sha256>>(key, parts),
        }
    }
}

fn code<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    // A key may have any length; the type does not say so.
    let Ok(mut mac) = <M as KeyInit>::new_from_slice(key) else {
        return Vec::new();
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

/// The keys of a session.
pub(super) struct Keys {
    suite: Suite,
    signing: Vec<u8>,
    cipher: [u8; BLOCK],
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("suite", &self.suite).finish_non_exhaustive()
    }
}

impl Keys {
    pub fn of(suite: Suite, session_key: &[u8]) -> Self {
        let mut cipher = [0; BLOCK];
        let long = suite.code(session_key, &[&[2; 20]]);
        cipher.copy_from_slice(&long[..BLOCK]);
        Self {
            suite,
            signing: suite.code(session_key, &[&[1; 20]]),
            cipher,
        }
    }

    /// A datagram with this content, encrypted and signed.
    pub fn seal(&self, session: u32, sequence: u32, message: &[u8]) -> Vec<u8> {
        let vector: [u8; BLOCK] = rand::random();
        let fill = (BLOCK - (message.len() + 1) % BLOCK) % BLOCK;
        let mut text = message.to_vec();
        text.extend((1..=fill).map(|byte| byte as u8));
        text.push(fill as u8);
        let mut cipher = cbc::Encryptor::<Aes128>::new(&self.cipher.into(), &vector.into());
        for chunk in text.as_chunks_mut::<BLOCK>().0 {
            let mut block = Block::<cbc::Encryptor<Aes128>>::from(*chunk);
            cipher.encrypt_block(&mut block);
            chunk.copy_from_slice(&block);
        }
        let length = u16::try_from(BLOCK + text.len()).unwrap_or_default();
        let mut signed = vec![0x06, 0xc0];
        signed.extend_from_slice(&session.to_le_bytes());
        signed.extend_from_slice(&sequence.to_le_bytes());
        signed.extend_from_slice(&length.to_le_bytes());
        signed.extend_from_slice(&vector);
        signed.extend_from_slice(&text);
        let pad = (4 - (signed.len() + 2) % 4) % 4;
        signed.extend(std::iter::repeat_n(0xff, pad));
        signed.extend_from_slice(&[pad as u8, NEXT_HEADER]);
        let code = self.suite.code(&self.signing, &[&signed]);
        let mut out = super::session::RMCP.to_vec();
        out.extend_from_slice(&signed);
        out.extend_from_slice(&code[..self.suite.short()]);
        out
    }

    /// The content of a datagram behind RMCP's header. None: it is not genuine.
    pub fn open(&self, datagram: &[u8]) -> Option<Vec<u8>> {
        let (signed, code) = datagram.split_at_checked(datagram.len().checked_sub(self.suite.short())?)?;
        if self.suite.code(&self.signing, &[signed])[..self.suite.short()] != *code {
            return None;
        }
        let length = usize::from(u16::from_le_bytes(signed.get(10..12)?.try_into().ok()?));
        let (vector, text) = signed.get(12..12 + length)?.split_first_chunk::<BLOCK>()?;
        if text.is_empty() || text.len() % BLOCK != 0 {
            return None;
        }
        let mut plain = text.to_vec();
        let mut cipher = cbc::Decryptor::<Aes128>::new(&self.cipher.into(), &(*vector).into());
        for chunk in plain.as_chunks_mut::<BLOCK>().0 {
            let mut block = Block::<cbc::Decryptor<Aes128>>::from(*chunk);
            cipher.decrypt_block(&mut block);
            chunk.copy_from_slice(&block);
        }
        let fill = usize::from(plain.pop()?);
        plain.truncate(plain.len().checked_sub(fill)?);
        Some(plain)
    }
}
