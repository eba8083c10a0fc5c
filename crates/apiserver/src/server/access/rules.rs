//! One rule of a role: what it allows, and whether rules cover others.
//!
//! Pure. The semantics are those of the real authoriser: rules only ever allow; a name is a condition on the request's name, so a rule with names never
//! allows a create or an unpinned list.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt<'a> {
    /// A verb on a resource.
    Resource {
        /// The verb: one of the API's, or any other that a rule may name (`bind`, `escalate`, `impersonate`).
        verb: &'a str,
        /// API group, empty for core.
        group: &'a str,
        /// Plural name.
        resource: &'a str,
        /// Subresource, empty for none.
        subresource: &'a str,
        /// Namespace, empty for none.
        namespace: &'a str,
        /// Name, empty for none.
        name: &'a str,
    },
    /// Any other path.
    Path {
        /// Lower-case HTTP method.
        verb: &'a str,
        /// The path.
        path: &'a str,
    },
}

impl Attempt<'_> {
    /// The namespace in which it is tried, empty for none.
    pub fn namespace(&self) -> &str {
        match self {
            Attempt::Resource { namespace, .. } => namespace,
            Attempt::Path { .. } => "",
        }
    }
}

/// A rule as it stands in a Role or ClusterRole.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// What may be done; `*` is everything.
    pub verbs: Vec<String>,
    /// To resources of which groups; `*` is every group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// `plural`, `plural/subresource`, `*/subresource` or `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Only to objects of these names; empty is every name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths beside the resources; a trailing `*` stands for anything.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|entry| entry == wanted)
}

fn has_all(list: &[String], wanted: &[String]) -> bool {
    wanted.iter().all(|entry| has(list, entry))
}

fn has_or_star(list: &[String], wanted: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == wanted)
}

fn url_covers(rule: &str, path: &str) -> bool {
    rule == path || (rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*')))
}

impl Rule {
    /// The rules of a role's `rules` field; what is not a rule gives none.
    pub fn list(rules: Option<&Value>) -> Vec<Rule> {
        let rules = rules.and_then(Value::as_array).into_iter().flatten();
        // A rule that cannot be read allows nothing; stored ones were validated.
        rules.filter_map(|rule| Rule::deserialize(rule).ok()).collect()
    }

    /// Everything, the two rules that only the administrator has.
    pub fn everything() -> [Rule; 2] {
        let star = || vec!["*".to_owned()];
        [
            Rule {
                verbs: star(),
                api_groups: star(),
                resources: star(),
                ..Rule::default()
            },
            Rule {
                verbs: star(),
                non_resource_urls: star(),
                ..Rule::default()
            },
        ]
    }

    /// Whether the rule allows an attempt.
    pub fn allows(&self, attempt: &Attempt<'_>) -> bool {
        match *attempt {
            Attempt::Resource {
                verb,
                group,
                resource,
                subresource,
                name,
                ..
            } => {
                has_or_star(&self.verbs, verb)
                    && has_or_star(&self.api_groups, group)
                    && self.names_resource(resource, subresource)
                    && (self.resource_names.is_empty() || has(&self.resource_names, name))
            }
            Attempt::Path { verb, path } => {
                has_or_star(&self.verbs, verb) && self.non_resource_urls.iter().any(|rule| url_covers(rule, path))
            }
        }
    }

    fn names_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|entry| {
            if entry == "*" {
                return true;
            }
            if subresource.is_empty() {
                return entry == resource;
            }
            entry
                .split_once('/')
                .is_some_and(|(of, sub)| sub == subresource && (of == "*" || of == resource))
        })
    }

    /// Takes a rule apart into rules of one verb, one resource and one name each.
    fn parts(&self) -> Vec<Rule> {
        let mut parts = Vec::new();
        let one = |text: &String| vec![text.clone()];
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let part = Rule {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        ..Rule::default()
                    };
                    if self.resource_names.is_empty() {
                        parts.push(part);
                    } else {
                        parts.extend(self.resource_names.iter().map(|name| Rule {
                            resource_names: one(name),
                            ..part.clone()
                        }));
                    }
                }
            }
        }
        for url in &self.non_resource_urls {
            parts.extend(self.verbs.iter().map(|verb| Rule {
                verbs: one(verb),
                non_resource_urls: one(url),
                ..Rule::default()
            }));
        }
        parts
    }

    /// Whether this rule alone covers a part.
    fn covers(&self, part: &Rule) -> bool {
        let resource = |path: &String| {
            has(&self.resources, "*")
                || has(&self.resources, path)
                || path
                    .split_once('/')
                    .is_some_and(|(_, sub)| self.resources.iter().any(|entry| entry.strip_prefix("*/") == Some(sub)))
        };
        (has(&self.verbs, "*") || has_all(&self.verbs, &part.verbs))
            && (has(&self.api_groups, "*") || has_all(&self.api_groups, &part.api_groups))
            && part.resources.iter().all(resource)
            && part
                .non_resource_urls
                .iter()
                .all(|url| self.non_resource_urls.iter().any(|rule| url_covers(rule, url)))
            && (self.resource_names.is_empty() || (!part.resource_names.is_empty() && has_all(&self.resource_names, &part.resource_names)))
    }

    /// As the real server writes it into the text of a refused escalation.
    fn compact(&self) -> String {
        let list = |list: &[String]| format!("[{}]", list.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" "));
        let fields = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let fields: Vec<String> = fields
            .iter()
            .filter(|(_, values)| !values.is_empty())
            .map(|(name, values)| format!("{name}:{}", list(values)))
            .collect();
        format!("{{{}}}", fields.join(", "))
    }
}

/// What of `wanted` is not covered by `held`, in parts of one verb, one resource and one name each.
pub fn uncovered(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted
        .iter()
        .flat_map(Rule::parts)
        .filter(|part| !held.iter().any(|rule| rule.covers(part)))
        .collect()
}

/// The lines that name missing rights: parts that differ only in their verbs are told together.
pub fn describe(missing: &[Rule]) -> Vec<String> {
    let mut compacted: Vec<Rule> = Vec::new();
    for part in missing {
        let known = compacted.iter_mut().find(|rule| {
            part.non_resource_urls.is_empty()
                && rule.api_groups == part.api_groups
                && rule.resources == part.resources
                && rule.resource_names == part.resource_names
                && rule.non_resource_urls.is_empty()
        });
        match known {
            Some(rule) => rule.verbs.extend(part.verbs.iter().cloned()),
            None => compacted.push(part.clone()),
        }
    }
    let mut lines: Vec<String> = compacted.iter().map(Rule::compact).collect();
    lines.sort();
    lines.dedup();
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(value: Value) -> Rule {
        serde_json::from_value(value).expect("a rule")
    }

    fn on<'a>(verb: &'a str, group: &'a str, resource: &'a str, subresource: &'a str, name: &'a str) -> Attempt<'a> {
        Attempt::Resource {
            verb,
            group,
            resource,
            subresource,
            namespace: "ns",
            name,
        }
    }

    #[test]
    fn a_rule_allows_what_it_names_and_nothing_else() {
        let read = json!({ "verbs": ["get", "list"], "apiGroups": ["", "apps"], "resources": ["pods", "pods/log", "*/scale"] });
        let named = json!({ "verbs": ["get", "update"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"] });
        let star = json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] });
        let group_star = json!({ "verbs": ["get"], "apiGroups": ["*"], "resources": ["pods"] });
        let no_group = json!({ "verbs": ["get"], "resources": ["pods"] });
        let odd = json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["pods/*", "*/", "/log", "po*"] });
        let urls = json!({ "verbs": ["get"], "nonResourceURLs": ["/healthz", "/apis/*", "*/x"] });
        let every_url = json!({ "verbs": ["get", "post"], "nonResourceURLs": ["*"] });
        let path = |verb, path| Attempt::Path { verb, path };
        // (rule, attempt, whether it is allowed)
        let table = [
            (&read, on("get", "", "pods", "", "x"), true),
            (&read, on("list", "apps", "pods", "", ""), true),
            (&read, on("watch", "", "pods", "", ""), false),
            (&read, on("GET", "", "pods", "", ""), false),
            (&read, on("get", "batch", "pods", "", "x"), false),
            (&read, on("get", "", "pods", "log", "x"), true),
            (&read, on("get", "", "pods", "exec", "x"), false),
            (&read, on("get", "", "secrets", "log", "x"), false),
            (&read, on("get", "apps", "deployments", "scale", "x"), true),
            (&read, on("get", "apps", "deployments", "", "x"), false),
            (&read, on("get", "apps", "deployments", "status", "x"), false),
            (&named, on("get", "", "secrets", "", "a"), true),
            (&named, on("get", "", "secrets", "", "c"), false),
            (&named, on("get", "", "secrets", "", ""), false),
            (&named, on("create", "", "secrets", "", ""), false),
            (&star, on("anything", "any.group", "things", "sub", "x"), true),
            (&star, path("get", "/healthz"), false),
            (&group_star, on("get", "any", "pods", "", ""), true),
            (&no_group, on("get", "", "pods", "", ""), false),
            (&odd, on("get", "", "pods", "", ""), false),
            (&odd, on("get", "", "pods", "log", ""), false),
            (&odd, on("get", "", "", "log", ""), true),
            (&urls, path("get", "/healthz"), true),
            (&urls, path("get", "/healthz/etcd"), false),
            (&urls, path("get", "/apis/apps"), true),
            (&urls, path("get", "/apis/"), true),
            (&urls, path("get", "/apis"), false),
            (&urls, path("post", "/healthz"), false),
            (&urls, path("get", "/a/x"), false),
            (&urls, on("get", "", "pods", "", ""), false),
            (&every_url, path("post", "/anything"), true),
            (&every_url, path("delete", "/anything"), false),
        ];
        for (allowing, attempt, allowed) in table {
            assert_eq!(rule(allowing.clone()).allows(&attempt), allowed, "{allowing} and {attempt:?}");
        }
    }

    #[test]
    fn rules_cover_others_part_by_part() {
        // (held, wanted, what is missing)
        let table: [(Value, Value, &[&str]); 9] = [
            (
                json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }, { "verbs": ["list"], "apiGroups": [""], "resources": ["pods"] }]),
                json!([{ "verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"] }]),
                &[],
            ),
            (
                json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }]),
                json!([{ "verbs": ["get", "list", "watch"], "apiGroups": ["", "apps"], "resources": ["pods"] }]),
                &[
                    r#"{APIGroups:[""], Resources:["pods"], Verbs:["list" "watch"]}"#,
                    r#"{APIGroups:["apps"], Resources:["pods"], Verbs:["get" "list" "watch"]}"#,
                ],
            ),
            (
                json!([{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }]),
                json!([{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }]),
                &[],
            ),
            (
                json!([{ "verbs": ["get"], "apiGroups": ["*"], "resources": ["*"] }]),
                json!([{ "verbs": ["*"], "apiGroups": [""], "resources": ["pods"] }]),
                &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["*"]}"#],
            ),
            (
                json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["*/log"] }]),
                json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods/log", "pods"] }]),
                &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#],
            ),
            (
                json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"] }]),
                json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["secrets"] }]),
                &[r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#],
            ),
            (
                json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["secrets"] }]),
                json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"] }]),
                &[],
            ),
            (
                json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"] }]),
                json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"] }]),
                &[r#"{APIGroups:[""], Resources:["secrets"], ResourceNames:["b"], Verbs:["get"]}"#],
            ),
            (
                json!([{ "verbs": ["get"], "nonResourceURLs": ["/apis/*"] }]),
                json!([{ "verbs": ["get"], "nonResourceURLs": ["/apis/x", "/apis/y/*", "/api"] }]),
                &[r#"{NonResourceURLs:["/api"], Verbs:["get"]}"#],
            ),
        ];
        for (held, wanted, missing) in table {
            let found = describe(&uncovered(&Rule::list(Some(&held)), &Rule::list(Some(&wanted))));
            assert_eq!(found, missing, "{held} of {wanted}");
        }
    }
}
