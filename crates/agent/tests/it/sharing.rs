//! Sharing from the machine's side: whole sessions against a server whose answers about sharing are the test's, beside neighbours that are honest, evil or
//! of another network.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use agent::{
    share::{
        Place,
        frames::Frames,
        serve::{self, Served},
    },
    system::Down,
};
use agent_protocol::{
    disk::ContentsState,
    order::{ImageFormat, ImageParameters, Order, OrderKind, Outcome, PackedSource, ProgressSource},
    session::{SessionRequest, decode_up_to},
    share::{MAX_HELD, ShareMode, SharePeer, ShareRequest, ShareResponse},
};
use image::{
    Digest, MemorySource,
    pack::{self, ChunkSize, DirSource, Manifest, PackOptions},
};
use sharing::PieceSet;

use crate::{
    session::{boot_at, power_off, target},
    support::{
        image_server::{ImageServer, Manner},
        machine_server::{MachineServer, Seen},
    },
};

const CHUNK: usize = 64 << 10;
/// Enough to take longer than the machine is silent between two words to the server.
const CHUNKS: usize = 768;
const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

/// An image of noise, packed.
struct Image {
    folder: PathBuf,
    plain: Vec<u8>,
    manifest: Manifest,
}

impl Image {
    fn make(folder: &Path) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut byte = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        let mut plain: Vec<u8> = (0..CHUNK * CHUNKS).map(|_| byte()).collect();
        // A file system without a partition table, as far as the writer looks.
        plain[..1024].fill(0);
        let folder = folder.join("packed");
        let source = MemorySource::new("noise", plain.clone());
        let opened = image::open(Box::new(source), &Digest::sha256_of(&plain), None, &pack::packing_limit()).unwrap();
        let options = PackOptions {
            chunk_size: ChunkSize::Exactly(CHUNK as u32),
            ..PackOptions::default()
        };
        pack::pack(opened, &folder, &options, &mut |_| ControlFlow::Continue(())).unwrap();
        let (manifest, _) = DirSource::open(&folder).unwrap();
        Self { folder, plain, manifest }
    }

    fn path(&self) -> String {
        format!("/images/{}", self.manifest.digest().to_hex())
    }

    /// Everything that there is, as a neighbour keeps it.
    fn frames(&self) -> Arc<Frames> {
        let stored = fs::read(self.folder.join("chunks")).unwrap();
        let frames = Frames::new(&self.manifest, 1 << 30);
        for chunk in self.manifest.chunks() {
            let start = usize::try_from(chunk.offset).unwrap();
            frames.keep(chunk.offset, stored[start..start + chunk.length as usize].to_vec().into());
        }
        Arc::new(frames)
    }

    fn count(&self) -> u32 {
        u32::try_from(self.manifest.chunks().len()).unwrap()
    }

    fn order(&self, server: &ImageServer) -> Order {
        Order {
            id: "image-1".to_owned(),
            kind: OrderKind::Image,
            disk: Some(target(ContentsState::Blank)),
            image: Some(ImageParameters {
                url: format!("http://{}/debian.raw", server.address),
                mirrors: Vec::new(),
                digest: Digest::sha256_of(&self.plain).to_string(),
                format: ImageFormat::Raw,
                config_drive: false,
                packed: Some(PackedSource {
                    digest: self.manifest.digest().to_string(),
                    urls: vec![format!("http://{}{}", server.address, self.path())],
                }),
            }),
            ..Order::wait()
        }
    }
}

/// A neighbour that has all of the image, served by the agent's own listener.
fn neighbour(image: &Image, place: Place) -> SocketAddr {
    let (listener, port) = serve::open(place).unwrap();
    let served = Arc::new(Served::new(&image.path(), image.manifest.stored_bytes(), image.frames()));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve::serve(listener, place, served)).unwrap();
    });
    SocketAddr::new(place.address, port)
}

fn place(address: [u8; 4], prefix: u8) -> Place {
    Place {
        address: address.into(),
        prefix,
    }
}

/// The machine is told of these neighbours, and is granted the first chunk alone.
fn told_of(neighbours: Vec<(u64, SocketAddr)>) -> Seen {
    let answer = move |said: &ShareRequest| {
        let named = neighbours.iter().filter(|(id, _)| !said.wrong.contains(id));
        ShareResponse {
            mode: ShareMode::Together,
            note: String::new(),
            again_ms: 50,
            peers: Some(named.map(|&(id, address)| SharePeer { id, address }).collect()),
            fetch: vec![(0, 1)],
        }
    };
    Seen {
        sharing: Some(Box::new(answer)),
        ..Seen::default()
    }
}

/// Lives one boot in which the image is written; what the server has seen, and how many stored bytes it gave.
fn write(image: &Image, folder: &Path, seen: Seen, place: Option<Place>) -> (MachineServer, u64) {
    let store = ImageServer::start(LOOPBACK, &image.folder, Manner::Good);
    let orders = vec![image.order(&store), power_off()];
    let server = MachineServer::start(seen, move |_: &SessionRequest| orders.clone());
    assert_eq!(boot_at(&server, folder, place), Down::PowerOff);
    {
        let seen = server.seen();
        assert!(seen.problems.is_empty(), "{:?}", seen.problems);
        assert_eq!(seen.results[0].outcome, Outcome::Succeeded, "{:?}", seen.results[0].fault);
    }
    let disk = fs::read(folder.join("vda")).unwrap();
    assert!(disk[..image.plain.len()] == image.plain[..], "the image is on the disk");
    let given = store.chunk_bytes.load(Ordering::Relaxed);
    (server, given)
}

fn stored(image: &Image, chunks: std::ops::Range<usize>) -> u64 {
    image.manifest.chunks()[chunks].iter().map(|chunk| u64::from(chunk.length)).sum()
}

#[test]
fn what_a_neighbour_has_comes_from_there_and_the_server_hears_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let image = Image::make(folder.path());
    let honest = neighbour(&image, place([127, 0, 0, 2], 8));
    let seen = told_of(vec![(7, honest)]);
    let (server, given) = write(&image, folder.path(), seen, Some(place(LOOPBACK, 8)));
    assert!(
        given <= stored(&image, 0..1),
        "from the server what it granted, and nothing else: {given}"
    );
    let seen = server.seen();
    let sets: Vec<PieceSet> = seen
        .shared
        .iter()
        .map(|said| PieceSet::from_bytes(&decode_up_to(&said.held, MAX_HELD).unwrap()).unwrap())
        .collect();
    assert!(sets.first().unwrap().is_empty());
    assert!(sets.iter().any(|held| !held.is_empty()), "it says what it has");
    assert!(seen.shared.iter().all(|said| said.port.is_some() && said.wrong.is_empty()));
    assert!(seen.shared.last().unwrap().leaves, "and that it leaves");
}

#[test]
fn an_evil_neighbour_costs_a_try_and_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let image = Image::make(folder.path());
    let honest = neighbour(&image, place([127, 0, 0, 2], 8));
    fs::write(image.folder.join("held"), PieceSet::all(image.count()).to_bytes()).unwrap();
    let evil = ImageServer::start([127, 0, 0, 3], &image.folder, Manner::Evil);
    let seen = told_of(vec![(66, evil.address), (7, honest)]);
    let (server, given) = write(&image, folder.path(), seen, Some(place(LOOPBACK, 8)));
    assert!(given <= stored(&image, 0..1), "{given}");
    let asked = evil.chunk_bytes.load(Ordering::Relaxed);
    assert!(
        asked > 0 && asked < stored(&image, 0..CHUNKS) / 2,
        "it was asked and then not again: {asked}"
    );
    let seen = server.seen();
    let accused: Vec<u64> = seen.shared.iter().flat_map(|said| said.wrong.clone()).collect();
    assert!(accused.contains(&66) && !accused.contains(&7), "{accused:?}");
}

#[test]
fn without_a_word_about_sharing_everything_comes_from_the_server() {
    for (name, seen) in [
        ("a server that does not know it", Seen::default()),
        (
            "a network where it is off",
            Seen {
                sharing: Some(Box::new(|_: &ShareRequest| ShareResponse {
                    mode: ShareMode::Off,
                    note: "not wanted on the network rack".to_owned(),
                    again_ms: 1000,
                    peers: None,
                    fetch: Vec::new(),
                })),
                ..Seen::default()
            },
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let image = Image::make(folder.path());
        let (server, given) = write(&image, folder.path(), seen, Some(place(LOOPBACK, 8)));
        assert_eq!(given, image.manifest.stored_bytes(), "{name}");
        assert!(server.seen().shared.len() <= 1, "{name}: it asks once");
        assert!(
            server.seen().sources.iter().all(|source| *source == ProgressSource::Server),
            "{name}"
        );
    }
}

/// Sends a request and reads to the end, or until nothing comes.
fn asked(from: [u8; 4], to: SocketAddr, request: &str) -> String {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from((from, 0))).unwrap();
    if rustix::net::connect(&socket, &to).is_err() {
        return String::new();
    }
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    if stream.write_all(request.as_bytes()).is_err() {
        return String::new();
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn only_neighbours_are_answered_and_only_about_the_image() {
    let folder = tempfile::tempdir().unwrap();
    let image = Image::make(folder.path());
    let at = neighbour(&image, place([127, 9, 0, 1], 24));
    let path = image.path();
    let get = |path: &str, range: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n{range}connection: close\r\n\r\n");
    let status = |from: [u8; 4], request: &str| asked(from, at, request).split(' ').nth(1).unwrap_or_default().to_owned();
    let inside = [127, 9, 0, 200];
    let last = image.manifest.chunks()[1].offset - 1;
    let first = format!("range: bytes=0-{last}\r\n");
    assert_eq!(status(inside, &get(&format!("{path}/chunks"), &first)), "206");
    assert_eq!(status(inside, &get(&format!("{path}/held"), "")), "200");
    for stranger in [[127, 9, 1, 1], [127, 0, 0, 1]] {
        assert_eq!(
            status(stranger, &get(&format!("{path}/chunks"), &first)),
            "",
            "{stranger:?} is not of this network"
        );
    }
    for (request, expected) in [
        (get(&format!("{path}/chunks"), ""), "416"),
        (get(&format!("{path}/chunks"), "range: bytes=0-10\r\n"), "404"),
        (get(&format!("{path}/chunks"), "range: bytes=0-99999999999\r\n"), "416"),
        (get(&format!("{path}/manifest.json"), ""), "404"),
        (get("/images/../seed", ""), "404"),
        (get("/", ""), "404"),
        (get(&format!("{path}/chunks"), &first).replacen("GET", "PUT", 1), "405"),
        (get("/", &format!("x: {}\r\n", "y".repeat(40_000))), "431"),
    ] {
        let line = request.lines().next().unwrap_or_default().to_owned();
        assert_eq!(status(inside, &request), expected, "{line}");
    }
}
