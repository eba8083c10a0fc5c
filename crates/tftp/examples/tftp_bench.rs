//! The two ends of the TFTP benchmark (`benches/tftp`): our server with the files of a folder, and the clients that load any server.
//!
//! The clients are threads that block, with the same code for every server: each fetches one file as often as it is told and counts the bytes. They say
//! what happened as one line of JSON.

use std::{
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Parser;
use tftp::{
    Assets, PortMode, Server,
    client::fetch,
    server::Config,
    wire::{OptionKind, Options},
};
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
enum Arguments {
    /// Serve the files of a folder until killed.
    Serve {
        #[arg(long)]
        address: SocketAddr,
        #[arg(long)]
        folder: PathBuf,
        /// Send all from the port that listens.
        #[arg(long)]
        single_port: bool,
        /// Hand datagrams to the kernel one by one.
        #[arg(long)]
        no_segmentation_offload: bool,
    },
    /// Fetch a file with many clients at once.
    Load {
        #[arg(long)]
        address: SocketAddr,
        #[arg(long)]
        file: String,
        /// Bytes that each fetch must bring.
        #[arg(long)]
        size: u64,
        #[arg(long)]
        clients: u32,
        /// Fetches of each client, one after the other.
        #[arg(long)]
        repeat: u32,
        #[arg(long)]
        block_size: u64,
        /// Not asked for when it is 1, as most firmware does.
        #[arg(long)]
        window: u64,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse() {
        Arguments::Serve {
            address,
            folder,
            single_port,
            no_segmentation_offload,
        } => serve(address, folder, single_port, !no_segmentation_offload),
        Arguments::Load {
            address,
            file,
            size,
            clients,
            repeat,
            block_size,
            window,
        } => load(address, &file, size, clients, repeat, block_size, window),
    }
}

fn serve(address: SocketAddr, folder: PathBuf, single_port: bool, segmentation_offload: bool) -> anyhow::Result<()> {
    let mut assets = Assets::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))? {
        let entry = entry?;
        assets.add(&entry.file_name().to_string_lossy(), std::fs::read(entry.path())?.into())?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let port_mode = if single_port { PortMode::Single } else { PortMode::PerTransfer };
        let config = Config {
            port_mode,
            segmentation_offload,
            ..Config::default()
        };
        let server = Server::new(UdpSocket::bind(address)?, Arc::new(assets), config)?;
        server.run(CancellationToken::new()).await?;
        Ok(())
    })
}

fn load(address: SocketAddr, file: &str, size: u64, clients: u32, repeat: u32, block_size: u64, window: u64) -> anyhow::Result<()> {
    let mut asked = Options::default();
    asked.push(OptionKind::BlockSize, block_size);
    if window > 1 {
        asked.push(OptionKind::WindowSize, window);
    }
    let start = Instant::now();
    let results: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients)
            .map(|_| {
                scope.spawn(move || {
                    let mut longest = Duration::ZERO;
                    let (mut bytes, mut timeouts, mut failures) = (0, 0, Vec::new());
                    for _ in 0..repeat {
                        let began = Instant::now();
                        match fetch(address, file, asked, Duration::from_secs(120), |_| {}) {
                            Ok(fetched) if fetched.bytes == size => {
                                bytes += fetched.bytes;
                                timeouts += fetched.timeouts;
                            }
                            Ok(fetched) => failures.push(format!("{} bytes came instead of {size}", fetched.bytes)),
                            Err(error) => failures.push(error.to_string()),
                        }
                        longest = longest.max(began.elapsed());
                    }
                    (bytes, timeouts, failures, longest)
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().map_err(|_| anyhow::anyhow!("a client panicked")))
            .collect::<Result<_, _>>()
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let failures: Vec<&String> = results.iter().flat_map(|(_, _, failures, _)| failures).collect();
    println!(
        "{}",
        serde_json::json!({
            "seconds": seconds,
            "bytes": results.iter().map(|(bytes, ..)| bytes).sum::<u64>(),
            "timeouts": results.iter().map(|(_, timeouts, ..)| timeouts).sum::<u32>(),
            "longest": results.iter().map(|(.., longest)| longest.as_secs_f64()).fold(0.0, f64::max),
            "failed": failures.len(),
            "first_failure": failures.first(),
        })
    );
    Ok(())
}
