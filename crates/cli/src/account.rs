//! Acting as a service account of the embedded API: the token is asked for like any client's, and renewed for as long as the process lives.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use apiserver::{ApiServer, Bearer};
use k8s_openapi::api::{authentication::v1::TokenRequest, core::v1::ServiceAccount};
use kube::{Api, Client, api::PostParams};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a token is asked for.
const LIFETIME: i64 = 3600;
/// A token with less than this left is replaced.
const RENEW: i64 = 720;
/// How often the clock is looked at. Not slept for until the end: a suspended machine's timers stand still while the token ages.
const LOOK: Duration = Duration::from_secs(30);

struct Account {
    api: Api<ServiceAccount>,
    name: &'static str,
    bearer: Bearer,
}

impl Account {
    /// Asks for a token, uses it from now on, and says when it ends.
    async fn renew(&self) -> Result<i64> {
        let mut request = TokenRequest::default();
        request.spec.expiration_seconds = Some(LIFETIME);
        let answer = self
            .api
            .create_token_request(self.name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("asking for a token of service account {}", self.name))?;
        let status = answer.status.context("a token request was answered without a token")?;
        ensure!(
            self.bearer.set(&status.token),
            "the token of service account {} cannot stand in a header",
            self.name
        );
        Ok(status.expiration_timestamp.0.as_second())
    }

    async fn keep(self, mut ends: i64, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
            if jiff::Timestamp::now().as_second() < ends - RENEW {
                continue;
            }
            match self.renew().await {
                Ok(later) => ends = later,
                Err(error) => tracing::warn!("{error:#}; it is tried again in {} s", LOOK.as_secs()),
            }
        }
    }
}

/// A client that is the service account `namespace/name`, and nobody else.
///
/// # Errors
/// When `admin` cannot get a token for it.
pub async fn client(
    api: &Arc<ApiServer>,
    admin: &Client,
    namespace: &str,
    name: &'static str,
    parts: &mut JoinSet<Result<()>>,
    stop: CancellationToken,
) -> Result<Client> {
    let account = Account {
        api: Api::namespaced(admin.clone(), namespace),
        name,
        bearer: Bearer::default(),
    };
    let client = Client::new(api.token_router(account.bearer.clone()), namespace);
    let ends = account.renew().await?;
    parts.spawn(async move {
        account.keep(ends, stop).await;
        Ok(())
    });
    Ok(client)
}
