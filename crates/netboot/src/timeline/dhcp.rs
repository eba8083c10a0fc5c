//! Steps from DHCP packets.

use std::net::IpAddr;

use ::dhcp::{
    arch::Firmware,
    v4::{
        Arrival, Client, Ignored,
        probe::PROBER,
        wire::{MessageType, Packet},
    },
    v6,
};
use agent_protocol::identity::{MacAddress, SystemUuid};
use api::timeline::BootStepKind;

use super::{Moment, Seen, Timelines};

impl Timelines {
    /// Notes what a packet was answered with. Packets of machines that do not boot leave nothing behind.
    pub(crate) fn dhcp(
        &self,
        packet: &Packet<'_>,
        client: &Client,
        arrival: &Arrival,
        answer: Result<MessageType, &Ignored>,
        moment: Moment,
    ) {
        let (Some(mac), Some(firmware)) = (client.mac.map(MacAddress), client.firmware) else {
            return;
        };
        if client.machine_id == Some(PROBER) {
            // What comes from there later over TFTP and HTTP is no boot either.
            self.addresses().is_nobodys(IpAddr::V4(*arrival.source.ip()), moment.instant);
            return;
        }
        let seen = match answer {
            Ok(_) if firmware == Firmware::Ipxe => Some(Seen::new(BootStepKind::Loader, firmware.to_string())),
            Ok(MessageType::Offer) => Some(Seen::new(BootStepKind::Offer, firmware.to_string())),
            Ok(_) => Some(Seen::new(BootStepKind::BootServer, firmware.to_string())),
            Err(ignored @ (Ignored::NothingToBoot(_) | Ignored::Policy)) => Some(Seen::new(BootStepKind::NoOffer, ignored.to_string())),
            Err(_) => None,
        };
        if let Some(seen) = seen {
            self.seen(mac, client.machine_id.map(SystemUuid), &seen, moment);
        }
        if packet.message_type() == Some(MessageType::Request) {
            let said = [Some(packet.ciaddr()), packet.requested_address()];
            let relayed = !packet.giaddr().is_unspecified();
            let source = Some(*arrival.source.ip()).filter(|_| !relayed);
            let address = said.into_iter().flatten().chain(source).find(|address| !address.is_unspecified());
            if let Some(address) = address {
                self.learn(mac, IpAddr::V4(address), true, moment);
            }
        }
    }

    /// The same for a DHCPv6 message; `Ok(None)`: its answer waits for a lease to be written.
    pub(crate) fn dhcp_v6(
        &self,
        message: v6::wire::MessageType,
        client: &v6::Client,
        answer: &Result<Option<v6::server::Reply>, v6::Ignored>,
        moment: Moment,
    ) {
        use v6::wire::MessageType;
        let (Some(mac), Some(firmware)) = (client.mac.map(MacAddress), client.firmware) else {
            return;
        };
        let uuid = client.machine_id.map(SystemUuid);
        // A lease is no step of a boot; the offer before it was.
        let leases = answer
            .as_ref()
            .is_ok_and(|reply| reply.is_none_or(|reply| reply.granted.addresses().next().is_some()));
        let seen = match (message, answer) {
            (MessageType::Solicit | MessageType::InformationRequest, Ok(_)) if firmware == Firmware::Ipxe => {
                Some(Seen::new(BootStepKind::Loader, firmware.to_string()))
            }
            (MessageType::Solicit | MessageType::InformationRequest, Ok(_)) => Some(Seen::new(BootStepKind::Offer, firmware.to_string())),
            (MessageType::Request, Ok(_)) if !leases => Some(Seen::new(BootStepKind::BootServer, firmware.to_string())),
            (_, Err(ignored @ (v6::Ignored::NothingToBoot(_) | v6::Ignored::Policy))) => {
                Some(Seen::new(BootStepKind::NoOffer, ignored.to_string()))
            }
            _ => None,
        };
        if let Some(seen) = seen {
            self.seen(mac, uuid, &seen, moment);
        }
        if let Ok(Some(reply)) = answer
            && let Some(address) = reply.granted.addresses().next()
        {
            self.learn(mac, IpAddr::V6(address), true, moment);
        }
    }
}
