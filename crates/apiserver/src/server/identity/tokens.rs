//! Service account tokens: JSON Web Tokens, signed (ES256) with the server's own key.
//!
//! Claims are those of the real server. The key lies in the data directory (`sa.key`, mode 0600) and is made once; taking it away makes every token
//! worthless. One algorithm and one key are known, and the header must name them: there is nothing to negotiate. A token that was verified once is
//! remembered by its digest, so that a busy client costs one verification; its time and its account are looked at with each request.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PublicKeyData};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{CREDENTIAL, Identity};
use crate::server::tls::{file_error, write_private};
use crate::store::{Key, Store};
use crate::{Error, Result};

/// Who issues tokens, and for whom they are when nobody else is named.
pub const ISSUER: &str = "https://kubernetes.default.svc";
/// Clocks may differ by so many seconds.
const LEEWAY: i64 = 60;
/// Verified tokens that are remembered.
const REMEMBERED: usize = 1024;
/// A longer token is none of ours.
const LONGEST: usize = 16 * 1024;

/// An object by name and uid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The account's namespace.
    pub namespace: String,
    /// A Secret whose end is the token's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Ref>,
    /// The account.
    pub serviceaccount: Ref,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom it is.
    pub aud: Vec<String>,
    /// When it ends, in seconds.
    pub exp: i64,
    /// When it was made.
    pub iat: i64,
    /// Who made it.
    pub iss: String,
    /// Its own name.
    pub jti: String,
    /// To what it is bound.
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
    /// From when on it is valid.
    pub nbf: i64,
    /// The user.
    pub sub: String,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

/// Issues and verifies.
pub struct Tokens {
    signer: EcdsaKeyPair,
    random: SystemRandom,
    key_id: String,
    verified: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

fn key_error(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::TokenKey { source: Box::new(error) }
}

impl Tokens {
    /// Loads the key of a directory, or makes it.
    pub fn open(directory: &Path) -> Result<Tokens> {
        let path = directory.join("sa.key");
        if !path.exists() {
            let key = KeyPair::generate().map_err(key_error)?;
            write_private(&path, key.serialize_pem().as_bytes())?;
        }
        let pem = fs::read_to_string(&path).map_err(file_error(&path))?;
        let key = KeyPair::from_pem(&pem).map_err(key_error)?;
        let random = SystemRandom::new();
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der(), &random)
            .map_err(|error| key_error(std::io::Error::other(error.to_string())))?;
        Ok(Tokens {
            signer,
            random,
            key_id: URL_SAFE_NO_PAD.encode(Sha256::digest(key.subject_public_key_info())),
            verified: Mutex::default(),
        })
    }

    /// Makes a token. `None` when the random source of the system fails.
    pub fn issue(&self, claims: &Claims) -> Option<String> {
        let header = Header {
            alg: "ES256".to_owned(),
            kid: self.key_id.clone(),
        };
        let encode = |json: Vec<u8>| URL_SAFE_NO_PAD.encode(json);
        let mut token = format!(
            "{}.{}",
            encode(serde_json::to_vec(&header).ok()?),
            encode(serde_json::to_vec(claims).ok()?)
        );
        let signature = self.signer.sign(&self.random, token.as_bytes()).ok()?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature.as_ref()));
        Some(token)
    }

    /// The claims of a token that this server signed, whatever they say.
    fn verified(&self, token: &str) -> Option<Arc<Claims>> {
        if token.len() > LONGEST {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let lock = || self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claims) = lock().get(&digest) {
            return Some(claims.clone());
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header.alg != "ES256" || header.kid != self.key_id {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.signer.public_key())
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let claims = Arc::new(claims);
        let mut verified = lock();
        if verified.len() >= REMEMBERED {
            verified.clear();
        }
        verified.insert(digest, claims.clone());
        Some(claims)
    }

    /// Who a token names and for which of the wanted audiences it is, or why it is worth nothing.
    pub fn authenticate(
        &self,
        store: &Store,
        token: &str,
        audiences: &[String],
        now: jiff::Timestamp,
    ) -> std::result::Result<(Identity, Vec<String>), String> {
        let claims = self.verified(token).ok_or("invalid bearer token")?;
        if claims.iss != ISSUER {
            return Err(format!("token issuer {:?} is invalid", claims.iss));
        }
        let common: Vec<String> = claims.aud.iter().filter(|audience| audiences.contains(audience)).cloned().collect();
        if common.is_empty() {
            let shown = |list: &[String]| format!("[{}]", list.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" "));
            return Err(format!(
                "token audiences {} is invalid for the target audiences {}",
                shown(&claims.aud),
                shown(audiences)
            ));
        }
        let now = now.as_second();
        if now > claims.exp + LEEWAY {
            return Err("service account token has expired".to_owned());
        }
        if now < claims.nbf - LEEWAY || now < claims.iat - LEEWAY {
            return Err("service account token is not valid yet".to_owned());
        }
        let Bound {
            namespace,
            secret,
            serviceaccount: account,
        } = &claims.bound;
        let found = store
            .get(&Key::new(&Arc::from(ACCOUNTS), namespace, &account.name))
            .ok_or_else(|| format!("serviceaccounts {:?} not found", account.name))?;
        if *found.meta.uid != *account.uid {
            return Err(format!(
                "service account UID ({}) does not match claim ({})",
                found.meta.uid, account.uid
            ));
        }
        if found.meta.deleting {
            return Err(format!("service account {namespace}/{} has been deleted", account.name));
        }
        if let Some(secret) = secret {
            let found = store.get(&Key::new(&Arc::from(SECRETS), namespace, &secret.name));
            if found.is_none_or(|found| *found.meta.uid != *secret.uid || found.meta.deleting) {
                return Err("service account token has been invalidated".to_owned());
            }
        }
        let mut identity = Identity::service_account(namespace, &account.name, &account.uid);
        identity.extra.insert(CREDENTIAL.to_owned(), vec![format!("JTI={}", claims.jti)]);
        Ok((identity, common))
    }

    /// The public key as a JSON Web Key Set: how others verify tokens.
    pub fn key_set(&self) -> Value {
        // An uncompressed point: a byte that says so, then the two coordinates.
        let point = self.signer.public_key().as_ref();
        let coordinate = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(point.get(range).unwrap_or_default());
        json!({ "keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256", "x": coordinate(1..33), "y": coordinate(33..65),
        }] })
    }
}

/// The store's resource of ServiceAccounts.
pub const ACCOUNTS: &str = "/serviceaccounts";
/// The store's resource of Secrets.
pub const SECRETS: &str = "/secrets";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Draft, Expect, Limits, Write};

    fn claims(now: jiff::Timestamp) -> Claims {
        let now = now.as_second();
        let account = Ref {
            name: "robot".to_owned(),
            uid: "1-2-3".to_owned(),
        };
        Claims {
            aud: vec![ISSUER.to_owned(), "vault".to_owned()],
            exp: now + 600,
            iat: now,
            iss: ISSUER.to_owned(),
            jti: "j".to_owned(),
            bound: Bound {
                namespace: "ns".to_owned(),
                secret: None,
                serviceaccount: account,
            },
            nbf: now,
            sub: "system:serviceaccount:ns:robot".to_owned(),
        }
    }

    async fn put(store: &Store, resource: &str, name: &str, uid: &str) {
        let write = Write::Put {
            key: Key::new(&Arc::from(resource), "ns", name),
            expect: Expect::Absent,
            draft: Draft::new(&json!({ "metadata": { "name": name, "namespace": "ns", "uid": uid } })),
            require: None,
        };
        store.commit(write).await.expect("stored");
    }

    #[tokio::test]
    async fn a_token_is_worth_what_it_says_while_what_it_is_bound_to_exists() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(&directory.path().join("objects"), Limits::default()).expect("opens");
        let tokens = Tokens::open(directory.path()).expect("a key");
        let now = jiff::Timestamp::now();
        let ours = [ISSUER.to_owned()];
        let with = |change: &dyn Fn(&mut Claims)| {
            let mut claims = claims(now);
            change(&mut claims);
            tokens.issue(&claims).expect("issued")
        };
        let ask = |token: &str| tokens.authenticate(&store, token, &ours, now);
        let plain = with(&|_| {});
        assert_eq!(ask(&plain).expect_err("no account"), "serviceaccounts \"robot\" not found");
        put(&store, ACCOUNTS, "robot", "1-2-3").await;

        let (identity, audiences) = ask(&plain).expect("recognised");
        assert_eq!(identity.user, "system:serviceaccount:ns:robot");
        assert_eq!(
            identity.groups,
            ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]
        );
        assert_eq!((identity.uid.as_str(), audiences), ("1-2-3", vec![ISSUER.to_owned()]));
        assert_eq!(ask(&plain).expect("the second time too").0, identity);

        let refused = [
            (with(&|claims| claims.exp -= 700), "service account token has expired"),
            (with(&|claims| claims.nbf += 120), "service account token is not valid yet"),
            (
                with(&|claims| claims.iss = "https://elsewhere".to_owned()),
                "token issuer \"https://elsewhere\" is invalid",
            ),
            (
                with(&|claims| claims.bound.serviceaccount.uid = "9".to_owned()),
                "service account UID (1-2-3) does not match claim (9)",
            ),
            (
                with(&|claims| claims.aud.remove(0).clear()),
                "token audiences [\"vault\"] is invalid for the target audiences [\"https://kubernetes.default.svc\"]",
            ),
        ];
        for (token, why) in refused {
            assert_eq!(ask(&token).expect_err(why), why);
        }

        let bound = with(&|claims| {
            claims.bound.secret = Some(Ref {
                name: "s".to_owned(),
                uid: "4".to_owned(),
            });
        });
        assert_eq!(ask(&bound).expect_err("no secret"), "service account token has been invalidated");
        put(&store, SECRETS, "s", "4").await;
        ask(&bound).expect("its secret exists");
        store.close().await;
    }

    #[tokio::test]
    async fn nothing_that_this_key_did_not_sign_as_it_stands_is_taken() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(&directory.path().join("objects"), Limits::default()).expect("opens");
        put(&store, ACCOUNTS, "robot", "1-2-3").await;
        let tokens = Tokens::open(directory.path()).expect("a key");
        let again = Tokens::open(directory.path()).expect("the same key");
        let elsewhere = tempfile::tempdir().expect("a directory");
        let other = Tokens::open(elsewhere.path()).expect("another key");
        let now = jiff::Timestamp::now();
        let good = tokens.issue(&claims(now)).expect("issued");
        let parts: Vec<&str> = good.split('.').collect();
        let json = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let forged = json(
            json!({ "iss": ISSUER, "aud": [ISSUER], "exp": 9_999_999_999i64, "iat": 0, "nbf": 0, "jti": "x", "sub": "x",
            "kubernetes.io": { "namespace": "ns", "serviceaccount": { "name": "robot", "uid": "1-2-3" } } }),
        );
        let mut flipped = good.clone().into_bytes();
        let last = flipped.len() - 10;
        flipped[last] = if flipped[last] == b'A' { b'B' } else { b'A' };
        let bad = [
            String::new(),
            "a.b.c".to_owned(),
            format!("{}.{}", parts[0], parts[1]),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{}.{forged}.{}", parts[0], parts[2]),
            format!("{}.{forged}.", json(json!({ "alg": "none" }))),
            format!("{}.{forged}.", json(json!({ "alg": "none", "kid": tokens.key_id }))),
            format!(
                "{}.{}.{}",
                json(json!({ "alg": "HS256", "kid": tokens.key_id })),
                parts[1],
                parts[2]
            ),
            format!("{}.{}.{}", json(json!({ "alg": "ES256", "kid": "another" })), parts[1], parts[2]),
            format!("{good}.{}", parts[2]),
            String::from_utf8(flipped).expect("text"),
            other.issue(&claims(now)).expect("issued"),
            "x".repeat(LONGEST + 1),
        ];
        for token in bad {
            let answer = tokens.authenticate(&store, &token, &[ISSUER.to_owned()], now);
            assert_eq!(answer.expect_err("refused"), "invalid bearer token", "{token}");
        }
        again
            .authenticate(&store, &good, &[ISSUER.to_owned()], now)
            .expect("the key is kept in its file");
        store.close().await;
    }
}
