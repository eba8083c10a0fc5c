#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| power_fuzz::targets::libvirt(input));
