//! Time in the model: all that the decisions ask is whether something came before or after a machine's session was opened, so a moment is the number of the
//! machine's latest session and the order of events within it. Waits last no time or for ever (`objects::config`), which loses no order of events.
//!
//! Sessions are counted per machine. Only those that some object still speaks of matter, so the numbers are squeezed together ([`retimed`]): that closes the loops of
//! machines that restart again and again, and the model needs no bound on restarts.

use std::cell::RefCell;

use api::{BareMetalDiscovery, BareMetalHardware, BareMetalInstance};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;

use crate::{
    objects,
    table::{Id, Memo, number, object, remembered},
};

const START: i64 = 1000;
/// All of a world's time is less than the interval within which a boot server does not record a second boot: its stale answers without a write count too.
const SESSION: i64 = 8;

fn at(session: u8, offset: i64) -> Timestamp {
    Timestamp::from_second(START + SESSION * i64::from(session) + offset).expect("in range")
}

/// When the machine's session number `n` was opened.
pub fn session_time(n: u8) -> Timestamp {
    at(n, 0)
}

/// When a result was stored that came in session `n`.
pub fn result_time(n: u8) -> Timestamp {
    at(n, 2)
}

/// When the machine was told to boot its disk after session `n`.
pub fn boot_time(n: u8) -> Timestamp {
    at(n, 4)
}

/// When somebody asked for a deletion after session `n`.
pub fn deletion_time(n: u8) -> Timestamp {
    at(n, 5)
}

/// Somebody's clock after session `n`.
pub fn now(n: u8) -> Timestamp {
    at(n, 6)
}

/// The sessions in use, bit by bit; bit 0 is never set.
pub type Sessions = u16;

/// What becomes of the number of a session.
pub fn squeezed(session: u8, used: Sessions) -> u8 {
    let until = (2u32 << session) - 1;
    u8::try_from((u32::from(used) & until).count_ones()).expect("sixteen bits at most")
}

/// Whether squeezing changes nothing.
pub fn is_squeezed(used: Sessions) -> bool {
    let bits = used | 1;
    bits & bits.wrapping_add(1) == 0
}

fn shift(time: &mut Time, used: Sessions) {
    let seconds = time.0.as_second() - START;
    let session = u8::try_from(seconds.div_euclid(SESSION)).expect("few sessions");
    time.0 = at(squeezed(session, used), seconds.rem_euclid(SESSION));
}

/// An object with moments of one machine in it.
pub trait Timed: Clone + Serialize + Send + Sync + 'static {
    /// Counts its sessions anew.
    fn retime(&mut self, m: usize, used: Sessions);
}

impl Timed for BareMetalHardware {
    fn retime(&mut self, _: usize, used: Sessions) {
        let Some(status) = &mut self.status else { return };
        let installed = status.installed.as_mut().map(|i| &mut i.since);
        let replacing = status.replacing.as_mut().map(|i| &mut i.since);
        let idle = status.idle.as_mut().map(|i| &mut i.since);
        for time in [status.phase_since.as_mut(), installed, replacing, idle].into_iter().flatten() {
            shift(time, used);
        }
    }
}

impl Timed for BareMetalInstance {
    fn retime(&mut self, _: usize, used: Sessions) {
        if let Some(time) = &mut self.metadata.deletion_timestamp {
            shift(time, used);
        }
    }
}

impl Timed for BareMetalDiscovery {
    fn retime(&mut self, m: usize, used: Sessions) {
        let Some(status) = &mut self.status else { return };
        let before = status.session.as_ref().map(|s| s.id.clone());
        if let Some(session) = &mut status.session {
            let n = u8::try_from(session.token_issued_at).expect("few sessions");
            *session = objects::session(m, squeezed(n, used));
        }
        let after = status.session.as_ref().map(|s| s.id.clone());
        if let Some(accepted) = &mut status.accepted_order {
            // All that anybody asks is whether it was accepted in the present session.
            accepted.session = after
                .filter(|_| before.as_ref() == Some(&accepted.session))
                .unwrap_or_else(|| objects::session_id(m, 0));
        }
        let boots = status.boots.iter_mut().map(|b| &mut b.time);
        for time in boots.chain(status.result_time.as_mut()) {
            shift(time, used);
        }
    }
}

thread_local! {
    static RETIMED: Memo<(Id, usize, Sessions), Id> = RefCell::default();
}

/// The same object with the sessions of machine `m` counted anew.
pub fn retimed<T: Timed>(id: Id, m: usize, used: Sessions) -> Id {
    remembered(&RETIMED, (id, m, used), || {
        let mut made = (*object::<T>(id)).clone();
        made.retime(m, used);
        number(made)
    })
}
