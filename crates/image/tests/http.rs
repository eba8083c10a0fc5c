//! Downloads over http against a server that misbehaves as told: dropped connections, no ranges, changed files, redirects, stalls.
#![allow(missing_docs)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use image::{Digest, FaultKind, HttpLimits, HttpSource, ImageError, Source};

/// What the server does.
#[derive(Clone, Default)]
struct Behaviour {
    /// Connections are dropped after so many body bytes.
    drop_after: Option<usize>,
    /// Only so many connections are dropped.
    drops: usize,
    no_ranges: bool,
    /// From the second request on, the entity tag is another one.
    changes: bool,
    redirect_to: Option<String>,
    /// From the second request on, nothing is answered.
    stalls: bool,
    status: Option<u16>,
}

struct Server {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(body: Vec<u8>, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let body = Arc::new(body);
        let dropped = Arc::new(Mutex::new(0));
        // Ends with the test process.
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (body, behaviour, seen, dropped) = (Arc::clone(&body), behaviour.clone(), Arc::clone(&seen), Arc::clone(&dropped));
                // A client that goes away in the middle is part of what is tested.
                std::thread::spawn(move || serve(connection, &body, &behaviour, &seen, &dropped).ok());
            }
        });
        Self { address, requests }
    }

    fn url(&self) -> String {
        format!("http://{}/image?token=secret", self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(
    mut connection: TcpStream,
    body: &[u8],
    behaviour: &Behaviour,
    seen: &Mutex<Vec<String>>,
    dropped: &Mutex<usize>,
) -> std::io::Result<()> {
    let mut range = None;
    for line in BufReader::new(connection.try_clone()?).lines() {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("range: bytes=") {
            range = Some(value.to_owned());
        }
    }
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(range.clone().unwrap_or_default());
        seen.len()
    };
    if let Some(target) = &behaviour.redirect_to {
        return write!(
            connection,
            "HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    if let Some(status) = behaviour.status {
        return write!(connection, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let tag = if behaviour.changes && number > 1 { "two" } else { "one" };
    let whole = behaviour.no_ranges || tag == "two";
    let (start, end, ranged) = match range {
        Some(range) if !whole => {
            let (start, end) = range.split_once('-').unwrap();
            let end = end.parse().map_or(body.len(), |end: usize| (end + 1).min(body.len()));
            (start.parse().unwrap(), end, true)
        }
        _ => (0, body.len(), false),
    };
    let part: &[u8] = &body[start..end];
    let status = if ranged { "206 Partial Content" } else { "200 OK" };
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n",
        part.len()
    )?;
    if !behaviour.no_ranges {
        write!(connection, "ETag: \"{tag}\"\r\nAccept-Ranges: bytes\r\n")?;
    }
    if ranged {
        write!(connection, "Content-Range: bytes {start}-{}/{}\r\n", end - 1, body.len())?;
    }
    write!(connection, "\r\n")?;
    if behaviour.stalls && number > 1 {
        // Until the client gives up and closes.
        return connection.read(&mut [0; 1]).map(|_| ());
    }
    if let Some(after) = behaviour.drop_after {
        let mut dropped = dropped.lock().unwrap();
        if *dropped < behaviour.drops && part.len() > after {
            *dropped += 1;
            connection.write_all(&part[..after])?;
            return Ok(());
        }
    }
    connection.write_all(part)
}

fn limits() -> HttpLimits {
    HttpLimits {
        backoff: Duration::from_millis(1),
        max_retries: 3,
        ..HttpLimits::default()
    }
}

fn client(stall: Duration) -> reqwest::blocking::Client {
    // Another test of this process may have been first: then it is there already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let roots: [reqwest::Certificate; 0] = [];
    image::client_builder(stall).tls_certs_only(roots).build().unwrap()
}

fn source(url: &str, limits: HttpLimits) -> HttpSource {
    HttpSource::new(client(Duration::from_secs(5)), url, limits).unwrap()
}

fn download(server: &Server, limits: HttpLimits) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    let mut stream = source(&server.url(), limits).stream()?;
    stream
        .read_to_end(&mut bytes)
        .map_err(|error| error.downcast::<ImageError>().expect("a typed error"))?;
    Ok(bytes)
}

#[test]
fn dropped_connections_are_resumed() {
    let body = noise(3 * MIB, 1);
    for no_ranges in [false, true] {
        let server = Server::start(
            body.clone(),
            Behaviour {
                drop_after: Some(MIB),
                drops: 2,
                no_ranges,
                ..Behaviour::default()
            },
        );
        assert!(download(&server, limits()).unwrap() == body);
        let requests = server.requests();
        assert!(requests.len() >= 3, "{requests:?}");
        assert_eq!(requests.iter().any(|range| range.ends_with('-')), !no_ranges, "{requests:?}");
    }
}

#[test]
fn a_server_that_always_breaks_off_is_a_truncated_source() {
    let server = Server::start(
        noise(MIB, 1),
        Behaviour {
            drop_after: Some(0),
            drops: 1000,
            ..Behaviour::default()
        },
    );
    let error = download(&server, limits()).unwrap_err();
    assert_eq!(error.kind(), FaultKind::Truncated, "{error}");
    assert!(error.to_string().contains("0 of 1048576 bytes"), "{error}");
    assert_eq!(server.requests().len(), 4, "bounded retries");
}

#[test]
fn a_file_that_changes_is_noticed() {
    let server = Server::start(
        noise(3 * MIB, 1),
        Behaviour {
            drop_after: Some(MIB),
            drops: 1,
            changes: true,
            ..Behaviour::default()
        },
    );
    let error = download(&server, limits()).unwrap_err();
    assert!(matches!(error, ImageError::SourceChanged { .. }), "{error}");
}

#[test]
fn a_stall_ends() {
    let server = Server::start(
        noise(MIB, 1),
        Behaviour {
            drop_after: Some(1000),
            drops: 1,
            stalls: true,
            ..Behaviour::default()
        },
    );
    let limits = HttpLimits {
        max_retries: 1,
        ..limits()
    };
    let mut source = HttpSource::new(client(Duration::from_millis(200)), &server.url(), limits).unwrap();
    let mut stream = source.stream().unwrap();
    let error = stream.read_to_end(&mut Vec::new()).unwrap_err().downcast::<ImageError>().unwrap();
    assert!(matches!(error, ImageError::TooSlow { .. }), "{error}");
    assert_eq!(error.kind(), FaultKind::Unreachable);
}

#[test]
fn caps_hold() {
    let server = Server::start(noise(MIB, 1), Behaviour::default());
    let error = download(
        &server,
        HttpLimits {
            max_bytes: 1000,
            ..limits()
        },
    )
    .unwrap_err();
    assert_eq!(error.kind(), FaultKind::TooLarge, "{error}");
    let error = download(
        &server,
        HttpLimits {
            deadline: Duration::ZERO,
            ..limits()
        },
    )
    .unwrap_err();
    assert!(matches!(error, ImageError::TooSlow { .. }), "{error}");
}

#[test]
fn redirects_are_followed_within_bounds() {
    let body = noise(1000, 1);
    let target = Server::start(body.clone(), Behaviour::default());
    let redirect = |to: String| {
        Server::start(
            Vec::new(),
            Behaviour {
                redirect_to: Some(to),
                ..Behaviour::default()
            },
        )
    };
    assert_eq!(download(&redirect(target.url()), limits()).unwrap(), body);
    for bad in ["file:///etc/shadow", "ftp://127.0.0.1/image", "/image"] {
        let error = download(&redirect(bad.to_owned()), limits()).unwrap_err();
        assert_eq!(error.kind(), FaultKind::InvalidRequest, "{bad}: {error}");
    }
}

#[test]
fn statuses_are_told_and_secrets_are_not() {
    let server = Server::start(
        Vec::new(),
        Behaviour {
            status: Some(404),
            ..Behaviour::default()
        },
    );
    let error = download(&server, limits()).unwrap_err();
    assert_eq!(error.kind(), FaultKind::Unreachable);
    assert!(
        error.to_string().contains("404") && !error.to_string().contains("secret"),
        "{error}"
    );
    assert_eq!(server.requests().len(), 1, "a 404 is final");
    let server = Server::start(
        Vec::new(),
        Behaviour {
            status: Some(503),
            ..Behaviour::default()
        },
    );
    download(&server, limits()).unwrap_err();
    assert_eq!(server.requests().len(), 4, "a 503 is tried again");
    // Nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = source(&format!("http://{closed}/x?token=secret"), limits()).size().unwrap_err();
    assert_eq!(error.kind(), FaultKind::Unreachable);
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[test]
fn urls_are_checked() {
    for bad in ["file:///dev/zero", "ftp://host/x", "http://user:password@host/x", "not a url"] {
        let error = HttpSource::new(client(Duration::from_secs(1)), bad, limits()).err().expect(bad);
        assert_eq!(error.kind(), FaultKind::InvalidRequest);
        assert!(!error.to_string().contains(":password"), "{error}");
    }
}

#[test]
fn images_arrive_over_http_despite_drops() {
    let image = gpt_image(3 * MIB);
    let folder = tempfile::tempdir().unwrap();
    let (raw, qcow2) = (folder.path().join("raw"), folder.path().join("qcow2"));
    std::fs::write(&raw, &image).unwrap();
    let mut stored = vec![image.clone(), zstd::stream::encode_all(&image[..], 1).unwrap()];
    let convert = std::process::Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2", "-c"])
        .arg(&raw)
        .arg(&qcow2)
        .status();
    assert!(convert.expect("this test needs qemu-img; `make setup` installs it").success());
    stored.push(std::fs::read(&qcow2).unwrap());
    for stored in stored {
        let server = Server::start(
            stored.clone(),
            Behaviour {
                drop_after: Some(MIB),
                drops: 1,
                ..Behaviour::default()
            },
        );
        let disk = sim(used_disk(6 * MIB));
        let digest = Digest::sha512_of(&stored);
        let opened = image::open(Box::new(source(&server.url(), limits())), &digest, None, &image::limit_of(&disk)).unwrap();
        image::write_image(opened, &disk, &request(true), &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
        let end = image.len() - 33 * 512;
        assert!(disk.contents()[34 * 512..end] == image[34 * 512..end]);
    }
    // qcow2 needs ranges, and says so.
    if qcow2.exists() {
        let server = Server::start(
            std::fs::read(&qcow2).unwrap(),
            Behaviour {
                no_ranges: true,
                ..Behaviour::default()
            },
        );
        let digest = Digest::sha256_of(&std::fs::read(&qcow2).unwrap());
        let disk = sim(used_disk(6 * MIB));
        let opened = image::open(Box::new(source(&server.url(), limits())), &digest, None, &image::limit_of(&disk));
        let error = opened.err().expect("ranges are needed");
        assert!(error.to_string().contains("ranges"), "{error}");
    }
}
