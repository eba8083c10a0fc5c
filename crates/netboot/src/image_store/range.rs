//! `Range` and ETag conditions (RFC 9110, sections 13 and 14), as far as a disk image needs them: one range.

/// What of a file is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The whole. Also the answer to a range we do not understand, and to more than one.
    All,
    /// A part; `length` is at least 1 and within the file.
    Part { start: u64, length: u64 },
    /// A part beyond the end.
    Nothing,
}

/// Reads `bytes=a-b`, `bytes=a-` and `bytes=-n` for a file of `size` bytes.
pub(super) fn parse(header: &str, size: u64) -> Wanted {
    let number = |t: &str| {
        (!t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()))
            .then(|| t.parse::<u64>().ok())
            .flatten()
    };
    let Some((from, to)) = header.strip_prefix("bytes=").and_then(|r| r.trim().split_once('-')) else {
        return Wanted::All;
    };
    match (number(from), number(to)) {
        (None, Some(0)) if from.is_empty() => Wanted::Nothing,
        (None, Some(last)) if from.is_empty() => {
            let length = last.min(size);
            if length == 0 {
                Wanted::Nothing
            } else {
                Wanted::Part {
                    start: size - length,
                    length,
                }
            }
        }
        (Some(start), None) if to.is_empty() => part(start, size.saturating_sub(1), size),
        (Some(start), Some(end)) if start <= end => part(start, end, size),
        _ => Wanted::All,
    }
}

fn part(start: u64, end: u64, size: u64) -> Wanted {
    if start >= size {
        return Wanted::Nothing;
    }
    Wanted::Part {
        start,
        length: end.min(size - 1) - start + 1,
    }
}

/// Whether an `If-None-Match` list names this ETag. Weak comparison.
pub(super) fn etag_matches(header: &str, etag: &str) -> bool {
    header
        .split(',')
        .map(str::trim)
        .any(|wanted| wanted == "*" || wanted.strip_prefix("W/").unwrap_or(wanted) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_as_the_rfc_says() {
        let part = |start, length| Wanted::Part { start, length };
        for (header, want) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=0-", part(0, 100)),
            ("bytes=90-200", part(90, 10)),
            ("bytes=-10", part(90, 10)),
            ("bytes=-1000", part(0, 100)),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=5-4", Wanted::All),
            ("bytes=0-1,3-4", Wanted::All),
            ("bytes=+1-2", Wanted::All),
            ("lines=1-2", Wanted::All),
            ("bytes=99999999999999999999999-", Wanted::All),
        ] {
            assert_eq!(parse(header, 100), want, "{header}");
        }
        assert_eq!(parse("bytes=0-", 0), Wanted::Nothing);
        assert_eq!(parse("bytes=-5", 0), Wanted::Nothing);
        assert!(etag_matches("\"a\", W/\"b\"", "\"b\"") && !etag_matches("\"ab\"", "\"b\""));
    }

    proptest! {
        #[test]
        fn a_part_is_always_within_the_file(header in "(bytes=)?[0-9]{0,20}-[0-9]{0,20}|\\PC{0,30}", size: u64) {
            if let Wanted::Part { start, length } = parse(&header, size) {
                prop_assert!(length >= 1 && start.checked_add(length).is_some_and(|end| end <= size));
            }
        }
    }
}
