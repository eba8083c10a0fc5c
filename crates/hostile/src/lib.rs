//! Hostile input for tests: the kept inputs of fuzz targets, and mutations of them from a seed, so that `cargo test` gives each target a second of what `scripts/fuzz` gives it
//! for hours, guided by coverage. Nothing here measures coverage or keeps what it finds.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// For which each target is given mutations.
const TIME: Duration = Duration::from_secs(1);
/// Longest time that one input may take.
const LONGEST: Duration = Duration::from_secs(10);
/// Most that all kept inputs of a folder may have, in bytes: they are part of the repository.
const KEPT: usize = 2 << 20;
/// Bytes at which parsers turn.
const EDGES: [u8; 7] = [0, 1, 0x7f, 0x80, 0xff, b'.', b'/'];

/// What an input is given to, and the name of its folder of kept inputs. It panics where something is wrong.
pub type Target = (&'static str, fn(&[u8]));

/// Gives each target its kept inputs, from the folder `corpus` of `fuzz`, and then mutations of them for a second.
///
/// # Panics
///
/// Where a target does; where an input takes longer than ten seconds; where a target has no kept input, a folder belongs to no target, or the kept inputs are too many.
pub fn give(fuzz: &Path, targets: &[Target]) {
    let corpus = fuzz.join("corpus");
    let mut bytes = 0;
    for folder in entries(&corpus) {
        let name = folder.file_name().unwrap_or_default();
        assert!(
            targets.iter().any(|(target, _)| name == *target),
            "{} is no target's",
            folder.display()
        );
    }
    for (name, run) in targets {
        let paths = entries(&corpus.join(name));
        let kept: Vec<Vec<u8>> = paths
            .iter()
            .map(|path| std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
            .collect();
        assert!(!kept.is_empty(), "{name} has no kept inputs");
        bytes += kept.iter().map(Vec::len).sum::<usize>();
        kept.iter().for_each(|input| run(input));
        let mut rng = StdRng::seed_from_u64(6);
        let (began, mut runs) = (Instant::now(), 0_u64);
        while began.elapsed() < TIME {
            let input = mutated(&kept, &mut rng);
            let one = Instant::now();
            run(&input);
            assert!(one.elapsed() < LONGEST, "{name} takes too long for {input:?}");
            runs += 1;
        }
        println!("{name}: {runs} inputs");
    }
    assert!(bytes < KEPT, "{bytes} bytes of kept inputs are too many");
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// One of them, changed at one to four places.
fn mutated(kept: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut input = kept[rng.random_range(0..kept.len())].clone();
    for _ in 0..rng.random_range(1..5) {
        let at = rng.random_range(0..=input.len());
        match rng.random_range(0..6) {
            0 => input.truncate(at),
            1 => {
                let other = &kept[rng.random_range(0..kept.len())];
                input.truncate(at);
                input.extend_from_slice(&other[at.min(other.len())..]);
            }
            2 => input.insert(at, rng.random()),
            kind => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = match kind {
                        3 => EDGES[rng.random_range(0..EDGES.len())],
                        4 => *byte ^ 1 << rng.random_range(0..8),
                        _ => byte.wrapping_add(1),
                    };
                }
            }
        }
    }
    input
}
