//! The table of drivers in the documentation is the code's. `KBM_UPDATE=1` writes it.

use std::{fs, path::Path};

use power::{pdu::makes::MAKES, table};

#[test]
fn the_documentation_shows_what_drivers_declare() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/power.md");
    let text = fs::read_to_string(&path).expect("the document");
    let (begin, end) = table::MARKS;
    let from = text.find(begin).expect("the first mark") + begin.len();
    let to = text.find(end).expect("the second mark");
    let wanted = table::markdown();
    if std::env::var_os("KBM_UPDATE").is_some() {
        fs::write(&path, format!("{}{wanted}{}", &text[..from], &text[to..])).expect("written");
        return;
    }
    assert!(
        text[from..to] == wanted,
        "{} is not what the code says: run `KBM_UPDATE=1 cargo test --workspace --test table`",
        path.display()
    );
}

#[test]
fn the_documentation_names_every_make_of_pdus() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/power.md");
    let text = fs::read_to_string(&path).expect("the document");
    for make in &MAKES {
        let row = format!("| `{}` | {} |", make.name, make.title);
        assert!(text.contains(&row), "{} has no row that begins with {row}", path.display());
    }
}
