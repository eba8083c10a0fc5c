//! Downloads over http against a server that misbehaves as told: dropped connections, no ranges, changed files, redirects, stalls.
#![allow(missing_docs)]

#[path = "support/bad_server.rs"]
mod bad_server;
mod common;

use std::io::Read;
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bad_server::{Behaviour, Server};
use common::*;
use image::pack::{ChunkSource, HttpChunks};
use image::{Digest, FaultKind, HttpLimits, HttpSource, ImageError, Source, Stop};

fn limits() -> HttpLimits {
    HttpLimits {
        backoff: Duration::from_millis(1),
        max_retries: 3,
        ..HttpLimits::default()
    }
}

fn client(stall: Duration) -> image::Client {
    // Another test of this process may have been first: then it is there already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let roots: [reqwest::Certificate; 0] = [];
    image::Client::new(stall, |builder| builder.tls_certs_only(roots)).unwrap()
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
fn a_server_that_drips_into_every_connection_is_given_up_like_a_silent_one() {
    let server = Server::start(
        noise(3 * MIB, 1),
        Behaviour {
            silent_after: Some(1000),
            ..Behaviour::default()
        },
    );
    let mut source = HttpSource::new(client(Duration::from_millis(700)), &server.url(), limits()).unwrap();
    let mut bytes = Vec::new();
    let error = source.stream().unwrap().read_to_end(&mut bytes).unwrap_err();
    let error = error.downcast::<ImageError>().unwrap();
    assert!(matches!(error, ImageError::TooSlow { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("4 connections in a row fell silent before 1024 KiB came"),
        "{error}"
    );
    assert_eq!((server.requests().len(), bytes.len()), (4, 4000), "one try and three more");

    // Falling silent again and again is put up with as long as each connection brings something.
    let body = noise(8 * MIB, 2);
    let server = Server::start(
        body.clone(),
        Behaviour {
            silent_after: Some(MIB),
            ..Behaviour::default()
        },
    );
    let mut source = HttpSource::new(client(Duration::from_millis(700)), &server.url(), limits()).unwrap();
    let mut bytes = Vec::new();
    source.stream().unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes == body);
    assert_eq!(server.requests().len(), 8);
}

/// Runs something that waits for a silent server, tells it to stop, and sees that it does, long before the server would be given up.
fn is_stopped(what: &str, waits: impl FnOnce(HttpLimits) -> Result<(), ImageError> + Send) {
    let stop = Stop::default();
    let limits = HttpLimits {
        stop: Some(Stop::clone(&stop)),
        ..limits()
    };
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let result = waits(limits);
            (result, Instant::now())
        });
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished(), "{what}: it waits");
        let told = Instant::now();
        stop.store(true, Ordering::Relaxed);
        let (result, ended) = waiting.join().unwrap();
        assert_eq!(result.unwrap_err().kind(), FaultKind::Cancelled, "{what}");
        assert!(ended.duration_since(told) < Duration::from_secs(5), "{what}: it waited on");
    });
}

#[test]
fn being_told_to_stop_ends_all_waiting_for_a_silent_server() {
    let body = noise(3 * MIB, 1);
    let silent = Behaviour {
        silent_after: Some(1000),
        ..Behaviour::default()
    };
    let patient = || client(Duration::from_secs(60));
    let server = Server::start(body.clone(), silent.clone());
    is_stopped("a stream", |limits| {
        let mut stream = HttpSource::new(patient(), &server.url(), limits)?.stream()?;
        let read = stream.read_to_end(&mut Vec::new());
        read.map(|_| ())
            .map_err(|error| error.downcast::<ImageError>().expect("a typed error"))
    });
    is_stopped("a range", |limits| {
        let mut source = HttpSource::new(patient(), &server.url(), limits)?;
        source.read_range(0, &mut vec![0; MIB]).map(|_| ())
    });
    is_stopped("chunks", |limits| {
        let chunks = HttpChunks::new(&patient(), &[server.url(), server.url()], body.len() as u64, limits)?;
        chunks.read(0, &mut vec![0; MIB])
    });
    // It takes connections and never answers.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/image", mute.local_addr().unwrap());
    is_stopped("an answer", |limits| HttpSource::new(patient(), &url, limits)?.size().map(|_| ()));
    is_stopped("a pause", |limits| {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let limits = HttpLimits {
            backoff: Duration::from_secs(60),
            ..limits
        };
        HttpSource::new(patient(), &format!("http://{closed}/image"), limits)?
            .size()
            .map(|_| ())
    });
    is_stopped("a write", |limits| {
        let disk = sim(used_disk(6 * MIB));
        let stop = limits.stop.clone().unwrap();
        let server = Server::start(
            gpt_image(3 * MIB),
            Behaviour {
                silent_from: Some(2 * MIB),
                silences: usize::MAX,
                ..Behaviour::default()
            },
        );
        let source = HttpSource::new(patient(), &server.url(), limits)?;
        let opened = image::open(
            Box::new(source),
            &Digest::sha256_of(&gpt_image(3 * MIB)),
            None,
            &image::limit_of(&disk),
        )?;
        // As the agent does it: one flag for the writer and for what it reads from.
        let mut go_on = |_| match stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        image::write_image(opened, &disk, &request(false), &mut go_on).map(|_| ())
    });
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

/// Sources one after the other, each tried once.
fn one_after_the_other(servers: &[&Server]) -> image::FallbackSource {
    let limits = HttpLimits {
        max_retries: 0,
        ..limits()
    };
    let sources = servers.iter().map(|server| {
        let source = HttpSource::new(client(Duration::from_millis(300)), &server.url(), limits.clone()).unwrap();
        Box::new(source) as Box<dyn Source>
    });
    image::FallbackSource::new(sources.collect()).unwrap()
}

#[test]
fn another_server_goes_on_where_one_failed() {
    let image = gpt_image(3 * MIB);
    let stored = zstd::stream::encode_all(&image[..], 1).unwrap();
    let middle = stored.len() / 2;
    let good = Behaviour::default;
    for (what, behaviour) in [
        (
            "a server that breaks off",
            Behaviour {
                ends_at: Some(middle),
                ..good()
            },
        ),
        (
            "a server that falls silent",
            Behaviour {
                silent_from: Some(middle),
                silences: 100,
                ..good()
            },
        ),
    ] {
        let (first, second) = (Server::start(stored.clone(), behaviour), Server::start(stored.clone(), good()));
        let disk = sim(used_disk(6 * MIB));
        let source = one_after_the_other(&[&first, &second]);
        let opened = image::open(Box::new(source), &Digest::sha256_of(&stored), None, &image::limit_of(&disk)).unwrap();
        image::write_image(opened, &disk, &request(true), &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
        let end = image.len() - 33 * 512;
        assert!(disk.contents()[34 * 512..end] == image[34 * 512..end], "{what}");
        // Not from the start again.
        assert_eq!(second.requests(), [format!("{middle}-")], "{what}");
    }

    // The other server has another file: the digest tells.
    let mut other = stored.clone();
    other[middle + 1000..].fill(7);
    let broken = Behaviour {
        ends_at: Some(middle),
        ..good()
    };
    let (first, second) = (Server::start(stored.clone(), broken.clone()), Server::start(other, good()));
    let disk = sim(used_disk(6 * MIB));
    let source = one_after_the_other(&[&first, &second]);
    let opened = image::open(Box::new(source), &Digest::sha256_of(&stored), None, &image::limit_of(&disk)).unwrap();
    let result = image::write_image(opened, &disk, &request(true), &mut |_| std::ops::ControlFlow::Continue(()));
    let error = result.unwrap_err();
    assert_eq!(error.kind(), FaultKind::DigestMismatch, "{error}");

    // No server has all of it.
    let (first, second) = (Server::start(stored.clone(), broken.clone()), Server::start(stored.clone(), broken));
    let mut stream = one_after_the_other(&[&first, &second]).stream().unwrap();
    let error = stream.read_to_end(&mut Vec::new()).unwrap_err().downcast::<ImageError>().unwrap();
    assert_eq!(error.kind(), FaultKind::Truncated, "{error}");
}

#[test]
fn with_mirrors_a_silent_server_is_left_after_one_more_try() {
    let body = noise(3 * MIB, 4);
    let silent = Behaviour {
        silent_from: Some(MIB + 5),
        silences: usize::MAX,
        ..Behaviour::default()
    };
    let (first, second) = (
        Server::start(body.clone(), silent.clone()),
        Server::start(body.clone(), Behaviour::default()),
    );
    let patient = client(Duration::from_millis(200));
    let (one, two) = (first.url(), second.url());
    let places = vec![(patient.clone(), one.as_str()), (patient.clone(), two.as_str())];
    let mut source = image::FallbackSource::of_urls(places, &limits()).unwrap();
    let mut bytes = Vec::new();
    source.stream().unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes == body);
    assert_eq!(first.requests(), [String::new(), format!("{}-", MIB + 5)]);
    assert_eq!(second.requests(), [format!("{}-", MIB + 5)]);
    // The last one has all the patience there is.
    let third = Server::start(body, silent);
    let alone = third.url();
    let mut source = image::FallbackSource::of_urls(vec![(patient, alone.as_str())], &limits()).unwrap();
    source.stream().unwrap().read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(third.requests().len(), 4, "one and three more");
}

#[test]
fn ranges_come_from_another_server_too() {
    let body = noise(MIB, 5);
    let missing = Behaviour {
        status: Some(404),
        ..Behaviour::default()
    };
    let (first, second) = (
        Server::start(body.clone(), missing),
        Server::start(body.clone(), Behaviour::default()),
    );
    let mut source = one_after_the_other(&[&first, &second]);
    let mut buffer = vec![0; 5000];
    assert_eq!(source.read_range(70_000, &mut buffer).unwrap(), 5000);
    assert!(buffer == body[70_000..75_000]);
    assert_eq!(source.size().unwrap(), Some(MIB as u64));
    assert_eq!(first.requests().len(), 1, "what has failed is not asked again");
    // The same through a file and memory: from the middle on.
    let mut rest = Vec::new();
    source.stream_from(70_000).unwrap().read_to_end(&mut rest).unwrap();
    assert!(rest == body[70_000..]);
    rest.clear();
    let mut memory = image::MemorySource::new("memory", body.clone());
    memory.stream_from(70_000).unwrap().read_to_end(&mut rest).unwrap();
    assert!(rest == body[70_000..]);
    let error = memory.stream_from(MIB as u64 + 1).err().expect("that is behind its end");
    assert_eq!(error.kind(), FaultKind::Truncated);
}
