//! Hostile input for all that a controller's answers reach: kept inputs of the fuzz targets, and mutations of them from a seed.
//!
//! The same functions are fuzzed with coverage by `make fuzz-power`.

#[path = "../ipmi/bmc.rs"]
mod bmc;
mod targets;

use std::path::Path;

#[test]
fn no_input_breaks_anything() {
    hostile::give(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz"),
        &[
            ("wire", targets::wire),
            ("session", targets::session),
            ("document", targets::document),
            ("link", targets::link),
            ("libvirt", targets::libvirt),
            ("wsman", targets::wsman),
        ],
    );
}
