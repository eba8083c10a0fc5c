//! How documents are written, as a profile has it; and how they are spoilt, as a fault wants it.

use serde_json::Value;

use crate::{
    faults::What,
    http::{Answer, Fate},
    profile::Paths,
};

/// Scheme and name by which a controller knows itself, and nobody else does.
const ITSELF: &str = "https://bmc.invalid";

/// Writes the links of a document as a profile has them.
pub(crate) fn dress(paths: &Paths, mut document: Value) -> Value {
    if paths.trailing_slash || paths.absolute {
        relink(paths, &mut document, false);
    }
    document
}

fn relink(paths: &Paths, value: &mut Value, is_link: bool) {
    match value {
        Value::Object(members) => members
            .iter_mut()
            .for_each(|(name, value)| relink(paths, value, name == "@odata.id")),
        Value::Array(items) => items.iter_mut().for_each(|item| relink(paths, item, false)),
        Value::String(text) if text.starts_with("/redfish/") => {
            if paths.trailing_slash && is_link && !text.ends_with('/') {
                text.push('/');
            }
            if paths.absolute {
                *text = format!("{ITSELF}{text}");
            }
        }
        _ => {}
    }
}

/// Makes every member one of another kind.
fn wrong_kinds(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| {
                let other = match value {
                    Value::Object(_) | Value::Array(_) => Value::Null,
                    Value::String(_) => Value::Array(vec![value.clone()]),
                    Value::Number(_) | Value::Bool(_) => value.to_string().into(),
                    Value::Null => 0.into(),
                };
                (name.clone(), other)
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

/// What a fault makes of an answer.
pub(crate) fn spoil(mut answer: Answer, what: Option<What>) -> Fate {
    match what {
        Some(What::LostAnswer) => return Fate::Closed,
        Some(What::NotJson) => {
            answer.body = None;
            answer.text = Some("<html><body>502 Bad Gateway</body></html>".to_owned());
        }
        Some(What::WrongKinds) => answer.body = answer.body.as_ref().map(wrong_kinds),
        Some(What::Truncated) => answer.cut = true,
        _ => {}
    }
    Fate::Answer(answer)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn links_are_written_as_the_profile_has_them() {
        let document =
            json!({"@odata.id": "/redfish/v1/Systems", "Name": "x", "Actions": {"a": {"target": "/redfish/v1/Systems/1/Actions/a"}}});
        let paths = |trailing_slash, absolute| Paths {
            system: "1".to_owned(),
            manager: "1".to_owned(),
            besides: Vec::new(),
            trailing_slash,
            absolute,
        };
        assert_eq!(dress(&paths(false, false), document.clone()), document);
        let slashed = dress(&paths(true, false), document.clone());
        assert_eq!(slashed["@odata.id"], "/redfish/v1/Systems/");
        assert_eq!(slashed["Actions"]["a"]["target"], "/redfish/v1/Systems/1/Actions/a");
        let absolute = dress(&paths(false, true), document);
        assert_eq!(absolute["@odata.id"], "https://bmc.invalid/redfish/v1/Systems");
    }
}
