//! Smart plugs: the mains of a machine is switched.
//!
//! | room | what |
//! |---|---|
//! | [`shelly`] | Shelly of the second generation and later, by its own RPC |
//! | [`tasmota`] | whatever runs Tasmota, by its HTTP commands |
//! | [`home_assistant`] | whatever Home Assistant switches |
//!
//! Outlets of rack PDUs are plugs, too: [`crate::pdu`] says how they are reached.
//!
//! A plug knows its own state, not the machine's: one that shut itself down draws no less mains. So a plug that is on says [`PowerState::Unknown`], unless it measures
//! and the settings say from how many watts on the machine runs. The firmware must be set to start when the mains comes back, or nothing here starts anything.

pub mod home_assistant;
pub mod shelly;
pub mod tasmota;

use std::time::Duration;

use tokio::time::sleep;

use self::{home_assistant::HomeAssistant, shelly::Shelly, tasmota::Tasmota};
use crate::{
    driver::{Act, BootDevices, Capabilities, Driver, Kind, Off, PowerState},
    fault::Fault,
    pdu::Outlet,
};

/// What is the same for all machines behind a Shelly.
pub static SHELLY: Kind = Kind {
    name: "shelly",
    title: "Shelly plug or relay, second generation and later",
    capabilities: CAPABILITIES,
    evidence: "built from the published documents, not yet seen on real equipment; the digest against the example of RFC 7616",
};

/// What is the same for all machines behind something that runs Tasmota.
pub static TASMOTA: Kind = Kind {
    name: "tasmota",
    title: "Plug or relay that runs Tasmota",
    capabilities: CAPABILITIES,
    evidence: "built from the published documents, not yet seen on real equipment",
};

/// What is the same for all machines at outlets of a rack PDU.
pub static PDU: Kind = Kind {
    name: "pdu",
    title: "Outlet of a rack PDU, by SNMP 2c or 3 (APC, Raritan, others by OID)",
    capabilities: CAPABILITIES,
    evidence: "snmpsim 1.2 with cells written from PowerNet-MIB and PDU2-MIB; not yet seen on real equipment",
};

/// What is the same for all machines behind Home Assistant.
pub static HOME_ASSISTANT: Kind = Kind {
    name: "homeAssistant",
    title: "A switch of Home Assistant",
    capabilities: CAPABILITIES,
    evidence: "built from the published documents, not yet seen on a real installation",
};

const CAPABILITIES: Capabilities = Capabilities {
    events: false,
    on: true,
    off_soft: false,
    off_hard: true,
    cycle: true,
    state: true,
    boot_once: BootDevices::of(&[]),
    media: false,
    inventory: false,
};

/// Tries of switching on again what was switched off for a moment.
const ON_AGAIN: usize = 3;
/// The longest time without mains in a cycle: a try of a call must have an end.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// What a plug says of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shown {
    /// Whether it lets current through.
    pub on: bool,
    /// What is drawn, in watts, if it measures.
    pub watts: Option<f64>,
}

/// What is behind a plug.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// How long a cycle leaves it without mains: long enough for its capacitors, up to 10 s. A PDU with a command for it knows a time of its own.
    pub rest: Duration,
    /// From how many watts on the machine runs; below it is off, or as good as. None: the plug does not measure, or nobody knows.
    pub running_watts: Option<f64>,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            rest: Duration::from_secs(5),
            running_watts: None,
        }
    }
}

impl Load {
    /// What a plug's own state says about the machine.
    #[must_use]
    pub fn state(&self, shown: Shown) -> PowerState {
        match (shown.on, shown.watts, self.running_watts) {
            (false, ..) => PowerState::Off,
            (true, Some(watts), Some(runs)) if watts >= runs => PowerState::On,
            (true, Some(_), Some(_)) => PowerState::Off,
            (true, ..) => PowerState::Unknown,
        }
    }
}

/// How a plug is reached.
#[derive(Debug)]
pub enum Make {
    /// By Shelly's RPC.
    Shelly(Shelly),
    /// By Tasmota's HTTP commands.
    Tasmota(Tasmota),
    /// By SNMP.
    Outlet(Outlet),
    /// Through Home Assistant.
    HomeAssistant(HomeAssistant),
}

/// A machine behind a plug.
#[derive(Debug)]
pub struct Plug {
    make: Make,
    load: Load,
    controller: String,
}

impl Plug {
    /// A driver for what is behind this plug. Nothing is sent.
    ///
    /// # Errors
    /// [`Fault::Settings`] with the field that is wrong.
    pub fn new(make: Make, load: Load) -> Result<Self, Fault> {
        if load.rest.is_zero() || load.rest > LONGEST_REST {
            return Err(Fault::Settings {
                field: "rest",
                problem: format!("it must be more than nothing and at most {} s", LONGEST_REST.as_secs()),
            });
        }
        if let (Make::Outlet(outlet), Some(_)) = (&make, load.running_watts)
            && !outlet.is_measured()
        {
            return Err(Fault::Settings {
                field: "runningWatts",
                problem: "this make of PDUs does not measure its outlets".to_owned(),
            });
        }
        if load.running_watts.is_some_and(|watts| !watts.is_finite() || watts <= 0.0) {
            return Err(Fault::Settings {
                field: "runningWatts",
                problem: "it must be a number greater than zero".to_owned(),
            });
        }
        let controller = match &make {
            Make::Shelly(shelly) => shelly.controller(),
            Make::Tasmota(tasmota) => tasmota.controller(),
            Make::Outlet(outlet) => outlet.controller(),
            Make::HomeAssistant(home) => home.controller(),
        };
        Ok(Self { make, load, controller })
    }

    async fn set(&self, on: bool) -> Result<(), Fault> {
        match &self.make {
            Make::Shelly(shelly) => shelly.set(on).await,
            Make::Tasmota(tasmota) => tasmota.set(on).await,
            Make::Outlet(outlet) => outlet.set(on).await,
            Make::HomeAssistant(home) => home.set(on).await,
        }
    }

    async fn look(&self) -> Result<Shown, Fault> {
        match &self.make {
            Make::Shelly(shelly) => shelly.look().await,
            Make::Tasmota(tasmota) => tasmota.look().await,
            Make::Outlet(outlet) => outlet.look().await,
            Make::HomeAssistant(home) => home.look().await,
        }
    }

    async fn switch_on(&self) -> Result<(), Fault> {
        let shown = self.look().await?;
        match (shown.on, self.load.state(shown)) {
            (false, _) => self.set(true).await,
            (true, PowerState::On) => Ok(()),
            // It shut itself down: only mains that goes and comes starts it.
            // A call to switch on may be repeated, but not what is done here: it would take the power away from a machine that begins to boot.
            (true, PowerState::Off) => self.off_and_on().await.map_err(|fault| match fault {
                Fault::Unanswered(detail) | Fault::NotTaken(detail) => Fault::Refused(format!("nobody knows whether its mains went and came: {detail}")),
                other => other,
            }),
            (true, PowerState::Unknown) => Err(Fault::Refused(
                "the plug is on already and does not tell whether the machine runs: cycle it, or say from how many watts on it does (runningWatts)".to_owned(),
            )),
        }
    }

    async fn off_and_on(&self) -> Result<(), Fault> {
        if let Make::Outlet(outlet) = &self.make
            && outlet.cycles()
        {
            return outlet.cycle().await;
        }
        self.set(false).await?;
        sleep(self.load.rest).await;
        let mut last = Ok(());
        for _ in 0..ON_AGAIN {
            last = self.set(true).await;
            if last.is_ok() {
                return last;
            }
        }
        last.map_err(|fault| Fault::Unanswered(format!("it was switched off and not on again: {fault}")))
    }

    async fn tell(&self) -> Result<PowerState, Fault> {
        Ok(self.load.state(self.look().await?))
    }
}

impl Driver for Plug {
    fn kind(&self) -> &'static Kind {
        match self.make {
            Make::Shelly(_) => &SHELLY,
            Make::Tasmota(_) => &TASMOTA,
            Make::Outlet(_) => &PDU,
            Make::HomeAssistant(_) => &HOME_ASSISTANT,
        }
    }

    fn controller(&self) -> &str {
        &self.controller
    }

    fn on(&self) -> Act<'_, ()> {
        Box::pin(self.switch_on())
    }

    fn off(&self, how: Off) -> Act<'_, ()> {
        match how {
            Off::Hard => Box::pin(self.set(false)),
            Off::Soft => Box::pin(std::future::ready(Err(Fault::Incapable(crate::driver::Operation::OffSoft)))),
        }
    }

    fn cycle(&self) -> Act<'_, ()> {
        Box::pin(self.off_and_on())
    }

    fn state(&self) -> Act<'_, PowerState> {
        Box::pin(self.tell())
    }
}
