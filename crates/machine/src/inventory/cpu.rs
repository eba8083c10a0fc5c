//! Processors: counts from sysfs' topology, words from `/proc/cpuinfo` and SMBIOS.

use std::collections::BTreeSet;

use agent_protocol::inventory::Cpu;

use super::{smbios::Tables, tree::Tree};
use crate::text::clean;

/// Flags that somebody chooses a machine by.
const FLAGS: &[&str] = &[
    "aes",
    "amx_bf16",
    "amx_int8",
    "amx_tile",
    "asimd",
    "avx",
    "avx2",
    "avx512_bf16",
    "avx512_vnni",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512f",
    "avx512vl",
    "bmi1",
    "bmi2",
    "crc32",
    "ept",
    "fma",
    "lm",
    "npt",
    "pclmulqdq",
    "pmull",
    "rdrand",
    "sev",
    "sev_es",
    "sev_snp",
    "sgx",
    "sha1",
    "sha2",
    "sha_ni",
    "sse4_1",
    "sse4_2",
    "ssse3",
    "sve",
    "sve2",
    "svm",
    "tdx_host_platform",
    "vaes",
    "vmx",
];

pub(super) fn read(tree: &Tree, tables: &Tables) -> Cpu {
    let folder = "sys/devices/system/cpu";
    let threads: Vec<String> = tree
        .list(folder)
        .into_iter()
        .filter(|name| {
            name.strip_prefix("cpu")
                .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        })
        .collect();
    let mut sockets = BTreeSet::new();
    let mut cores = BTreeSet::new();
    for thread in &threads {
        let topology = |what: &str| tree.text(format!("{folder}/{thread}/topology/{what}"));
        let (Some(package), Some(core)) = (topology("physical_package_id"), topology("core_id")) else {
            continue;
        };
        cores.insert((package.clone(), topology("die_id"), core));
        sockets.insert(package);
    }
    let info = tree.text("proc/cpuinfo").unwrap_or_default();
    let field = |names: &[&str]| {
        info.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            names.contains(&name.trim()).then(|| value.trim().to_owned())
        })
    };
    let listed = info
        .lines()
        .filter(|l| l.split(':').next().is_some_and(|n| n.trim() == "processor"))
        .count();
    let flags = field(&["flags", "Features"]).unwrap_or_default();
    let flags: BTreeSet<&str> = flags.split_whitespace().filter(|f| FLAGS.contains(f)).collect();
    let count = |n: usize, least: usize| u32::try_from(n.max(least)).unwrap_or(u32::MAX);
    let all = threads.len().max(listed).max(1);
    Cpu {
        architecture: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .to_owned(),
        sockets: count(sockets.len(), tables.populated_sockets.clamp(1, 64)),
        cores: if cores.is_empty() { count(all, 1) } else { count(cores.len(), 1) },
        threads: count(all, 1),
        model: field(&["model name", "Model"])
            .and_then(|m| clean(&m))
            .or_else(|| tables.processor.clone()),
        flags: flags.into_iter().map(str::to_owned).collect(),
    }
}
