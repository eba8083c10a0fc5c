//! The faults by name, for a file of a given length: one list for the tests and for the comparison with other programs.

use std::time::Duration;

use super::bad_server::{Behaviour, RangeLie};

/// Every fault that is tried. `stall` is the longest time without a byte that the client allows.
pub fn faults(length: usize, stall: Duration) -> Vec<(&'static str, Behaviour)> {
    let good = Behaviour::default;
    let middle = length / 2;
    // Broken off once in the middle, so that the client has to come back for the rest.
    let once = || Behaviour {
        drop_after: Some(middle),
        drops: 1,
        ..good()
    };
    let resumed = |lie| Behaviour {
        range_lie: Some(lie),
        ..once()
    };
    vec![
        ("good manners", good()),
        ("cut short once", once()),
        ("cut short once, without an entity tag", Behaviour { no_tag: true, ..once() }),
        (
            "cut short every time",
            Behaviour {
                ends_at: Some(middle),
                ..good()
            },
        ),
        (
            "cut short without Content-Length",
            Behaviour {
                no_length: true,
                ends_at: Some(middle),
                ..good()
            },
        ),
        ("no Content-Length", Behaviour { no_length: true, ..good() }),
        (
            "one bit flipped",
            Behaviour {
                flipped: Some(length * 3 / 4),
                ..good()
            },
        ),
        (
            "one bit flipped near the start",
            Behaviour {
                flipped: Some(200),
                ..good()
            },
        ),
        (
            "silent for ever",
            Behaviour {
                silent_from: Some(middle),
                silences: usize::MAX,
                ..good()
            },
        ),
        (
            "silent once",
            Behaviour {
                silent_from: Some(middle),
                silences: 1,
                ..good()
            },
        ),
        (
            "redirects in a circle",
            Behaviour {
                redirects_in_a_circle: true,
                ..good()
            },
        ),
        ("knows no ranges", Behaviour { no_ranges: true, ..once() }),
        (
            "ignores ranges that it said it answers",
            Behaviour {
                ignores_ranges: true,
                ..once()
            },
        ),
        ("a range that begins elsewhere", resumed(RangeLie::Start)),
        ("a range of a longer file", resumed(RangeLie::Total)),
        ("a range that is none", resumed(RangeLie::Malformed)),
        ("changed in between, with another entity tag", Behaviour { changes: true, ..once() }),
        (
            "changed in between, and nothing says so",
            Behaviour {
                changes_unsaid: true,
                no_tag: true,
                ..once()
            },
        ),
        (
            "two answers of 503",
            Behaviour {
                status: Some(503),
                statuses: 2,
                ..good()
            },
        ),
        (
            "503 for ever",
            Behaviour {
                status: Some(503),
                ..good()
            },
        ),
        (
            "404",
            Behaviour {
                status: Some(404),
                ..good()
            },
        ),
        (
            "slow, but never silent",
            Behaviour {
                drip: Some((middle / 4 + 1, stall / 4)),
                ..good()
            },
        ),
    ]
}
