//! The objects this replica sees, and the only way it writes them.
//!
//! * [`addresses`]: addresses that are somebody's.
//! * [`cache`]: what the watches brought, indexed; never the basis of something destructive.
//! * [`networks`]: who is whose neighbour.
//! * [`seeds`]: sealed seeds, by a watch of their own.
//! * [`store`]: reads past the cache and writes by compare and swap, each with a time limit.
//! * [`watch`]: keeps the cache.

pub(crate) mod addresses;
pub(crate) mod cache;
pub(crate) mod images;
pub(crate) mod networks;
pub(crate) mod seeds;
pub(crate) mod store;
pub(crate) mod watch;
