//! A plain web server with the two files of a packed image, which counts the bytes of chunks that it gave, and may give wrong ones.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// What it does with chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Gives them.
    Good,
    /// Gives as many other bytes.
    Evil,
}

pub struct ImageServer {
    pub address: SocketAddr,
    pub chunk_bytes: Arc<AtomicU64>,
}

impl ImageServer {
    /// Listens on this loopback address until the test ends.
    pub fn start(on: [u8; 4], folder: &Path, manner: Manner) -> Self {
        let listener = TcpListener::bind(SocketAddr::from((on, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let chunk_bytes = Arc::new(AtomicU64::new(0));
        // A neighbour also says what it has.
        let files = ["manifest.json", "chunks", "held"].map(|name| (name, fs::read(folder.join(name)).unwrap_or_default()));
        let files = Arc::new(files);
        let counted = chunk_bytes.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, counted) = (files.clone(), counted.clone());
                std::thread::spawn(move || while answer(&stream, &files[..], manner, &counted).is_some() {});
            }
        });
        Self { address, chunk_bytes }
    }
}

/// One request; `None` at the end of the connection.
fn answer(mut stream: &TcpStream, files: &[(&str, Vec<u8>)], manner: Manner, counted: &AtomicU64) -> Option<()> {
    let (mut path, mut range) = (String::new(), None);
    // A client waits for its answer, so nothing of the next request is read ahead.
    for line in BufReader::new(Read::by_ref(&mut stream)).lines() {
        let line = line.ok()?;
        if line.is_empty() {
            break;
        }
        if path.is_empty() {
            path = line.split(' ').nth(1)?.to_owned();
        } else if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            let (first, last) = value.split_once('-')?;
            range = Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?));
        }
    }
    let name = path.rsplit('/').next().filter(|name| !name.is_empty())?;
    let Some((_, file)) = files.iter().find(|(known, _)| *known == name) else {
        stream.write_all(b"HTTP/1.1 404 -\r\ncontent-length: 0\r\n\r\n").ok()?;
        return Some(());
    };
    let (head, mut body) = match range {
        None => ("200 -".to_owned(), file.clone()),
        Some((first, last)) => (
            format!("206 -\r\ncontent-range: bytes {first}-{last}/{}", file.len()),
            file.get(first..=last)?.to_vec(),
        ),
    };
    if name == "chunks" {
        counted.fetch_add(body.len() as u64, Ordering::Relaxed);
        if manner == Manner::Evil {
            body.iter_mut().for_each(|byte| *byte ^= 0x55);
        }
    }
    let head = format!("HTTP/1.1 {head}\r\naccept-ranges: bytes\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body).ok()
}
