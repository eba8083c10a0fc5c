//! What boot loaders are told: iPXE scripts ([`ipxe`]), GRUB configurations ([`grub`]), also on media ([`medium`]), and in all the agent's kernel command line ([`command_line`]).
//!
//! What a machine or a person wrote is parsed into types first ([`query`], [`host`]), and reaches a script only as such a type prints it: of letters, digits and a few signs that mean
//! nothing to either loader. So no packet and no object can add a line or a command.
//!
//! Text in, text out. What a machine is to boot is decided elsewhere.

pub mod command_line;
pub mod grub;
pub mod host;
pub mod ipxe;
pub mod medium;
pub mod query;

use self::{command_line::AgentBoot, query::BootRequest};

/// Seconds until a machine that found nothing to boot asks again.
const RETRY_SECONDS: u32 = 60;

/// Whose language an answer is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loader {
    /// iPXE.
    Ipxe,
    /// GRUB.
    Grub,
}

impl Loader {
    /// Asks again with what only the machine knows.
    pub fn ask(self) -> String {
        match self {
            Self::Ipxe => ipxe::ask(),
            Self::Grub => grub::ask(),
        }
    }

    /// Loads the agent.
    pub fn agent(self, boot: &AgentBoot<'_>) -> String {
        match self {
            Self::Ipxe => ipxe::agent(boot),
            Self::Grub => grub::agent(boot),
        }
    }

    /// Boots the machine's own disk. A machine that asked properly and has nothing to boot asks again later.
    pub fn local_disk(self, request: Option<&BootRequest>) -> String {
        match self {
            Self::Ipxe => ipxe::local_disk(request),
            Self::Grub => grub::local_disk(request),
        }
    }
}
