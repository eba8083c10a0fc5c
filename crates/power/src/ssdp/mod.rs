//! Finds Redfish services on the networks that this host is in, by SSDP (DSP0266, "Discovery"; UPnP Device Architecture 1.1, section 1.3).
//!
//! | room | what |
//! |---|---|
//! | [`message`] | the question and its answers |
//! | [`book`] | who answered, each once |
//!
//! Whoever is in the network may answer, and whatever it likes. So:
//! * Datagrams, answers, answers of one sender, requests and their time and number at once are bounded.
//! * An answer leads to the address that it came from, or is refused: nobody makes us ask somebody else. (A forged sender's address makes us read a service root there; that is all.)
//! * Nobody is believed, and no credentials are sent. A certificate is first only looked at; what the service then says of itself comes from whoever has that certificate. Whether it is the
//!   right one, a person compares.
//!
//! What it does not do: listen to services that announce themselves (`NOTIFY`); IPv6, where answers come from link-local addresses, which no URL and so no `spec.power` can name.

pub mod book;
pub mod message;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use reqwest::Url;
use tokio::{
    net::{TcpStream, UdpSocket},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use self::book::{Book, Refused};
use crate::{
    fault::{Fault, quoted},
    redfish::{http, reader},
    tls::{self, Trust},
};

/// Where questions go (UPnP Device Architecture 1.1, section 1.3.2).
pub const GROUP: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900));
/// Routers that a question may pass (DSP0266).
const HOPS: u32 = 2;
/// Datagrams get lost: so many questions are sent,
const TIMES: u32 = 3;
/// with so much between them, or less where little time is waited.
const BETWEEN: Duration = Duration::from_millis(300);
/// The longest time that is given to who answers (UPnP Device Architecture 1.1, section 1.3.2).
const LONGEST_DELAY: u64 = 5;
/// Datagrams that are read in all. A network that sends more has other troubles.
const DATAGRAMS: usize = 1 << 14;
/// Services that are asked at once who they are.
const AT_ONCE: usize = 32;
/// The longest time that one of them has.
const LOOK: Duration = Duration::from_secs(10);

/// What is asked, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// This host's addresses in the networks that are asked.
    pub from: Vec<Ipv4Addr>,
    /// Where the question goes: [`GROUP`].
    pub to: SocketAddr,
    /// How long answers are waited for.
    pub wait: Duration,
}

/// What a service says of itself to anybody. Texts are printed harmlessly and shortened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Root {
    /// `Vendor`.
    pub vendor: Option<String>,
    /// `Product`.
    pub product: Option<String>,
    /// `RedfishVersion`.
    pub version: Option<String>,
}

/// A service that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its UUID.
    pub uuid: String,
    /// Its base URL. The host in it is the address that the answer came from.
    pub address: String,
    /// SHA-256 of the certificate that it showed, in hexadecimal digits. None with plain HTTP, or where none was seen.
    pub certificate_sha256: Option<String>,
    /// What it says of itself, or why that is not known.
    pub root: Result<Root, Fault>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Discovered {
    /// Who answered, by their addresses.
    pub found: Vec<Found>,
    /// Answers that are not believed.
    pub refused: Vec<Refused>,
    /// Answers beyond what is kept.
    pub left_out: usize,
    /// From where nothing could be asked, and why.
    pub unasked: Vec<(Ipv4Addr, io::Error)>,
}

/// Asks, waits, and looks at who answered.
pub async fn discover(options: &Options) -> Discovered {
    let end = Instant::now() + options.wait;
    let (heard, mut hearing) = mpsc::channel(64);
    let (mut sockets, mut unasked) = (JoinSet::new(), Vec::new());
    for &from in &options.from {
        match ask(from, options).await {
            Ok(socket) => {
                let socket = Arc::new(socket);
                sockets.spawn(repeat(Arc::clone(&socket), options.clone()));
                sockets.spawn(listen(socket, heard.clone()));
            }
            Err(error) => unasked.push((from, error)),
        }
    }
    drop(heard);
    let mut book = Book::default();
    for _ in 0..DATAGRAMS {
        match timeout_at(end, hearing.recv()).await {
            Ok(Some((from, datagram))) => book.hear(from, &datagram),
            Ok(None) | Err(_) => break,
        }
    }
    drop(sockets);
    Discovered {
        found: look_at(&book).await,
        left_out: book.left_out(),
        refused: book.refused(),
        unasked,
    }
}

/// How long who answers may take: less than is waited.
fn delay(wait: Duration) -> u8 {
    u8::try_from(wait.as_secs().saturating_sub(1).clamp(1, LONGEST_DELAY)).unwrap_or(1)
}

/// Asks from an address for the first time.
async fn ask(from: Ipv4Addr, options: &Options) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((from, 0)).await?;
    rustix::net::sockopt::set_ip_multicast_if(&socket, &from)?;
    socket.set_multicast_ttl_v4(HOPS)?;
    socket
        .send_to(message::search(options.to, delay(options.wait)).as_bytes(), options.to)
        .await?;
    Ok(socket)
}

async fn repeat(socket: Arc<UdpSocket>, options: Options) {
    let question = message::search(options.to, delay(options.wait));
    let between = BETWEEN.min(options.wait / (2 * TIMES));
    let first = Instant::now();
    for time in 1..TIMES {
        sleep_until(first + between * time).await;
        // The first one went out; where a later one does not, that one counts.
        if socket.send_to(question.as_bytes(), options.to).await.is_err() {
            return;
        }
    }
}

async fn listen(socket: Arc<UdpSocket>, heard: mpsc::Sender<(IpAddr, Vec<u8>)>) {
    // One byte more shows that a datagram is too large.
    let mut buffer = vec![0; message::LARGEST + 1];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        if heard.send((from.ip(), buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn look_at(book: &Book) -> Vec<Found> {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut looks = JoinSet::new();
    for answer in book.answers() {
        let (answer, turns) = (answer.clone(), Arc::clone(&turns));
        looks.spawn(async move {
            let _turn = turns.acquire_owned().await;
            let mut certificate = None;
            let root = match timeout(LOOK, introduction(&answer.address, &mut certificate)).await {
                Ok(root) => root,
                Err(_) => Err(Fault::Unreachable(format!("nothing for {} s", LOOK.as_secs()))),
            };
            Found {
                uuid: answer.uuid,
                address: answer.address,
                certificate_sha256: certificate.map(hex::encode),
                root,
            }
        });
    }
    let mut found = looks.join_all().await;
    found.sort_by_cached_key(|found| {
        let url = Url::parse(&found.address).ok();
        let host = url.as_ref().and_then(|url| url.host_str()?.parse::<IpAddr>().ok());
        (host, url.and_then(|url| url.port_or_known_default()), found.uuid.clone())
    });
    found
}

/// Sees a service's certificate, where it has one, and reads its root from whoever has that certificate.
async fn introduction(address: &str, certificate: &mut Option<[u8; 32]>) -> Result<Root, Fault> {
    let trust = match Url::parse(address) {
        Ok(url) if url.scheme() == "https" => {
            let seen = certificate_of(&url).await?;
            *certificate = Some(seen);
            Some(Trust::Fingerprint(seen))
        }
        Ok(_) | Err(_) => None,
    };
    let root = http::introduction(address, trust.as_ref()).await?;
    if !root.is_object() {
        return Err(Fault::Garbled("its root is no JSON object".to_owned()));
    }
    let text = |name| reader::text(&root, name).map(|text| message::shown(&text));
    Ok(Root {
        vendor: text("Vendor"),
        product: text("Product"),
        version: text("RedfishVersion"),
    })
}

async fn certificate_of(url: &Url) -> Result<[u8; 32], Fault> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let unreachable = |error: &dyn std::fmt::Display| Fault::Unreachable(quoted(&error.to_string(), &[]));
    let host: IpAddr = host.parse().map_err(|error| unreachable(&error))?;
    let stream = TcpStream::connect((host, url.port_or_known_default().unwrap_or_default())).await;
    tls::shown(host, stream.map_err(|error| unreachable(&error))?).await
}
