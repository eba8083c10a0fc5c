//! The header of a Zstandard frame, as far as it is needed to refuse or to plan.

/// What the header of the first Zstandard frame says.
pub(crate) struct ZstdFrame {
    /// Bytes of history that it refers to.
    pub(crate) window: Option<u64>,
    /// Bytes that it decompresses to.
    pub(crate) content: Option<u64>,
}

impl ZstdFrame {
    pub(crate) fn parse(head: &[u8]) -> Self {
        Self::try_parse(head).unwrap_or(Self {
            window: None,
            content: None,
        })
    }

    fn try_parse(head: &[u8]) -> Option<Self> {
        let rest = head.strip_prefix(b"\x28\xb5\x2f\xfd")?;
        let (&descriptor, rest) = rest.split_first()?;
        let single_segment = descriptor & 0x20 != 0;
        let (window, rest) = if single_segment {
            (None, rest)
        } else {
            let (&byte, rest) = rest.split_first()?;
            let base = 1u64 << (10 + (byte >> 3));
            (Some(base + base / 8 * u64::from(byte & 7)), rest)
        };
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let rest = rest.get(dictionary..)?;
        let content = match (descriptor >> 6, single_segment) {
            (0, false) => None,
            (0, true) => Some(u64::from(*rest.first()?)),
            (1, _) => Some(u64::from(u16::from_le_bytes(rest.get(..2)?.try_into().ok()?)) + 256),
            (2, _) => Some(u64::from(u32::from_le_bytes(rest.get(..4)?.try_into().ok()?))),
            _ => Some(u64::from_le_bytes(rest.get(..8)?.try_into().ok()?)),
        };
        Some(Self {
            window: window.or(content),
            content,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zstd_headers_tell_window_and_size() {
        let small = zstd::bulk::compress(&[7; 1000], 3).unwrap();
        let frame = ZstdFrame::parse(&small);
        assert_eq!(frame.content, Some(1000));
        assert_eq!(frame.window, Some(1000));
        // A frame header by hand: no single segment, window exponent 17 (128 MiB), no sizes.
        let frame = ZstdFrame::parse(b"\x28\xb5\x2f\xfd\x00\x88");
        assert_eq!(frame.window, Some(128 << 20));
        assert!(ZstdFrame::parse(b"\x28\xb5").window.is_none());
    }
}
