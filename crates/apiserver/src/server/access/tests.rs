use std::sync::Arc;

use serde_json::{Value, json};

use super::index::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES};
use super::*;
use crate::store::{Draft, Expect, Key, Limits, Store, Write};

struct World {
    access: Arc<Access>,
    store: Store,
    _directory: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(&directory.path().join("objects"), Limits::default()).expect("opens");
        let access = Arc::new(Access::default());
        let observer = access.clone();
        store.observe(Box::new(move |events| observer.observe(events)));
        World {
            access,
            store,
            _directory: directory,
        }
    }

    async fn put(&self, resource: &str, namespace: &str, name: &str, mut value: Value) {
        value["metadata"] = json!({ "name": name, "uid": name });
        let write = Write::Put {
            key: Key::new(&Arc::from(resource), namespace, name),
            expect: Expect::Absent,
            draft: Draft::new(&value),
            require: None,
        };
        self.store.commit(write).await.expect("stored");
    }

    async fn remove(&self, resource: &str, namespace: &str, name: &str) {
        let key = Key::new(&Arc::from(resource), namespace, name);
        let revision = self.store.get(&key).expect("it is there").revision;
        self.store.commit(Write::Delete { key, revision }).await.expect("removed");
    }

    fn decide(&self, identity: &Identity, verb: &str, resource: &str, namespace: &str) -> Decision {
        self.access.decide(
            identity,
            &Attempt::Resource {
                verb,
                group: "",
                resource,
                subresource: "",
                namespace,
                name: "x",
            },
        )
    }
}

fn reads(resource: &str) -> Value {
    json!({ "rules": [{ "verbs": ["get"], "apiGroups": [""], "resources": [resource] }] })
}

fn binds(kind: &str, role: &str, subject: Value) -> Value {
    json!({ "roleRef": { "kind": kind, "name": role }, "subjects": [subject] })
}

fn robot(namespace: &str) -> Identity {
    Identity::service_account(namespace, "robot", "1")
}

#[tokio::test]
async fn bindings_reach_as_far_as_they_say() {
    let world = World::new();
    world.put(CLUSTER_ROLES, "", "pods", reads("pods")).await;
    world.put(CLUSTER_ROLES, "", "nodes", reads("nodes")).await;
    world.put(ROLES, "a", "maps", reads("configmaps")).await;
    world.put(ROLES, "b", "maps", reads("secrets")).await;
    let user = json!({ "kind": "User", "name": "eve" });
    world
        .put(CLUSTER_ROLE_BINDINGS, "", "nodes", binds("ClusterRole", "nodes", user.clone()))
        .await;
    world
        .put(ROLE_BINDINGS, "a", "pods", binds("ClusterRole", "pods", user.clone()))
        .await;
    world
        .put(
            ROLE_BINDINGS,
            "a",
            "maps",
            binds("Role", "maps", json!({ "kind": "Group", "name": "people" })),
        )
        .await;
    world
        .put(
            ROLE_BINDINGS,
            "b",
            "maps",
            binds("Role", "maps", json!({ "kind": "ServiceAccount", "name": "robot" })),
        )
        .await;
    world
        .put(
            CLUSTER_ROLE_BINDINGS,
            "",
            "robot",
            binds(
                "ClusterRole",
                "nodes",
                json!({ "kind": "ServiceAccount", "name": "robot", "namespace": "c" }),
            ),
        )
        .await;

    let eve = Identity::new("eve", ["system:authenticated"]);
    let person = Identity::new("x", ["people"]);
    // A user that only looks like an account's.
    let fake = Identity::new("system:serviceaccount:b:robot:x", ["system:authenticated"]);
    for (who, resource, namespace, allowed) in [
        (&eve, "nodes", "", true),
        (&eve, "nodes", "a", true),
        (&eve, "nodes", "elsewhere", true),
        (&eve, "pods", "a", true),
        (&eve, "pods", "b", false),
        (&eve, "pods", "", false),
        (&eve, "configmaps", "a", false),
        (&person, "configmaps", "a", true),
        (&person, "secrets", "b", false),
        (&robot("b"), "secrets", "b", true),
        (&robot("b"), "configmaps", "b", false),
        (&robot("a"), "secrets", "b", false),
        (&robot("c"), "nodes", "", true),
        (&robot("b"), "nodes", "", false),
        (&fake, "secrets", "b", false),
        (&Identity::new("", [""]), "nodes", "", false),
        (&Identity::new("anybody", [MASTERS]), "anything", "anywhere", true),
        (&Identity::new(MASTERS, ["people"]), "anything", "anywhere", false),
    ] {
        let decision = world.decide(who, "get", resource, namespace);
        assert_eq!(decision.is_allowed(), allowed, "{who:?} {resource} in {namespace:?}: {decision:?}");
        assert!(who.is_master() || !world.decide(who, "list", resource, namespace).is_allowed());
    }
    assert_eq!(
        world.decide(&robot("b"), "get", "secrets", "b"),
        Decision::Allowed("RBAC: allowed by RoleBinding \"maps/b\" of Role \"maps\" to ServiceAccount \"robot/b\"".to_owned())
    );
    world.store.close().await;
}

#[tokio::test]
async fn a_change_is_in_force_when_its_writer_hears_of_it() {
    let world = World::new();
    let eve = Identity::new("eve", ["system:authenticated"]);
    let user = json!({ "kind": "User", "name": "eve" });
    let may = || world.decide(&eve, "get", "pods", "a");
    assert_eq!(may(), Decision::Denied(String::new()));
    world.put(ROLE_BINDINGS, "a", "b", binds("Role", "r", user.clone())).await;
    assert_eq!(
        may(),
        Decision::Denied("RBAC: role.rbac.authorization.k8s.io \"r\" not found".to_owned()),
        "a binding may come before its role"
    );
    world.put(ROLES, "a", "r", reads("pods")).await;
    assert!(may().is_allowed());
    world.remove(ROLES, "a", "r").await;
    assert!(!may().is_allowed());
    world.put(ROLES, "a", "r", reads("pods")).await;
    assert!(may().is_allowed());
    world.remove(ROLE_BINDINGS, "a", "b").await;
    assert_eq!(may(), Decision::Denied(String::new()));
    world.put(CLUSTER_ROLES, "", "r", reads("pods")).await;
    world.put(CLUSTER_ROLE_BINDINGS, "", "b", binds("ClusterRole", "r", user)).await;
    assert!(may().is_allowed());

    // What is loaded at a start decides like what was followed.
    let fresh = Access::default();
    fresh.load(&world.store);
    let attempt = Attempt::Resource {
        verb: "get",
        group: "",
        resource: "pods",
        subresource: "",
        namespace: "a",
        name: "",
    };
    assert_eq!(fresh.decide(&eve, &attempt), world.access.decide(&eve, &attempt));
    world.remove(CLUSTER_ROLES, "", "r").await;
    assert!(!may().is_allowed());
    world.store.close().await;
}

#[tokio::test]
async fn rights_are_held_as_a_whole_or_named_where_they_are_missing() {
    let world = World::new();
    let eve = Identity::new("eve", ["system:authenticated"]);
    world.put(CLUSTER_ROLES, "", "r", reads("pods")).await;
    world
        .put(
            ROLE_BINDINGS,
            "a",
            "b",
            binds("ClusterRole", "r", json!({ "kind": "User", "name": "eve" })),
        )
        .await;
    let wanted = Rule::list(Some(
        &json!([{ "verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"] }]),
    ));
    assert_eq!(
        world.access.holds(&eve, "a", &wanted).expect_err("list is missing"),
        "user \"eve\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}"
    );
    let held = Rule::list(reads("pods").get("rules"));
    assert!(world.access.holds(&eve, "a", &held).is_ok());
    assert!(world.access.holds(&eve, "b", &held).is_err(), "not in another namespace");
    assert!(world.access.holds(&eve, "", &held).is_err(), "nor everywhere");
    world.store.close().await;
}

#[test]
fn a_refusal_says_who_what_and_where() {
    let eve = Identity::new("eve <x>", ["g"]);
    let said = |attempt: Attempt<'_>, why: &str| {
        let error = forbidden(&eve, &attempt, why);
        (error.code, error.message, error.details)
    };
    let resource = |namespace, subresource, name| Attempt::Resource {
        verb: "get",
        group: "example.com",
        resource: "widgets",
        subresource,
        namespace,
        name,
    };
    let (code, message, details) = said(resource("default", "", "a"), "");
    assert_eq!(code, 403);
    assert_eq!(
        message,
        "widgets.example.com \"a\" is forbidden: User \"eve &lt;x&gt;\" cannot get resource \"widgets\" in API group \"example.com\" in the namespace \"default\""
    );
    assert_eq!(details, Some(json!({ "name": "a", "group": "example.com", "kind": "widgets" })));
    assert_eq!(
        said(resource("", "scale", ""), "because").1,
        "widgets.example.com is forbidden: User \"eve &lt;x&gt;\" cannot get resource \"widgets/scale\" in API group \"example.com\" at the cluster scope: because"
    );
    assert_eq!(
        said(Attempt::Path { verb: "get", path: "/x" }, "").1,
        "forbidden: User \"eve &lt;x&gt;\" cannot get path \"/x\""
    );
}
