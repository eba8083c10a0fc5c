//! Strings that come from firmware, devices and disks, made fit to be sent.
//!
//! Invariant: what leaves this module has no control characters, no replacement characters, no blanks at its ends, and at most
//! [`agent_protocol::limits::MAX_STRING`] bytes.

use agent_protocol::limits::MAX_STRING;

/// Bytes of unknown encoding as one clean line, or nothing when nothing is left.
pub fn clean_bytes(bytes: &[u8]) -> Option<String> {
    let until_nul = bytes.split(|b| *b == 0).next().unwrap_or_default();
    clean(&String::from_utf8_lossy(until_nul))
}

/// One clean line: printable characters, single blanks, clipped; nothing when nothing is left.
pub fn clean(text: &str) -> Option<String> {
    let printable: String = text
        .chars()
        .map(|c| {
            if c.is_control() || c == char::REPLACEMENT_CHARACTER || is_invisible(c) {
                ' '
            } else {
                c
            }
        })
        .collect();
    let words: Vec<&str> = printable.split_whitespace().collect();
    let line = words.join(" ");
    let clipped = clip(&line, MAX_STRING);
    (!clipped.is_empty()).then(|| clipped.trim_end().to_owned())
}

/// The longest prefix of at most `max` bytes that ends between characters.
pub fn clip(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let end = (0..=max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

/// Characters that print nothing or turn the direction of what follows: they could make two names look alike.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A UUID in its canonical form from 16 bytes in that order; nothing for all zeros.
pub fn uuid(bytes: &[u8]) -> Option<String> {
    let bytes: [u8; 16] = bytes.get(..16)?.try_into().ok()?;
    (bytes != [0; 16]).then(|| uuid::Uuid::from_bytes(bytes).to_string())
}

/// A UUID whose first three fields are little-endian, as GPT and EFI write them; nothing for all zeros.
pub fn guid(bytes: &[u8]) -> Option<String> {
    let bytes: [u8; 16] = bytes.get(..16)?.try_into().ok()?;
    (bytes != [0; 16]).then(|| uuid::Uuid::from_bytes_le(bytes).to_string())
}

/// UTF-16 text until its first NUL.
pub fn clean_utf16(bytes: &[u8]) -> Option<String> {
    let units: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|c| u16::from_le_bytes([c[0], c[1]]))
        .take_while(|u| *u != 0)
        .collect();
    clean(&String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn odd_strings_become_one_clean_line() {
        assert_eq!(clean("  QEMU\t HARDDISK \n").as_deref(), Some("QEMU HARDDISK"));
        assert_eq!(clean_bytes(b"ab\xff\xfec\0rest").as_deref(), Some("ab c"));
        assert_eq!(clean(" \u{202e} "), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_in_what_leaves_is_within_bounds(bytes: Vec<u8>, text in "\\PC{0,600}") {
            for out in [clean_bytes(&bytes), clean(&text), clean_utf16(&bytes)].into_iter().flatten() {
                prop_assert!(!out.is_empty() && out.len() <= MAX_STRING);
                prop_assert!(!out.chars().any(char::is_control));
                prop_assert_eq!(out.trim(), out.as_str());
            }
        }
    }
}
