//! Go's regular expression syntax on Rust's engine. Both are linear in the input; they differ in details that
//! schemas use: Go's `\d`, `\w` and `\s` are ASCII, a `[` inside a class is literal, and `\Q..\E` quotes.

use regex::{Regex, RegexBuilder};

/// A compiled pattern may take this much memory; a schema cannot make the server hold more per pattern.
const SIZE_LIMIT: usize = 16 << 20;

/// A compiled Go regular expression.
#[derive(Debug, Clone)]
pub(crate) struct GoRegex(Regex);

impl GoRegex {
    /// Compiles `pattern`; the error has the form of Go's.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        RegexBuilder::new(&translate(pattern))
            .size_limit(SIZE_LIMIT)
            .dfa_size_limit(SIZE_LIMIT)
            .build()
            .map(Self)
            .map_err(|error| explain(pattern, &error))
    }

    /// Whether the pattern matches anywhere in `text`.
    pub(crate) fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The compiled expression.
    pub(crate) fn inner(&self) -> &Regex {
        &self.0
    }
}

fn explain(pattern: &str, error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => "error parsing regexp: expression nests too deeply or is too large".to_string(),
        other => {
            let text = other.to_string();
            let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            let known = if last.contains("unclosed group") {
                "missing closing )"
            } else if last.contains("unopened group") {
                "unexpected )"
            } else if last.contains("unclosed character class") {
                "missing closing ]"
            } else if last.contains("invalid character class range") {
                "invalid character class range"
            } else if last.contains("repetition operator missing expression") {
                "missing argument to repetition operator"
            } else if last.contains("unrecognized escape") || last.contains("look-around") || last.contains("backreferences") {
                if last.contains("look-around") {
                    "invalid or unsupported Perl syntax"
                } else {
                    "invalid escape sequence"
                }
            } else {
                last
            };
            format!("error parsing regexp: {known}: `{pattern}`")
        }
    }
}

/// Rewrites the places where the two syntaxes differ.
fn translate(pattern: &str) -> String {
    let chars: Vec<char> = pattern.chars().collect();
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut i = 0;
    let mut in_class = false;
    let mut class_start = false;
    // Inside a class: whether the last item can begin a range, and whether the next one ends a range.
    let mut single = false;
    let mut range_end = false;
    while i < chars.len() {
        let c = chars[i];
        let at_start = std::mem::take(&mut class_start);
        let ends_range = std::mem::take(&mut range_end);
        match c {
            '\\' => {
                let Some(&next) = chars.get(i + 1) else {
                    out.push('\\');
                    break;
                };
                if next == 'Q' && !in_class {
                    i += 2;
                    while i < chars.len() && !(chars[i] == '\\' && chars.get(i + 1) == Some(&'E')) {
                        out.push_str(&regex::escape(&chars[i].to_string()));
                        i += 1;
                    }
                    i += 2;
                    continue;
                }
                out.push_str(&escape(next, in_class));
                single = in_class && !ends_range && !is_class(next);
                i += 2;
                continue;
            }
            '[' if !in_class => {
                in_class = true;
                class_start = true;
                single = false;
                out.push('[');
                if chars.get(i + 1) == Some(&'^') {
                    out.push('^');
                    i += 1;
                }
            }
            '[' => {
                // `[:alpha:]` stays a named class, any other bracket is itself.
                if chars.get(i + 1) == Some(&':') && closes_named(&chars, i) {
                    while i < chars.len() && chars[i] != ']' {
                        out.push(chars[i]);
                        i += 1;
                    }
                    out.push(']');
                } else {
                    out.push_str("\\[");
                }
            }
            ']' if in_class && at_start => out.push_str("\\]"),
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '&' | '~' if in_class => {
                out.push('\\');
                out.push(c);
            }
            '-' if in_class => {
                let next = chars.get(i + 1).copied().unwrap_or(']');
                let joins = single && !ends_range && next != ']' && !(next == '\\' && chars.get(i + 2).is_some_and(|c| is_class(*c)));
                if joins {
                    out.push('-');
                    range_end = true;
                } else {
                    out.push_str("\\-");
                }
                single = !joins && !ends_range;
                i += 1;
                continue;
            }
            '{' if !in_class && !is_repetition(&chars, i) => out.push_str("\\{"),
            '}' if !in_class && !ends_repetition(&chars, i) => {
                // Braces of `\x{..}` and `\p{..}` and named groups are copied by the escape that opened them.
                out.push('}');
            }
            c => out.push(c),
        }
        if in_class && !class_start {
            single = !ends_range;
        }
        i += 1;
    }
    out
}

/// Escapes that stand for many characters and so begin or end no range.
fn is_class(c: char) -> bool {
    matches!(c, 'd' | 'D' | 'w' | 'W' | 's' | 'S' | 'p' | 'P')
}

fn closes_named(chars: &[char], start: usize) -> bool {
    let mut i = start + 2;
    if chars.get(i) == Some(&'^') {
        i += 1;
    }
    while chars.get(i).is_some_and(char::is_ascii_lowercase) {
        i += 1;
    }
    chars.get(i) == Some(&':') && chars.get(i + 1) == Some(&']')
}

fn is_repetition(chars: &[char], open: usize) -> bool {
    // `\x{10}`, `\p{Greek}`: the escape before the brace takes it.
    if open >= 2 && chars[open - 2] == '\\' && matches!(chars[open - 1], 'x' | 'p' | 'P') {
        return true;
    }
    let mut i = open + 1;
    let digits = |i: &mut usize| {
        let from = *i;
        while chars.get(*i).is_some_and(char::is_ascii_digit) {
            *i += 1;
        }
        *i > from
    };
    if !digits(&mut i) {
        return false;
    }
    if chars.get(i) == Some(&',') {
        i += 1;
        digits(&mut i);
    }
    chars.get(i) == Some(&'}')
}

fn ends_repetition(chars: &[char], close: usize) -> bool {
    chars[..close].contains(&'{')
}

fn escape(c: char, in_class: bool) -> String {
    match (c, in_class) {
        ('d', true) => "0-9".into(),
        ('d', false) => "[0-9]".into(),
        ('D', _) => "[^0-9]".into(),
        ('w', true) => "0-9A-Za-z_".into(),
        ('w', false) => "[0-9A-Za-z_]".into(),
        ('W', _) => "[^0-9A-Za-z_]".into(),
        ('s', true) => "\\t\\n\\f\\r ".into(),
        ('s', false) => "[\\t\\n\\f\\r ]".into(),
        ('S', _) => "[^\\t\\n\\f\\r ]".into(),
        ('b', false) => "(?-u:\\b)".into(),
        ('<', _) => "<".into(),
        ('>', _) => ">".into(),
        (c, _) if c.is_ascii_punctuation() && !"\\.+*?()|[]{}^$#&-~".contains(c) => c.to_string(),
        (c, _) => format!("\\{c}"),
    }
}

#[cfg(test)]
mod tests {
    use super::GoRegex;

    #[test]
    fn go_syntax_is_understood() {
        for (pattern, yes, no) in [
            (r"^\d+$", "123", "١٢"),
            (r"^[\w.-]+$", "a_b.c-d", "é"),
            (r"^[[]x$", "[x", "x"),
            (r"^[]a]$", "]", "b"),
            (r"^\Qa.b\E$", "a.b", "axb"),
            (r"^a{2,3}$", "aaa", "a"),
            (r"^a{$", "a{", "a"),
            (r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "a-b", "-a"),
            (r"^\x{41}\p{Lu}$", "AB", "Ab"),
            (r"^[[:alpha:]]+$", "ab", "a1"),
            (r"^[^\s/]+\/x\_y$", "a/x_y", "a b/x_y"),
            (r"^[&&a]$", "&", "b"),
            (r"^[\w-.]+$", "a-b.c", "a/b"),
            (r"^[a-z0-9-\p{S}]+$", "a-9", "A"),
            (r"^[+--]$", ",", "."),
            (r"^[-a-c-]+$", "-b", "d"),
        ] {
            let re = GoRegex::new(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
            assert!(re.is_match(yes), "{pattern} should match {yes}");
            assert!(!re.is_match(no), "{pattern} should not match {no}");
        }
    }

    #[test]
    fn errors_name_the_pattern() {
        assert_eq!(GoRegex::new("(a").unwrap_err(), "error parsing regexp: missing closing ): `(a`");
        assert!(GoRegex::new("a(?=b)").is_err());
    }
}
