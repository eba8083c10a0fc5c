//! Chunks and manifests of packed images from web servers that misbehave as told, with others to fall back on.
#![allow(missing_docs)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::noise;
use image::pack::{ChunkSource, HttpChunks, Manifest, Origin, PackDigest, Packer, fetch_manifest};
use image::{Digest, FaultKind, Format, HttpLimits};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Manner {
    Good,
    NotFound,
    /// Answers ranges with the whole.
    Whole,
    OtherRange,
    OtherTotal,
    Short,
    Long,
    /// Takes the request and says nothing.
    Silent,
    /// Breaks the first two answers off.
    BadStart,
    /// Says that it is busy, always.
    Busy,
}

struct Server {
    url: String,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    fn start(body: &[u8], manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/chunks?key=secret", listener.local_addr().unwrap());
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let server = Self {
            url,
            connections: Arc::clone(&connections),
            requests: Arc::clone(&requests),
        };
        let body: Arc<[u8]> = body.into();
        // Ends with the test process.
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                connections.fetch_add(1, Ordering::SeqCst);
                let (body, requests) = (Arc::clone(&body), Arc::clone(&requests));
                // A client that goes away is no fault of the server.
                std::thread::spawn(move || serve(connection, &body, manner, &requests).ok());
            }
        });
        server
    }
}

fn serve(mut connection: TcpStream, body: &[u8], manner: Manner, requests: &AtomicUsize) -> std::io::Result<()> {
    let mut input = BufReader::new(connection.try_clone()?);
    loop {
        let mut range = None;
        loop {
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("range: bytes=") {
                let (first, last) = value.split_once('-').unwrap();
                range = Some((first.parse::<usize>().unwrap(), last.parse::<usize>().unwrap()));
            }
        }
        let number = requests.fetch_add(1, Ordering::SeqCst);
        match (manner, range) {
            (Manner::NotFound, _) => connection.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")?,
            (Manner::Busy, _) => connection.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")?,
            (Manner::Silent, _) => {
                std::thread::sleep(Duration::from_secs(60));
                return Ok(());
            }
            (Manner::Whole, _) | (_, None) => {
                write!(connection, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len())?;
                connection.write_all(body)?;
            }
            (_, Some((first, last))) => {
                let slice = &body[first..=last];
                let (shown, total) = match manner {
                    Manner::OtherRange => (first + 1, body.len()),
                    Manner::OtherTotal => (first, body.len() + 1),
                    _ => (first, body.len()),
                };
                let more = usize::from(manner == Manner::Long);
                let head = format!(
                    "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {shown}-{last}/{total}\r\ncontent-length: {}\r\n\r\n",
                    slice.len() + more
                );
                connection.write_all(head.as_bytes())?;
                if manner == Manner::Short || (manner == Manner::BadStart && number < 2) {
                    connection.write_all(&slice[..slice.len() / 2])?;
                    return Ok(());
                }
                connection.write_all(slice)?;
                connection.write_all(&[0; 1][..more])?;
            }
        }
    }
}

fn client() -> image::Client {
    // Another test of this process may have been first.
    let installed = rustls::crypto::ring::default_provider().install_default();
    assert!(installed.is_ok() || rustls::crypto::CryptoProvider::get_default().is_some());
    image::Client::new(Duration::from_millis(1500), |builder| builder).unwrap()
}

fn limits() -> HttpLimits {
    HttpLimits {
        max_retries: 3,
        backoff: Duration::from_millis(5),
        ..HttpLimits::default()
    }
}

fn chunks(servers: &[&Server], stored_bytes: usize) -> HttpChunks {
    let urls: Vec<String> = servers.iter().map(|server| server.url.clone()).collect();
    HttpChunks::new(&client(), &urls, stored_bytes as u64, limits()).unwrap()
}

#[test]
fn each_thread_keeps_its_connection() {
    let body = noise(1_000_000, 1);
    let server = Server::start(&body, Manner::Good);
    let chunks = chunks(&[&server], body.len());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (chunks, body) = (&chunks, &body);
            scope.spawn(move || {
                let mut buffer = vec![0; 7000];
                for step in 0..30 {
                    let offset = thread * 200_000 + step * 5000;
                    chunks.read(offset as u64, &mut buffer).unwrap();
                    assert_eq!(buffer, body[offset..offset + buffer.len()]);
                }
            });
        }
    });
    let connections = server.connections.load(Ordering::SeqCst);
    assert_eq!(server.requests.load(Ordering::SeqCst), 120);
    // A thread may be faster with its next request than its last connection is with becoming free.
    assert!(connections <= 12, "{connections} connections for 120 requests of 4 threads");
}

#[test]
fn a_server_that_fails_is_replaced_by_the_next() {
    let body = noise(100_000, 2);
    for manner in [
        Manner::NotFound,
        Manner::Whole,
        Manner::OtherRange,
        Manner::OtherTotal,
        Manner::Short,
        Manner::Long,
        Manner::Silent,
        Manner::Busy,
    ] {
        let (bad, good) = (Server::start(&body, manner), Server::start(&body, Manner::Good));
        let chunks = chunks(&[&bad, &good], body.len());
        for offset in [0, 50_000] {
            let mut buffer = vec![0; 50_000];
            chunks.read(offset as u64, &mut buffer).unwrap();
            assert!(buffer == body[offset..offset + 50_000], "{manner:?}");
        }
        assert_eq!(bad.requests.load(Ordering::SeqCst), 1, "{manner:?} was asked again");
        assert_eq!(good.requests.load(Ordering::SeqCst), 2);
    }
}

#[test]
fn a_server_without_another_gives_a_clear_error_in_bounded_time() {
    let body = noise(100_000, 3);
    for (manner, kind, part, requests) in [
        (Manner::NotFound, FaultKind::Unreachable, "404", 1),
        (Manner::Whole, FaultKind::UnsupportedImage, "range", 1),
        (Manner::OtherRange, FaultKind::DigestMismatch, "another range", 1),
        (Manner::OtherTotal, FaultKind::DigestMismatch, "100001 bytes", 1),
        (Manner::Long, FaultKind::DigestMismatch, "more bytes", 1),
        (Manner::Short, FaultKind::Truncated, "truncated", 4),
        (Manner::Busy, FaultKind::Unreachable, "503", 4),
        (Manner::Silent, FaultKind::Unreachable, "too slow", 4),
    ] {
        let server = Server::start(&body, manner);
        let chunks = chunks(&[&server], body.len());
        let started = Instant::now();
        let error = chunks.read(10, &mut [0; 1000]).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{manner:?}: {text}");
        assert!(text.contains(part) && !text.contains("secret"), "{manner:?}: {text}");
        assert_eq!(server.requests.load(Ordering::SeqCst), requests, "{manner:?}");
        assert!(started.elapsed() < Duration::from_secs(30), "{manner:?}");
        if requests == 1 {
            let error = chunks.read(10, &mut [0; 1000]).unwrap_err().to_string();
            assert!(error.contains("wrong answer before"), "{error}");
        }
    }
}

#[test]
fn a_bad_moment_passes() {
    let body = noise(100_000, 4);
    let server = Server::start(&body, Manner::BadStart);
    let mut buffer = vec![0; 100_000];
    chunks(&[&server], body.len()).read(0, &mut buffer).unwrap();
    assert_eq!(buffer, body);
    assert_eq!(server.requests.load(Ordering::SeqCst), 3);
}

#[test]
fn nothing_is_asked_of_nobody() {
    let error = HttpChunks::new(&client(), &[], 10, limits()).err().unwrap();
    assert_eq!(error.kind(), FaultKind::InvalidRequest);
}

#[test]
fn a_manifest_is_held_against_its_name() {
    let source = Origin {
        format: Format::Raw,
        digest: Digest::sha256_of(b"").to_string(),
    };
    let packer = Packer {
        zstd: "1.5.7".to_owned(),
        level: 3,
    };
    let manifest = Manifest::new(1 << 30, 512, 1 << 20, source, packer, Vec::new()).unwrap();
    let (gone, other, good) = (
        Server::start(b"", Manner::NotFound),
        Server::start(b"{}", Manner::Good),
        Server::start(&manifest.to_bytes(), Manner::Good),
    );
    let fetch = |servers: &[&Server], expected| {
        let urls: Vec<String> = servers.iter().map(|server| server.url.clone()).collect();
        fetch_manifest(&client(), &urls, expected, &limits())
    };
    let name = manifest.digest();
    assert_eq!(fetch(&[&gone, &other, &good], Some(name)).unwrap(), manifest);
    assert_eq!(fetch(&[&good], None).unwrap(), manifest);
    let error = fetch(&[&good], Some(PackDigest::of(b""))).unwrap_err();
    assert_eq!(error.kind(), FaultKind::DigestMismatch, "{error}");
    let error = fetch(&[&good, &other], Some(PackDigest::of(b"{}"))).unwrap_err();
    assert!(
        error.kind() == FaultKind::UnsupportedImage && error.to_string().contains("format"),
        "{error}"
    );
    let huge = Server::start(&vec![b' '; image::pack::MAX_MANIFEST_BYTES + 1], Manner::Good);
    assert_eq!(fetch(&[&huge], None).unwrap_err().kind(), FaultKind::TooLarge);
}
