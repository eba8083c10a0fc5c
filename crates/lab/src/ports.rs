//! Ports for servers that the lab and tests start as processes of their own.
//!
//! A port that the kernel gives away (`bind` to 0) can be given to any outgoing connection in the moment between looking and the server's own `bind`, and again
//! while the server is stopped to be started anew. Ports from below the kernel's range for such connections can not: what was free stays free, but for other servers.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Result, ensure};

/// Above the services that a host is likely to have.
const LOWEST: u16 = 10_000;
/// How many there are to choose from. They end below 30,000: from there to 32,767, where the kernel's own range begins unless it was told otherwise (Linux,
/// `ip_local_port_range`), the tests' Kubernetes control plane looks for its own.
const SPAN: u16 = 20_000;

/// So many ports of `host` (an address of the loopback), all different, that nobody listens at now. None is given out twice by one process.
///
/// # Errors
/// When every port was tried.
pub fn free<const N: usize>(host: Ipv4Addr) -> Result<[u16; N]> {
    // Processes that look at the same time begin at different places.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id().wrapping_mul(97) % u32::from(SPAN);
    let mut ports = [0; N];
    let mut tries = 0;
    for port in &mut ports {
        loop {
            ensure!(tries < SPAN, "no port of {host} from {LOWEST} to {} is free", LOWEST + SPAN - 1);
            tries += 1;
            let offset = (start + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % u32::from(SPAN);
            *port = LOWEST + u16::try_from(offset)?;
            if TcpListener::bind((host, *port)).is_ok() {
                break;
            }
        }
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    // One test, because two at once would take each other's ports.
    #[test]
    fn free_ports_are_different_bindable_not_the_kernels_and_nobodys() {
        let listen = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let first: [u16; 40] = free(Ipv4Addr::LOCALHOST).unwrap();
        let held: Vec<TcpListener> = first.iter().map(|port| listen(*port).unwrap()).collect();
        let second: [u16; 40] = free(Ipv4Addr::LOCALHOST).unwrap();
        let all: BTreeSet<u16> = first.into_iter().chain(second).collect();
        assert_eq!(all.len(), 80);
        assert!(all.iter().all(|port| (LOWEST..LOWEST + SPAN).contains(port)));
        drop(held);

        let [next] = free(Ipv4Addr::LOCALHOST).unwrap();
        let taken: Vec<TcpListener> = (next + 1..next + 20).filter_map(|port| listen(port).ok()).collect();
        assert!(!taken.is_empty());
        let given: [u16; 30] = free(Ipv4Addr::LOCALHOST).unwrap();
        for listener in &taken {
            assert!(!given.contains(&listener.local_addr().unwrap().port()));
        }
    }
}
