//! Reviews, impersonation and kubectl: what a server tells.

use http::Method;
use serde_json::{Value, json};

use super::Who::{Admin, Token, User};
use super::{Place, ROBOT, TEAM, review};

/// What one server tells, less what must differ.
pub(super) async fn reviews(place: &Place) -> Vec<(String, u16, Value)> {
    const AUTHORIZATION: &str = "authorization.k8s.io";
    const AUTHENTICATION: &str = "authentication.k8s.io";
    let mut told = Vec::new();
    let mut note = |what: &str, (code, mut answer): (u16, Value)| {
        let kept = match code {
            201 => answer["status"].take(),
            // Since 1.36 a cluster asks for finer verbs first and names one of those in its refusal.
            403 => answer["reason"].take(),
            _ => json!([answer["message"], answer["reason"]]),
        };
        told.push((what.to_owned(), code, kept));
    };
    let on = |verb: &str, resource: &str, namespace: &str, name: &str| json!({ "resourceAttributes": { "verb": verb, "resource": resource, "namespace": namespace, "name": name } });
    for (user, verb, resource, namespace, name) in [
        (ROBOT, "get", "secrets", "team", "a"),
        (ROBOT, "get", "secrets", "team", "b"),
        (ROBOT, "list", "secrets", "team", ""),
        ("viewer", "get", "configmaps", "team", ""),
        ("viewer", "get", "configmaps", "", ""),
        ("editor", "*", "configmaps", "team", ""),
        ("lost", "get", "configmaps", "team", ""),
        ("granter", "escalate", "roles", "team", ""),
    ] {
        let mut spec = on(verb, resource, namespace, name);
        spec["user"] = json!(user);
        if resource == "roles" {
            spec["resourceAttributes"]["group"] = json!("rbac.authorization.k8s.io");
        }
        note(
            &format!("{user} {verb} {resource}"),
            review(place, Admin, &[], AUTHORIZATION, "SubjectAccessReview", spec).await,
        );
    }
    let by_group = json!({ "groups": ["auditors"], "nonResourceAttributes": { "verb": "get", "path": "/logs/x" } });
    note(
        "a group",
        review(place, Admin, &[], AUTHORIZATION, "SubjectAccessReview", by_group).await,
    );
    let masters = json!({ "groups": ["system:masters"], "resourceAttributes": { "verb": "explode", "resource": "planets" } });
    note(
        "masters",
        review(place, Admin, &[], AUTHORIZATION, "SubjectAccessReview", masters).await,
    );
    note(
        "myself",
        review(
            place,
            User("editor"),
            &[],
            AUTHORIZATION,
            "SelfSubjectAccessReview",
            on("delete", "configmaps", "team", ""),
        )
        .await,
    );

    // The rules come in an order that nobody promises.
    let (code, mut answer) = review(
        place,
        User("reader"),
        &[],
        AUTHORIZATION,
        "SelfSubjectRulesReview",
        json!({ "namespace": "team" }),
    )
    .await;
    for field in ["resourceRules", "nonResourceRules"] {
        if let Some(rules) = answer["status"][field].as_array_mut() {
            rules.sort_by_key(Value::to_string);
        }
    }
    note("my rules", (code, answer));

    let token = place.token("team", "robot").await;
    let mut whose = async |what: &str, spec: Value| {
        let (code, mut answer) = review(place, Admin, &[], AUTHENTICATION, "TokenReview", spec).await;
        let user = &mut answer["status"]["user"];
        if user["uid"].is_string() {
            user["uid"] = json!("a uid");
            let credential = user["extra"]["authentication.kubernetes.io/credential-id"][0]
                .as_str()
                .unwrap_or_default();
            user["extra"] = json!(credential.starts_with("JTI="));
        }
        note(what, (code, answer));
    };
    whose("a good token", json!({ "token": token })).await;
    whose("for somebody else", json!({ "token": token, "audiences": ["elsewhere"] })).await;
    whose("no token", json!({ "token": "nonsense" })).await;

    for (what, who, headers) in [
        ("robot for nobody", Token(token.as_str()), vec![("impersonate-user", "eve")]),
        (
            "robot in a group",
            Token(token.as_str()),
            vec![("impersonate-user", "eve"), ("impersonate-group", "auditors")],
        ),
        ("robot for bob", Token(token.as_str()), vec![("impersonate-user", "bob")]),
        (
            "robot for bob in a group",
            Token(token.as_str()),
            vec![("impersonate-user", "bob"), ("impersonate-group", "auditors")],
        ),
        (
            "robot for another",
            Token(token.as_str()),
            vec![("impersonate-user", "system:serviceaccount:other:robot")],
        ),
        (
            "admin for an account",
            Admin,
            vec![("impersonate-user", "system:serviceaccount:other:robot")],
        ),
        (
            "admin for all there is",
            Admin,
            vec![
                ("impersonate-user", "eve"),
                ("impersonate-group", "a"),
                ("impersonate-group", "b"),
                ("impersonate-uid", "7"),
                ("impersonate-extra-example.com%2fscopes", "view"),
            ],
        ),
        ("admin for a stranger", Admin, vec![("impersonate-user", "system:anonymous")]),
    ] {
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
        note(what, place.ask(who, &Method::POST, path, &headers, &body).await);
    }
    told
}

/// A session of kubectl: what it prints and how it ends.
pub(super) async fn commands(place: &Place) -> Vec<(String, String, Option<i32>)> {
    let mut printed = Vec::new();
    let reconciled = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: made, namespace: team}
rules: [{apiGroups: [""], resources: [configmaps, secrets], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: made, namespace: team}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: made}
subjects: [{kind: User, name: eve, apiGroup: rbac.authorization.k8s.io}, {kind: User, name: adam, apiGroup: rbac.authorization.k8s.io}]
"#;
    for (args, input) in [
        ("auth can-i get secrets/a -n team --as system:serviceaccount:team:robot", ""),
        ("auth can-i get secrets/b -n team --as system:serviceaccount:team:robot", ""),
        ("auth can-i list configmaps -n team --as viewer", ""),
        (
            "auth can-i get widgets.example.com --subresource=scale -n team --as system:serviceaccount:team:robot",
            "",
        ),
        ("auth can-i get /logs/x --as eve --as-group auditors", ""),
        (
            "auth can-i create serviceaccounts/token -n team --as editor --subresource=token",
            "",
        ),
        ("auth can-i --list -n team --as reader", ""),
        ("auth whoami --as eve --as-group a -o yaml", ""),
        ("create role made --verb=get,list --resource=configmaps -n team", ""),
        ("create clusterrole made --verb=get --resource=secrets --resource-name=x", ""),
        ("create clusterrole paths --verb=get --non-resource-url=/logs/*", ""),
        ("create clusterrole gathers --aggregation-rule=a=b", ""),
        (
            "create rolebinding made --role=made --user=eve --serviceaccount=team:robot -n team",
            "",
        ),
        ("create clusterrolebinding made --clusterrole=made --group=g", ""),
        ("create serviceaccount fresh -n team", ""),
        ("get role,rolebinding -n team -o name", ""),
        ("describe role made -n team", ""),
        ("describe rolebinding made -n team", ""),
        ("describe clusterrole made", ""),
        ("get clusterrole gathers -o jsonpath={.aggregationRule}", ""),
        ("auth can-i get configmaps -n team --as eve", ""),
        ("auth reconcile -f -", reconciled),
        ("get rolebinding made -n team -o jsonpath={.subjects}", ""),
        ("set subject rolebinding made --user=carl -n team", ""),
        ("get role made -n team -o jsonpath={.rules}", ""),
        ("create role bad --verb=get --resource=configmaps -n team --as viewer", ""),
        ("get configmaps -n other --as viewer", ""),
        ("delete role made -n team", ""),
        ("auth can-i get configmaps -n team --as eve", ""),
        ("delete rolebinding made -n team", ""),
        ("create token fresh -n team --duration=1m", ""),
        ("create token missing -n team", ""),
    ] {
        let words: Vec<&str> = args.split(' ').collect();
        let (text, code) = place.kubectl(&words, input).await;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if args.contains("--list") {
            // Sorted by nothing that both share.
            lines = lines
                .iter()
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect();
            lines.sort();
        }
        // How long ago it was, the address of the server, and random ids are no part of the comparison.
        lines.retain(|line| !line.contains("creationTimestamp"));
        printed.push((args.to_owned(), lines.join("\n"), code));
    }

    // A token from the command line is worth what the account may.
    let (token, code) = place
        .kubectl(
            &[
                "create",
                "token",
                "robot",
                "-n",
                "team",
                "--audience",
                "https://kubernetes.default.svc",
            ],
            "",
        )
        .await;
    assert_eq!(code, Some(0), "{token}");
    let (secret, map) = (format!("{TEAM}/secrets/a"), format!("{TEAM}/configmaps/mine"));
    for (path, code) in [(secret, 200), (map, 403)] {
        let answer = place.ask(Token(token.trim()), &Method::GET, &path, &[], &Value::Null).await;
        assert_eq!(answer.0, code, "{}: {}", place.name, answer.1);
    }
    printed
}
