//! What goes into a simulated machine and comes out of it. Nothing here decides anything.

use std::time::Duration;

use agent_protocol::{
    disk::ContentsState,
    order::{FaultReason, OrderKind, PackedSource},
};

use super::super::faults::{Mishap, Point};

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From power-on to the boot request.
    pub firmware: Duration,
    /// From the boot script to the agent.
    pub kernel: Duration,
    /// Writing or erasing a disk.
    pub disk: Duration,
    /// From the boot script to the installed system's helper.
    pub system: Duration,
    /// Until firmware that found nothing to boot asks again.
    pub again: Duration,
    /// Until a person power-cycles a machine that stands in a system which nothing can bring back.
    pub person: Duration,
    /// First wait after a failed request; doubles up to thirty-two times that.
    pub backoff: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            firmware: Duration::from_millis(500),
            kernel: Duration::from_millis(1_000),
            disk: Duration::from_millis(2_000),
            system: Duration::from_millis(1_000),
            again: Duration::from_millis(2_000),
            person: Duration::from_secs(5),
            backoff: Duration::from_millis(250),
        }
    }
}

impl Timing {
    /// For tests that go through very many lives.
    pub fn short() -> Self {
        Self {
            firmware: Duration::from_millis(100),
            kernel: Duration::from_millis(100),
            disk: Duration::from_millis(400),
            system: Duration::from_millis(200),
            again: Duration::from_millis(500),
            person: Duration::from_secs(2),
            backoff: Duration::from_millis(100),
        }
    }
}

/// What firmware tries first at the next boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum First {
    /// As it is set up.
    #[default]
    Usual,
    /// The network.
    Network,
    /// The disk.
    Disk,
    /// Its own settings: there it stands until somebody switches it.
    Setup,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The wait is over; also the first input.
    Go,
    /// An answer to what was asked.
    Answer(Answer),
}

/// An answer.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Status and body.
    Reply(u16, Vec<u8>),
    /// No connection, or no answer.
    Lost,
}

/// A request over TLS.
#[derive(Debug, Clone)]
pub struct Call {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// Path with query.
    pub path: String,
    /// Headers.
    pub headers: Vec<(&'static str, String)>,
    /// Body.
    pub body: Vec<u8>,
}

/// What the machine does next.
#[derive(Debug)]
pub enum Action {
    /// Nothing for a while.
    Wait(Duration),
    /// Firmware asks over plain HTTP what to boot.
    Boot {
        /// Path with query.
        path: String,
    },
    /// Agent or helper asks the server that the machine was told of.
    Call {
        /// `host:port`.
        server: String,
        /// The CA's pin.
        pin: String,
        /// Whether a new connection has to be made.
        fresh: bool,
        /// What.
        call: Call,
        /// Which moment of the life this is.
        point: Point,
    },
    /// Switched off: nothing until somebody switches it on.
    Off,
}

/// What really happened on the machine. The judge compares it with what the API says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// Firmware starts.
    PowerOn,
    /// A session was opened, as this Discovery.
    Session {
        /// Name of the Discovery.
        discovery: String,
    },
    /// A destructive order begins to change the disk.
    Begun {
        /// Its id.
        order: String,
        /// Its kind.
        kind: OrderKind,
        /// Its claim; empty without one.
        claim: String,
        /// What the disk held.
        state: ContentsState,
        /// Whose installation the disk held; empty for none.
        held: String,
        /// The packed image that it names, for an agent that knows such.
        packed: Option<PackedSource>,
    },
    /// An order was refused, because something is not as it says.
    Refused {
        /// Its id.
        order: String,
        /// Why.
        reason: FaultReason,
    },
    /// The result of an order is stored.
    Reported {
        /// Its id.
        order: String,
    },
    /// The installed system of this instance runs.
    Runs {
        /// Its uid.
        instance: String,
    },
    /// Its helper is registered.
    Registered {
        /// The instance's uid.
        instance: String,
    },
    /// The installed system ends: order, power cut.
    Ends {
        /// The instance's uid.
        instance: String,
    },
    /// Its BMC switched it, or had its system shut down.
    Switched {
        /// Whose system ran; empty for none.
        instance: String,
    },
    /// A fault of the plan strikes.
    Struck {
        /// Where.
        at: Point,
        /// What.
        what: Mishap,
    },
    /// The server did what it must never do.
    Wrong {
        /// What.
        what: String,
    },
}
