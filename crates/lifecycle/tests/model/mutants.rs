//! Bugs that are planted around the decisions or in how they are carried out. The model must find each.

/// One bug.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mutant {
    /// The operator binds an instance that is bound already.
    BindsAgain,
    /// The operator claims a machine for an instance that did not name it.
    ClaimsUnnamed,
    /// The operator sets a claim over another's.
    ClaimsTheClaimed,
    /// Writes do not compare the resourceVersion.
    WritesBlindly,
    /// An image order is issued before the instance acknowledged the claim.
    IssuesUnacknowledged,
    /// The finalizer goes whenever the claim is not seen on the machine.
    LetsGoUnseen,
    /// The claim is cleared as soon as the release begins.
    ClearsBeforeEvidence,
    /// The operator forgets that an image order was issued.
    ForgetsTheOrder,
    /// The result of any order passes as erase evidence.
    AcceptsAnyEvidence,
    /// Netboot hands out the order of a cached hardware object.
    HandsOutFromCache,
    /// Netboot hands out orders on machines that are not accepted.
    HandsOutUnaccepted,
    /// Netboot makes an erase order of its own for a machine that has none.
    InventsOrders,
    /// The agent does not look at the disk first.
    AgentDoesNotLook,
    /// An image order names whatever an instance may have left as permitted.
    ExpectsAnything,
    /// An accepted image order counts as an installation.
    TrustsAcceptance,
    /// A claimed machine is told to boot its disk whether it was written or not.
    BootsUnwritten,
    /// Nobody looks at the marker of a finished installation.
    IgnoresTheMarker,
    /// A released claim is taken up again.
    ForgetsReleases,
    /// The boot server does not know of releases.
    BootsTheReleased,
    /// The finalizer never goes.
    NeverLetsGo,
    /// The disk is erased for an instance that nobody deleted.
    ErasesTheLiving,
    /// The operator makes a new order every time it looks.
    NeverRests,
    /// A machine that was to be off is switched off although an instance has it by now.
    SwitchesOffTheClaimed,
    /// The driver that was to bring a machine back is not there when it is needed.
    NeverWakes,
}

/// All of them.
pub const ALL: [Mutant; 24] = [
    Mutant::BindsAgain,
    Mutant::ClaimsUnnamed,
    Mutant::ClaimsTheClaimed,
    Mutant::WritesBlindly,
    Mutant::IssuesUnacknowledged,
    Mutant::LetsGoUnseen,
    Mutant::ClearsBeforeEvidence,
    Mutant::ForgetsTheOrder,
    Mutant::AcceptsAnyEvidence,
    Mutant::HandsOutFromCache,
    Mutant::HandsOutUnaccepted,
    Mutant::InventsOrders,
    Mutant::AgentDoesNotLook,
    Mutant::ExpectsAnything,
    Mutant::TrustsAcceptance,
    Mutant::BootsUnwritten,
    Mutant::IgnoresTheMarker,
    Mutant::ForgetsReleases,
    Mutant::BootsTheReleased,
    Mutant::NeverLetsGo,
    Mutant::ErasesTheLiving,
    Mutant::NeverRests,
    Mutant::SwitchesOffTheClaimed,
    Mutant::NeverWakes,
];
