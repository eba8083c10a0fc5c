#![no_main]
//! Any bytes are refused as a packed image's manifest, or are the one spelling of a manifest whose figures fit together.

use image::pack::Manifest;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Ok(manifest) = Manifest::parse(input) else { return };
    assert_eq!(manifest.to_bytes(), input);
    let mut end = 0;
    for chunk in manifest.chunks() {
        let start = manifest.disk_offset(chunk.index);
        assert!(start >= end && manifest.plain_length(chunk.index) > 0);
        end = start + manifest.plain_length(chunk.index) as u64;
        assert!(end <= manifest.disk_bytes() && chunk.offset + u64::from(chunk.length) <= manifest.stored_bytes());
        assert_eq!(manifest.chunk(chunk.index), Some(chunk));
    }
});
