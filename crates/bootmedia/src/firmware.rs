//! Which firmware files go in: named by a chosen module, taken by `bootmedia/firmware.list`, found in one of its packages.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use crate::{
    deb::{self, Content},
    select::Rules,
};

/// Most links followed from one name to a file.
const MAX_LINKS: usize = 8;

/// Adds the wanted files of one package to `found`, by path below `/lib/firmware`.
pub fn take(package: &Path, rules: &Rules, wanted: &BTreeSet<String>, found: &mut BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    let (mut files, mut links) = (BTreeMap::new(), BTreeMap::new());
    let inside = |path: &str| -> Option<String> {
        let path = path.strip_prefix("usr/").unwrap_or(path);
        path.strip_prefix("lib/firmware/").map(str::to_owned)
    };
    // A link's target may lie outside of what the list takes, so every file of the package is looked at.
    deb::files(
        package,
        |path| inside(path).is_some(),
        |path, content| {
            if let Some(path) = inside(&path) {
                match content {
                    Content::File(data) => drop(files.insert(path, data)),
                    Content::Link(target) => drop(links.insert(path, target)),
                }
            }
            Ok(())
        },
    )?;
    for name in wanted.iter().filter(|name| rules.take(name)) {
        let mut at = name.clone();
        for _ in 0..MAX_LINKS {
            if let Some(data) = files.get(&at) {
                found.insert(name.clone(), data.clone());
                break;
            }
            let Some(target) = links.get(&at) else { break };
            at = resolve(&at, target);
        }
    }
    Ok(())
}

/// The path a link at `from` means: relative to its folder, without leaving `/lib/firmware`.
fn resolve(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    let target = match target
        .strip_prefix("/lib/firmware/")
        .or_else(|| target.strip_prefix("/usr/lib/firmware/"))
    {
        Some(absolute) => {
            parts.clear();
            absolute
        }
        None => target,
    };
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    #[test]
    fn links_resolve_within_the_folder() {
        for (from, target, want) in [
            ("intel/ice/ddp/ice.pkg", "ice-1.3.pkg", "intel/ice/ddp/ice-1.3.pkg"),
            ("a/b", "../c", "c"),
            ("a/b", "/lib/firmware/c/d", "c/d"),
            ("a/b", "../../../etc/passwd", "etc/passwd"),
        ] {
            assert_eq!(super::resolve(from, target), want);
        }
    }
}
