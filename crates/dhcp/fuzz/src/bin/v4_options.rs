#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dhcp_fuzz::targets::v4_options(input));
