//! Tenants' Secrets, resolved in this one place.
//!
//! A Secret is read by `get` with its name, never listed nor watched, and always from the namespace of the object that names it: there is no parameter by which a reference could
//! reach another namespace. Nothing read here is logged or put into a status.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, Resource, ResourceExt};

use crate::error::{Error, Result};

/// After so many seconds a Secret that was missing is looked for again; doubled with each miss up to [`MAX_RETRY`].
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// The longest pause between two looks.
const MAX_RETRY: Duration = Duration::from_secs(60);

/// A Secret's contents. Prints only the names of its keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Contents(BTreeMap<String, Vec<u8>>);

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Contents").field(&self.0.keys()).finish()
    }
}

impl Contents {
    /// The value of one key.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// These keys and values.
    #[cfg(test)]
    pub(crate) fn of<const N: usize>(entries: [(&str, &str); N]) -> Self {
        Self(
            entries
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()))
                .collect(),
        )
    }

    /// Names of the keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// Reads the Secret `name` in the namespace of `owner`, the object that names it; `None` when it is not there.
///
/// # Errors
/// [`Error::Api`] when the API server refuses or cannot be reached.
pub async fn local<K: Resource>(client: &Client, owner: &K, name: &str) -> Result<Option<Contents>> {
    let Some(namespace) = owner.namespace() else {
        return Err(Error::Incomplete {
            kind: "object".to_owned(),
            name: owner.name_any(),
            field: "namespace",
        });
    };
    read(client, &namespace, name).await
}

pub(crate) async fn read(client: &Client, namespace: &str, name: &str) -> Result<Option<Contents>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(name).await.map_err(|source| Error::Api {
        verb: "get",
        kind: "Secret".to_owned(),
        name: format!("{namespace}/{name}"),
        source: Box::new(source),
    })?;
    Ok(found.map(|secret| Contents(secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect())))
}

/// When to look again for a Secret that was missing `misses` times.
pub fn retry_after(misses: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << misses.saturating_sub(1).min(8)).min(MAX_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_not_printed() {
        let contents = Contents([("user-data".to_owned(), b"hunter2".to_vec())].into());
        let text = format!("{contents:?}");
        assert!(
            text.contains("user-data") && !text.contains("hunter2") && !text.contains("104"),
            "{text}"
        );
        assert_eq!(contents.get("user-data"), Some(&b"hunter2"[..]));
        assert_eq!(contents.get("other"), None);
    }

    #[test]
    fn looking_again_is_bounded_both_ways() {
        assert_eq!(retry_after(1), Duration::from_secs(2));
        assert_eq!(retry_after(3), Duration::from_secs(8));
        assert_eq!(retry_after(100), MAX_RETRY);
    }
}
