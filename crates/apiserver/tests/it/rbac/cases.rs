//! Requests of everybody in the world of these tests, and what must become of them.

use http::Method;
use serde_json::{Value, json};

use super::Who::{self, Admin, Token, User};
use super::{RBAC, TEAM};

/// A request and what must become of it: the code, and for a refusal the whole message where it is not the usual one.
pub(super) struct Case<'a> {
    pub(super) who: Who<'a>,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Value,
    pub(super) code: u16,
    pub(super) message: Option<&'a str>,
}

fn case<'a>(who: Who<'a>, method: Method, path: impl Into<String>, code: u16) -> Case<'a> {
    Case {
        who,
        method,
        path: path.into(),
        body: Value::Null,
        code,
        message: None,
    }
}

impl<'a> Case<'a> {
    fn with(self, body: Value) -> Case<'a> {
        Case { body, ..self }
    }

    fn says(self, message: &'a str) -> Case<'a> {
        Case {
            message: Some(message),
            ..self
        }
    }
}

fn rule(group: &str, resource: &str, verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs })
}

fn role(name: &str, rules: &[Value]) -> Value {
    json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": name }, "rules": rules })
}

fn cluster_role(name: &str, rules: &[Value]) -> Value {
    json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": name }, "rules": rules })
}

fn binding(name: &str, kind: &str, role: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role }, "subjects": [{ "kind": "User", "name": "friend" }],
    })
}

fn map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } })
}

fn lease(name: &str) -> Value {
    json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name }, "spec": {} })
}

/// Requests of everybody in the world of these tests.
pub(super) fn cases<'a>(robot: &'a str) -> Vec<Case<'a>> {
    let (get, post, put, patch, delete) = (Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE);
    let robot = Token(robot);
    let roles = format!("{RBAC}/namespaces/team/roles");
    let bindings = format!("{RBAC}/namespaces/team/rolebindings");
    let leases = "/apis/coordination.k8s.io/v1/namespaces/team/leases";
    let widgets = "/apis/example.com/v1/namespaces/team/widgets";
    let pods = || rule("", "pods", &["get"]);
    vec![
        // By name, and not otherwise.
        case(robot, get.clone(), format!("{TEAM}/secrets/a"), 200),
        case(robot, get.clone(), format!("{TEAM}/secrets/b"), 403).says(
            "secrets \"b\" is forbidden: User \"system:serviceaccount:team:robot\" cannot get resource \"secrets\" in API group \"\" in the namespace \"team\"",
        ),
        case(robot, get.clone(), format!("{TEAM}/secrets/missing"), 403),
        case(robot, get.clone(), format!("{TEAM}/secrets"), 403).says(
            "secrets is forbidden: User \"system:serviceaccount:team:robot\" cannot list resource \"secrets\" in API group \"\" in the namespace \"team\"",
        ),
        case(robot, get.clone(), format!("{TEAM}/secrets?watch=true"), 403),
        case(robot, get.clone(), format!("{TEAM}/secrets?fieldSelector=metadata.name%3Da"), 403),
        case(robot, get.clone(), "/api/v1/secrets", 403)
            .says("secrets is forbidden: User \"system:serviceaccount:team:robot\" cannot list resource \"secrets\" in API group \"\" at the cluster scope"),
        case(robot, get.clone(), "/api/v1/namespaces/other/secrets/a", 403),
        // Lists and watches of one name.
        case(robot, get.clone(), format!("{TEAM}/configmaps"), 403),
        case(robot, get.clone(), format!("{TEAM}/configmaps?fieldSelector=metadata.name%3Dmine"), 200),
        case(robot, get.clone(), format!("{TEAM}/configmaps?fieldSelector=metadata.name%3Dmine,metadata.namespace%3Dteam"), 200),
        case(robot, get.clone(), format!("{TEAM}/configmaps?fieldSelector=metadata.name%3Dyours"), 403),
        case(robot, get.clone(), format!("{TEAM}/configmaps?fieldSelector=metadata.name!%3Dmine"), 403),
        case(robot, get.clone(), format!("{TEAM}/configmaps?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Dmine"), 200),
        case(robot, get.clone(), "/api/v1/watch/namespaces/team/configmaps/mine?timeoutSeconds=1", 200),
        case(robot, get.clone(), "/api/v1/watch/namespaces/team/configmaps?timeoutSeconds=1&fieldSelector=metadata.name%3Dmine", 403),
        case(robot, get.clone(), format!("{TEAM}/configmaps/mine"), 403),
        case(robot, delete.clone(), format!("{TEAM}/configmaps"), 403).says(
            "configmaps is forbidden: User \"system:serviceaccount:team:robot\" cannot deletecollection resource \"configmaps\" in API group \"\" in the namespace \"team\"",
        ),
        // A namespace lies in itself.
        case(robot, get.clone(), TEAM, 200),
        case(robot, get.clone(), "/api/v1/namespaces/other", 403)
            .says("namespaces \"other\" is forbidden: User \"system:serviceaccount:team:robot\" cannot get resource \"namespaces\" in API group \"\" in the namespace \"other\""),
        case(robot, get.clone(), "/api/v1/namespaces", 403),
        // Subresources.
        case(robot, get.clone(), format!("{widgets}/w/scale"), 200),
        case(robot, get.clone(), format!("{widgets}/w"), 403),
        case(robot, get.clone(), format!("{widgets}/w/status"), 403),
        case(robot, patch.clone(), format!("{widgets}/w/status"), 200).with(json!({ "status": { "ready": true } })),
        case(robot, patch.clone(), format!("{widgets}/w"), 403)
            .with(json!({}))
            .says("widgets.example.com \"w\" is forbidden: User \"system:serviceaccount:team:robot\" cannot patch resource \"widgets\" in API group \"example.com\" in the namespace \"team\""),
        case(robot, get.clone(), format!("{TEAM}/configmaps/mine/nonsense"), 403),
        case(robot, get.clone(), "/apis/nowhere.example.com/v1/things", 403),
        // Updates that create.
        case(robot, patch.clone(), format!("{leases}/one?fieldManager=t"), 403)
            .with(lease("one"))
            .says("leases.coordination.k8s.io \"one\" is forbidden: User \"system:serviceaccount:team:robot\" cannot create resource \"leases\" in API group \"coordination.k8s.io\" in the namespace \"team\""),
        case(robot, put.clone(), format!("{leases}/one"), 403).with(lease("one")),
        case(robot, patch.clone(), format!("{leases}/there?fieldManager=t"), 200).with(lease("there")),
        case(robot, patch.clone(), format!("{leases}/one"), 404).with(json!({})),
        // Paths.
        case(robot, get.clone(), "/apis", 200),
        case(robot, get.clone(), "/api/v1", 200),
        case(robot, get.clone(), "/openapi/v3", 200),
        case(robot, get.clone(), "/version", 200),
        case(robot, get.clone(), "/.well-known/openid-configuration", 200),
        case(robot, get.clone(), "/", 403).says("forbidden: User \"system:serviceaccount:team:robot\" cannot get path \"/\""),
        case(robot, get.clone(), "/metrics", 403),
        case(robot, post.clone(), "/apis", 403).says("forbidden: User \"system:serviceaccount:team:robot\" cannot post path \"/apis\""),
        case(User("eve"), get.clone(), "/openid/v1/jwks", 403),
        // The roles that every cluster has, bound in one namespace.
        case(User("viewer"), get.clone(), format!("{TEAM}/configmaps"), 200),
        case(User("viewer"), get.clone(), format!("{TEAM}/secrets"), 403),
        case(User("viewer"), get.clone(), "/api/v1/namespaces/other/configmaps", 403),
        case(User("viewer"), post.clone(), format!("{TEAM}/configmaps"), 403).with(map("x")),
        case(User("viewer"), get.clone(), widgets, 200),
        case(User("editor"), post.clone(), format!("{TEAM}/configmaps"), 201).with(map("x")),
        case(User("editor"), get.clone(), format!("{TEAM}/secrets"), 200),
        case(User("editor"), get.clone(), &*roles, 403),
        case(User("nobody"), get.clone(), format!("{TEAM}/configmaps"), 403),
        case(User("nobody"), get.clone(), "/api", 200),
        case(User("lost"), get.clone(), format!("{TEAM}/configmaps"), 403).says(
            "configmaps is forbidden: User \"lost\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"team\": RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found",
        ),
        // Nobody hands out what he does not hold.
        case(User("owner"), post.clone(), &*roles, 201).with(role("held", &[rule("", "configmaps", &["get", "list"])])),
        case(User("owner"), post.clone(), &*roles, 403)
            .with(role("not-held", &[rule("", "configmaps", &["get"]), rule("example.com", "widgets", &["delete", "get"]), rule("", "nodes", &["get"])]))
            .says(
                "roles.rbac.authorization.k8s.io \"not-held\" is forbidden: user \"owner\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\"]}\n{APIGroups:[\"example.com\"], Resources:[\"widgets\"], Verbs:[\"delete\"]}",
            ),
        case(User("owner"), patch.clone(), format!("{roles}/held"), 403).with(json!({ "rules": [rule("", "nodes", &["get"])] })),
        case(User("owner"), put.clone(), format!("{roles}/held"), 403).with(role("held", &[rule("", "*", &["*"])])),
        case(User("owner"), patch.clone(), format!("{roles}/strong"), 200).with(json!({ "metadata": { "finalizers": ["example.com/x"] } })),
        case(User("owner"), patch.clone(), format!("{roles}/strong"), 403).with(json!({ "metadata": { "labels": { "a": "b" } } })),
        case(User("owner"), patch.clone(), format!("{roles}/strong"), 200).with(json!({ "metadata": { "finalizers": null } })),
        case(User("owner"), patch.clone(), format!("{roles}/new?fieldManager=t"), 403).with(role("new", &[rule("", "nodes", &["get"])])),
        case(User("owner"), post.clone(), &*bindings, 201).with(binding("friend-views", "ClusterRole", "view")),
        case(User("owner"), post.clone(), &*bindings, 403).with(binding("friend-rules", "ClusterRole", "cluster-admin")),
        case(User("owner"), post.clone(), &*bindings, 403)
            .with(binding("friend-x", "Role", "strong"))
            .says("rolebindings.rbac.authorization.k8s.io \"friend-x\" is forbidden: user \"owner\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"*\"]}"),
        case(User("owner"), post.clone(), &*bindings, 404).with(binding("friend-none", "ClusterRole", "missing")),
        case(User("owner"), post.clone(), &*bindings, 404).with(binding("friend-none", "Role", "missing")),
        case(User("owner"), patch.clone(), format!("{bindings}/friend-views"), 422).with(json!({ "roleRef": { "name": "edit" } })),
        case(User("owner"), post.clone(), format!("{RBAC}/clusterroles"), 403).with(cluster_role("mine", &[pods()])),
        case(User("granter"), post.clone(), &*roles, 201).with(role("granted", &[rule("*", "*", &["*"])])),
        case(User("granter"), post.clone(), format!("{RBAC}/clusterroles"), 403).with(cluster_role("granted", &[pods()])),
        case(User("binder"), post.clone(), &*bindings, 201).with(binding("bound", "ClusterRole", "edit")),
        case(User("binder"), post.clone(), &*bindings, 403).with(binding("bound-too", "ClusterRole", "admin")),
        case(User("gatherer"), post.clone(), format!("{RBAC}/clusterroles"), 403)
            .with(json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "all" },
                "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "a": "b" } }] },
            }))
            .says("clusterroles.rbac.authorization.k8s.io \"all\" is forbidden: must have cluster-admin privileges to use the aggregationRule"),
        // What roles and bindings may say.
        case(Admin, post.clone(), &*roles, 422).with(role("bad", &[json!({ "verbs": ["get"] })])),
        case(Admin, post.clone(), &*roles, 422).with(role("bad", &[json!({ "verbs": ["get"], "nonResourceURLs": ["/x"] })])),
        case(Admin, post.clone(), &*roles, 422).with(role("bad", &[json!({ "verbs": [], "apiGroups": [""], "resources": ["pods"] })])),
        case(Admin, post.clone(), format!("{RBAC}/clusterroles"), 422)
            .with(cluster_role("bad", &[json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "nonResourceURLs": ["/x"] })])),
        case(Admin, post.clone(), &*roles, 422).with(role("a%b", &[pods()])),
        case(Admin, post.clone(), &*bindings, 422).with(binding("bad", "Robot", "x")),
        case(Admin, post.clone(), &*bindings, 422).with(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": "bad" },
            "roleRef": { "kind": "Role", "name": "x" }, "subjects": [{ "kind": "Robot", "name": "x" }, { "kind": "User", "name": "" }],
        })),
        case(Admin, post.clone(), format!("{RBAC}/clusterrolebindings"), 422).with(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "bad" },
            "roleRef": { "kind": "Role", "name": "x" }, "subjects": [{ "kind": "ServiceAccount", "name": "x" }],
        })),
        // Tokens.
        case(User("editor"), post.clone(), format!("{TEAM}/serviceaccounts/robot/token"), 201).with(json!({ "spec": {} })),
        case(User("viewer"), post.clone(), format!("{TEAM}/serviceaccounts/robot/token"), 403)
            .with(json!({ "spec": {} }))
            .says("serviceaccounts \"robot\" is forbidden: User \"viewer\" cannot create resource \"serviceaccounts/token\" in API group \"\" in the namespace \"team\""),
        case(Admin, post.clone(), format!("{TEAM}/serviceaccounts/missing/token"), 404).with(json!({ "spec": {} })),
        case(Admin, post.clone(), format!("{TEAM}/serviceaccounts/robot/token"), 422).with(json!({ "spec": { "expirationSeconds": 60 } })),
        case(Admin, post.clone(), format!("{TEAM}/serviceaccounts/robot/token"), 422).with(json!({ "metadata": { "name": "other" }, "spec": {} })),
        case(Admin, post.clone(), format!("{TEAM}/serviceaccounts/robot/token"), 404)
            .with(json!({ "spec": { "boundObjectRef": { "apiVersion": "v1", "kind": "Secret", "name": "missing" } } })),
        case(Admin, post.clone(), format!("{TEAM}/serviceaccounts/robot/token"), 201)
            .with(json!({ "spec": { "boundObjectRef": { "apiVersion": "v1", "kind": "Secret", "name": "a" } } })),
        case(Token("nonsense"), get.clone(), "/api", 401).says("Unauthorized"),
        case(Token("a.b.c"), get.clone(), format!("{TEAM}/secrets/a"), 401),
        case(Admin, post.clone(), "/apis/authentication.k8s.io/v1/tokenreviews", 400)
            .with(json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {} })),
        // Whose questions are answered.
        case(User("viewer"), post.clone(), "/apis/authorization.k8s.io/v1/subjectaccessreviews", 403).with(json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": { "user": "eve", "nonResourceAttributes": { "verb": "get", "path": "/" } },
        })),
        case(User("owner"), post.clone(), "/apis/authorization.k8s.io/v1/namespaces/team/localsubjectaccessreviews", 201).with(json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "LocalSubjectAccessReview", "metadata": { "namespace": "team" },
            "spec": { "user": "eve", "resourceAttributes": { "verb": "get", "resource": "pods", "namespace": "team" } },
        })),
        case(User("owner"), post.clone(), "/apis/authorization.k8s.io/v1/namespaces/team/localsubjectaccessreviews", 422).with(json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "LocalSubjectAccessReview", "metadata": { "namespace": "team" },
            "spec": { "user": "eve", "resourceAttributes": { "verb": "get", "resource": "pods", "namespace": "other" } },
        })),
        case(Admin, post.clone(), "/apis/authorization.k8s.io/v1/subjectaccessreviews", 422).with(json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": { "resourceAttributes": { "verb": "get" } },
        })),
        case(Admin, post.clone(), "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", 400).with(json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {},
        })),
    ]
}
