//! Reads Redfish documents leniently: what a BMC writes otherwise than the schema says, and what it writes beside it, is no reason not to switch a machine. Pure.
//!
//! A member that is missing, null, empty or of a kind that cannot be meant is simply not there. Nothing here fails.

use serde_json::Value;

/// The longest path that is followed, in bytes.
const LONGEST_PATH: usize = 1024;

/// Where a resource is: a path on the BMC that is talked to, with its query, never another host's.
///
/// BMCs write absolute links with names and addresses by which they know themselves (behind NAT, another interface), so only the path of a link counts. It also keeps
/// credentials from going wherever a document says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link(String);

impl Link {
    /// Reads a link: absolute, or relative to the root, with or without its first slash. None: it is none, or unusable.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let path = match text.split_once("://") {
            // What comes before may itself be a path.
            Some((scheme, rest)) if !scheme.contains(['/', '?', '#']) => {
                if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
                    return None;
                }
                rest.find('/').map_or("/", |at| &rest[at..])
            }
            _ => text,
        };
        let path = path.split('#').next().unwrap_or_default();
        let path = path.trim_start_matches('/');
        let plain = path
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'"' | b'<' | b'>'));
        let climbs = path.split(['/', '?']).any(|segment| segment == "..");
        // A word is no path.
        (plain && !climbs && text.contains('/') && !path.is_empty() && path.len() < LONGEST_PATH).then(|| Self(format!("/{path}")))
    }

    /// The path, from its first slash on.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its last segment: by convention the resource's `Id`.
    #[must_use]
    pub fn last_segment(&self) -> &str {
        self.0.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
    }

    /// A resource below it.
    #[must_use]
    pub fn below(&self, path: &str) -> Self {
        Self(format!("{}/{path}", self.0.trim_end_matches('/')))
    }
}

/// A member that is an object, an array or anything else but null.
#[must_use]
pub fn member<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

/// Text. Numbers and booleans are taken for how they are written; what is empty is not there.
#[must_use]
pub fn text(object: &Value, name: &str) -> Option<String> {
    let text = match object.get(name)? {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    (!text.is_empty()).then_some(text)
}

/// A yes or no: a boolean, the word for it, or a number.
#[must_use]
pub fn flag(object: &Value, name: &str) -> Option<bool> {
    match text(object, name)?.to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" => Some(true),
        "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// Several things: an array's, or the one that stands alone. Nulls among them are left out.
pub fn list<'a>(object: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    let found = object.get(name);
    let many = found.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let alone = found.filter(|value| !value.is_array());
    many.iter().chain(alone).filter(|value| !value.is_null())
}

/// Several words. None: there is no list, which is not the same as an empty one.
#[must_use]
pub fn words(object: &Value, name: &str) -> Option<Vec<String>> {
    member(object, name)?;
    Some(list(object, name).filter_map(Value::as_str).map(str::to_owned).collect())
}

/// A link: an object with `@odata.id` (or the older `href`), or the path itself.
#[must_use]
pub fn link_of(value: &Value) -> Option<Link> {
    match value {
        Value::String(path) => Link::parse(path),
        Value::Object(members) => ["@odata.id", "href"]
            .iter()
            .find_map(|name| members.get(*name).and_then(Value::as_str))
            .and_then(Link::parse),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    }
}

/// The link that a member is.
#[must_use]
pub fn link(object: &Value, name: &str) -> Option<Link> {
    object.get(name).and_then(link_of)
}

/// The links of a collection's page, and its next page.
#[must_use]
pub fn members(collection: &Value) -> (Vec<Link>, Option<Link>) {
    let links = list(collection, "Members").filter_map(link_of).collect();
    (links, link(collection, "Members@odata.nextLink"))
}

/// What a BMC says about an error, in its own words: messages of the extended information, else the message. Empty: nothing.
#[must_use]
pub fn complaint(body: &Value) -> String {
    let error = member(body, "error").unwrap_or(body);
    let extended: Vec<String> = list(error, "@Message.ExtendedInfo")
        .chain(list(body, "@Message.ExtendedInfo"))
        .chain(list(body, "Messages"))
        .filter_map(|message| text(message, "Message").or_else(|| text(message, "MessageId")))
        .take(5)
        .collect();
    if extended.is_empty() {
        text(error, "message").or_else(|| text(error, "Message")).unwrap_or_default()
    } else {
        extended.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn links_of_all_forms_lead_to_the_same_place_and_never_elsewhere() {
        let wanted = Some(Link("/redfish/v1/Systems/1".to_owned()));
        for form in [
            "/redfish/v1/Systems/1",
            "redfish/v1/Systems/1",
            "https://10.0.0.1/redfish/v1/Systems/1",
            "HTTPS://bmc.example:8443/redfish/v1/Systems/1",
            "//redfish/v1/Systems/1",
            "/redfish/v1/Systems/1#/Boot",
        ] {
            assert_eq!(Link::parse(form), wanted, "{form}");
        }
        for form in [
            "",
            "/",
            "false",
            "ftp://10.0.0.1/x",
            "/redfish/../../etc",
            "/red fish",
            "/a\r\nHost: b",
            "https://bmc.example",
        ] {
            assert_eq!(Link::parse(form), None, "{form}");
        }
        assert_eq!(Link::parse("/a?b=c://d").expect("a link").as_str(), "/a?b=c://d");
        assert_eq!(Link::parse("/a/b/").expect("a link").last_segment(), "b");
    }

    #[test]
    fn what_is_meant_is_read() {
        let odd = json!({"Count": 3, "Flag": "True", "Null": null, "Empty": " ", "One": {"@odata.id": "/a"}, "Many": [null, {"href": "/b"}, 7], "Text": "/c"});
        assert_eq!(text(&odd, "Count"), Some("3".to_owned()));
        assert_eq!(flag(&odd, "Flag"), Some(true));
        assert_eq!(
            (text(&odd, "Null"), text(&odd, "Empty"), text(&odd, "One"), member(&odd, "Null")),
            (None, None, None, None)
        );
        assert_eq!(link(&odd, "Text"), Link::parse("/c"));
        assert_eq!(list(&odd, "One").filter_map(link_of).collect::<Vec<_>>(), [Link("/a".to_owned())]);
        assert_eq!(list(&odd, "Many").filter_map(link_of).collect::<Vec<_>>(), [Link("/b".to_owned())]);
    }

    #[test]
    fn complaints_are_found_wherever_they_are() {
        let full =
            json!({"error": {"message": "see below", "@Message.ExtendedInfo": [{"Message": "No."}, {"MessageId": "Base.1.0.Never"}]}});
        assert_eq!(complaint(&full), "No.; Base.1.0.Never");
        assert_eq!(
            complaint(&json!({"error": {"message": "no", "@Message.ExtendedInfo": {"x": 1}}})),
            "no"
        );
        assert_eq!(complaint(&json!("plain text")), "");
    }
}
