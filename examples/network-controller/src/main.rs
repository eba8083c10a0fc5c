//! Runs the controller until SIGINT. In a cluster it uses its pod's ServiceAccount, elsewhere `$KUBECONFIG`.

use anyhow::Result;

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().init();
    // Installing it fails only where another provider is there already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = kube::Client::try_default().await?;
    let stop = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::error!(%error, "no signal can be waited for");
        }
    };
    network_controller::run(client, stop).await;
    Ok(())
}
