//! Rights: tokens of service accounts, and what roles let their holders do.

use serde_json::{Value, json};

use crate::{
    api::{Answer, Api, eventually},
    behaviour::{Behaviour, Case, behaviour},
    definitions::*,
};

const GROUP: &str = "rbac.authorization.k8s.io";

fn rbac(t: &Case, plural: &str) -> String {
    format!("/apis/{GROUP}/v1/namespaces/{}/{plural}", t.namespace)
}

fn tokens(t: &Case, account: &str) -> String {
    format!("{}/{account}/token", t.core("serviceaccounts"))
}

fn token_request(spec: &Value) -> Value {
    json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec })
}

async fn account(t: &Case, name: &str) {
    let body = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } });
    t.post(&t.core("serviceaccounts"), &body).await.ok(201);
}

async fn token(t: &Case, account: &str, spec: &Value) -> String {
    let made = t.post(&tokens(t, account), &token_request(spec)).await.ok(201);
    made["status"]["token"].as_str().expect("a token").to_owned()
}

/// Somebody with a token.
struct Holder {
    api: Api,
    token: String,
}

impl Holder {
    fn new(t: &Case, token: String) -> Holder {
        let api = t.nobody();
        Holder { api, token }
    }

    async fn ask(&self, method: &str, path: &str, body: Option<(&str, &Value)>) -> Answer {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let call = self.api.call(method, path).accept("application/json");
        let call = call.header("authorization", &format!("Bearer {}", self.token));
        match body {
            Some((kind, body)) => call.body(kind, body.to_string()).send().await,
            None => call.send().await,
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, None).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, Some(("application/json", body))).await
    }

    async fn merge(&self, path: &str, body: &Value) -> Answer {
        self.ask("PATCH", path, Some((crate::api::patch::MERGE, body))).await
    }
}

fn widgets_rule(verbs: &[&str], resources: &[&str]) -> Value {
    json!({ "verbs": verbs, "apiGroups": [crate::definitions::GROUP], "resources": resources })
}

fn subject(t: &Case, account: &str) -> Value {
    json!({ "kind": "ServiceAccount", "name": account, "namespace": t.namespace })
}

fn bound(role_kind: &str, role: &str, subjects: &Value) -> Value {
    json!({ "apiVersion": format!("{GROUP}/v1"), "metadata": { "name": role }, "roleRef": { "apiGroup": GROUP, "kind": role_kind, "name": role }, "subjects": subjects })
}

/// An account `robot` with these rules in the behaviour's namespace; roles take effect a moment after they are written.
async fn robot(t: &Case, rules: &Value) -> Holder {
    account(t, "robot").await;
    let role = json!({ "apiVersion": format!("{GROUP}/v1"), "kind": "Role", "metadata": { "name": "r" }, "rules": rules });
    t.post(&rbac(t, "roles"), &role).await.ok(201);
    t.post(&rbac(t, "rolebindings"), &bound("Role", "r", &json!([subject(t, "robot")])))
        .await
        .ok(201);
    Holder::new(t, token(t, "robot", &json!({})).await)
}

async fn soon(what: &str, holder: &Holder, path: &str) {
    eventually(what, async || holder.get(path).await.code == 200).await;
}

pub(super) fn all() -> Vec<Behaviour> {
    let mut list = roles();
    list.extend(grants());
    list.extend(identities());
    list
}

fn roles() -> Vec<Behaviour> {
    vec![
        behaviour("access: a role gives its verbs and no others", async |t| {
            let robot = robot(t, &json!([widgets_rule(&["get", "list"], &["widgets"])])).await;
            t.made("a").await;
            soon("the role is in force", &robot, &t.widget("a")).await;
            robot.get(&t.widgets()).await.ok(200);
            let refused = robot.ask("DELETE", &t.widget("a"), None).await.refused(403, "Forbidden");
            refused.message(&format!("widgets.conformance.example.com \"a\" is forbidden: User \"system:serviceaccount:{0}:robot\" cannot delete resource \"widgets\" in API group \"conformance.example.com\" in the namespace \"{0}\"", t.namespace));
            robot.post(&t.widgets(), &widget("b", 1)).await.refused(403, "Forbidden");
            robot.get(&format!("{}?watch=1", t.widgets())).await.refused(403, "Forbidden");
        }),
        behaviour("access: a role says nothing of other resources", async |t| {
            let robot = robot(t, &json!([widgets_rule(&["get"], &["widgets"])])).await;
            t.made("a").await;
            t.post(&t.config_maps(), &config_map("c")).await.ok(201);
            soon("the role is in force", &robot, &t.widget("a")).await;
            robot.get(&t.config_map("c")).await.refused(403, "Forbidden");
        }),
        behaviour("access: a role holds in its own namespace only", async |t| {
            let robot = robot(t, &json!([widgets_rule(&["get", "list"], &["widgets"])])).await;
            soon("the role is in force", &robot, &t.widgets()).await;
            robot
                .get("/apis/conformance.example.com/v1/namespaces/default/widgets")
                .await
                .refused(403, "Forbidden");
            robot
                .get("/apis/conformance.example.com/v1/widgets")
                .await
                .refused(403, "Forbidden")
                .says("at the cluster scope");
        }),
        behaviour("access: resourceNames limit a rule to those names", async |t| {
            let mut rule = widgets_rule(&["get", "list", "delete"], &["widgets"]);
            rule["resourceNames"] = json!(["a"]);
            let robot = robot(t, &json!([rule])).await;
            t.made("a").await;
            t.made("b").await;
            soon("the role is in force", &robot, &t.widget("a")).await;
            robot.get(&t.widget("b")).await.refused(403, "Forbidden");
            robot.get(&t.widgets()).await.refused(403, "Forbidden");
            let list = robot.get(&format!("{}?fieldSelector=metadata.name%3Da", t.widgets())).await.ok(200);
            assert_eq!(list.names(), ["a"]);
            robot.ask("DELETE", &t.widget("b"), None).await.refused(403, "Forbidden");
        }),
        behaviour("access: a subresource is a right of its own", async |t| {
            let rules = json!([widgets_rule(&["get"], &["widgets"]), widgets_rule(&["patch"], &["widgets/status"]),]);
            let robot = robot(t, &rules).await;
            t.made("a").await;
            soon("the role is in force", &robot, &t.widget("a")).await;
            let change = json!({ "status": { "ready": true } });
            robot.merge(&format!("{}/status", t.widget("a")), &change).await.ok(200);
            robot
                .merge(&t.widget("a"), &json!({ "spec": { "size": 2 } }))
                .await
                .refused(403, "Forbidden");
            robot
                .get(&format!("{}/status", t.widget("a")))
                .await
                .refused(403, "Forbidden")
                .says("cannot get resource \"widgets/status\"");
        }),
        behaviour("access: a right that is taken away is gone", async |t| {
            let robot = robot(t, &json!([widgets_rule(&["list"], &["widgets"])])).await;
            soon("the role is in force", &robot, &t.widgets()).await;
            t.delete(&format!("{}/r", rbac(t, "rolebindings"))).await.ok(200);
            eventually("the right is gone", async || robot.get(&t.widgets()).await.code == 403).await;
        }),
        behaviour("access: a cluster role bound in a namespace holds there", async |t| {
            account(t, "robot").await;
            let rules = json!([widgets_rule(&["list"], &["widgets"])]);
            let role =
                json!({ "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": { "name": t.namespace }, "rules": rules });
            t.post(&format!("/apis/{GROUP}/v1/clusterroles"), &role).await.ok(201);
            let binding = bound("ClusterRole", &t.namespace, &json!([subject(t, "robot")]));
            t.post(&rbac(t, "rolebindings"), &binding).await.ok(201);
            let robot = Holder::new(t, token(t, "robot", &json!({})).await);
            soon("the role is in force", &robot, &t.widgets()).await;
            robot
                .get("/apis/conformance.example.com/v1/widgets")
                .await
                .refused(403, "Forbidden");
            t.post(&format!("/apis/{GROUP}/v1/clusterrolebindings"), &binding).await.ok(201);
            soon(
                "it holds in every namespace",
                &robot,
                "/apis/conformance.example.com/v1/widgets?limit=1",
            )
            .await;
        }),
        behaviour("access: the accounts of a namespace are a group", async |t| {
            account(t, "robot").await;
            let role = json!({ "apiVersion": format!("{GROUP}/v1"), "kind": "Role", "metadata": { "name": "r" }, "rules": [widgets_rule(&["list"], &["widgets"])] });
            t.post(&rbac(t, "roles"), &role).await.ok(201);
            let group = json!([{ "apiGroup": GROUP, "kind": "Group", "name": format!("system:serviceaccounts:{}", t.namespace) }]);
            t.post(&rbac(t, "rolebindings"), &bound("Role", "r", &group)).await.ok(201);
            let robot = Holder::new(t, token(t, "robot", &json!({})).await);
            soon("the role is in force", &robot, &t.widgets()).await;
        }),
        behaviour("access: the rules of a role are told to who has it", async |t| {
            let robot = robot(t, &json!([widgets_rule(&["list"], &["widgets"])])).await;
            soon("the role is in force", &robot, &t.widgets()).await;
            let ask =
                json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": { "namespace": t.namespace } });
            let review = robot
                .post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &ask)
                .await
                .ok(201);
            let rules = review["status"]["resourceRules"].as_array().cloned().unwrap_or_default();
            assert!(rules.contains(&widgets_rule(&["list"], &["widgets"])), "{}", review.0);
        }),
    ]
}

fn grants() -> Vec<Behaviour> {
    vec![
        behaviour("access: nobody hands out rights that they lack", async |t| {
            let rules = json!([
                widgets_rule(&["list"], &["widgets"]),
                { "verbs": ["create"], "apiGroups": [GROUP], "resources": ["roles", "rolebindings"] },
            ]);
            let robot = robot(t, &rules).await;
            soon("the role is in force", &robot, &t.widgets()).await;
            let role = |name: &str, verbs: &[&str]| json!({ "apiVersion": format!("{GROUP}/v1"), "kind": "Role", "metadata": { "name": name }, "rules": [widgets_rule(verbs, &["widgets"])] });
            robot.post(&rbac(t, "roles"), &role("same", &["list"])).await.ok(201);
            let refused = robot
                .post(&rbac(t, "roles"), &role("more", &["list", "delete"]))
                .await
                .refused(403, "Forbidden");
            refused.says("is attempting to grant RBAC permissions not currently held");
            t.post(&rbac(t, "roles"), &role("more", &["list", "delete"])).await.ok(201);
            robot
                .post(&rbac(t, "rolebindings"), &bound("Role", "more", &json!([subject(t, "robot")])))
                .await
                .refused(403, "Forbidden");
        }),
        behaviour("access: a binding keeps its role", async |t| {
            robot(t, &json!([widgets_rule(&["list"], &["widgets"])])).await;
            let path = format!("{}/r", rbac(t, "rolebindings"));
            let refused = t
                .merge(&path, &json!({ "roleRef": { "name": "other" } }))
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueInvalid", "roleRef")]).says("cannot change roleRef");
        }),
        behaviour("access: acting for another needs a right", async |t| {
            let robot = robot(t, &json!([widgets_rule(&["list"], &["widgets"])])).await;
            soon("the role is in force", &robot, &t.widgets()).await;
            let call = t.nobody().call(reqwest::Method::GET, &t.widgets());
            let call = call.header("authorization", &format!("Bearer {}", robot.token));
            let refused = call.header("impersonate-user", "somebody").send().await.refused(403, "Forbidden");
            refused.says("cannot impersonate");
        }),
        behaviour("access: who acts for another has the other's rights", async |t| {
            let as_nobody = t.call(reqwest::Method::GET, &t.widgets()).header("impersonate-user", "somebody");
            as_nobody
                .send()
                .await
                .refused(403, "Forbidden")
                .says("User \"somebody\" cannot list resource");
        }),
        behaviour("reviews: SubjectAccessReview of somebody without rights", async |t| {
            let body = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": { "user": "somebody", "resourceAttributes": { "verb": "delete", "resource": "secrets", "namespace": t.namespace } } });
            let review = t.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &body).await.ok(201);
            review.has(json!({ "status": { "allowed": false } }));
        }),
    ]
}

fn identities() -> Vec<Behaviour> {
    vec![
        behaviour("tokens: name their account", async |t| {
            account(t, "robot").await;
            let robot = Holder::new(t, token(t, "robot", &json!({})).await);
            let ask = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
            let review = robot.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &ask).await.ok(201);
            review.has(json!({ "status": { "userInfo": {
                "username": format!("system:serviceaccount:{}:robot", t.namespace),
                "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{}", t.namespace), "system:authenticated"],
            } } }));
        }),
        behaviour("tokens: what is none is refused", async |t| {
            let forged = Holder::new(t, "not.a.token".to_owned());
            forged.get(&t.widgets()).await.refused(401, "Unauthorized");
        }),
        behaviour("tokens: of another audience are refused", async |t| {
            account(t, "robot").await;
            let other = token(t, "robot", &json!({ "audiences": ["vault"] })).await;
            let holder = Holder::new(t, other.clone());
            holder.get(&t.widgets()).await.refused(401, "Unauthorized");
            let review = |audiences: &[&str]| json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": other, "audiences": audiences } });
            let path = "/apis/authentication.k8s.io/v1/tokenreviews";
            let good = t.post(path, &review(&["vault"])).await.ok(201);
            good.has(json!({ "status": { "authenticated": true, "audiences": ["vault"] } }));
            let bad = t.post(path, &review(&["other"])).await.ok(201);
            bad.lacks("/status/authenticated");
        }),
        behaviour("tokens: end with their account", async |t| {
            account(t, "robot").await;
            let robot = Holder::new(t, token(t, "robot", &json!({})).await);
            robot.get(&t.widgets()).await.refused(403, "Forbidden");
            t.delete(&format!("{}/robot", t.core("serviceaccounts"))).await.ok(200);
            eventually("the token is worth nothing", async || robot.get(&t.widgets()).await.code == 401).await;
            // Another account of the same name is another account.
            account(t, "robot").await;
            let again = Holder::new(t, token(t, "robot", &json!({})).await);
            eventually("the new token is known", async || again.get(&t.widgets()).await.code == 403).await;
            robot.get(&t.widgets()).await.refused(401, "Unauthorized");
        }),
        behaviour("tokens: end with the Secret they are bound to", async |t| {
            account(t, "robot").await;
            let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" } });
            let secret = t.post(&t.core("secrets"), &secret).await.ok(201);
            let bound = json!({ "boundObjectRef": { "apiVersion": "v1", "kind": "Secret", "name": "s", "uid": secret.uid() } });
            let robot = Holder::new(t, token(t, "robot", &bound).await);
            eventually("the token is known", async || robot.get(&t.widgets()).await.code == 403).await;
            t.delete(&format!("{}/s", t.core("secrets"))).await.ok(200);
            eventually("the token is worth nothing", async || robot.get(&t.widgets()).await.code == 401).await;
        }),
        behaviour("tokens: live ten minutes at least", async |t| {
            account(t, "robot").await;
            let refused = t
                .post(&tokens(t, "robot"), &token_request(&json!({ "expirationSeconds": 60 })))
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueInvalid", "spec.expirationSeconds")]);
        }),
        behaviour("tokens: of an account that is not there", async |t| {
            t.post(&tokens(t, "nobody"), &token_request(&json!({})))
                .await
                .refused(404, "NotFound")
                .message("serviceaccounts \"nobody\" not found");
        }),
    ]
}
