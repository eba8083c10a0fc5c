//! Makes inputs out of the committed ones and a target's words, from a seed, and watches time and memory.
//!
//! It gets no word of what an input reached; the targets in `fuzz/` do. It is what every test run can afford.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::targets::Target;

/// One input may take this long; beyond it the process is ended, because it may never come back.
const PATIENCE: Duration = Duration::from_secs(20);
/// Memory of the process at any time.
const MEMORY: u64 = 1 << 30;
const LONGEST: usize = 4096;

/// Where a target's inputs are kept.
pub fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name)
}

/// The kept inputs of a target, in the order of their names.
pub fn kept(name: &str) -> Vec<Vec<u8>> {
    let folder = corpus(name);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("an input")).collect()
}

fn memory_peak() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kib: u64 = peak.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    kib * 1024
}

fn mutate(input: &mut Vec<u8>, kept: &[Vec<u8>], words: &[&str], chance: &mut StdRng) {
    let at = |chance: &mut StdRng, length: usize| chance.random_range(0..=length);
    match chance.random_range(0..8) {
        0 if !input.is_empty() => {
            let at = chance.random_range(0..input.len());
            input[at] ^= 1 << chance.random_range(0..8);
        }
        1 if !input.is_empty() => {
            let at = chance.random_range(0..input.len());
            input[at] = chance.random();
        }
        2 => {
            let (from, to) = (at(chance, input.len()), at(chance, input.len()));
            input.drain(from.min(to)..from.max(to));
        }
        3 => {
            // The same again, a few times: depth and repetition are what bounds are for.
            let (from, to) = (at(chance, input.len()), at(chance, input.len()));
            let piece = input[from.min(to)..from.max(to)].to_vec();
            for _ in 0..chance.random_range(1..5) {
                let to = from.max(to).min(input.len());
                input.splice(to..to, piece.iter().copied());
            }
        }
        4 => {
            let other = &kept[chance.random_range(0..kept.len())];
            let (from, to) = (at(chance, other.len()), at(chance, other.len()));
            let place = at(chance, input.len());
            input.splice(place..place, other[from.min(to)..from.max(to)].iter().copied());
        }
        _ => {
            let word = words[chance.random_range(0..words.len())];
            let place = at(chance, input.len());
            let over = chance.random_range(0..3) * word.len() / 2;
            input.splice(place..(place + over).min(input.len()), word.bytes());
        }
    }
    input.truncate(LONGEST);
}

/// Gives a target its kept inputs and then `count` made ones.
pub fn run(target: &Target, count: u64, seed: u64) {
    let name = target.name;
    let kept = kept(name);
    assert!(!kept.is_empty(), "{name} has no inputs");
    let (tell, told) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        // A word before each input; the sender goes when the run is over, or panics.
        let mut begun = 0u64;
        loop {
            match told.recv_timeout(PATIENCE) {
                Ok(()) => begun += 1,
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    eprintln!(
                        "{name}: input {} of seed {seed} takes longer than {PATIENCE:?}",
                        begun.saturating_sub(1)
                    );
                    std::process::abort();
                }
            }
        }
    });
    let mut chance = StdRng::seed_from_u64(seed);
    let mut longest = Duration::ZERO;
    for n in 0..kept.len() as u64 + count {
        let input = match kept.get(usize::try_from(n).unwrap_or(usize::MAX)) {
            Some(input) => input.clone(),
            None => {
                let mut input = kept[chance.random_range(0..kept.len())].clone();
                for _ in 0..chance.random_range(1..6) {
                    mutate(&mut input, &kept, target.words, &mut chance);
                }
                input
            }
        };
        tell.send(()).expect("the watchdog lives");
        let began = Instant::now();
        if std::panic::catch_unwind(|| (target.one)(&input)).is_err() {
            panic!("{name}: broken by input {n} of seed {seed}: {}", input.escape_ascii());
        }
        longest = longest.max(began.elapsed());
        if n % 256 == 0 {
            let memory = memory_peak();
            assert!(memory < MEMORY, "{name}: {memory} bytes of memory after input {n} of seed {seed}");
        }
    }
    drop(tell);
    watchdog.join().expect("the watchdog ended");
    println!("{name}: {count} inputs, the longest took {longest:?}");
}
