//! Hostile input for all that a datagram reaches: kept inputs of the fuzz targets, and mutations of them from a seed.
//!
//! The same functions are fuzzed with coverage by `make fuzz-tftp`.

mod targets;

use std::path::Path;

#[test]
fn no_input_breaks_anything() {
    hostile::give(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz"),
        &[
            ("wire", targets::wire),
            ("name", targets::name),
            ("transfer", targets::transfer),
            ("download", targets::download),
        ],
    );
}
