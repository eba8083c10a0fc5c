//! Which modules go in: those that `bootmedia/modules.list` chooses, and everything they depend on.

use std::collections::{BTreeMap, BTreeSet};

use module_index::{Index, IndexError, Module, matches, normalize};

use crate::modinfo::Modinfo;

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    take: bool,
    pattern: String,
}

/// A list of patterns; the last one that matches decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    rules: Vec<Rule>,
    /// Values of `package` lines.
    pub packages: Vec<String>,
}

impl Rules {
    /// Reads a list: one pattern a line, `!` before those that leave out, `#` comments, `package NAME` lines.
    pub fn parse(text: &str) -> Self {
        let mut list = Self::default();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            if let Some(package) = line.strip_prefix("package ") {
                list.packages.push(package.trim().to_owned());
            } else if let Some(pattern) = line.strip_prefix('!') {
                let pattern = pattern.to_owned();
                list.rules.push(Rule { take: false, pattern });
            } else {
                let pattern = line.to_owned();
                list.rules.push(Rule { take: true, pattern });
            }
        }
        list
    }

    /// Whether the list takes this path.
    pub fn take(&self, path: &str) -> bool {
        self.rules.iter().rev().find(|r| matches(&r.pattern, path)).is_some_and(|r| r.take)
    }
}

/// A module of the package.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Path below `kernel/` without extension.
    pub path: String,
    /// What it says of itself.
    pub info: Modinfo,
}

/// The outcome: names of the chosen modules, and the index of exactly those.
#[derive(Debug)]
pub struct Selection {
    /// Index with paths as [`path_in_media`] makes them.
    pub index: Index,
    /// Firmware that chosen modules may ask for.
    pub firmware: BTreeSet<String>,
}

/// Where a module stands in the initramfs.
pub fn path_in_media(path: &str) -> String {
    format!("lib/modules/{path}.ko")
}

/// Chooses from all modules of a package, by normalised name. `builtin` names what the kernel has inside.
///
/// # Errors
/// [`IndexError::Unknown`] for a hard dependency that the package does not hold.
pub fn select(all: &BTreeMap<String, Candidate>, builtin: &BTreeSet<String>, rules: &Rules) -> Result<Selection, IndexError> {
    // Soft dependencies may name an alias (`crc32c`): exact aliases only, patterns are for devices.
    let mut by_alias: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, candidate) in all {
        for alias in candidate.info.aliases.iter().filter(|a| !a.contains(['*', '?', '['])) {
            by_alias.entry(alias).or_default().push(name);
        }
    }
    let mut modules = BTreeMap::new();
    let mut queue: Vec<&str> = all.iter().filter(|(_, c)| rules.take(&c.path)).map(|(n, _)| n.as_str()).collect();
    while let Some(name) = queue.pop() {
        if modules.contains_key(name) || builtin.contains(name) {
            continue;
        }
        let Some(candidate) = all.get(name) else {
            return Err(IndexError::Unknown(name.to_owned()));
        };
        let mut depends: Vec<&str> = Vec::new();
        for soft in &candidate.info.softdep_pre {
            let named = all.get_key_value(&normalize(soft)).map(|(n, _)| n.as_str());
            depends.extend(named);
            depends.extend(by_alias.get(soft.as_str()).into_iter().flatten());
        }
        depends.extend(candidate.info.depends.iter().map(String::as_str).filter(|d| !builtin.contains(*d)));
        depends.retain(|d| *d != name);
        let mut seen = BTreeSet::new();
        depends.retain(|d| seen.insert(*d));
        queue.extend(&depends);
        let module = Module {
            path: path_in_media(&candidate.path),
            depends: depends.into_iter().map(str::to_owned).collect(),
        };
        modules.insert(name.to_owned(), module);
    }
    let chosen = || all.iter().filter(|(name, _)| modules.contains_key(*name));
    let aliases: Vec<(String, String)> = chosen()
        .flat_map(|(name, c)| c.info.aliases.iter().map(|a| (a.clone(), name.clone())))
        .filter(|(alias, _)| !alias.contains(char::is_whitespace))
        .collect();
    let firmware = chosen().flat_map(|(_, c)| c.info.firmware.iter().cloned()).collect();
    Ok(Selection {
        index: Index::new(modules, aliases)?,
        firmware,
    })
}

/// Names in `modules.builtin`.
pub fn builtin(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.rsplit('/').next()?.split(".ko").next())
        .map(normalize)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(path: &str, depends: &[&str], soft: &[&str], aliases: &[&str]) -> (String, Candidate) {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        let name = normalize(path.rsplit('/').next().unwrap());
        let info = Modinfo {
            depends: own(depends),
            softdep_pre: own(soft),
            aliases: own(aliases),
            firmware: vec![format!("{name}.fw")],
        };
        let path = path.to_owned();
        (name, Candidate { path, info })
    }

    #[test]
    fn dependencies_come_along_whatever_their_kind() {
        let all = BTreeMap::from([
            candidate("drivers/net/ethernet/x/bnx2x", &["libcrc32c", "mdio"], &[], &["pci:v1*"]),
            candidate("lib/libcrc32c", &[], &["crc32c"], &[]),
            candidate("crypto/crc32c_generic", &[], &[], &["crc32c"]),
            candidate("arch/x86/crypto/crc32c-intel", &["inside"], &[], &["crc32c"]),
            candidate("drivers/net/mdio", &[], &[], &[]),
            candidate("drivers/net/ethernet/x/y_cs", &[], &[], &[]),
            candidate("drivers/gpu/z", &[], &[], &[]),
        ]);
        let rules = Rules::parse("# a comment\ndrivers/net/ethernet/*\n!*_cs\n");
        let selection = select(&all, &builtin("kernel/a/inside.ko\n"), &rules).unwrap();
        let names: Vec<_> = selection.index.names().collect();
        assert_eq!(names, ["bnx2x", "crc32c_generic", "crc32c_intel", "libcrc32c", "mdio"]);
        assert!(selection.firmware.contains("bnx2x.fw") && !selection.firmware.contains("z.fw"));
        let error = select(&all, &BTreeSet::new(), &rules).unwrap_err();
        assert_eq!(error, IndexError::Unknown("inside".to_owned()), "a missing dependency is named");
    }
}
