//! Wakes machines with frames into the segments that this replica serves: what the operator, wherever it runs, cannot do.
//!
//! The order is the object itself: the act that was done last ([`api::power::PowerStatus::done`]) names the interfaces that wake the machine. Each replica sends, those of other segments for nothing: a frame
//! to an interface that is not there, or is awake, does no harm.
//!
//! Invariants:
//! * An act is carried out once per replica, and only while it is young: who starts anew, or lists anew, wakes nobody who was switched off since.
//! * Nothing here waits: the watch hands the addresses over and goes on.
//!
//! It sends no SecureOn passwords, which it does not know, and does not look whether the machine woke: it shows by booting.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::{BareMetalHardware, power::PowerActKind};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use power::wake::{self, Mac};
use tokio::{sync::mpsc, time::sleep};

use crate::{config::LanInterface, dhcp::frames, metrics::Metrics};

/// An act that is older than this is not carried out.
const YOUNG: SignedDuration = SignedDuration::from_secs(60);
/// Acts that wait to be carried out.
const QUEUE: usize = 4096;

/// Hears of acts.
#[derive(Debug)]
pub(crate) struct WakeOnLan {
    /// The last act of each machine that was looked at, by the hardware's name.
    seen: Mutex<HashMap<String, String>>,
    orders: mpsc::Sender<Vec<Mac>>,
}

/// Carries them out.
pub(crate) struct Frames {
    orders: mpsc::Receiver<Vec<Mac>>,
    interfaces: Vec<String>,
    metrics: Arc<Metrics>,
}

/// For these interfaces.
pub(crate) fn new(interfaces: &[LanInterface], metrics: Arc<Metrics>) -> (WakeOnLan, Frames) {
    let (sender, orders) = mpsc::channel(QUEUE);
    let frames = Frames {
        orders,
        interfaces: interfaces.iter().map(|interface| interface.name.clone()).collect(),
        metrics,
    };
    let hears = WakeOnLan {
        seen: Mutex::default(),
        orders: sender,
    };
    (hears, frames)
}

impl WakeOnLan {
    /// Looks at a machine as it is now.
    pub(crate) fn look(&self, hardware: &BareMetalHardware, now: Timestamp) {
        let power = hardware.status.as_ref().and_then(|status| status.power.as_ref());
        let Some((act, at)) = power.and_then(|power| power.done.as_ref().zip(power.done_at.as_ref())) else {
            return;
        };
        if act.kind != PowerActKind::On || act.macs.is_empty() {
            return;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.insert(hardware.name_any(), act.id.clone());
        if before.as_ref() == Some(&act.id) {
            return;
        }
        let age = now.duration_since(at.0);
        if age > YOUNG {
            // After a start nothing was seen before, and most of it is long ago.
            if before.is_some() {
                tracing::warn!(
                    hardware = hardware.name_any(),
                    seconds = age.as_secs(),
                    "the machine is not woken: it was to be long ago; compare the clocks of operator and netboot"
                );
            }
            return;
        }
        // The definition refuses what is no address.
        let macs: Vec<_> = act.macs.iter().filter_map(|mac| Mac::parse(mac).ok()).collect();
        if self.orders.try_send(macs).is_err() {
            tracing::warn!(
                hardware = hardware.name_any(),
                "too many machines are to be woken at once; this one is left out until it is tried again"
            );
        }
    }

    /// The machine is gone.
    pub(crate) fn forget(&self, name: &str) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

impl Frames {
    /// Sends until nobody orders any more.
    pub(crate) async fn run(mut self) {
        let mut together = Vec::new();
        while self.orders.recv_many(&mut together, QUEUE).await > 0 {
            let macs: Vec<Mac> = together.drain(..).flatten().collect();
            for time in 0..wake::TIMES {
                if time > 0 {
                    sleep(wake::BETWEEN).await;
                }
                for interface in &self.interfaces {
                    self.send(interface, &macs).await;
                }
            }
            tracing::info!(interfaces = macs.len(), "sent wake-up frames");
        }
    }

    async fn send(&self, interface: &str, macs: &[Mac]) {
        let sent = async {
            let out = Out::open(interface)?;
            for mac in macs {
                out.send(*mac)?;
                self.metrics.wake_frames.inc();
                // A rack's frames are not to be more than the interface's queue takes.
                tokio::task::yield_now().await;
            }
            io::Result::Ok(())
        };
        if let Err(error) = sent.await {
            tracing::warn!(interface, %error, "cannot send wake-up frames there");
        }
    }
}

/// A way out of an interface.
enum Out {
    /// Frames of their own type.
    Frames(socket2::Socket, Mac),
    /// Datagrams to everybody there, where frames want a right (CAP_NET_RAW) that this process lacks.
    Datagrams(UdpSocket),
}

impl Out {
    fn open(interface: &str) -> io::Result<Self> {
        match frames(interface, wake::ETHER_TYPE.into()) {
            Ok((socket, mac)) => {
                socket.set_write_timeout(Some(Duration::from_millis(100)))?;
                Ok(Self::Frames(socket, Mac::new(mac).map_err(io::Error::other)?))
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
                socket.bind_device(Some(interface.as_bytes()))?;
                socket.set_broadcast(true)?;
                Ok(Self::Datagrams(socket.into()))
            }
            Err(error) => Err(error),
        }
    }

    fn send(&self, mac: Mac) -> io::Result<()> {
        match self {
            Self::Frames(socket, own) => socket.send(&wake::frame(*own, mac, &[])),
            Self::Datagrams(socket) => socket.send_to(&wake::packet(mac, &[]), (Ipv4Addr::BROADCAST, wake::PORT)),
        }
        .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use api::power::{PowerAct, PowerStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn machine(kind: PowerActKind, id: &str, at: Timestamp, macs: &[&str]) -> BareMetalHardware {
        let mut hardware = BareMetalHardware::new("m", api::BareMetalHardwareSpec::default());
        hardware.status.get_or_insert_default().power = Some(PowerStatus {
            done: Some(PowerAct {
                id: id.to_owned(),
                kind,
                since: Time(at),
                macs: macs.iter().map(|mac| (*mac).to_owned()).collect(),
            }),
            done_at: Some(Time(at)),
            ..PowerStatus::default()
        });
        hardware
    }

    #[test]
    fn a_young_act_is_carried_out_once() {
        let (hears, mut frames) = new(&[], Arc::new(Metrics::new()));
        let now: Timestamp = "2026-12-01T12:00:00Z".parse().unwrap();
        let mut told = |hardware: &BareMetalHardware, now| {
            hears.look(hardware, now);
            frames.orders.try_recv().map_or(0, |macs| macs.len())
        };
        let macs = ["52:54:00:12:34:56", "52:54:00:12:34:57"];
        assert_eq!(told(&machine(PowerActKind::Off, "0", now, &macs), now), 0);
        assert_eq!(told(&machine(PowerActKind::On, "0", now, &[]), now), 0, "another driver's");
        assert_eq!(told(&machine(PowerActKind::On, "1", now, &macs), now), 2);
        assert_eq!(told(&machine(PowerActKind::On, "1", now, &macs), now), 0, "once");
        assert_eq!(told(&machine(PowerActKind::On, "2", now, &macs), now), 2);
        let later = now + SignedDuration::from_secs(61);
        assert_eq!(told(&machine(PowerActKind::On, "3", now, &macs), later), 0, "long ago");
        hears.forget("m");
        assert_eq!(
            told(&machine(PowerActKind::On, "2", now, &macs), now),
            2,
            "another machine of that name"
        );
    }
}
