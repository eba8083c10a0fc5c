//! Hostile input for all that a frame or a datagram reaches: kept inputs of the fuzz targets, and mutations of them from a seed.
//!
//! The same functions are fuzzed with coverage by `make fuzz-dhcp`.

mod targets;

use std::path::Path;

#[test]
fn no_input_breaks_anything() {
    hostile::give(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz"),
        &[
            ("v4_wire", targets::v4_wire),
            ("v4_options", targets::v4_options),
            ("v4_proxy", targets::v4_proxy),
            ("v4_server", targets::v4_server),
            ("v6_wire", targets::v6_wire),
            ("v6_server", targets::v6_server),
            ("frame", targets::frame),
        ],
    );
}
