//! The way to an API server, which can be closed: what lies behind it is then as good as stopped for those who use it.

use std::{io, net::SocketAddr};

use anyhow::Result;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What happens to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// They lead to the server.
    Open,
    /// They are refused, as by a host where nobody listens any more.
    Refused,
    /// They are taken and hear nothing, as of a server that hangs.
    Silent,
}

/// See the module. Dropping it refuses everything.
pub struct Gate {
    way: watch::Sender<Way>,
    task: JoinHandle<io::Result<()>>,
}

impl Gate {
    /// An open way from `here` to `server`.
    pub fn open(here: SocketAddr, server: SocketAddr) -> Self {
        let (way, changes) = watch::channel(Way::Open);
        let task = tokio::spawn(listen(here, server, changes));
        Self { way, task }
    }

    /// From now on; connections that are there end.
    pub fn set(&self, way: Way) -> Result<()> {
        self.way.send(way)?;
        Ok(())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(here: SocketAddr, server: SocketAddr, mut changes: watch::Receiver<Way>) -> io::Result<()> {
    loop {
        if *changes.borrow_and_update() == Way::Refused {
            if changes.changed().await.is_err() {
                return Ok(());
            }
            continue;
        }
        let listener = TcpListener::bind(here).await?;
        // The port stays open from one way to another that takes connections.
        while *changes.borrow_and_update() != Way::Refused {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return Ok(()) },
                accepted = listener.accept() => {
                    let (stream, _) = accepted?;
                    tokio::spawn(pass(stream, server, changes.clone()));
                }
            }
        }
    }
}

async fn pass(mut client: TcpStream, server: SocketAddr, mut changes: watch::Receiver<Way>) {
    if *changes.borrow_and_update() == Way::Open
        && let Ok(mut server) = TcpStream::connect(server).await
    {
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut server) => return,
            _ = changes.changed() => {}
        }
    }
    // A server that hangs keeps its connections.
    while *changes.borrow_and_update() == Way::Silent && changes.changed().await.is_ok() {}
}
