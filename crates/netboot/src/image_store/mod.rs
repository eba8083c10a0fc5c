//! Images over HTTP.
//!
//! * [`Folder`]: files of one folder as they are, at `/images/<name>`; the boot media are served by the same means.
//! * The image store: packed images at `/images/<hex of the manifest's digest>/{manifest.json,chunks}`. [`shelf`] is its disk, [`serve`] its HTTP side, [`keeper`] prepares what the
//!   BareMetalImages name ([`decide`] says what is to be done, [`prepare`] does it, [`oci`] speaks with registries, [`upload`] takes what somebody sends) and says in
//!   their status what became of it.
//!
//! Replicas have a shelf each. One prepares an image, the others copy what it made; whoever fetches, replica or machine, trusts digests alone.

pub(crate) mod answer;
mod decide;
mod folder;
pub(crate) mod keeper;
mod oci;
mod prepare;
mod range;
pub(crate) mod serve;
pub(crate) mod shelf;
pub mod upload;

pub(crate) use folder::{Folder, not_found as no_such_file, serve as serve_folder};
