//! The written list of intended differences.

use conformance::differential::intended::INTENDED;

#[test]
fn intended_differences_are_few_and_told() {
    assert!(INTENDED.len() <= 15, "{}", INTENDED.len());
    let told = include_str!("../../../../docs/conformance.md");
    for intended in INTENDED {
        assert!(told.contains(intended.what), "docs/conformance.md does not tell: {}", intended.what);
        assert!(
            told.contains(intended.why),
            "docs/conformance.md does not give the reason: {}",
            intended.why
        );
    }
    let rows = told
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| What"))
        .count();
    assert_eq!(rows, INTENDED.len(), "docs/conformance.md has other rows");
}
