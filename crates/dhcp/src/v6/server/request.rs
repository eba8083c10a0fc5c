//! What each message of a client leads to (RFC 8415, 18.3).

use std::net::SocketAddrV6;

use super::{
    BootSite, Granted, Reply, Server, Time, seconds,
    subnet::{KeyRoom, Served},
};
use crate::{
    book::{RESERVED, State},
    v6::{
        Arrival, Client, Ignored, boot,
        wire::{Association, CLIENT_PORT, Datagram, Encoder, Message, MessageType, SERVER_PORT, Status, option},
    },
};

/// Identity associations of one message that are answered. A client has one per interface.
pub(super) const MAX_ASSOCIATIONS: usize = 8;
/// Addresses of one association that are looked at.
const MAX_ADDRESSES: usize = 8;

/// A message being answered.
struct Ask<'a> {
    datagram: &'a Datagram<'a>,
    message: &'a Message<'a>,
    client: &'a Client,
    /// The client's DUID; empty where only parameters are asked for without one.
    duid: &'a [u8],
    now: Time,
}

impl Server {
    /// Decides about a message. `client` is [`Client::of`] it; `site` is what there is to boot, `None` if this machine gets nothing of the kind. A reply is
    /// written into `out`.
    pub fn handle(
        &mut self,
        datagram: &Datagram<'_>,
        client: &Client,
        arrival: &Arrival,
        site: Option<&BootSite<'_>>,
        now: Time,
        out: &mut Vec<u8>,
    ) -> Result<Reply, Ignored> {
        use MessageType::{
            Advertise, Confirm, Decline, InformationRequest, Rebind, Reconfigure, Release, Renew, Reply as Answer, Request, Solicit,
        };
        let message = &datagram.message;
        let link = datagram.link(arrival.link);
        let at = self.subnet(link).ok_or(Ignored::NoNetwork(link))?;
        let duid = message.client_id();
        let direct = !arrival.multicast && datagram.relays.is_empty();
        let ask = Ask {
            datagram,
            message,
            client,
            duid: duid.unwrap_or_default(),
            now,
        };
        self.subnets[at].book.expire(now);
        // Who must be named and who must not (RFC 8415, 16).
        match message.kind {
            Advertise | Answer | Reconfigure => return Err(Ignored::NotARequest),
            Solicit | Confirm | Rebind => {
                if duid.is_none() || message.server_id().is_some() || direct {
                    return Err(Ignored::Invalid);
                }
            }
            Request | Renew | Release | Decline => {
                let server = message.server_id().filter(|_| duid.is_some()).ok_or(Ignored::Invalid)?;
                if server != self.settings.duid {
                    self.taken_elsewhere(at, &ask, server);
                    return Err(Ignored::OtherServer);
                }
                if direct {
                    let mut encoder = self.begin(&ask, Answer, out);
                    encoder.status(Status::UseMulticast, "send this to ff02::1:2");
                    encoder.finish();
                    return Ok(Self::reply(&ask, arrival, Answer, Granted::default()));
                }
            }
            InformationRequest => {
                if message.server_id().is_some_and(|server| server != self.settings.duid) {
                    return Err(Ignored::OtherServer);
                }
                if direct || message.options.get(option::IA_NA).is_some() {
                    return Err(Ignored::Invalid);
                }
            }
        }
        if matches!(message.kind, Solicit | Confirm | Rebind | InformationRequest)
            && let Some(replicas) = &mut self.replicas
            && !replicas.is_our_turn(ask.duid, message.seconds(), now)
        {
            return Err(Ignored::OtherReplicasTurn);
        }
        if message.kind == Confirm {
            return self.confirm(at, &ask, arrival, out);
        }
        let rapid = message.kind == Solicit && self.subnets[at].rapid_commit && message.options.get(option::RAPID_COMMIT).is_some();
        let kind = if message.kind == Solicit && !rapid { Advertise } else { Answer };
        let mut encoder = self.begin(&ask, kind, out);
        let subnet = &mut self.subnets[at];
        if rapid {
            encoder.put(option::RAPID_COMMIT, &[]);
        }
        let mut granted = Granted::default();
        for (number, association) in message.associations().take(MAX_ASSOCIATIONS).enumerate() {
            let mut room: KeyRoom = [0; _];
            let (key, reserved) = key(subnet, &ask, &association, number, &mut room);
            let place = match message.kind {
                Solicit | Request => give(subnet, &mut encoder, &ask, &association, key, reserved, kind == Answer),
                Renew | Rebind => extend(subnet, &mut encoder, &ask, &association, key, reserved),
                Release | Decline => {
                    end(subnet, &mut encoder, &ask, &association, key);
                    None
                }
                _ => None,
            };
            granted.0[number] = place.map(|place| subnet.address(place));
        }
        match message.kind {
            Release | Decline => encoder.status(Status::Success, ""),
            kind => {
                refuse_others(&mut encoder, message);
                subnet.put_options(&mut encoder, message);
                if kind == InformationRequest && message.wants(option::REFRESH) {
                    encoder.put(option::REFRESH, &subnet.times.refresh.to_be_bytes());
                }
                if let Some(site) = site {
                    boot::put(&mut encoder, client, &site.tables, site.tftp);
                }
            }
        }
        encoder.finish();
        Ok(Self::reply(&ask, arrival, kind, granted))
    }

    fn begin<'b>(&self, ask: &Ask<'_>, kind: MessageType, out: &'b mut Vec<u8>) -> Encoder<'b> {
        let mut encoder = Encoder::reply(ask.datagram, kind, out);
        encoder.put(option::SERVER_ID, &self.settings.duid);
        if !ask.duid.is_empty() {
            encoder.put(option::CLIENT_ID, ask.duid);
        }
        encoder
    }

    fn reply(ask: &Ask<'_>, arrival: &Arrival, kind: MessageType, granted: Granted) -> Reply {
        let port = if ask.datagram.relays.is_empty() { CLIENT_PORT } else { SERVER_PORT };
        let source = &arrival.source;
        Reply {
            kind,
            destination: SocketAddrV6::new(*source.ip(), port, 0, source.scope_id()),
            granted,
        }
    }

    /// The client took somebody else's offer: ours is free again. With another replica's we know what is taken now.
    fn taken_elsewhere(&mut self, at: usize, ask: &Ask<'_>, server: &[u8]) {
        if ask.message.kind != MessageType::Request {
            return;
        }
        let is_peer = self.settings.peers.iter().any(|peer| peer == server);
        let subnet = &mut self.subnets[at];
        for (number, association) in ask.message.associations().take(MAX_ASSOCIATIONS).enumerate() {
            let mut room: KeyRoom = [0; _];
            let (key, _) = key(subnet, ask, &association, number, &mut room);
            subnet.book.withdraw(key);
            let place = association.addresses().next().and_then(|address| subnet.place(address));
            if let Some(place) = place.filter(|place| is_peer && may_have(subnet, *place, key)) {
                subnet
                    .book
                    .bind_elsewhere(place, key, ask.client.mac, ask.now, ask.now + seconds(subnet.times.valid));
            }
        }
    }

    fn confirm(&self, at: usize, ask: &Ask<'_>, arrival: &Arrival, out: &mut Vec<u8>) -> Result<Reply, Ignored> {
        let subnet = &self.subnets[at];
        let mut addresses = ask
            .message
            .associations()
            .take(MAX_ASSOCIATIONS)
            .flat_map(|a| a.addresses().take(MAX_ADDRESSES))
            .peekable();
        // Without an address there is nothing to confirm (RFC 8415, 18.3.3).
        addresses.peek().ok_or(Ignored::Invalid)?;
        let mut encoder = self.begin(ask, MessageType::Reply, out);
        if addresses.all(|address| subnet.contains(address)) {
            encoder.status(Status::Success, "all addresses belong to this link");
        } else {
            encoder.status(Status::NotOnLink, "an address does not belong to this link");
        }
        encoder.finish();
        Ok(Self::reply(ask, arrival, MessageType::Reply, Granted::default()))
    }
}

/// What the book knows an association by, and the place reserved for it: for the first association of a message.
fn key<'k>(subnet: &Served, ask: &Ask<'_>, association: &Association<'_>, number: usize, room: &'k mut KeyRoom) -> (&'k [u8], Option<u32>) {
    if number == 0
        && let Some(place) = subnet.reservation(ask.client, ask.duid)
    {
        // One key, whichever DUID the machine's firmware or system sends.
        let end = RESERVED.len() + 16;
        room[..RESERVED.len()].copy_from_slice(RESERVED);
        room[RESERVED.len()..end].copy_from_slice(&subnet.address(place).octets());
        return (&room[..end], Some(place));
    }
    let length = ask.duid.len();
    room[..length].copy_from_slice(ask.duid);
    room[length..length + 4].copy_from_slice(&association.id);
    (&room[..length + 4], None)
}

fn may_have(subnet: &Served, place: u32, key: &[u8]) -> bool {
    subnet.book.is_clients(place, key) || subnet.book.place(place).state == State::Free
}

/// The client's place: reserved, had before, wished for, or chosen.
fn place_for(subnet: &Served, association: &Association<'_>, key: &[u8], reserved: Option<u32>) -> Option<u32> {
    let wished = || {
        let mut addresses = association.addresses().take(MAX_ADDRESSES);
        addresses.find_map(|address| subnet.place(address).filter(|place| subnet.book.is_blank(*place)))
    };
    reserved
        .filter(|place| may_have(subnet, *place, key))
        .or_else(|| subnet.book.of(key).filter(|place| subnet.book.is_dynamic(*place)))
        .or_else(|| subnet.book.claimed(key))
        .or_else(wished)
}

fn open(encoder: &mut Encoder<'_>, association: &Association<'_>, t1: u32, t2: u32) {
    encoder.begin(option::IA_NA);
    encoder.bytes(&association.id);
    encoder.bytes(&t1.to_be_bytes());
    encoder.bytes(&t2.to_be_bytes());
}

fn grant(subnet: &Served, encoder: &mut Encoder<'_>, association: &Association<'_>, place: u32) {
    let times = &subnet.times;
    open(encoder, association, times.preferred / 2, times.preferred - times.preferred / 5);
    let granted = subnet.address(place);
    encoder.address(granted, times.preferred, times.valid);
    // Others that the client believes to have end now.
    for other in association.addresses().take(MAX_ADDRESSES).filter(|a| *a != granted) {
        encoder.address(other, 0, 0);
    }
    encoder.end();
}

fn give(
    subnet: &mut Served,
    encoder: &mut Encoder<'_>,
    ask: &Ask<'_>,
    association: &Association<'_>,
    key: &[u8],
    reserved: Option<u32>,
    binds: bool,
) -> Option<u32> {
    let place = place_for(subnet, association, key, reserved).or_else(|| subnet.book.choose(key));
    let Some(place) = place else {
        open(encoder, association, 0, 0);
        encoder.status(Status::NoAddresses, "all addresses of this network are taken");
        encoder.end();
        return None;
    };
    if binds {
        subnet
            .book
            .bind(place, key, ask.client.mac, ask.now, ask.now + seconds(subnet.times.valid));
    } else {
        subnet
            .book
            .offer(place, key, ask.client.mac, ask.now, ask.now + seconds(subnet.times.offer));
    }
    let hints_end = ask.message.kind == MessageType::Request;
    if hints_end {
        grant(subnet, encoder, association, place);
        return Some(place);
    }
    let times = &subnet.times;
    open(encoder, association, times.preferred / 2, times.preferred - times.preferred / 5);
    encoder.address(subnet.address(place), times.preferred, times.valid);
    encoder.end();
    Some(place)
}

fn extend(
    subnet: &mut Served,
    encoder: &mut Encoder<'_>,
    ask: &Ask<'_>,
    association: &Association<'_>,
    key: &[u8],
    reserved: Option<u32>,
) -> Option<u32> {
    // One that is not known but free is taken as the client says, so that machines keep theirs when leases were lost (RFC 8415, 18.3.4).
    if let Some(place) = place_for(subnet, association, key, reserved) {
        subnet
            .book
            .bind(place, key, ask.client.mac, ask.now, ask.now + seconds(subnet.times.valid));
        grant(subnet, encoder, association, place);
        return Some(place);
    }
    open(encoder, association, 0, 0);
    if association.addresses().take(MAX_ADDRESSES).any(|address| !subnet.contains(address)) {
        for address in association.addresses().take(MAX_ADDRESSES) {
            encoder.address(address, 0, 0);
        }
    } else {
        encoder.status(Status::NoBinding, "nothing is known here of this lease");
    }
    encoder.end();
    None
}

/// RELEASE and DECLINE.
fn end(subnet: &mut Served, encoder: &mut Encoder<'_>, ask: &Ask<'_>, association: &Association<'_>, key: &[u8]) {
    let mut known = false;
    for place in association
        .addresses()
        .take(MAX_ADDRESSES)
        .filter_map(|address| subnet.place(address))
        .collect::<Vec<_>>()
    {
        if subnet.book.is_clients(place, key) && subnet.book.place(place).state == State::Bound {
            known = true;
            if ask.message.kind == MessageType::Decline {
                subnet.book.quarantine(place, ask.now, ask.now + seconds(subnet.times.quarantine));
            } else {
                subnet.book.release(place, ask.now);
            }
        }
    }
    if !known {
        open(encoder, association, 0, 0);
        encoder.status(Status::NoBinding, "nothing is known here of this lease");
        encoder.end();
    }
}

/// Associations for what is not given away here.
fn refuse_others(encoder: &mut Encoder<'_>, message: &Message<'_>) {
    for value in message.options.all(option::IA_TA).take(MAX_ASSOCIATIONS) {
        if let Some(id) = value.first_chunk::<4>() {
            encoder.begin(option::IA_TA);
            encoder.bytes(id);
            encoder.status(Status::NoAddresses, "temporary addresses are not given away here");
            encoder.end();
        }
    }
    for value in message.options.all(option::IA_PD).take(MAX_ASSOCIATIONS) {
        if let Some(id) = value.first_chunk::<4>() {
            encoder.begin(option::IA_PD);
            encoder.bytes(id);
            encoder.bytes(&[0; 8]);
            encoder.status(Status::NoPrefixes, "prefixes are not delegated here");
            encoder.end();
        }
    }
}
