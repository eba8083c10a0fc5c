//! Hostile input for every parser that stored images reach: all kept inputs of the fuzz targets, and mutations of them from a seed.
//!
//! The same functions are fuzzed with coverage by `make fuzz-image`.
#![allow(missing_docs)]

mod targets;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use targets::TARGETS;

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
}

fn kept(name: &str) -> Vec<Vec<u8>> {
    let folder = corpus(name);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Each target gets a second; what it does with one input must take far less.
#[test]
fn no_input_breaks_a_parser() {
    for target in &TARGETS {
        let kept = kept(target.name);
        assert!(!kept.is_empty(), "{} has no kept inputs", target.name);
        let mut state = 88_172_645_463_325_252u64;
        let mut random = |end: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % end.max(1) as u64) as usize
        };
        let began = Instant::now();
        kept.iter().for_each(|input| (target.run)(input));
        while began.elapsed() < Duration::from_secs(1) {
            let mut input = kept[random(kept.len())].clone();
            for _ in 0..1 + random(4) {
                let at = random(input.len());
                match (random(4), input.get_mut(at)) {
                    (0, _) => input.truncate(at),
                    (1, _) => {
                        let other = &kept[random(kept.len())];
                        input.truncate(at);
                        input.extend_from_slice(&other[at.min(other.len())..]);
                    }
                    (_, Some(byte)) => *byte = [0, 1, 0x7f, 0x80, 0xff, *byte ^ 1, byte.wrapping_add(1), *byte ^ 0x40][random(8)],
                    _ => {}
                }
            }
            let one = Instant::now();
            (target.run)(&input);
            assert!(one.elapsed() < Duration::from_secs(10), "{}: {input:?}", target.name);
        }
    }
}

#[test]
fn the_kept_inputs_are_small_and_all_belong_to_a_target() {
    let mut bytes = 0;
    for entry in std::fs::read_dir(corpus("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(TARGETS.iter().any(|target| target.name == name), "{name} is no target");
        bytes += kept(&name).iter().map(Vec::len).sum::<usize>();
    }
    assert!(bytes < 2 << 20, "{bytes} bytes of inputs are too many");
}
