//! IPMI 2.0 over RMCP+ (cipher suites 3 and 17), the controller's side: sessions, chassis control, boot device. IPMI v2.0 revision 1.1.
//!
//! | room | what |
//! |---|---|
//! | [`crypto`] | codes, keys, sealed datagrams |
//! | [`session`] | RAKP, and what comes through a session |
//! | [`commands`] | what is carried out |
//!
//! It is its own reading of the specification, apart from the driver's. With several machines behind a controller, the first is meant.

mod commands;
mod crypto;
mod session;

use std::{net::Ipv4Addr, sync::Arc};

use tokio::{net::UdpSocket, time::sleep};

pub(crate) use self::session::Sessions;
use crate::{
    datagram,
    faults::{Operation, Protocol, What},
    fleet::Fleet,
};

/// The largest datagram that is read, in bytes.
const LARGEST: usize = 1024;

/// Answers datagrams until it is dropped.
pub(crate) async fn serve(socket: UdpSocket, fleet: Arc<Fleet>) {
    let socket = Arc::new(socket);
    let mut buffer = [0; LARGEST];
    loop {
        let Ok(arrival) = datagram::receive(&socket, &mut buffer).await else {
            continue;
        };
        let datagram = buffer[..arrival.length].to_vec();
        let (socket, fleet) = (Arc::clone(&socket), Arc::clone(&fleet));
        tokio::spawn(async move {
            if let Some(answer) = answer(&fleet, arrival.local, &datagram).await
                && let Err(error) = datagram::send(&socket, arrival.local, arrival.peer, &answer).await
            {
                tracing::debug!(%error, "an IPMI answer could not be sent");
            }
        });
    }
}

async fn answer(fleet: &Fleet, address: Ipv4Addr, datagram: &[u8]) -> Option<Vec<u8>> {
    let bmc = fleet.at(address)?;
    let taken = session::take(&bmc, datagram)?;
    let mishap = bmc.asked(Protocol::Ipmi, taken.operation(), taken.operation() == Operation::State);
    if !mishap.delay.is_zero() {
        sleep(mishap.delay).await;
    }
    let mut answer = match mishap.what {
        Some(What::Silent | What::Closed | What::Hidden) => return None,
        _ => session::carry_out(&bmc, taken, mishap)?,
    };
    match mishap.what {
        Some(What::LostAnswer) => return None,
        Some(What::Truncated | What::NotJson | What::WrongKinds) => answer.truncate(answer.len() / 2),
        _ => {}
    }
    Some(answer)
}
