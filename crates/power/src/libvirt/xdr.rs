//! XDR (RFC 4506), as far as libvirt's messages here need it. Pure; what is read is bounded by what came.

/// Reads values, one after another. None: there is no such value.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Of these bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// An unsigned integer.
    pub fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_be_bytes)
    }

    /// An integer.
    pub fn i32(&mut self) -> Option<i32> {
        self.bytes().map(i32::from_be_bytes)
    }

    /// Bytes of a length that both sides know; a multiple of four.
    pub fn bytes<const LENGTH: usize>(&mut self) -> Option<[u8; LENGTH]> {
        const { assert!(LENGTH.is_multiple_of(4)) };
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    /// A text. What is not UTF-8 in it is replaced.
    pub fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.u32()?).ok()?;
        let padded = length.checked_next_multiple_of(4)?;
        let (text, rest) = self.0.split_at_checked(padded)?;
        self.0 = rest;
        Some(String::from_utf8_lossy(&text[..length]).into_owned())
    }

    /// A text that may be left out. The outer None: there is no such value.
    pub fn perhaps_text(&mut self) -> Option<Option<String>> {
        match self.u32()? {
            0 => Some(None),
            1 => self.text().map(Some),
            _ => None,
        }
    }

    /// What is left.
    #[must_use]
    pub const fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Writes a text.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    // Settings are bounded: names and URIs are far below 4 GiB.
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_padded_and_bounded_by_what_came() {
        let mut out = Vec::new();
        put_text(&mut out, "qemu:///system");
        assert_eq!(out.len(), 4 + 16);
        out.extend_from_slice(&7_u32.to_be_bytes());
        let mut reader = Reader::new(&out);
        assert_eq!(reader.text().as_deref(), Some("qemu:///system"));
        assert_eq!((reader.u32(), reader.u32()), (Some(7), None));
        for length in [5_u32, 0x7fff_ffff, u32::MAX] {
            let mut short = length.to_be_bytes().to_vec();
            short.extend_from_slice(b"abcd");
            assert_eq!(Reader::new(&short).text(), None, "{length}");
        }
        assert_eq!(Reader::new(&2_u32.to_be_bytes()).perhaps_text(), None);
        assert_eq!(Reader::new(&0_u32.to_be_bytes()).perhaps_text(), Some(None));
    }
}
