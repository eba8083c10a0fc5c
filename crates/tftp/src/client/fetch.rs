//! A download over a socket, in the calling thread.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use super::{Download, DownloadError};
use crate::wire::{BLOCK_SIZES, DATA_HEADER, Options, Packet};

/// How often it looks at its timers while nothing comes.
const TICK: Duration = Duration::from_millis(50);

/// Why nothing, or not all, was fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The transfer failed.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// The socket failed; refused means that nobody listens on the port.
    #[error("the socket failed: {0}")]
    Socket(#[from] io::Error),
    /// It took too long.
    #[error("it was not done after {0:?}")]
    Late(Duration),
}

/// What was fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes of content.
    pub bytes: u64,
    /// The size that the server said, if `tsize` was asked for.
    pub size: Option<u64>,
    /// The port that the content came from.
    pub from: SocketAddr,
    /// Timers that ran out on our side.
    pub timeouts: u32,
}

/// Fetches `name` from `server` within `limit`, and gives the content to `sink` piece by piece.
///
/// Answers count only from the address that was asked, from whatever port.
///
/// # Errors
/// When the server refuses, does not answer, or is too slow.
pub fn fetch(server: SocketAddr, name: &str, asked: Options, limit: Duration, mut sink: impl FnMut(&[u8])) -> Result<Fetched, FetchError> {
    let any = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_read_timeout(Some(TICK))?;
    let start = Instant::now();
    let mut buffer = vec![0; DATA_HEADER + usize::from(*BLOCK_SIZES.end()) + 1];
    let mut out = Vec::new();
    let mut timeouts = 0;
    let mut from = server;
    let mut download = Download::start(name, asked, start.elapsed(), &mut out);
    socket.send_to(&out, server)?;
    loop {
        let now = start.elapsed();
        let was_connected = download.answered();
        match socket.recv_from(&mut buffer) {
            Ok((length, sender)) => {
                if let Ok(packet) = Packet::parse(&buffer[..length])
                    && sender.ip() == server.ip()
                    && (!was_connected || sender == from)
                {
                    from = sender;
                    if let Some(data) = download.handle(&packet, start.elapsed(), &mut out) {
                        sink(data);
                    }
                    if download.answered() && !was_connected {
                        // From now on no other port is listened to.
                        socket.connect(from)?;
                    }
                } else {
                    out.clear();
                }
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) =>
            {
                download.timer(now, &mut out);
                timeouts += u32::from(!out.is_empty());
            }
            Err(e) => return Err(e.into()),
        }
        if !out.is_empty() {
            if download.answered() {
                socket.send(&out)?
            } else {
                socket.send_to(&out, from)?
            };
        }
        match download.result() {
            Some(Ok(())) => {
                return Ok(Fetched {
                    bytes: download.received(),
                    size: download.size(),
                    from,
                    timeouts,
                });
            }
            Some(Err(error)) => return Err(error.clone().into()),
            None if start.elapsed() >= limit => return Err(FetchError::Late(limit)),
            None => {}
        }
    }
}
