//! The two servers: the embedded one in this process behind TLS, and the real one as processes of its own.

use std::path::{Path, PathBuf};

use anyhow::Result;
use apiserver::{ApiServer, Config};
use rig::ControlPlane;
use tokio_util::sync::CancellationToken;

use crate::{api::Api, definitions};

/// A running embedded API. Dropping it ends it.
#[derive(Debug)]
pub struct Embedded {
    /// The server itself.
    pub server: ApiServer,
    /// A client of it.
    pub api: Api,
    directory: tempfile::TempDir,
    cancel: CancellationToken,
}

impl Embedded {
    /// Starts one on loopback and installs the suite's definitions.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn start() -> Result<Embedded> {
        let directory = tempfile::tempdir()?;
        let server = ApiServer::open(Config::new(directory.path().join("data"))).await?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://{}", listener.local_addr()?);
        let cancel = CancellationToken::new();
        tokio::spawn(server.serve_tls(listener, cancel.clone()));
        let path = directory.path().join("kubeconfig");
        server.write_kubeconfig(&path, &url)?;
        let api = Api::from_kubeconfig(&path)?;
        definitions::install_all(&api).await;
        Ok(Embedded {
            server,
            api,
            directory,
            cancel,
        })
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// A folder that ends with the server.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// The real control plane with the suite's definitions installed.
#[derive(Debug)]
pub struct Real {
    /// The processes.
    pub plane: ControlPlane,
    /// A client of it.
    pub api: Api,
}

impl Real {
    /// Starts one.
    ///
    /// # Errors
    /// When it was not built or does not start.
    pub async fn start() -> Result<Real> {
        let plane = ControlPlane::start(rig::Options::default()).await?;
        let api = Api::from_kubeconfig(&plane.kubeconfig())?;
        definitions::install_all(&api).await;
        Ok(Real { plane, api })
    }
}
