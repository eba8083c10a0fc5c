//! A TLS server under a CA of its own that hands each request to a function: for tests of whatever speaks the agent protocol.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
};

use agent_protocol::session::{HEADER_SEQUENCE, HEADER_SESSION, HEADER_SIGNATURE, verify};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// One request.
pub struct Request {
    pub method: String,
    pub path: String,
    pub session: String,
    pub sequence: u64,
    pub signature: String,
    pub body: Vec<u8>,
}

impl Request {
    /// Checks the signature against a base64 public key.
    pub fn verify(&self, key: &str) -> Result<(), String> {
        verify(
            key,
            &self.signature,
            &self.method,
            &self.path,
            &self.session,
            self.sequence,
            &self.body,
        )
        .map_err(|e| e.to_string())
    }
}

/// Answers a request with status and body.
pub type Handler = dyn Fn(Request) -> (u16, String) + Send + Sync;

pub struct TlsServer {
    pub port: u16,
    pub pin: String,
}

impl TlsServer {
    /// Listens on a loopback port until the test ends.
    pub fn start(handler: Arc<Handler>) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![pinned_tls::SERVER_NAME.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &ca).unwrap();
        let chain = vec![leaf.der().clone(), ca.der().clone()];
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())))
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            pin: pinned_tls::pin_of(ca.der()).unwrap(),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, handler) = (Arc::clone(&config), Arc::clone(&handler));
                std::thread::spawn(move || {
                    let connection = ServerConnection::new(config).unwrap();
                    serve(BufReader::new(StreamOwned::new(connection, stream)), &*handler);
                });
            }
        });
        server
    }
}

/// Requests of one connection, until it closes.
fn serve(mut stream: BufReader<StreamOwned<ServerConnection, TcpStream>>, handler: &Handler) {
    while let Some(request) = read(&mut stream) {
        let (status, answer) = handler(request);
        let length = answer.len();
        let text = format!("HTTP/1.1 {status} -\r\ncontent-length: {length}\r\ncontent-type: application/json\r\n\r\n{answer}");
        if stream
            .get_mut()
            .write_all(text.as_bytes())
            .and_then(|()| stream.get_mut().flush())
            .is_err()
        {
            return;
        }
    }
}

fn read(stream: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let mut request = Request {
        method: words.next()?,
        path: words.next()?,
        session: String::new(),
        sequence: 0,
        signature: String::new(),
        body: Vec::new(),
    };
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        let value = value.trim().to_owned();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => request.body = vec![0; value.parse().ok().filter(|n| *n < 1 << 20)?],
            HEADER_SESSION => request.session = value,
            HEADER_SEQUENCE => request.sequence = value.parse().ok()?,
            HEADER_SIGNATURE => request.signature = value,
            _ => {}
        }
    }
    stream.read_exact(&mut request.body).ok()?;
    Some(request)
}
