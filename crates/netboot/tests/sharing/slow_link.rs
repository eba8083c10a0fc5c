//! A way to the store that takes so many bytes a second for all who use it, as a server's link does.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};

/// Bytes that pass at once.
const PIECE: usize = 32 << 10;

/// Passes connections on to `to`; what comes back shares `rate` bytes a second.
pub async fn start(to: SocketAddr, rate: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // When the link is free again.
    let free = Arc::new(Mutex::new(Instant::now()));
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let free = free.clone();
            tokio::spawn(async move {
                let Ok(far) = TcpStream::connect(to).await else { return };
                let (mut near_in, mut near_out) = near.into_split();
                let (mut far_in, mut far_out) = far.into_split();
                let there = async { copy(&mut near_in, &mut far_out).await.map(drop) };
                let back = async {
                    let mut piece = vec![0; PIECE];
                    loop {
                        let count = far_in.read(&mut piece).await?;
                        if count == 0 {
                            return Ok::<_, std::io::Error>(());
                        }
                        let until = {
                            let mut free = free.lock().await;
                            *free = (*free).max(Instant::now()) + Duration::from_secs_f64(count as f64 / rate as f64);
                            *free
                        };
                        tokio::time::sleep_until(until.into()).await;
                        near_out.write_all(&piece[..count]).await?;
                    }
                };
                // Whoever hangs up first ends both.
                tokio::select! {
                    _ended = there => {}
                    _ended = back => {}
                }
            });
        }
    });
    address
}
