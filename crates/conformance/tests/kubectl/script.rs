//! Reads `session.txt`; its head says what a line may hold.

use anyhow::{Result, bail, ensure};

/// One command.
#[derive(Debug, Default)]
pub struct Step {
    /// As it stands in the file.
    pub line: String,
    /// Variables of its environment.
    pub variables: Vec<(String, String)>,
    /// Its arguments.
    pub words: Vec<String>,
    /// The file that it reads.
    pub input: Option<String>,
    /// Only lines with this word are compared.
    pub only: Option<String>,
}

/// Words of a line. Single quotes keep all that stands between them.
fn words(line: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for c in line.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    ensure!(!quoted, "a quote is not closed: {line}");
    words.extend(word);
    Ok(words)
}

fn is_variable(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    let fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    fits.then_some((name, value))
}

/// All commands.
pub fn read(text: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let mut step = Step {
            line: line.to_owned(),
            ..Step::default()
        };
        let mut rest = words(line)?.into_iter();
        while let Some(word) = rest.next() {
            match (word.as_str(), is_variable(&word)) {
                ("<", _) => step.input = rest.next(),
                ("|", _) => step.only = rest.next(),
                (_, Some((name, value))) if step.words.is_empty() => step.variables.push((name.to_owned(), value.to_owned())),
                _ => step.words.push(word),
            }
        }
        if step.words.is_empty() {
            bail!("no command: {line}");
        }
        steps.push(step);
    }
    Ok(steps)
}

#[test]
fn words_quotes_and_redirections_are_read() {
    let read = read("# no\n\nA_B='x y' get -o jsonpath='{.a}' < in | out\n").unwrap();
    let step = &read[0];
    assert_eq!(step.variables, [("A_B".to_owned(), "x y".to_owned())]);
    assert_eq!(step.words, ["get", "-o", "jsonpath={.a}"]);
    assert_eq!((step.input.as_deref(), step.only.as_deref()), (Some("in"), Some("out")));
}
