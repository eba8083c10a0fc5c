//! What each message of a client leads to (RFC 2131, 4.3).

use std::net::Ipv4Addr;

use super::{
    Answer, Arrival, BootSite, Client, Ignored, MessageType, Outcome, Packet, Served, Server, State, Time, seconds,
    subnet::{Asker, KeyRoom},
};

/// What a REQUEST is about (RFC 2131, table 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Situation {
    /// An offer of ours was taken.
    Selecting,
    /// The client was here before and asks whether it still is.
    InitReboot,
    /// It has an address, and wants to keep it.
    Extending,
}

impl Server {
    /// Decides about a packet. `client` is [`Client::of`] it; `site` is what there is to boot, `None` if this machine gets nothing of the kind. A reply is
    /// written into `out`.
    pub fn handle(
        &mut self,
        packet: &Packet<'_>,
        client: &Client,
        arrival: &Arrival,
        site: Option<&BootSite<'_>>,
        now: Time,
        out: &mut Vec<u8>,
    ) -> Result<Outcome, Ignored> {
        if !packet.is_request() {
            return Err(Ignored::NotARequest);
        }
        let kind = packet.message_type().ok_or(Ignored::NotForUs)?;
        let answer = Answer {
            packet,
            client,
            arrival,
            site,
        };
        let at = self.subnet_of(packet, arrival)?;
        self.subnets[at].book.expire(now);
        match kind {
            MessageType::Discover => self.discover(at, &answer, now, out),
            MessageType::Request => self.request(at, &answer, now, out),
            MessageType::Decline => self.decline(at, packet, arrival, now),
            MessageType::Release => self.release(at, packet, arrival, now),
            MessageType::Inform => self.inform(at, &answer, now, out),
            MessageType::Offer | MessageType::Ack | MessageType::Nak => Err(Ignored::NotARequest),
        }
    }

    fn is_our_turn(&mut self, packet: &Packet<'_>, key: &[u8], now: Time) -> Result<(), Ignored> {
        let ours = self
            .replicas
            .as_mut()
            .is_none_or(|replicas| replicas.is_our_turn(key, packet.seconds(), now));
        if ours { Ok(()) } else { Err(Ignored::OtherReplicasTurn) }
    }

    fn discover(&mut self, at: usize, answer: &Answer<'_>, now: Time, out: &mut Vec<u8>) -> Result<Outcome, Ignored> {
        let packet = answer.packet;
        let mut room: KeyRoom = [0; 17];
        let Asker { key, reserved } = self.subnets[at].asker(packet, &mut room).ok_or(Ignored::Nameless)?;
        self.is_our_turn(packet, key, now)?;
        let subnet = &mut self.subnets[at];
        let place = reserved
            .filter(|place| may_have(subnet, *place, key))
            .or_else(|| subnet.book.of(key).filter(|place| subnet.book.is_dynamic(*place)))
            .or_else(|| subnet.book.claimed(key))
            .or_else(|| wish(subnet, packet.requested_address()))
            .or_else(|| subnet.book.choose(key))
            .ok_or(Ignored::NothingFree)?;
        subnet.book.offer(place, key, packet.mac(), now, now + seconds(subnet.times.offer));
        let address = subnet.address(place);
        if Some(place) != reserved && subnet.probe && subnet.book.place(place).unprobed {
            return Ok(Outcome::Probe(address));
        }
        let lease = lease(subnet, packet);
        Ok(Outcome::Send(answer.grant(
            subnet,
            MessageType::Offer,
            address,
            Some(lease),
            out,
            &mut self.scratch,
        )))
    }

    fn request(&mut self, at: usize, answer: &Answer<'_>, now: Time, out: &mut Vec<u8>) -> Result<Outcome, Ignored> {
        let packet = answer.packet;
        let mut room: KeyRoom = [0; 17];
        let asker = self.subnets[at].asker(packet, &mut room).ok_or(Ignored::Nameless)?;
        let key = asker.key;
        let has_address = !packet.ciaddr().is_unspecified();
        let situation = match packet.server_id() {
            Some(server) if server != answer.arrival.local && server != answer.server_id() => {
                return self.taken_elsewhere(at, packet, key, server, now);
            }
            Some(_) => Situation::Selecting,
            None if has_address => Situation::Extending,
            None => Situation::InitReboot,
        };
        let wanted = match situation {
            Situation::Extending => packet.ciaddr(),
            // Some clients leave option 50 out and repeat the offer in ciaddr.
            Situation::Selecting => packet.requested_address().unwrap_or(packet.ciaddr()),
            Situation::InitReboot => packet.requested_address().ok_or(Ignored::NotForUs)?,
        };
        if situation != Situation::Selecting && answer.arrival.broadcast {
            self.is_our_turn(packet, key, now)?;
        }
        let subnet = &mut self.subnets[at];
        let place = match judge(subnet, &asker, wanted, situation) {
            Verdict::Grant(place) => place,
            Verdict::Refuse(why) => return Ok(Outcome::Send(answer.refuse(why, out))),
            Verdict::Silence => return Err(Ignored::UnknownLease(wanted)),
        };
        let lease = lease(subnet, packet);
        subnet.book.bind(place, key, packet.mac(), now, now + seconds(lease));
        Ok(Outcome::Send(answer.grant(
            subnet,
            MessageType::Ack,
            wanted,
            Some(lease),
            out,
            &mut self.scratch,
        )))
    }

    /// The client took somebody else's offer: ours is free again. With another replica's we know what is taken now.
    fn taken_elsewhere(&mut self, at: usize, packet: &Packet<'_>, key: &[u8], server: Ipv4Addr, now: Time) -> Result<Outcome, Ignored> {
        let is_peer = self.settings.peers.contains(&server);
        let subnet = &mut self.subnets[at];
        subnet.book.withdraw(key);
        if let Some(place) = packet.requested_address().and_then(|address| subnet.place(address))
            && is_peer
            && may_have(subnet, place, key)
        {
            let until = now + seconds(lease(subnet, packet));
            subnet.book.bind_elsewhere(place, key, packet.mac(), now, until);
        }
        Err(Ignored::OtherServer)
    }

    fn decline(&mut self, at: usize, packet: &Packet<'_>, arrival: &Arrival, now: Time) -> Result<Outcome, Ignored> {
        let address = packet.requested_address().ok_or(Ignored::NotForUs)?;
        let place = self.held(at, packet, arrival, address)?;
        let subnet = &mut self.subnets[at];
        subnet.book.quarantine(place, now, now + seconds(subnet.times.quarantine));
        Ok(Outcome::Declined(address))
    }

    fn release(&mut self, at: usize, packet: &Packet<'_>, arrival: &Arrival, now: Time) -> Result<Outcome, Ignored> {
        let place = self.held(at, packet, arrival, packet.ciaddr())?;
        self.subnets[at].book.release(place, now);
        Ok(Outcome::Released(packet.ciaddr()))
    }

    /// The place of an address that the sender has from us or from another replica.
    fn held(&self, at: usize, packet: &Packet<'_>, arrival: &Arrival, address: Ipv4Addr) -> Result<u32, Ignored> {
        let subnet = &self.subnets[at];
        if let Some(server) = packet.server_id() {
            let relayed = packet.relay().and_then(|relay| relay.server_id_override());
            if server != arrival.local && Some(server) != relayed && !self.settings.peers.contains(&server) {
                return Err(Ignored::OtherServer);
            }
        }
        let mut room: KeyRoom = [0; 17];
        let Asker { key, .. } = subnet.asker(packet, &mut room).ok_or(Ignored::Nameless)?;
        let place = subnet.place(address).ok_or(Ignored::UnknownLease(address))?;
        let has = matches!(subnet.book.place(place).state, State::Offered | State::Bound) && subnet.book.is_clients(place, key);
        has.then_some(place).ok_or(Ignored::UnknownLease(address))
    }

    fn inform(&mut self, at: usize, answer: &Answer<'_>, now: Time, out: &mut Vec<u8>) -> Result<Outcome, Ignored> {
        let packet = answer.packet;
        let mut room: KeyRoom = [0; 17];
        let Asker { key, .. } = self.subnets[at].asker(packet, &mut room).ok_or(Ignored::Nameless)?;
        if answer.arrival.broadcast {
            self.is_our_turn(packet, key, now)?;
        }
        let none = Ipv4Addr::UNSPECIFIED;
        Ok(Outcome::Send(answer.grant(
            &self.subnets[at],
            MessageType::Ack,
            none,
            None,
            out,
            &mut self.scratch,
        )))
    }
}

/// The lease that a client gets, in seconds.
fn lease(subnet: &Served, packet: &Packet<'_>) -> u32 {
    let times = &subnet.times;
    packet
        .lease_time()
        .map_or(times.lease, |wish| wish.clamp(times.shortest, times.longest))
}

/// Whether a place that is the client's by reservation, or that it says it has, is not somebody else's at the moment.
fn may_have(subnet: &Served, place: u32, key: &[u8]) -> bool {
    subnet.book.is_clients(place, key) || subnet.book.place(place).state == State::Free
}

/// An address that a client would like, if nobody has it or had it (RFC 2131, 4.3.1).
fn wish(subnet: &Served, address: Option<Ipv4Addr>) -> Option<u32> {
    subnet.place(address?).filter(|place| subnet.book.is_blank(*place))
}

enum Verdict {
    Grant(u32),
    /// With the text for whoever reads the client's log.
    Refuse(&'static str),
    Silence,
}

fn judge(subnet: &Served, asker: &Asker<'_>, wanted: Ipv4Addr, situation: Situation) -> Verdict {
    if !subnet.contains(wanted) {
        return Verdict::Refuse("the address does not belong to this network");
    }
    let unless_authoritative = |why| {
        if subnet.authoritative {
            Verdict::Refuse(why)
        } else {
            Verdict::Silence
        }
    };
    let Some(place) = subnet.place(wanted) else {
        return unless_authoritative("the address is not given away here");
    };
    let Asker { key, reserved } = *asker;
    if reserved != Some(place) {
        if reserved.is_some_and(|own| may_have(subnet, own, key)) {
            return Verdict::Refuse("another address is reserved for this client");
        }
        if subnet.is_reserved(place) {
            return Verdict::Refuse("the address is reserved for another client");
        }
        if !subnet.book.is_dynamic(place) {
            return unless_authoritative("the address is not given away here");
        }
    }
    if subnet.book.is_clients(place, key) {
        return Verdict::Grant(place);
    }
    match subnet.book.place(place).state {
        State::Offered | State::Bound => Verdict::Refuse("another client has the address"),
        State::Quarantined => Verdict::Refuse("somebody else uses the address"),
        // Taken from an offer that lapsed, or known from before leases were lost.
        State::Free if situation == Situation::Selecting || subnet.authoritative || reserved == Some(place) => Verdict::Grant(place),
        State::Free => Verdict::Silence,
    }
}
