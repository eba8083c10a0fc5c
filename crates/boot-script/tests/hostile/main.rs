//! Hostile input for boot scripts: kept inputs of the fuzz targets, and mutations of them from a seed.
//!
//! The same functions are fuzzed with coverage by `make fuzz-boot-script`.

mod targets;

use std::path::Path;

#[test]
fn no_input_changes_the_shape_of_a_script() {
    hostile::give(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz"),
        &[("ipxe", targets::ipxe), ("grub", targets::grub), ("host", targets::host)],
    );
}
