//! Frames on an interface: whether somebody uses an address, and what other DHCP servers answer. Needs CAP_NET_RAW.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dhcp::v4::frame;
use nix::{
    ifaddrs::getifaddrs,
    libc,
    sys::socket::{LinkAddr, SockaddrStorage, bind},
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::{net::UdpSocket, sync::oneshot};
use tokio_util::sync::CancellationToken;

/// ARP answers come within milliseconds, those of a sleeping wireless card within tenths of a second.
const ARP_WAIT: Duration = Duration::from_millis(200);
/// An echo may go around the world.
const ECHO_WAIT: Duration = Duration::from_millis(400);
/// After an error of a socket.
const BROKEN_WAIT: Duration = Duration::from_secs(1);
/// Each question may get lost.
const TIMES: u16 = 2;
/// An Ethernet frame, as no DHCP server sends more.
const FRAME: usize = 1600;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// All addresses of this host, or of one interface.
///
/// # Errors
/// When the kernel does not tell, as without file descriptors.
pub(super) fn addresses(interface: Option<&str>) -> io::Result<Vec<IpAddr>> {
    let of_it = getifaddrs()?.filter(|found| interface.is_none_or(|name| found.interface_name == name));
    let ip = |address: SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| Some(IpAddr::V6(address.as_sockaddr_in6()?.ip())))
    };
    Ok(of_it.filter_map(|found| ip(found.address?)).collect())
}

/// The MAC address of an interface.
///
/// # Errors
/// When there is no such interface, or it has none.
pub(super) fn mac_of(interface: &str) -> io::Result<(LinkAddr, [u8; 6])> {
    let link: LinkAddr = getifaddrs()?
        .filter(|found| found.interface_name == interface)
        .find_map(|found| found.address?.as_link_addr().copied())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such interface"))?;
    let mac = link.addr().filter(|mac| *mac != [0; 6]);
    let mac = mac.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "the interface has no MAC address"))?;
    Ok((link, mac))
}

/// The next packet. An interface that is taken down is an error for those who wait, once; it may come up again.
pub(super) async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> usize {
    loop {
        match socket.recv(buffer).await {
            Ok(length) => return length,
            Err(error) => {
                tracing::warn!(%error, "a socket beside DHCP's own (conflicts, other servers, routers' advertisements); trying again");
                tokio::time::sleep(BROKEN_WAIT).await;
            }
        }
    }
}

/// A packet socket for one EtherType on an interface, and the interface's MAC address.
pub(crate) fn frames(interface: &str, ethertype: i32) -> io::Result<(Socket, [u8; 6])> {
    let (link, mac) = mac_of(interface)?;
    // The protocol's bytes stand in network order (packet(7)).
    let protocol = Protocol::from(i32::from((ethertype as u16).to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
    // To this interface alone. The address names no protocol: the socket's stays.
    bind(socket.as_raw_fd(), &link)?;
    Ok((socket, mac))
}

/// tokio waits for UDP sockets alone without unsafe code. It sends to them and receives from them as from these, and asks nothing else of them.
pub(super) fn watched(socket: Socket) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

/// The client that an address is for, and who waits for an answer.
type Question = (Option<[u8; 6]>, oneshot::Sender<()>);

/// Questions that wait for an answer, by the address.
#[derive(Default)]
struct Asked(Mutex<HashMap<Ipv4Addr, Question>>);

impl Asked {
    fn lock(&self) -> MutexGuard<'_, HashMap<Ipv4Addr, Question>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, address: Ipv4Addr, client: Option<[u8; 6]>) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(address, (client, sender));
        receiver
    }

    /// Somebody has the address. Its client itself may: it may know more of its lease than we do.
    fn answered(&self, address: Ipv4Addr, by: Option<[u8; 6]>) {
        let mut asked = self.lock();
        let is_client = |client: &Option<[u8; 6]>| client.is_some() && *client == by;
        if asked.get(&address).is_some_and(|(client, _)| !is_client(client))
            && let Some((_, sender)) = asked.remove(&address)
        {
            // Whoever asked may have given up.
            let _gone = sender.send(());
        }
    }

    fn remove(&self, address: Ipv4Addr) {
        self.lock().remove(&address);
    }
}

/// Asks who has an address.
pub(super) struct Prober {
    arp: Option<(UdpSocket, [u8; 6])>,
    echo: Option<UdpSocket>,
    /// By which our echo requests are known among those of this host.
    id: u16,
    arp_asked: Asked,
    echo_asked: Asked,
}

impl Prober {
    /// What cannot be opened is not asked, and said once.
    pub(super) fn open(interface: &str) -> Self {
        let arp = frames(interface, libc::ETH_P_ARP).and_then(|(socket, mac)| Ok((watched(socket)?, mac)));
        let echo = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).and_then(watched);
        for error in arp.as_ref().err().into_iter().chain(echo.as_ref().err()) {
            tracing::warn!(interface, %error, "whether somebody uses an address cannot be asked before it is given out; DHCP needs CAP_NET_RAW for that");
        }
        let mut id = [0; 2];
        // Without randomness two replicas on one host may take each other's answers for theirs.
        getrandom::fill(&mut id).ok();
        Self {
            arp: arp.ok(),
            echo: echo.ok(),
            id: u16::from_be_bytes(id),
            arp_asked: Asked::default(),
            echo_asked: Asked::default(),
        }
    }

    /// Whether somebody else than this client uses an address of the interface's own link.
    pub(super) async fn on_link(&self, address: Ipv4Addr, client: Option<[u8; 6]>) -> bool {
        let Some((socket, mac)) = &self.arp else { return false };
        let probe = frame::arp_probe(*mac, address);
        let mut answer = self.arp_asked.add(address, client);
        for _ in 0..TIMES {
            // A full queue is like a lost frame.
            socket.send(&probe).await.ok();
            if tokio::time::timeout(ARP_WAIT, &mut answer).await.is_ok() {
                return true;
            }
        }
        self.arp_asked.remove(address);
        false
    }

    /// Whether somebody uses an address behind routers.
    pub(super) async fn far_away(&self, address: Ipv4Addr) -> bool {
        let Some(socket) = &self.echo else { return false };
        let to = SocketAddrV4::new(address, 0);
        let mut answer = self.echo_asked.add(address, None);
        for sequence in 0..TIMES {
            // Without a route there is nobody to ask.
            socket.send_to(&frame::echo_request(self.id, sequence), to).await.ok();
            if tokio::time::timeout(ECHO_WAIT, &mut answer).await.is_ok() {
                return true;
            }
        }
        self.echo_asked.remove(address);
        false
    }

    /// Reads answers until the token is cancelled.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let arp = async {
            let Some((socket, _)) = &self.arp else { return };
            let mut buffer = [0; FRAME];
            loop {
                let length = receive(socket, &mut buffer).await;
                if let Some((address, mac)) = frame::arp_sender(&buffer[..length]) {
                    self.arp_asked.answered(address, Some(mac));
                }
            }
        };
        let echo = async {
            let Some(socket) = &self.echo else { return };
            let mut buffer = [0; FRAME];
            loop {
                let length = receive(socket, &mut buffer).await;
                let packet = &buffer[..length];
                if let Some(source) = packet.get(12..16).and_then(|source| <[u8; 4]>::try_from(source).ok())
                    && frame::is_echo_reply(packet, self.id)
                {
                    self.echo_asked.answered(source.into(), None);
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            _ = async { tokio::join!(arp, echo) } => {}
        }
    }
}

/// Hears what DHCP servers on an interface say to clients.
pub(super) struct Listener {
    socket: UdpSocket,
    client_port: u16,
    buffer: Box<[u8; FRAME]>,
}

impl Listener {
    pub(super) fn open(interface: &str, client_port: u16) -> io::Result<Self> {
        let (socket, _) = frames(interface, libc::ETH_P_IP)?;
        socket.attach_filter(&to_clients(client_port))?;
        Ok(Self {
            socket: watched(socket)?,
            client_port,
            buffer: Box::new([0; FRAME]),
        })
    }

    /// The next datagram to a client: its sender's MAC and IPv4 address, and what it says.
    pub(super) async fn next(&mut self) -> ([u8; 6], Ipv4Addr, &[u8]) {
        loop {
            let length = receive(&self.socket, &mut self.buffer[..]).await;
            let heard = |buffer: &[u8]| {
                let mac: [u8; 6] = buffer.get(6..12)?.try_into().ok()?;
                let (source, payload) = frame::datagram(buffer.get(ETHERNET..)?, self.client_port)?;
                Some((mac, source, payload.len()))
            };
            if let Some((mac, source, payload)) = heard(&self.buffer[..length]) {
                // Once more: what was borrowed in a loop's turn that went on may not leave it.
                let start = ETHERNET + usize::from(self.buffer[ETHERNET] & 0x0f) * 4 + 8;
                return (mac, source, &self.buffer[start..start + payload]);
            }
        }
    }
}

/// A classic BPF program (bpf(4)) on an Ethernet frame: UDP over IPv4 to this port, not cut into fragments. Otherwise all that this host receives would come by here.
fn to_clients(port: u16) -> [SockFilter; 9] {
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let (load_byte, load_half) = (
        libc::BPF_LD | libc::BPF_B | libc::BPF_ABS,
        libc::BPF_LD | libc::BPF_H | libc::BPF_ABS,
    );
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    [
        // The protocol of the IPv4 header.
        op(load_byte, 0, 0, 23),
        op(equal, 0, 6, libc::IPPROTO_UDP as u32),
        // Fragments but for the first have no UDP header.
        op(load_half, 0, 0, 20),
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 4, 0, 0x1fff),
        // The length of the IPv4 header, and behind it the port.
        op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 14),
        op(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, 16),
        op(equal, 0, 1, u32::from(port)),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}
