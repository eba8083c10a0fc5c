//! Hostile input for all that a controller's answers reach: kept inputs of the fuzz targets, and mutations of them from a seed.
//!
//! The same functions are fuzzed with coverage by `make fuzz-power`.

#[path = "../ipmi/bmc.rs"]
mod bmc;
mod targets;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use targets::TARGETS;

fn kept(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("readable")).collect()
}

/// Each target gets a second.
#[test]
fn no_input_breaks_anything() {
    for target in &TARGETS {
        let kept = kept(target.name);
        assert!(!kept.is_empty(), "{} has no kept inputs", target.name);
        kept.iter().for_each(|input| (target.run)(input));
        let mut rng = StdRng::seed_from_u64(7);
        let began = Instant::now();
        let mut runs = 0_u64;
        while began.elapsed() < Duration::from_secs(1) {
            let mut input = kept[rng.random_range(0..kept.len())].clone();
            for _ in 0..rng.random_range(1..6) {
                let at = rng.random_range(0..=input.len());
                match rng.random_range(0..5) {
                    0 => input.truncate(at),
                    1 => input.insert(at, rng.random()),
                    _ => {
                        if let Some(byte) = input.get_mut(at) {
                            *byte = [0, 1, 0x7f, 0xff, byte.wrapping_add(1), rng.random()][rng.random_range(0..6)];
                        }
                    }
                }
            }
            (target.run)(&input);
            runs += 1;
        }
        println!("{}: {runs} inputs", target.name);
    }
}
