#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| image_fuzz::targets::manifest(input));
