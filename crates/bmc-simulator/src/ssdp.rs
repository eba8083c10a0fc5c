//! SSDP: each controller that is asked for by multicast says where its Redfish is (DSP0266, "Discovery"; UPnP Device Architecture 1.1, section 1.3).
//!
//! One socket answers for all, each answer from its controller's address. Only this host is answered. Faults do not reach it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{net::UdpSocket, time::sleep};

use crate::{bmc::Bmc, datagram, fleet::Fleet};

/// The group that is asked.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
/// What a Redfish service is called.
const TARGET: &str = "urn:dmtf-org:service:redfish-rest:1";
/// The largest question, in bytes.
const LARGEST: usize = 1024;
/// Between two answers, so that thousands do not come in one moment.
const BETWEEN: Duration = Duration::from_millis(1);

/// Opens the socket. One that is bound to all addresses hears the group on the loopback interface, too.
pub(crate) fn listen(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = datagram::listen(address)?;
    if address.ip().is_unspecified() {
        socket.join_multicast_v4(GROUP, Ipv4Addr::LOCALHOST)?;
    }
    Ok(socket)
}

/// How long who is asked may take, if this is a question for Redfish services.
fn question(datagram: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(datagram).ok()?;
    let mut lines = text.split("\r\n");
    if lines.next()? != "M-SEARCH * HTTP/1.1" {
        return None;
    }
    let (mut discover, mut meant, mut seconds) = (false, false, None);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        match (name.to_ascii_uppercase().as_str(), value.trim()) {
            ("MAN", value) => discover = value == "\"ssdp:discover\"",
            ("ST", value) => meant = value == TARGET || value == "ssdp:all",
            ("MX", value) => seconds = value.parse::<u64>().ok(),
            _ => {}
        }
    }
    // More than five seconds are taken for five.
    let seconds = seconds.filter(|seconds| *seconds > 0)?.min(5);
    (discover && meant).then(|| Duration::from_secs(seconds))
}

/// What a controller answers, where its service is reached by this scheme and port.
fn answer(bmc: &Bmc, scheme: &str, port: u16) -> String {
    let version = &bmc.profile.identity.version;
    let target = match version.split('.').nth(1) {
        Some(minor) => format!("{TARGET}:{minor}"),
        None => TARGET.to_owned(),
    };
    format!(
        "HTTP/1.1 200 OK\r\nCACHE-CONTROL:max-age=1800\r\nST:{target}\r\nUSN:uuid:{}::{target}\r\nAL:{scheme}://{}:{port}/redfish/v1/\r\nEXT:\r\n\r\n",
        bmc.service_uuid(),
        bmc.address
    )
}

/// Answers questions until it is dropped.
pub(crate) async fn serve(socket: UdpSocket, fleet: Arc<Fleet>, scheme: &'static str, port: u16) {
    let socket = Arc::new(socket);
    let mut buffer = [0; LARGEST];
    loop {
        let Ok(arrival) = datagram::receive(&socket, &mut buffer).await else {
            continue;
        };
        let within = question(&buffer[..arrival.length]).filter(|_| arrival.peer.ip().is_loopback());
        let Some(within) = within else { continue };
        let (socket, fleet) = (Arc::clone(&socket), Arc::clone(&fleet));
        tokio::spawn(async move {
            let most = usize::try_from(within.as_millis() / BETWEEN.as_millis()).unwrap_or(usize::MAX);
            for bmc in fleet.all().iter().take(most) {
                if let Err(error) = datagram::send(&socket, bmc.address, arrival.peer, answer(bmc, scheme, port).as_bytes()).await {
                    tracing::debug!(%error, "an answer of SSDP could not be sent");
                }
                sleep(BETWEEN).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_question_for_redfish_is_answered() {
        let asked = |target: &str, man: &str, delay: &str| {
            question(format!("M-SEARCH * HTTP/1.1\r\nHost: {GROUP}:1900\r\nMan: {man}\r\nMx: {delay}\r\nSt: {target}\r\n\r\n").as_bytes())
        };
        let discover = "\"ssdp:discover\"";
        assert_eq!(asked(TARGET, discover, "2"), Some(Duration::from_secs(2)));
        assert_eq!(asked("ssdp:all", discover, "900"), Some(Duration::from_secs(5)));
        for (target, man, delay) in [
            ("upnp:nothing", discover, "2"),
            (TARGET, "discover", "2"),
            (TARGET, discover, "0"),
            (TARGET, discover, ""),
        ] {
            assert_eq!(asked(target, man, delay), None, "{target} {man} {delay}");
        }
        assert_eq!(question(b"NOTIFY * HTTP/1.1\r\n\r\n"), None);
        assert_eq!(question(b"\xff"), None);
    }
}
