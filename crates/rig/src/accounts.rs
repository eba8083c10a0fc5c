//! Kubeconfigs for service accounts: a test starts a program with exactly the rights that its pods would have.

use std::path::Path;

use anyhow::{Context, Result};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{
    Api, Client,
    api::PostParams,
    config::{AuthInfo, Context as KubeContext, Kubeconfig, NamedAuthInfo, NamedContext},
};

/// How the API calls a service account.
pub fn user_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// Writes a kubeconfig to `path` that is like `admin`, but with a token of the service account for an hour instead of that user.
///
/// # Errors
/// When there is no such service account, or the file cannot be written.
pub async fn kubeconfig(client: &Client, admin: &Path, namespace: &str, name: &str, path: &Path) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: Vec::new(),
            expiration_seconds: Some(3600),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let made = accounts
        .create_token_request(name, &PostParams::default(), &request)
        .await
        .with_context(|| format!("a token for ServiceAccount {namespace}/{name}"))?;
    let token = made.status.context("the token request was not answered")?.token;
    let mut config = Kubeconfig::read_from(admin)?;
    let cluster = config.clusters.first().context("the kubeconfig names no cluster")?.name.clone();
    config.auth_infos = vec![NamedAuthInfo {
        name: name.to_owned(),
        auth_info: Some(AuthInfo {
            token: Some(token.into()),
            ..AuthInfo::default()
        }),
        ..NamedAuthInfo::default()
    }];
    config.contexts = vec![NamedContext {
        name: name.to_owned(),
        context: Some(KubeContext {
            cluster,
            user: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..KubeContext::default()
        }),
        ..NamedContext::default()
    }];
    config.current_context = Some(name.to_owned());
    let text = serde_json::to_string(&config)?;
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
