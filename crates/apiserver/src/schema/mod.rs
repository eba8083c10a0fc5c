//! Schemas: what an object may hold, what it defaults to, how it is shown and described.
//!
//! Pure functions on `serde_json::Value`, behaving as a real kube-apiserver does: structural schemas with pruning,
//! defaulting, validation and CEL rules ([`Structural`]), `metadata` ([`metadata`]), built-in kinds ([`builtin`]),
//! table columns ([`table`]) and OpenAPI documents ([`openapi`]). Nothing here stores or serves anything.

pub mod builtin;
mod cel;
mod defaults;
mod error;
mod formats;
pub(crate) mod gofmt;
mod gotime;
pub mod jsonpath;
pub mod metadata;
pub mod names;
pub mod openapi;
pub mod openapi_binary;
mod prune;
mod regexp;
pub(crate) mod structural;
mod structural_rules;
pub mod table;
mod validate;

pub use error::{CauseReason, FieldError, aggregate};
pub use prune::PruneOptions;
pub use structural::{SchemaError, Structural, prefix_errors};

#[cfg(test)]
mod tests;
