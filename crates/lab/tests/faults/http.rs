//! A web server for images that misbehaves on request: it stops in the middle, or waits there until it is told to go on.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// One file.
pub struct Served {
    bytes: Vec<u8>,
    /// A connection is closed when it has sent this many bytes of the file.
    cut_at: Option<u64>,
    /// No byte from here on is sent until this is raised.
    gate: AtomicU64,
    requests: AtomicU64,
    sent: AtomicU64,
}

impl Served {
    /// Sends nothing behind this offset from now on.
    pub fn hold_at(&self, offset: u64) {
        self.gate.store(offset, Ordering::SeqCst);
    }

    /// Sends everything.
    pub fn release(&self) {
        self.hold_at(u64::MAX);
    }

    /// How often it was asked for.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// The furthest byte that the latest request was sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    fn answer(&self, stream: &mut TcpStream, from: Option<u64>) -> std::io::Result<()> {
        let total = self.bytes.len() as u64;
        let start = from.unwrap_or(0).min(total);
        let status = match from {
            Some(_) => format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{total}", total - 1),
            None => "200 OK".to_owned(),
        };
        let length = total - start;
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nAccept-Ranges: bytes\r\nETag: \"1\"\r\nConnection: close\r\n\r\n"
        )?;
        self.sent.store(start, Ordering::SeqCst);
        let end = self.cut_at.unwrap_or(total).min(total);
        let mut at = start;
        while at < end {
            let upto = end.min(self.gate.load(Ordering::SeqCst)).min(at + 256 * 1024);
            if upto <= at {
                std::thread::sleep(Duration::from_millis(3));
                continue;
            }
            stream.write_all(&self.bytes[usize::try_from(at).unwrap()..usize::try_from(upto).unwrap()])?;
            at = upto;
            self.sent.store(at, Ordering::SeqCst);
        }
        stream.flush()
    }
}

/// The server. It lives as long as the test.
pub struct ImageServer {
    port: u16,
    files: Arc<Mutex<HashMap<String, Arc<Served>>>>,
}

impl ImageServer {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let files: Arc<Mutex<HashMap<String, Arc<Served>>>> = Arc::default();
        let known = Arc::clone(&files);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let known = Arc::clone(&known);
                // A machine whose plug is pulled ends its connection with an error, which is nobody's fault.
                std::thread::spawn(move || serve(stream, &known).unwrap_or_default());
            }
        });
        Self { port, files }
    }

    /// Serves a file, or another one under a known name.
    pub fn put(&self, name: &str, bytes: Vec<u8>, cut_at: Option<u64>) -> Arc<Served> {
        let served = Arc::new(Served {
            bytes,
            cut_at,
            gate: AtomicU64::new(u64::MAX),
            requests: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        });
        self.files.lock().unwrap().insert(format!("/{name}"), Arc::clone(&served));
        served
    }

    /// Where the server finds a file.
    pub fn url_from_here(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }

    /// Where a machine finds a file.
    pub fn url(&self, name: &str) -> String {
        format!("http://10.0.2.2:{}/{name}", self.port)
    }
}

fn serve(mut stream: TcpStream, files: &Mutex<HashMap<String, Arc<Served>>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut from = None;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.split('-').next().and_then(|n| n.parse().ok());
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let found = files.lock().unwrap().get(path).cloned();
    match found {
        Some(file) => {
            file.requests.fetch_add(1, Ordering::SeqCst);
            file.answer(&mut stream, from)
        }
        None => write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    }
}
