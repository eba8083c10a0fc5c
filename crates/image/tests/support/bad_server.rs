//! The server of bad manners: an HTTP server that misbehaves exactly as told. Faults are data ([`Behaviour`]), so that tests can lay them out in tables.
//!
//! It is one thread per connection over std's sockets and closes each connection after its answer. It knows nothing of images.
#![allow(dead_code, reason = "each test file and the example use their own part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Where an answer to a range claims to begin or end, when it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeLie {
    /// One byte further on than what is sent.
    Start,
    /// Of a file that is one byte longer.
    Total,
    /// Not a range at all.
    Malformed,
}

/// What the server does. The default is good manners, with a strong entity tag.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    /// Connections are dropped after so many body bytes.
    pub drop_after: Option<usize>,
    /// Only so many connections are dropped.
    pub drops: usize,
    /// Neither answers ranges nor says that it does.
    pub no_ranges: bool,
    /// Says that it answers ranges, but sends the whole.
    pub ignores_ranges: bool,
    /// Answers to ranges lie so.
    pub range_lie: Option<RangeLie>,
    /// No announced length: the end of the connection is the end of the body.
    pub no_length: bool,
    /// No entity tag.
    pub no_tag: bool,
    /// From the second request on, the entity tag is another one, and ranges of the first are answered with the whole.
    pub changes: bool,
    /// From the second request on, all bytes are other ones, and nothing says so.
    pub changes_unsaid: bool,
    /// This byte of the file arrives with one bit flipped, every time.
    pub flipped: Option<usize>,
    pub redirect_to: Option<String>,
    /// Every answer is a redirect to the same place.
    pub redirects_in_a_circle: bool,
    /// From the second request on, nothing comes after the headers.
    pub stalls: bool,
    /// What the server has of the file ends here, whatever it announces: the connection is dropped.
    pub ends_at: Option<usize>,
    /// From this byte of the file on nothing comes, and the connection stays open.
    pub silent_from: Option<usize>,
    /// Only so many connections fall silent.
    pub silences: usize,
    /// Every answer falls silent after so many bytes, wherever it began.
    pub silent_after: Option<usize>,
    /// Every answer has this status.
    pub status: Option<u16>,
    /// Only so many answers have it; 0: all.
    pub statuses: usize,
    /// The body comes in pieces of so many bytes, with pauses between.
    pub drip: Option<(usize, Duration)>,
    /// The faults hold for paths that end so; others are served well.
    pub only: &'static str,
}

struct File {
    path: String,
    bytes: Vec<u8>,
}

struct Shared {
    files: Vec<File>,
    behaviour: Behaviour,
    requests: Mutex<Vec<String>>,
    faulty: AtomicUsize,
    dropped: AtomicUsize,
    silent: AtomicUsize,
}

pub struct Server {
    address: String,
    shared: Arc<Shared>,
}

impl Server {
    /// One file, whatever the path.
    pub fn start(body: Vec<u8>, behaviour: Behaviour) -> Self {
        Self::with_files([(String::new(), body)], behaviour)
    }

    /// Files by the ends of their paths.
    pub fn with_files(files: impl IntoIterator<Item = (String, Vec<u8>)>, behaviour: Behaviour) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), files, behaviour)
    }

    /// The same on a listener that the caller has opened. Serves until the process ends.
    pub fn on(listener: TcpListener, files: impl IntoIterator<Item = (String, Vec<u8>)>, behaviour: Behaviour) -> Self {
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            files: files.into_iter().map(|(path, bytes)| File { path, bytes }).collect(),
            behaviour,
            requests: Mutex::default(),
            faulty: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
            silent: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                // A client that goes away in the middle is part of what is tested.
                std::thread::spawn(move || serve(connection, &shared).ok());
            }
        });
        Self { address, shared }
    }

    /// A URL with a secret in it, which must not come up in any message.
    pub fn url(&self) -> String {
        self.url_of("image")
    }

    pub fn url_of(&self, path: &str) -> String {
        format!("http://{}/{path}?token=secret", self.address)
    }

    /// The ranges that were asked for, one entry a request; empty: the whole.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }
}

/// Whether this is still one of the first `limit` times.
fn within(counter: &AtomicUsize, limit: usize) -> bool {
    counter.fetch_add(1, Ordering::Relaxed) < limit
}

fn serve(mut connection: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut range = None;
    let mut path = String::new();
    for line in BufReader::new(connection.try_clone()?).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if path.is_empty() {
            let target = line.split(' ').nth(1).unwrap_or_default();
            path = target.split('?').next().unwrap_or_default().to_owned();
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            range = Some(value.to_owned());
        }
    }
    shared.requests.lock().unwrap().push(range.clone().unwrap_or_default());
    let Some(file) = shared.files.iter().find(|file| path.ends_with(&file.path)) else {
        return write!(connection, "HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    if !path.ends_with(shared.behaviour.only) {
        return answer(&mut connection, &file.bytes, range, &Behaviour::default(), 1, shared);
    }
    let number = 1 + shared.faulty.fetch_add(1, Ordering::Relaxed);
    let behaviour = &shared.behaviour;
    let circle = behaviour.redirects_in_a_circle.then(|| path.clone());
    if let Some(target) = behaviour.redirect_to.clone().or(circle) {
        return write!(
            connection,
            "HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    if let Some(status) = behaviour.status
        && (behaviour.statuses == 0 || number <= behaviour.statuses)
    {
        return write!(connection, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let mut bytes = file.bytes.clone();
    if behaviour.changes_unsaid && number > 1 {
        bytes.iter_mut().for_each(|byte| *byte ^= 0x10);
    }
    if let Some(byte) = behaviour.flipped {
        bytes[byte] ^= 1;
    }
    answer(&mut connection, &bytes, range, behaviour, number, shared)
}

fn answer(
    connection: &mut TcpStream,
    body: &[u8],
    range: Option<String>,
    behaviour: &Behaviour,
    number: usize,
    shared: &Shared,
) -> std::io::Result<()> {
    let tag = if behaviour.changes && number > 1 { "two" } else { "one" };
    let whole = behaviour.no_ranges || behaviour.ignores_ranges || tag == "two";
    let (start, end, ranged) = match range {
        Some(range) if !whole => {
            let (start, end) = range.split_once('-').unwrap();
            let end = end.parse().map_or(body.len(), |end: usize| (end + 1).min(body.len()));
            (start.parse().unwrap(), end, true)
        }
        _ => (0, body.len(), false),
    };
    if start >= end && ranged {
        return write!(
            connection,
            "HTTP/1.1 416 No\r\nContent-Range: bytes */{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            body.len()
        );
    }
    let part: &[u8] = &body[start..end];
    let status = if ranged { "206 Partial Content" } else { "200 OK" };
    write!(connection, "HTTP/1.1 {status}\r\nConnection: close\r\n")?;
    if !behaviour.no_length {
        write!(connection, "Content-Length: {}\r\n", part.len())?;
    }
    if !behaviour.no_ranges {
        write!(connection, "Accept-Ranges: bytes\r\n")?;
        if !behaviour.no_tag {
            write!(connection, "ETag: \"{tag}\"\r\n")?;
        }
    }
    if ranged {
        let (last, total) = (end - 1, body.len());
        let said = match behaviour.range_lie {
            None => format!("bytes {start}-{last}/{total}"),
            Some(RangeLie::Start) => format!("bytes {}-{last}/{total}", start + 1),
            Some(RangeLie::Total) => format!("bytes {start}-{last}/{}", total + 1),
            Some(RangeLie::Malformed) => "octets all of them".to_owned(),
        };
        write!(connection, "Content-Range: {said}\r\n")?;
    }
    write!(connection, "\r\n")?;
    if behaviour.stalls && number > 1 {
        return until_closed(connection);
    }
    if let Some(from) = behaviour.silent_from
        && end > from
        && within(&shared.silent, behaviour.silences)
    {
        connection.write_all(&body[start..from.max(start)])?;
        return until_closed(connection);
    }
    if let Some(after) = behaviour.silent_after
        && part.len() > after
    {
        connection.write_all(&part[..after])?;
        return until_closed(connection);
    }
    if let Some(last) = behaviour.ends_at
        && end > last
    {
        return connection.write_all(&body[start..last.max(start)]);
    }
    if let Some(after) = behaviour.drop_after
        && part.len() > after
        && within(&shared.dropped, behaviour.drops)
    {
        return connection.write_all(&part[..after]);
    }
    if let Some((piece, pause)) = behaviour.drip {
        for bytes in part.chunks(piece) {
            connection.write_all(bytes)?;
            std::thread::sleep(pause);
        }
        return Ok(());
    }
    connection.write_all(part)
}

/// Until the client gives up and closes.
fn until_closed(connection: &mut TcpStream) -> std::io::Result<()> {
    connection.read(&mut [0; 1]).map(|_| ())
}
