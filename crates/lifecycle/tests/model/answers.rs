//! What the decisions are asked and what they answer, as the model keeps it: numbers of remembered objects, and what the invariants need to know of them.

use agent_protocol::disk::ContentsState;
use api::HardwarePhase;

use crate::table::Id;

/// One machine's objects, and the instances, as somebody sees them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct View {
    pub hw: Option<Id>,
    pub disc: Option<Id>,
    pub inst: [Option<Id>; 2],
}

/// What the operator writes for a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HardwareWrite {
    pub hw: Id,
    /// The order whose evidence of an erase is newly stored with it, and for which instance.
    pub evidence: Option<(u8, Option<u8>)>,
}

/// What the operator writes for an instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InstanceWrite {
    New(Id),
    Gone,
}

/// What an agent is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    Wait,
    /// Its own disk, or the agent again.
    Reboot,
    /// Off, because nobody needs it.
    PowerOff,
    /// The order, and the discovery with its acceptance.
    Destructive(Id, Id),
}

/// What a machine is told to boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootTold {
    Agent,
    /// For which instance, and the discovery with the record where one must be stored before.
    Disk(Option<usize>, Option<Id>),
}

/// What the invariants need to know of a hardware object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HardwareSays {
    pub claim: Option<usize>,
    pub phase: HardwarePhase,
    pub free: bool,
    /// Instances whose release is on record, as bits.
    pub released: u8,
    /// Whether it is to be off, where it was switched off because nobody needed it.
    pub idle: Option<bool>,
    /// Whether its driver is told to boot it into the agent.
    pub started: bool,
}

/// What the invariants need to know of an instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InstanceSays {
    pub machine: Option<usize>,
    pub deleting: bool,
    pub held: bool,
    pub claimed: bool,
    pub running: bool,
}

/// What an agent finds when it begins an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beginning {
    pub permitted: bool,
    pub image: bool,
    pub claim: Option<u8>,
    pub salt: u8,
    pub found: ContentsState,
    /// What the disk holds from then on.
    pub disk: Id,
    /// The result when it does not begin.
    pub refused: Id,
}

/// How an order ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Ending {
    Succeeds,
    /// Half way, and the agent can say so.
    Fails,
    /// And the agent cannot say what it left.
    FailsBlindly,
    /// An erase that the disk did not keep.
    NotProven,
}

/// What becomes of machines that nobody needs.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Rest {
    /// They stay, and have no driver.
    #[default]
    Stay,
    /// They have a driver, and may be switched off; the plan of this one is not known.
    AsItIs,
    /// It is to be off.
    Off,
    /// It is to be on.
    On,
}
