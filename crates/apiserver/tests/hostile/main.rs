//! Hostile input: patches, apply, selectors, CEL rules, continue tokens and watch parameters made from a seed. No panic, no hang, no memory above 1 GiB.
//!
//! The same functions are fuzzed with coverage by `make fuzz`; the inputs it found worth keeping are in `fuzz/corpus` and are all tried here.

#![recursion_limit = "256"]

mod driver;
mod targets;

use targets::TARGETS;

/// Inputs for each target in a test run; `KBM_HOSTILE` is another number.
fn how_many() -> u64 {
    match std::env::var("KBM_HOSTILE") {
        Ok(text) => text.parse().expect("KBM_HOSTILE is a number"),
        Err(_) => 20_000,
    }
}

#[test]
fn no_input_breaks_the_server() {
    for target in &TARGETS {
        driver::run(target, how_many(), 1);
    }
}

#[test]
fn the_kept_inputs_are_small_and_all_belong_to_a_target() {
    let mut bytes = 0;
    for entry in std::fs::read_dir(driver::corpus("")).expect("the folder of inputs") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        assert!(TARGETS.iter().any(|target| target.name == name), "{name} is no target");
        bytes += driver::kept(&name).iter().map(Vec::len).sum::<usize>();
    }
    assert!(bytes < 2 << 20, "{bytes} bytes of inputs are too many");
}
