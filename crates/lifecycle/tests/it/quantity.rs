//! Quantities are exact.

use lifecycle::quantity::Exact;
use proptest::prelude::*;

fn parse(text: &str) -> Exact {
    Exact::parse(text).unwrap()
}

#[test]
fn the_forms_of_kubernetes_are_read() {
    for (a, b) in [
        ("1Ki", "1024"),
        ("1.5Gi", "1610612736"),
        ("500m", "0.5"),
        ("2e3", "2k"),
        ("2E3", "2000"),
        ("1e-3", "1m"),
        ("1E", "1000P"),
        ("1Ei", "1152921504606846976"),
        ("+4", "4"),
        (".5", "500m"),
        ("5.", "5"),
        ("0", "-0"),
        ("100n", "0.1u"),
    ] {
        assert_eq!(parse(a), parse(b), "{a} = {b}");
    }
    assert!(parse("1G") < parse("1Gi"));
    assert!(parse("-1") < parse("0"));
    assert!(parse("-2Gi") < parse("-1"));
    assert_eq!(parse("1500m").ceil(), Some(2));
    assert_eq!(parse("8Gi").ceil(), Some(8 << 30));
    assert_eq!(parse("-1").ceil(), None);
}

#[test]
fn everything_else_is_refused_with_examples() {
    for text in [
        "",
        "Gi",
        "1 Gi",
        "1gi",
        "1.2.3",
        "--1",
        "1e",
        "1e+",
        "1e999",
        "0x10",
        "1Gib",
        "١",
        "9999999999999999999999",
        "1e1e1",
    ] {
        let error = Exact::parse(text).unwrap_err().to_string();
        assert!(error.contains("16Gi"), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,50}") {
        Exact::parse(&text).ok();
    }

    #[test]
    fn order_is_that_of_the_numbers(a in 0u64..1 << 40, b in 0u64..1 << 40, sa in 0usize..8, sb in 0usize..8) {
        let suffixes = [("", 1_000_000_000u128), ("m", 1_000_000), ("u", 1_000), ("k", 1_000_000_000_000), ("M", 1_000_000_000_000_000),
            ("Ki", 1_024_000_000_000), ("Mi", 1_048_576_000_000_000), ("n", 1)];
        let value = |n: u64, s: usize| u128::from(n) * suffixes[s].1;
        let (ta, tb) = (format!("{a}{}", suffixes[sa].0), format!("{b}{}", suffixes[sb].0));
        prop_assert_eq!(parse(&ta).cmp(&parse(&tb)), value(a, sa).cmp(&value(b, sb)), "{} and {}", ta, tb);
    }

    #[test]
    fn decimals_are_exact(whole in 0u32..1_000_000, thousandths in 0u32..1000) {
        let decimal = format!("{whole}.{thousandths:03}");
        let milli = format!("{}m", u64::from(whole) * 1000 + u64::from(thousandths));
        prop_assert_eq!(parse(&decimal), parse(&milli));
        let up = u64::from(whole) + u64::from(thousandths > 0);
        prop_assert_eq!(parse(&decimal).ceil(), Some(up));
    }
}
