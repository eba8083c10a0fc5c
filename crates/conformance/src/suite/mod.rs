//! The behaviours, by theme.

pub mod access;
pub mod apply;
pub mod core;
pub mod crud;
pub mod definitions;
pub mod deletion;
pub mod forms;
pub mod lists;
pub mod patches;
pub mod refusals;
pub mod reviews;
pub mod rules;
pub mod selectors;
pub mod subresources;
pub mod validation;
pub mod watches;

use crate::behaviour::Behaviour;

/// All of them.
pub fn all() -> Vec<Behaviour> {
    [
        crud::all(),
        deletion::all(),
        lists::all(),
        selectors::all(),
        watches::all(),
        patches::all(),
        apply::all(),
        subresources::all(),
        validation::all(),
        rules::all(),
        definitions::all(),
        forms::all(),
        core::all(),
        reviews::all(),
        access::all(),
        refusals::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
