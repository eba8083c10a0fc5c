#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::targets::continue_tokens(input));
