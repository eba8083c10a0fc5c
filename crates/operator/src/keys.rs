//! Netboot's keys as far as the operator needs them: to issue guest tokens, and to tell a guest helper whom to trust.
//!
//! The Secret `netboot-keys` is made by the first netboot replica. The operator only reads it, and reads it again after a minute, so that a rotated key is used.

use std::{sync::Arc, time::Duration};

use agent_protocol::{session::encode, token::TokenKey};
use ed25519_dalek::SigningKey;
use kube::Client;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::{sync::Mutex, time::Instant};

use crate::{
    error::{Error, Result},
    secrets::{self, Contents},
};

/// Name of the Secret in netboot's namespace.
pub const SECRET: &str = "netboot-keys";
const KEEP: Duration = Duration::from_secs(60);

/// What the operator takes from the Secret.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Makes guest tokens.
    pub tokens: TokenKey,
    /// Base64 Ed25519 public key that signs guest orders.
    pub order_key: String,
    /// SHA-256 of the CA's public key, lower-case hexadecimal.
    pub ca_pin: String,
}

/// Reads the keys when they are needed.
pub struct KeySource {
    client: Client,
    namespace: String,
    read: Mutex<Option<(Instant, Arc<Keys>)>>,
}

impl std::fmt::Debug for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySource")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl KeySource {
    /// Reads from netboot's namespace.
    pub fn new(client: Client, namespace: String) -> Self {
        Self {
            client,
            namespace,
            read: Mutex::new(None),
        }
    }

    /// The keys; `None` as long as no netboot replica made them.
    ///
    /// # Errors
    /// [`Error::Api`] and [`Error::Keys`].
    pub async fn get(&self) -> Result<Option<Arc<Keys>>> {
        // Held while reading: a thousand instances that need the keys at once read them once.
        let mut kept = self.read.lock().await;
        if let Some((at, keys)) = kept.as_ref()
            && at.elapsed() < KEEP
        {
            return Ok(Some(Arc::clone(keys)));
        }
        let Some(contents) = secrets::read(&self.client, &self.namespace, SECRET).await? else {
            return Ok(None);
        };
        let keys = parse(&contents).map_err(|problem| Error::Keys {
            namespace: self.namespace.clone(),
            name: SECRET,
            problem,
        })?;
        let keys = Arc::new(keys);
        *kept = Some((Instant::now(), Arc::clone(&keys)));
        Ok(Some(keys))
    }
}

fn parse(contents: &Contents) -> Result<Keys, String> {
    let part = |key: &str| contents.get(key).ok_or_else(|| format!("it has no key {key}"));
    let tokens = TokenKey::new(part("token.key")?).ok_or("token.key has less than 32 bytes")?;
    let seed: [u8; 32] = part("guest-order.key")?
        .try_into()
        .map_err(|_| "guest-order.key is not 32 bytes".to_owned())?;
    let order_key = encode(SigningKey::from_bytes(&seed).verifying_key().as_bytes());
    let certificate = CertificateDer::from_pem_slice(part("ca.crt")?).map_err(|e| format!("ca.crt is no PEM certificate: {e}"))?;
    let ca_pin = pinned_tls::pin_of(&certificate).map_err(|e| format!("ca.crt is no X.509 certificate: {e}"))?;
    Ok(Keys { tokens, order_key, ca_pin })
}
