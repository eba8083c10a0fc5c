//! A service on a port of the loopback, for as long as this is kept.

use axum::Router;

#[derive(Debug)]
pub struct Served {
    /// Scheme, address and port.
    pub url: String,
    server: tokio::task::JoinHandle<()>,
}

impl Served {
    pub async fn start(router: Router) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { url, server }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}
