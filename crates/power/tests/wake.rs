//! Magic packets beside those of Debian's `wakeonlan`, to the broadcast address of the loopback.

use std::{
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::Command,
    time::Duration,
};

use power::{
    Driver, Fault, Off,
    wake::{Mac, Settings, Wake},
};

const MAC: &str = "52:54:00:12:34:56";

fn listener() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let port = socket.local_addr().expect("an address").port();
    (socket, SocketAddr::from(([127, 255, 255, 255], port)))
}

fn heard(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).expect("a datagram");
    buffer[..length].to_vec()
}

#[tokio::test]
async fn the_packet_is_wakeonlans() {
    let program = "/usr/bin/wakeonlan";
    assert!(
        Path::new(program).exists(),
        "{program} is not there: run `scripts/setup --power`, then try again"
    );
    let (socket, to) = listener();
    let sent = Command::new(program)
        .args(["-i", &to.ip().to_string(), "-p", &to.port().to_string(), MAC])
        .output()
        .expect("wakeonlan runs");
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let theirs = heard(&socket);

    let wake = Wake::new(Settings {
        macs: vec![Mac::parse(MAC).expect("an address")],
        to: vec![to],
        password: None,
    })
    .expect("good settings");
    wake.on().await.expect("sent");
    for _ in 0..3 {
        assert_eq!(heard(&socket), theirs);
    }
    assert!(matches!(wake.off(Off::Hard).await, Err(Fault::Incapable(_))));
}

#[tokio::test]
async fn a_secure_on_password_goes_along_and_is_not_shown() {
    let (socket, to) = listener();
    let wake = Wake::new(Settings {
        macs: vec![Mac::parse(MAC).expect("an address")],
        to: vec![to],
        password: Some(vec![0xca, 0xfe, 0xba, 0xbe, 0xd0, 0x0d].into()),
    })
    .expect("good settings");
    wake.on().await.expect("sent");
    let packet = heard(&socket);
    assert_eq!((packet.len(), &packet[102..]), (108, &[0xca, 0xfe, 0xba, 0xbe, 0xd0, 0x0d][..]));
    let shown = format!("{wake:?}");
    assert!(!shown.contains("202, 254") && !shown.to_lowercase().contains("cafe"), "{shown}");
}
