//! How fast stored images become blocks, without a disk: `cargo run -p image --release --example decode_speed -- IMAGE...`
//!
//! For each image: reading it over loopback HTTP and doing nothing with it, hashing it, then the whole way from a file and over HTTP into
//! blocks that are thrown away. Gives seconds, processor seconds of this process (the server is another one) and the peak of resident
//! memory. A gz image is also inflated alone, an xz or zst image decoded alone on one thread: what a decoder costs without the rest.
//! `docs/benchmarks.md` has rows of it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use image::decode::ExtentSink;
use image::{Block, Digest, FileSource, HttpLimits, HttpSource, ImageError, Limit, Pool, Source};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Throws everything away.
struct Nowhere {
    pool: Pool,
    data: AtomicU64,
}

impl ExtentSink for Nowhere {
    fn block(&self) -> Result<Block, ImageError> {
        self.pool.take()
    }

    fn data(&self, _: u64, block: Block) -> Result<(), ImageError> {
        self.data.fetch_add(block.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn zero(&self, _: u64, _: u64) -> Result<(), ImageError> {
        Ok(())
    }
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, path] = &arguments[..]
        && flag == "--serve"
    {
        return serve(Path::new(path));
    }
    rustls::crypto::ring::default_provider().install_default().ok();
    for path in &arguments {
        one(Path::new(path))?;
    }
    Ok(())
}

fn one(path: &Path) -> Outcome<()> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (mut server, url) = start_server(path)?;
    let roots: [reqwest::Certificate; 0] = [];
    let client = image::Client::new(image::STALL, |builder| builder.tls_certs_only(roots))?;
    let http = || HttpSource::new(client.clone(), &url, HttpLimits::default());

    measure(&name, "read over http", || drain(http()?.stream()?))?;
    measure(&name, "the same by plain sockets", || {
        let mut socket = TcpStream::connect(url.trim_start_matches("http://").trim_end_matches("/image"))?;
        socket.write_all(b"GET /image HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")?;
        socket.shutdown(std::net::Shutdown::Write)?;
        drain(socket)
    })?;
    let mut digest = None;
    measure(&name, "hash (SHA-256)", || {
        let mut hasher = Digest::sha256_of(b"").hasher();
        let total = each_mebibyte(File::open(path)?, |bytes| hasher.update(bytes))?;
        digest = Some(hasher.finish());
        Ok(total)
    })?;
    measure(&name, "hash (BLAKE3)", || {
        let mut hasher = blake3::Hasher::new();
        each_mebibyte(File::open(path)?, |bytes| {
            hasher.update(bytes);
        })
    })?;
    let file = || -> Outcome<_> { Ok(BufReader::with_capacity(256 << 10, File::open(path)?)) };
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => measure(&name, "inflate alone", || drain(flate2::bufread::MultiGzDecoder::new(file()?)))?,
        Some("xz") => measure(&name, "decode alone, 1 thread", || {
            drain(liblzma::bufread::XzDecoder::new_multi_decoder(file()?))
        })?,
        Some("zst") => measure(&name, "decode alone", || drain(zstd::Decoder::with_buffer(file()?)?))?,
        _ => {}
    }
    let digest = digest.ok_or("no digest")?;
    measure(&name, "file to blocks", || copy(Box::new(FileSource::open(path)?), &digest))?;
    measure(&name, "http to blocks", || copy(Box::new(http()?), &digest))?;
    server.kill()?;
    server.wait()?;
    Ok(())
}

fn copy(source: Box<dyn Source>, digest: &Digest) -> Outcome<u64> {
    let limit = Limit {
        bytes: u64::MAX,
        disk: "nowhere".to_owned(),
    };
    let sink = Nowhere {
        pool: Pool::new(16),
        data: AtomicU64::new(0),
    };
    Ok(image::open(source, digest, None, &limit)?.copy_to(&sink)?.image_bytes)
}

fn each_mebibyte(mut reader: impl Read, mut take: impl FnMut(&[u8])) -> Outcome<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return Ok(total);
        }
        take(&buffer[..count]);
        total += count as u64;
    }
}

fn drain(reader: impl Read) -> Outcome<u64> {
    each_mebibyte(reader, |_| {})
}

fn measure(name: &str, what: &str, run: impl FnOnce() -> Outcome<u64>) -> Outcome<()> {
    // The kernel starts a new peak of resident memory.
    std::fs::write("/proc/self/clear_refs", "5")?;
    let (started, before) = (Instant::now(), processor_seconds()?);
    let bytes = run()?;
    let (seconds, processor) = (started.elapsed().as_secs_f64(), processor_seconds()? - before);
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("?").trim();
    let rate = bytes as f64 / f64::from(1 << 20) / seconds;
    println!("{name:14} {what:24} {seconds:6.2} s {processor:6.2} s CPU {rate:7.0} MiB/s, peak {peak}");
    Ok(())
}

fn processor_seconds() -> Outcome<f64> {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Ok(used.tv_sec as f64 + used.tv_nsec as f64 / 1e9)
}

fn start_server(path: &Path) -> Outcome<(Child, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut server = command.arg("--serve").arg(path).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(server.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    Ok((server, line.trim().to_owned()))
}

/// Serves one file, ranges included, until it is killed.
fn serve(path: &Path) -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("http://{}/image", listener.local_addr()?);
    for connection in listener.incoming() {
        let (connection, file) = (connection?, File::open(path)?);
        std::thread::spawn(move || answer(connection, &file).ok());
    }
    Ok(())
}

fn answer(mut connection: TcpStream, file: &File) -> Outcome<()> {
    let mut requests = BufReader::new(connection.try_clone()?);
    let total = file.metadata()?.len();
    loop {
        let (mut start, mut end, mut status) = (0, total, "200 OK");
        loop {
            let mut line = String::new();
            if requests.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(range) = line.trim().to_ascii_lowercase().strip_prefix("range: bytes=")
                && let Some((first, last)) = range.split_once('-')
            {
                start = first.parse()?;
                end = last.parse().map_or(total, |last: u64| (last + 1).min(total));
                status = "206 Partial Content";
            }
            if line.trim().is_empty() {
                break;
            }
        }
        write!(
            connection,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"1\"\r\nAccept-Ranges: bytes\r\nContent-Range: bytes {start}-{}/{total}\r\n\r\n",
            end - start,
            end - 1
        )?;
        let mut buffer = vec![0; 1 << 20];
        while start < end {
            let want = buffer.len().min(usize::try_from(end - start)?);
            let count = file.read_at(&mut buffer[..want], start)?;
            connection.write_all(&buffer[..count])?;
            start += count as u64;
        }
    }
}
