//! Hostile input for every parser that stored images reach: all kept inputs of the fuzz targets, and mutations of them from a seed.
//!
//! The same functions are fuzzed with coverage by `make fuzz-image`.
#![allow(missing_docs)]

mod targets;

use std::path::Path;

#[test]
fn no_input_breaks_a_parser() {
    hostile::give(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz"),
        &[
            ("format", targets::format),
            ("qcow2", targets::qcow2),
            ("qcow2_map", targets::qcow2_map),
            ("gz", targets::gz),
            ("xz", targets::xz),
            ("zst", targets::zst),
            ("tables", targets::tables),
            ("marker", targets::marker),
            ("manifest", targets::manifest),
        ],
    );
}
