//! Which kernel module drives which device: what `depmod` writes and `modprobe` reads, as one small text.
//!
//! The builder of the boot media writes an [`Index`] beside the modules; the agent reads it, matches the `modalias` of each device in sysfs,
//! and loads what [`Index::load_order`] says. No files are touched here.
//!
//! Form: one line per fact, fields separated by one space. `m NAME PATH DEPENDENCIES`, dependencies comma-separated or `-`; `a PATTERN NAME`.
//! Names are normalised as the kernel does (`-` becomes `_`). Invariants: a rendered index parses to itself; every dependency and alias names a
//! module of the index; the order of lines is sorted, so equal contents are equal bytes.

use std::collections::{BTreeMap, BTreeSet};

/// Most modules or aliases that are read. Debian's whole kernel has 4,000 modules with 30,000 aliases.
const MAX_LINES: usize = 200_000;
/// Longest line.
const MAX_LINE: usize = 4096;

/// Why a text is not an index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// A line that is none of ours.
    #[error("line {0} of the module index is malformed: rebuild the boot media")]
    Line(usize),
    /// A dependency or alias that names nothing.
    #[error("the module index names {0:?}, which it does not hold: rebuild the boot media")]
    Unknown(String),
    /// Beyond all bounds.
    #[error("the module index has more than {MAX_LINES} lines")]
    TooLarge,
}

/// One module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Path of the module's file.
    pub path: String,
    /// Modules to load before, hard and soft, by normalised name.
    pub depends: Vec<String>,
}

/// All modules of the boot media.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    modules: BTreeMap<String, Module>,
    aliases: BTreeSet<(String, String)>,
}

/// The kernel's name of a module: file name without extension, `-` as `_`.
pub fn normalize(name: &str) -> String {
    name.replace('-', "_")
}

fn is_field(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

impl Index {
    /// An index of these modules and these (pattern, module) aliases.
    ///
    /// # Errors
    /// [`IndexError::Unknown`] when a dependency or alias names a module that is not there, or a name has white space.
    pub fn new(modules: BTreeMap<String, Module>, aliases: impl IntoIterator<Item = (String, String)>) -> Result<Self, IndexError> {
        let index = Self {
            modules,
            aliases: aliases.into_iter().collect(),
        };
        for (name, module) in &index.modules {
            if !is_field(name) || name.contains(['-', ',']) || !is_field(&module.path) {
                return Err(IndexError::Unknown(name.clone()));
            }
        }
        let named = index
            .modules
            .values()
            .flat_map(|m| &m.depends)
            .chain(index.aliases.iter().map(|(_, m)| m));
        for name in named {
            if !index.modules.contains_key(name) {
                return Err(IndexError::Unknown(name.clone()));
            }
        }
        if let Some((pattern, _)) = index.aliases.iter().find(|(pattern, _)| !is_field(pattern)) {
            return Err(IndexError::Unknown(pattern.clone()));
        }
        Ok(index)
    }

    /// The text form.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (name, module) in &self.modules {
            let depends = if module.depends.is_empty() {
                "-".to_owned()
            } else {
                module.depends.join(",")
            };
            text.push_str(&format!("m {name} {} {depends}\n", module.path));
        }
        for (pattern, name) in &self.aliases {
            text.push_str(&format!("a {pattern} {name}\n"));
        }
        text
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// [`IndexError`] that names the line, or what is missing.
    pub fn parse(text: &str) -> Result<Self, IndexError> {
        let (mut modules, mut aliases) = (BTreeMap::new(), Vec::new());
        for (at, line) in text.lines().enumerate() {
            let bad = || IndexError::Line(at + 1);
            if at >= MAX_LINES {
                return Err(IndexError::TooLarge);
            }
            if line.len() > MAX_LINE {
                return Err(bad());
            }
            let fields: Vec<&str> = line.split(' ').collect();
            match fields.as_slice() {
                ["m", name, path, depends] => {
                    let depends = match *depends {
                        "-" => Vec::new(),
                        list => list.split(',').map(str::to_owned).collect(),
                    };
                    let module = Module {
                        path: (*path).to_owned(),
                        depends,
                    };
                    if modules.insert((*name).to_owned(), module).is_some() {
                        return Err(bad());
                    }
                }
                ["a", pattern, name] => aliases.push(((*pattern).to_owned(), (*name).to_owned())),
                _ => return Err(bad()),
            }
        }
        Self::new(modules, aliases)
    }

    /// The module of this normalised name.
    pub fn get(&self, name: &str) -> Option<&Module> {
        self.modules.get(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// Every module whose alias matches this `modalias`, or whose name it is (as `modprobe` takes both); sorted, without repetition.
    pub fn matching(&self, modalias: &str) -> Vec<&str> {
        let mut found: BTreeSet<&str> = self
            .aliases
            .iter()
            .filter(|(pattern, _)| matches(pattern, modalias))
            .map(|(_, module)| module.as_str())
            .collect();
        if let Some((name, _)) = self.modules.get_key_value(&normalize(modalias)) {
            found.insert(name);
        }
        found.into_iter().collect()
    }

    /// What to load for `name`, dependencies first, the module itself last; each once. Empty for an unknown name. A cycle (soft dependencies
    /// may make one) is cut where it closes.
    pub fn load_order(&self, name: &str) -> Vec<&str> {
        let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
        // An explicit stack: (module, whether its dependencies were already put on the stack).
        let mut stack = Vec::new();
        if let Some((name, _)) = self.modules.get_key_value(name) {
            stack.push((name.as_str(), false));
        }
        while let Some((name, expanded)) = stack.pop() {
            if expanded {
                order.push(name);
                continue;
            }
            if !seen.insert(name) {
                continue;
            }
            stack.push((name, true));
            let depends = self.modules.get(name).map_or(&[][..], |m| &m.depends);
            for dependency in depends.iter().rev() {
                if !seen.contains(dependency.as_str())
                    && let Some((dependency, _)) = self.modules.get_key_value(dependency)
                {
                    stack.push((dependency, false));
                }
            }
        }
        order
    }
}

/// Whether a shell pattern (`*`, `?`, `[...]`, as in `modules.alias`) matches the whole text. Linear in practice: only the last `*` is retried.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        let step = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some(_), Some(&byte)) => one(&pattern[p..], byte),
            _ => None,
        };
        match (step, retry) {
            (Some(width), _) => {
                p += width;
                t += 1;
            }
            (None, Some((after_star, from))) if from < text.len() => {
                retry = Some((after_star, from + 1));
                p = after_star;
                t = from + 1;
            }
            _ => return false,
        }
    }
}

/// Matches one byte against the head of a pattern; the width of that head if it does.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern.first()? {
        b'?' => Some(1),
        b'[' => {
            let end = pattern.iter().skip(2).position(|b| *b == b']')? + 2;
            let mut class = &pattern[1..end];
            let negated = matches!(class.first(), Some(b'!' | b'^'));
            if negated {
                class = &class[1..];
            }
            let mut inside = false;
            while let Some(&low) = class.first() {
                match class {
                    [low, b'-', high, rest @ ..] => {
                        inside |= (*low..=*high).contains(&byte);
                        class = rest;
                    }
                    [_, rest @ ..] => {
                        inside |= low == byte;
                        class = rest;
                    }
                    [] => {}
                }
            }
            (inside != negated).then_some(end + 1)
        }
        literal => (literal == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn module(depends: &[&str]) -> Module {
        Module {
            path: "x.ko".to_owned(),
            depends: depends.iter().map(|d| (*d).to_owned()).collect(),
        }
    }

    fn index() -> Index {
        let modules = [
            ("mii", module(&[])),
            ("dca", module(&[])),
            ("e1000", module(&[])),
            ("virtio", module(&["virtio_ring"])),
            ("virtio_ring", module(&["virtio"])),
            ("igb", module(&["dca", "i2c_algo_bit"])),
            ("i2c_algo_bit", module(&["dca"])),
        ];
        let modules = modules.map(|(n, m)| (n.to_owned(), m)).into();
        let aliases = [
            ("pci:v00008086d0000100Esv*sd*bc*sc*i*", "e1000"),
            ("pci:v00008086d00001521sv*sd*bc*sc*i*", "igb"),
            ("pci:v*d*sv*sd*bc02sc00i*", "mii"),
        ];
        Index::new(modules, aliases.map(|(p, m)| (p.to_owned(), m.to_owned()))).unwrap()
    }

    #[test]
    fn a_device_finds_its_modules_and_only_those() {
        let index = index();
        assert_eq!(
            index.matching("pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00"),
            ["e1000", "mii"]
        );
        assert_eq!(index.matching("pci:v00008086d00001521sv00001AF4sd00001100bc03sc00i00"), ["igb"]);
        assert_eq!(index.matching("virtio-ring"), ["virtio_ring"], "by name, as modprobe");
        assert!(index.matching("pci:").is_empty());
    }

    #[test]
    fn dependencies_come_first_and_a_cycle_ends() {
        let index = index();
        assert_eq!(index.load_order("igb"), ["dca", "i2c_algo_bit", "igb"]);
        assert_eq!(index.load_order("virtio"), ["virtio_ring", "virtio"]);
        assert!(index.load_order("nothing").is_empty());
    }

    #[test]
    fn it_survives_being_written_and_refuses_nonsense() {
        let index = index();
        assert_eq!(Index::parse(&index.render()).unwrap(), index);
        assert_eq!(Index::parse("m a b\n"), Err(IndexError::Line(1)));
        assert_eq!(Index::parse("m a a.ko b\n"), Err(IndexError::Unknown("b".to_owned())));
        assert_eq!(Index::parse("a pattern nothing\n"), Err(IndexError::Unknown("nothing".to_owned())));
    }

    #[test]
    fn patterns_match_as_the_shells_do() {
        for (pattern, text, want) in [
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("*", "", true),
            ("a?c", "abc", true),
            ("a[b-d]e", "ace", true),
            ("a[!b-d]e", "ace", false),
            ("a[0-9A-F]e", "aBe", true),
            ("dmi*:svn*Dell*:pn*", "dmi:bvnX:svnDellInc.:pnR640:", true),
            ("[", "[", false),
            ("a[]b]c", "a]c", true),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn no_pattern_makes_it_panic_or_hang(pattern in "[a\\[\\]*?!^-]{0,40}", text in "[a\\]\\[-]{0,40}") {
            matches(&pattern, &text);
        }

        #[test]
        fn a_text_matches_itself_with_stars_put_in(text in "[a-zA-Z0-9:.]{0,40}", at in 0usize..41) {
            prop_assert!(matches(&text, &text));
            let at = at.min(text.len());
            let starred = format!("{}*{}", &text[..at], &text[at..]);
            prop_assert!(matches(&starred, &text));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[ma] ?[a-z\\- ,\\n]{0,60}") {
            Index::parse(&text).ok();
        }
    }
}
