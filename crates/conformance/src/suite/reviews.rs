//! Access reviews, asked by a member of system:masters, who may do everything.

use serde_json::json;

use crate::behaviour::{Behaviour, behaviour};

const REVIEWS: &str = "/apis/authorization.k8s.io/v1";

pub(super) fn all() -> Vec<Behaviour> {
    vec![
        behaviour("reviews: SelfSubjectAccessReview says yes", async |t| {
            let body = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": { "resourceAttributes": { "verb": "create", "group": "conformance.example.com", "resource": "widgets", "namespace": t.namespace } } });
            let review = t.post(&format!("{REVIEWS}/selfsubjectaccessreviews"), &body).await.ok(201);
            review.has(json!({ "kind": "SelfSubjectAccessReview", "status": { "allowed": true }, "spec": body["spec"] }));
        }),
        behaviour("reviews: SelfSubjectAccessReview of a path", async |t| {
            let body = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": { "nonResourceAttributes": { "verb": "get", "path": "/healthz" } } });
            t.post(&format!("{REVIEWS}/selfsubjectaccessreviews"), &body)
                .await
                .ok(201)
                .has(json!({ "status": { "allowed": true } }));
        }),
        behaviour("reviews: SelfSubjectAccessReview of nothing", async |t| {
            let body = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {} });
            t.post(&format!("{REVIEWS}/selfsubjectaccessreviews"), &body)
                .await
                .refused(422, "Invalid");
        }),
        behaviour("reviews: SubjectAccessReview of a member of system:masters", async |t| {
            let body = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": { "user": "somebody", "groups": ["system:masters"], "resourceAttributes": { "verb": "delete", "resource": "secrets" } } });
            t.post(&format!("{REVIEWS}/subjectaccessreviews"), &body)
                .await
                .ok(201)
                .has(json!({ "status": { "allowed": true } }));
        }),
        behaviour("reviews: SubjectAccessReview needs a user or groups", async |t| {
            let body = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": { "resourceAttributes": { "verb": "get", "resource": "secrets" } } });
            t.post(&format!("{REVIEWS}/subjectaccessreviews"), &body)
                .await
                .refused(422, "Invalid");
        }),
        behaviour("reviews: LocalSubjectAccessReview in a namespace", async |t| {
            let body = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "LocalSubjectAccessReview", "metadata": { "namespace": t.namespace }, "spec": { "user": "somebody", "groups": ["system:masters"], "resourceAttributes": { "namespace": t.namespace, "verb": "get", "resource": "secrets" } } });
            t.post(&format!("{REVIEWS}/namespaces/{}/localsubjectaccessreviews", t.namespace), &body)
                .await
                .ok(201)
                .has(json!({ "status": { "allowed": true } }));
        }),
        behaviour("reviews: SelfSubjectRulesReview lists everything", async |t| {
            let body =
                json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": { "namespace": t.namespace } });
            let review = t.post(&format!("{REVIEWS}/selfsubjectrulesreviews"), &body).await.ok(201);
            let rules = review["status"]["resourceRules"].as_array().cloned().unwrap_or_default();
            let all = json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] });
            assert!(rules.contains(&all), "{}", review.0);
        }),
        behaviour("reviews: SelfSubjectRulesReview needs a namespace", async |t| {
            let body = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {} });
            t.post(&format!("{REVIEWS}/selfsubjectrulesreviews"), &body)
                .await
                .refused(400, "BadRequest")
                .message("no namespace on request");
        }),
        behaviour("reviews: SelfSubjectReview says who asks", async |t| {
            let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
            let review = t.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &body).await.ok(201);
            let groups = review["status"]["userInfo"]["groups"].as_array().cloned().unwrap_or_default();
            assert!(
                groups.contains(&json!("system:masters")) && groups.contains(&json!("system:authenticated")),
                "{}",
                review.0
            );
        }),
        behaviour("reviews: nothing is stored", async |t| {
            assert_eq!(t.get(&format!("{REVIEWS}/selfsubjectaccessreviews")).await.code, 405);
        }),
    ]
}
