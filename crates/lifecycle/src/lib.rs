//! Every decision of the system as pure functions: identity, boot, state machines, orders, scheduling, addresses.
//!
//! Nothing here does I/O, reads a clock, or draws a random number: facts come in (objects as they stand, `now`, a salt), a decision goes out. Decisions
//! are level-based and idempotent: with the decision carried out, deciding again on the same facts changes nothing.
//!
//! | who calls | function | facts in | decision out |
//! |---|---|---|---|
//! | netboot, boot script | [`identity::Index::match_boot`] | UUID, MAC | [`identity::Match`]: new, known, unclear |
//! | netboot, boot script | [`boot::decide`] | [`boot::BootFacts`]: match, discovery, hardware | [`boot::BootDecision`]: agent or local disk; `record` = append a `BootRecord` (compare and swap) before answering |
//! | netboot, boot script | [`boot_network::told`] | hardware, the network that firmware booted from | [`boot_network::Told`]: VLAN, MTU and bond for the agent |
//! | netboot, session | [`identity::Index::match_inventory`], [`identity::discovery_name`] | [`identity::Identity::of`] an inventory | known, new (name to create), unclear (409, condition, no object) |
//! | netboot, order poll | [`agent::instruction`] | [`agent::SessionFacts`]: discovery and hardware, freshly read when destructive | [`agent::Instruction`]: order, console note; `accept` = store by compare and swap first |
//! | netboot, guest registration | [`boot_order::came_instead`] | discovery, what the helper says | whether the machine was told to leave for the agent and booted its own system |
//! | netboot, guest poll | [`agent::guest_action`] | hardware, instance uid | wait, reboot to agent, power off |
//! | operator, discoveries | [`policy::evaluate`], [`hardware::accepted`] | policies, inventory | [`policy::Evaluation`]: accept, hold, no match, broken policies; the hardware object to create |
//! | operator, hardware | [`hardware::decide`] | [`hardware::HardwareFacts`] | [`hardware::HardwareDecision`]: seed, status if changed, else spec change, events, requeue |
//! | operator, hardware | [`bmc::decide`] | [`bmc::BmcFacts`] | [`bmc::Step`]: what is done about a user of ours in the machine's BMC |
//! | operator, hardware and power | [`bmc_inventory::wanted`], [`bmc_inventory::kept`], [`bmc_inventory::problem`] | hardware, discovery, the BMC's answer | whether it is asked what the machine is, what is kept of it, whether it is another machine's |
//! | netboot, session and boot script | [`bmc_inventory::expected`] | hardware, discovery | the marks of a machine that its BMC told of |
//! | operator, images and hardware | [`image::way`] | image | [`image::Way`]: from its URL, packed from the store, or why not yet |
//! | operator, fleet | [`idle::plan`] | the free machines of a class | which of them are on, and which off |
//! | operator, fleet | [`pacing::Pace`] | machines that are to start | whose turn it is |
//! | operator, instances | [`instance::decide`] | [`instance::InstanceFacts`] | [`instance::InstanceDecision`]: bind, status if changed, finalizer, events, requeue |
//! | operator, instances | [`scheduler::schedule`] | instance, every hardware | [`scheduler::Placement`]: machine, or why pending |
//! | operator, instances | [`instance::endpoints`] | instance, hardware, discovery | the BareMetalEndpoints to create |
//! | operator, endpoints | [`address::allocate`], [`address::object`] | network, taken names, wishes | the BareMetalAddress objects to create (creating is allocating) |
//! | operator, seeds | [`seed::render`] | [`seed::SeedFacts`] | [`agent_protocol::seed::Seed`], to be sealed |
//!
//! What the caller owes: every write carries the resourceVersion of the object in the facts; a refused write means deciding anew.

pub mod address;
pub mod agent;
pub mod bmc;
pub mod bmc_inventory;
pub mod boot;
pub mod boot_network;
pub mod boot_order;
pub mod config;
pub mod deadlines;
pub mod disks;
pub mod hardware;
pub mod identity;
pub mod idle;
pub mod image;
pub mod instance;
pub mod orders;
pub mod pacing;
pub mod policy;
pub mod power;
pub mod quantity;
pub mod scheduler;
pub mod seed;
pub mod view;
