//! A simulated machine: boots, opens a session, asks, reports. Plain HTTP/1.1 over its own connections, from an address of its choice.

use std::net::{IpAddr, SocketAddr};

use agent_protocol::{
    disk::{Disk, DiskIdentity},
    identity::{MacAddress, SystemUuid},
    inventory::{Cpu, Inventory, Memory, Nic, SystemIdentity},
    order::{Order, OrderResult, Progress, Report},
    seed::{SealedSeed, SealingKey, generate_sealing_key},
    session::{self, ErrorCode, ErrorResponse, OrderResponse, SessionRequest, SessionResponse, encode},
};
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;

pub type Connection = SendRequest<Full<Bytes>>;

pub async fn connect_plain(from: IpAddr, to: SocketAddr) -> std::io::Result<Connection> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    let (send, connection) = handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    tokio::spawn(async move {
        connection.await.ok();
    });
    Ok(send)
}

pub async fn tls_stream(
    from: IpAddr,
    to: SocketAddr,
    pin: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    let config = pinned_tls::client_config(pin).map_err(std::io::Error::other)?;
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let name = rustls_pki_types::ServerName::try_from("any").unwrap();
    connector.connect(name, stream).await
}

pub async fn connect_tls(from: IpAddr, to: SocketAddr, pin: &str) -> std::io::Result<Connection> {
    let stream = tls_stream(from, to, pin).await?;
    let (send, connection) = handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    tokio::spawn(async move {
        connection.await.ok();
    });
    Ok(send)
}

pub async fn send(connection: &mut Connection, request: Request<Full<Bytes>>) -> (StatusCode, Bytes) {
    connection.ready().await.expect("the connection is open");
    let response = connection.send_request(request).await.expect("an answer");
    let status = response.status();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, body)
}

pub fn get(path: &str) -> Request<Full<Bytes>> {
    Request::builder()
        .uri(path)
        .header("host", "127.0.0.1")
        .body(Full::default())
        .unwrap()
}

/// What a boot script tells a machine.
#[derive(Debug, Clone)]
pub struct Booted {
    pub server: String,
    pub pin: String,
    pub token: String,
}

pub fn word<'a>(script: &'a str, name: &str) -> Option<&'a str> {
    script.split_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('='))
}

pub fn read_script(script: &str) -> Option<Booted> {
    Some(Booted {
        server: word(script, "kbm.server")?.to_owned(),
        pin: word(script, "kbm.ca")?.to_owned(),
        token: word(script, "kbm.token")?.to_owned(),
    })
}

pub struct Machine {
    pub from: IpAddr,
    pub inventory: Inventory,
    pub mac: MacAddress,
    pub key: SigningKey,
    pub sealing: SealingKey,
    pub sealing_public: String,
    pub session: String,
    pub sequence: u64,
    pub tls: Option<Connection>,
    pub http_to: SocketAddr,
    pub tls_to: SocketAddr,
}

pub type Answer<T> = Result<T, (StatusCode, ErrorCode)>;

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

pub fn inventory(uuid: Option<SystemUuid>, mac: MacAddress) -> Inventory {
    let identity = DiskIdentity {
        serial: Some(format!("S{}", mac.compact())),
        model: Some("Example SSD".to_owned()),
        ..DiskIdentity::default()
    };
    Inventory {
        system: SystemIdentity {
            uuid,
            vendor: Some("Example".to_owned()),
            product: Some("Box 1".to_owned()),
            ..SystemIdentity::default()
        },
        cpu: Cpu {
            architecture: "amd64".to_owned(),
            sockets: 1,
            cores: 4,
            threads: 8,
            ..Cpu::default()
        },
        memory: Memory {
            bytes: 16 << 30,
            dimms: Vec::new(),
        },
        disks: vec![Disk::blank("sda", identity, 64 << 30)],
        nics: vec![Nic {
            name: "eth0".to_owned(),
            mac,
            driver: Some("e1000e".to_owned()),
            speed_mbps: Some(1000),
            link: true,
            boot: true,
            ..Nic::default()
        }],
        ..Inventory::default()
    }
}

impl Machine {
    pub fn new(from: IpAddr, netboot: netboot::Addresses) -> Self {
        let mut mac: [u8; 6] = random();
        mac[0] = 2;
        Self::with(from, netboot, Some(SystemUuid(random())), MacAddress(mac))
    }

    pub fn with(from: IpAddr, netboot: netboot::Addresses, uuid: Option<SystemUuid>, mac: MacAddress) -> Self {
        let (sealing, sealing_public) = generate_sealing_key().unwrap();
        let port = |a: SocketAddr| SocketAddr::new(IpAddr::from([127, 0, 0, 1]), a.port());
        Self {
            from,
            inventory: inventory(uuid, mac),
            mac,
            key: SigningKey::from_bytes(&random()),
            sealing,
            sealing_public,
            session: String::new(),
            sequence: 0,
            tls: None,
            http_to: port(netboot.http),
            tls_to: port(netboot.tls),
        }
    }

    /// Goes to another replica.
    pub fn move_to(&mut self, netboot: netboot::Addresses) {
        self.http_to.set_port(netboot.http.port());
        self.tls_to.set_port(netboot.tls.port());
        self.tls = None;
    }

    /// Forgets what RAM held.
    pub fn reboot(&mut self) {
        let (sealing, sealing_public) = generate_sealing_key().unwrap();
        self.key = SigningKey::from_bytes(&random());
        self.sealing = sealing;
        self.sealing_public = sealing_public;
        self.session.clear();
        self.sequence = 0;
        self.tls = None;
    }

    pub fn boot_path(&self) -> String {
        let uuid = self.inventory.system.uuid.map(|u| u.to_string()).unwrap_or_default();
        let mac = self.mac.to_string().replace(':', "-");
        format!("/boot/ipxe?uuid={uuid}&mac={mac}&platform=pcbios&buildarch=x86_64")
    }

    pub async fn script(&self) -> String {
        let mut plain = connect_plain(self.from, self.http_to).await.expect("plain HTTP");
        let (status, body) = send(&mut plain, get(&self.boot_path())).await;
        assert_eq!(status, StatusCode::OK);
        String::from_utf8(body.to_vec()).unwrap()
    }

    /// The token and pin, if the script loads the agent.
    pub async fn boot(&self) -> Option<Booted> {
        read_script(&self.script().await)
    }

    pub fn request(&self, token: &str) -> SessionRequest {
        SessionRequest {
            protocol: agent_protocol::PROTOCOL_VERSION,
            agent_version: "test".to_owned(),
            token: token.to_owned(),
            boot_mac: self.mac,
            signing_key: encode(self.key.verifying_key().as_bytes()),
            sealing_key: self.sealing_public.clone(),
            inventory: self.inventory.clone(),
        }
    }

    pub async fn connect(&mut self, pin: &str) {
        self.tls = Some(connect_tls(self.from, self.tls_to, pin).await.expect("TLS"));
    }

    pub fn signed(&mut self, method: Method, path: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
        self.sequence += 1;
        let signature = session::sign(&self.key, method.as_str(), path, &self.session, self.sequence, &body);
        let mut request = Request::builder().method(method).uri(path).header("host", "netboot");
        if !self.session.is_empty() {
            request = request.header(session::HEADER_SESSION, &self.session);
        }
        request
            .header(session::HEADER_SEQUENCE, self.sequence)
            .header(session::HEADER_SIGNATURE, signature)
            .body(Full::from(body))
            .unwrap()
    }

    pub async fn call<T: serde::de::DeserializeOwned>(&mut self, method: Method, path: &str, body: Vec<u8>) -> Answer<T> {
        let request = self.signed(method, path, body);
        self.send(request).await
    }

    pub async fn send<T: serde::de::DeserializeOwned>(&mut self, request: Request<Full<Bytes>>) -> Answer<T> {
        let connection = self.tls.as_mut().expect("connected");
        read(send(connection, request).await)
    }

    pub async fn open(&mut self, booted: &Booted) -> Answer<SessionResponse> {
        if self.tls.is_none() {
            self.connect(&booted.pin).await;
        }
        let body = serde_json::to_vec(&self.request(&booted.token)).unwrap();
        let opened: SessionResponse = self.call(Method::POST, session::PATH_SESSIONS, body).await?;
        self.session = opened.session.clone();
        Ok(opened)
    }

    /// From power-on to a session.
    pub async fn power_on(&mut self) -> Answer<SessionResponse> {
        self.reboot();
        let booted = self.boot().await.expect("the script loads the agent");
        self.open(&booted).await
    }

    pub async fn order(&mut self, after: &str) -> Answer<OrderResponse> {
        self.call(Method::GET, &format!("{}?after={after}", session::PATH_ORDER), Vec::new())
            .await
    }

    /// As an agent asks that takes the seed with the order.
    pub async fn order_with_seed(&mut self) -> Answer<OrderResponse> {
        self.call(Method::GET, &format!("{}?{}", session::PATH_ORDER, session::QUERY_SEED), Vec::new())
            .await
    }

    pub async fn progress(&mut self, order: &str, progress: Progress) -> Answer<serde_json::Value> {
        let report = Report {
            order_id: order.to_owned(),
            progress: Some(progress),
            result: None,
        };
        self.call(Method::POST, session::PATH_REPORTS, serde_json::to_vec(&report).unwrap())
            .await
    }

    pub async fn result(&mut self, result: OrderResult) -> Answer<serde_json::Value> {
        let report = Report {
            order_id: result.order_id.clone(),
            progress: None,
            result: Some(result),
        };
        self.call(Method::POST, session::PATH_REPORTS, serde_json::to_vec(&report).unwrap())
            .await
    }

    pub async fn seed(&mut self) -> Answer<SealedSeed> {
        self.call(Method::GET, session::PATH_SEED, Vec::new()).await
    }

    pub fn succeeded(&self, order: &Order) -> OrderResult {
        use agent_protocol::order::{ImageEvidence, OrderKind, Outcome};
        let disk = self.inventory.disks[0].identity.clone();
        OrderResult {
            order_id: order.id.clone(),
            kind: order.kind,
            outcome: Outcome::Succeeded,
            fault: None,
            image: (order.kind == OrderKind::Image).then(|| ImageEvidence {
                order_id: order.id.clone(),
                disk: disk.clone(),
                digest: order.image.as_ref().map(|i| i.digest.clone()).unwrap_or_default(),
                written_bytes: 1,
                verified_bytes: 1,
                fetched_bytes: None,
                reused_bytes: None,
                duration_ms: 1,
                config_drive: None,
                sector_bytes: 512,
                own_ranges: Vec::new(),
                boot_entry: None,
            }),
            erase: None,
            contents: None,
        }
    }
}

pub fn read<T: serde::de::DeserializeOwned>((status, body): (StatusCode, Bytes)) -> Answer<T> {
    if status.is_success() {
        return Ok(serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&body))));
    }
    let error: ErrorResponse =
        serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{status}: {e}: {}", String::from_utf8_lossy(&body)));
    Err((status, error.code))
}
