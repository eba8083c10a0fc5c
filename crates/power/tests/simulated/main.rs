//! Drivers against the simulator of BMCs: a machine's life with each vendor's manners, each fault with its error and its bound, events, thousands of controllers of which some
//! are dead, the protocols beside Redfish, and discovery.

mod amt;
mod discovery;
mod eventing;
mod inventory;
mod life;
mod many;
mod others;
mod plugs;
mod struck;
mod world;
