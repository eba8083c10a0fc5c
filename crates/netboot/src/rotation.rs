//! New keys while machines run: what changes in the Secret `netboot-keys`. Whoever holds the right to write that Secret carries it out (`kube-baremetal rotate`); replicas
//! and operators read it again by themselves.
//!
//! **The CA.** Machines trust it by the SHA-256 of its public key: an agent for one boot, a guest helper for as long as its system stands. So an earlier CA stays good until every system that was
//! installed under it is gone: it certifies the new CA once, and that certificate is served along with the others. A client of either pin then finds a way from the server's
//! certificate to the CA that it knows. The earlier CA's private key is not kept.
//!
//! **The token key.** Boot tokens live for minutes, guest tokens as long as their system. Earlier keys are kept to check what they made; nothing is made with them any more.
//!
//! Ending the overlap takes the earlier ones away: a helper that knows only an earlier CA, or registers anew with a token of an earlier key, is a stranger from then on.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{
    error::Error,
    keys::{CA_CERT, CA_CHAIN, CA_KEY, SECRET_NAME, TOKEN, TOKEN_PREVIOUS, crypto, previous_tokens, random},
};

/// So many earlier CAs, and earlier token keys, are kept at most; the overlap of the oldest ends then by itself.
pub const KEPT: usize = 4;

/// What can be rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The authority whose public key machines pin.
    Ca,
    /// The key that makes boot and guest tokens.
    TokenKey,
}

fn fault(secret: &Secret, key: &'static str, problem: &str) -> Error {
    Error::Keys {
        namespace: secret.metadata.namespace.clone().unwrap_or_default(),
        name: SECRET_NAME,
        key,
        problem: problem.to_owned(),
    }
}

fn value(secret: &Secret, key: &'static str) -> Result<Vec<u8>, Error> {
    let found = secret.data.as_ref().and_then(|d| d.get(key));
    found.map(|b| b.0.clone()).ok_or_else(|| fault(secret, key, "is missing"))
}

fn put(secret: &mut Secret, key: impl Into<String>, value: Vec<u8>) {
    secret.data.get_or_insert_default().insert(key.into(), ByteString(value));
}

/// Puts new keys into the Secret; the present ones become earlier ones.
///
/// # Errors
/// [`Error::Keys`] where the Secret is not whole, [`Error::Crypto`] without randomness.
pub fn rotate(secret: &mut Secret, what: What) -> Result<(), Error> {
    match what {
        What::Ca => rotate_ca(secret),
        What::TokenKey => rotate_token_key(secret),
    }
}

/// Takes the earlier keys away. Returns whether there were any.
pub fn end_overlap(secret: &mut Secret, what: What) -> bool {
    let data: &mut BTreeMap<String, ByteString> = secret.data.get_or_insert_default();
    let before = data.len();
    match what {
        What::Ca => data.retain(|key, _| key != CA_CHAIN),
        What::TokenKey => data.retain(|key, _| !key.starts_with(TOKEN_PREVIOUS)),
    }
    data.len() < before
}

fn rotate_token_key(secret: &mut Secret) -> Result<(), Error> {
    let present = value(secret, TOKEN)?;
    let mut earlier: Vec<Vec<u8>> = previous_tokens(secret).into_iter().map(<[u8]>::to_vec).collect();
    earlier.insert(0, present);
    earlier.truncate(KEPT);
    end_overlap(secret, What::TokenKey);
    for (age, key) in earlier.into_iter().enumerate() {
        put(secret, format!("{TOKEN_PREVIOUS}-{}.key", age + 1), key);
    }
    put(secret, TOKEN, random()?.to_vec());
    Ok(())
}

/// A CA's name. Each has one of its own, so that a chain of them is unmistakable.
fn ca_params() -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let number = hex::encode(&random()?[..4]);
    params
        .distinguished_name
        .push(DnType::CommonName, format!("Kube BareMetal netboot CA {number}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn rotate_ca(secret: &mut Secret) -> Result<(), Error> {
    let old_cert = value(secret, CA_CERT)?;
    let old = CertificateDer::from_pem_slice(&old_cert).map_err(|_| fault(secret, CA_CERT, "is not a certificate in PEM"))?;
    let old_key = std::str::from_utf8(&value(secret, CA_KEY)?)
        .ok()
        .and_then(|pem| KeyPair::from_pem(pem).ok())
        // Nothing of the parser's message: it may quote the key.
        .ok_or_else(|| fault(secret, CA_KEY, "is not a private key in PEM"))?;
    let issuer = Issuer::from_ca_cert_der(&old, old_key).map_err(crypto("certificates with this CA"))?;
    let key = KeyPair::generate().map_err(crypto("the CA's key"))?;
    let params = ca_params()?;
    let bridge = params
        .signed_by(&key, &issuer)
        .map_err(crypto("the certificate of the new CA by the old one"))?;
    let own = params.self_signed(&key).map_err(crypto("the CA's certificate"))?;
    // Newest first, two for each earlier CA: what it says of its successor, and its own.
    let earlier = secret
        .data
        .as_ref()
        .and_then(|d| d.get(CA_CHAIN))
        .map(|b| b.0.clone())
        .unwrap_or_default();
    let mut chain = vec![bridge.pem().into_bytes(), old_cert];
    chain.extend(pem_blocks(&earlier));
    chain.truncate(2 * KEPT);
    put(secret, CA_CHAIN, chain.concat());
    put(secret, CA_CERT, own.pem().into_bytes());
    put(secret, CA_KEY, key.serialize_pem().into_bytes());
    Ok(())
}

fn pem_blocks(text: &[u8]) -> Vec<Vec<u8>> {
    const END: &str = "-----END CERTIFICATE-----";
    let text = String::from_utf8_lossy(text);
    let blocks = text.split_inclusive(END).filter(|block| block.contains(END));
    blocks.map(|block| format!("{}\n", block.trim()).into_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        sync::Arc,
    };

    use agent_protocol::token::GuestClaims;
    use rustls::{ClientConnection, ServerConnection};
    use rustls_pki_types::ServerName;

    use super::*;
    use crate::keys::{Keys, new_secret};

    /// Whether a machine that knows `pin` takes the server for its own.
    fn is_trusted(server: &Keys, pin: &str) -> bool {
        let config = pinned_tls::client_config(pin).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from("10.0.2.2").unwrap()).unwrap();
        let mut server = ServerConnection::new(server.tls()).unwrap();
        for _ in 0..8 {
            let (mut wire, mut back) = (Vec::new(), Vec::new());
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut rest = wire.as_slice();
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                if server.process_new_packets().is_err() {
                    return false;
                }
            }
            while server.wants_write() {
                server.write_tls(&mut back).unwrap();
            }
            let mut rest = back.as_slice();
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                if client.process_new_packets().is_err() {
                    return false;
                }
            }
        }
        !client.is_handshaking() && client.writer().write_all(b"x").is_ok() && server.reader().read(&mut [0]).is_err()
    }

    #[test]
    fn every_earlier_pin_leads_to_the_present_server_until_the_overlap_ends() {
        let mut secret = new_secret("ns").unwrap();
        let mut pins = Vec::new();
        for _ in 0..=KEPT {
            pins.push(Keys::from_secret(&secret).unwrap().pin().to_owned());
            rotate(&mut secret, What::Ca).unwrap();
        }
        let keys = Keys::from_secret(&secret).unwrap();
        pins.push(keys.pin().to_owned());
        let forgotten = pins.remove(0);
        assert_eq!(pins.len(), KEPT + 1);
        for pin in &pins {
            assert!(is_trusted(&keys, pin), "{pin} of {pins:?}");
        }
        assert!(!is_trusted(&keys, &forgotten), "only so many are kept");
        let stranger = Keys::from_secret(&new_secret("ns").unwrap()).unwrap();
        assert!(!is_trusted(&stranger, &pins[0]) && !is_trusted(&keys, stranger.pin()));

        assert!(end_overlap(&mut secret, What::Ca));
        assert!(!end_overlap(&mut secret, What::Ca));
        let keys = Keys::from_secret(&secret).unwrap();
        let present = pins.pop().unwrap();
        assert!(is_trusted(&keys, &present));
        assert!(pins.iter().all(|pin| !is_trusted(&keys, pin)));
    }

    #[test]
    fn the_private_key_of_an_earlier_ca_is_not_kept() {
        let mut secret = new_secret("ns").unwrap();
        let key = secret.data.as_ref().unwrap()[CA_KEY].0.clone();
        rotate(&mut secret, What::Ca).unwrap();
        assert!(secret.data.unwrap().values().all(|v| v.0 != key));
    }

    #[test]
    fn tokens_of_earlier_keys_are_taken_until_the_overlap_ends() {
        let mut secret = new_secret("ns").unwrap();
        let claims = GuestClaims {
            instance_uid: "u".to_owned(),
            hardware: "m".to_owned(),
            nonce: "n".to_owned(),
        };
        let token = |secret: &Secret| {
            let key = agent_protocol::token::TokenKey::new(&secret.data.as_ref().unwrap()[TOKEN].0).unwrap();
            key.issue_guest(&claims)
        };
        let mut tokens = Vec::new();
        for _ in 0..KEPT {
            tokens.push(token(&secret));
            rotate(&mut secret, What::TokenKey).unwrap();
        }
        tokens.push(token(&secret));
        let keys = Keys::from_secret(&secret).unwrap();
        for token in &tokens {
            assert_eq!(keys.check_guest(token).as_ref(), Ok(&claims));
        }
        rotate(&mut secret, What::TokenKey).unwrap();
        assert!(
            Keys::from_secret(&secret).unwrap().check_guest(&tokens[0]).is_err(),
            "only so many are kept"
        );
        assert!(end_overlap(&mut secret, What::TokenKey));
        let keys = Keys::from_secret(&secret).unwrap();
        assert!(tokens.iter().all(|t| keys.check_guest(t).is_err()));
        assert!(keys.check_guest(&token(&secret)).is_ok());
    }

    #[test]
    fn a_broken_secret_is_left_as_it_is() {
        let mut secret = new_secret("ns").unwrap();
        secret
            .data
            .as_mut()
            .unwrap()
            .insert(CA_KEY.to_owned(), ByteString(b"short".to_vec()));
        let before = secret.clone();
        let error = rotate(&mut secret, What::Ca).unwrap_err().to_string();
        assert!(error.contains(CA_KEY) && !error.contains("short"), "{error}");
        assert_eq!(secret, before);
    }
}
