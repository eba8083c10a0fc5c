//! Health and metrics of a role, over plain HTTP: `/healthz`, `/readyz`, `/metrics`. It gives figures and nothing else; who may ask is a matter of the network.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use axum::{Router, http::StatusCode, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A running server.
pub struct Monitor {
    /// Where it listens.
    pub address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The registry as OpenMetrics text; nothing when one of its figures cannot be encoded.
pub fn encode(registry: &Registry) -> Option<String> {
    let mut out = String::new();
    text::encode(&mut out, registry).ok().map(|()| out)
}

/// Starts to serve until `stop`.
pub async fn start(
    listen: SocketAddr,
    is_ready: impl Fn() -> bool + Send + Sync + 'static,
    figures: impl Fn() -> Option<String> + Send + Sync + 'static,
    stop: CancellationToken,
) -> Result<Monitor> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("--monitor-listen: listening on {listen}"))?;
    let address = listener.local_addr().context("the monitor's address")?;
    let (is_ready, figures) = (Arc::new(is_ready), Arc::new(figures));
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move {
                if is_ready() {
                    (StatusCode::OK, "ok\n")
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
                }
            }),
        )
        .route(
            "/metrics",
            get(move || async move {
                match figures() {
                    Some(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
                    None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                }
            }),
        );
    let ended = stop.clone();
    let task = tokio::spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(async move { ended.cancelled().await });
        if let Err(error) = served.await {
            tracing::warn!(%error, "health and metrics are not served any more");
        }
    });
    Ok(Monitor { address, stop, task })
}

impl Monitor {
    /// Stops it.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until it ended; connections that stay open are cut off after a second.
    pub async fn ended(self) {
        if tokio::time::timeout(std::time::Duration::from_secs(1), self.task).await.is_err() {
            tracing::debug!("a connection to the monitor was cut off");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readiness_is_asked_anew_each_time() {
        let ready = Arc::new(AtomicBool::new(false));
        let asked = ready.clone();
        let stop = CancellationToken::new();
        let listen = "127.0.0.1:0".parse().unwrap();
        let figures = || encode(&Registry::with_prefix("p"));
        let monitor = start(listen, move || asked.load(Ordering::SeqCst), figures, stop.clone())
            .await
            .unwrap();
        assert!(ask(monitor.address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(monitor.address, "/readyz").await.starts_with("HTTP/1.1 503"));
        ready.store(true, Ordering::SeqCst);
        assert!(ask(monitor.address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let figures = ask(monitor.address, "/metrics").await;
        assert!(figures.contains(OPEN_METRICS) && figures.ends_with("# EOF\n"), "{figures}");
        assert!(ask(monitor.address, "/other").await.starts_with("HTTP/1.1 404"));
        stop.cancel();
        monitor.ended().await;
    }
}
