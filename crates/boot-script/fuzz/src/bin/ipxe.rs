#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| boot_script_fuzz::targets::ipxe(input));
