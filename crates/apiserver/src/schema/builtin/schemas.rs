//! OpenAPI schemas of the built-in kinds. They serve pruning, field management, strategic merge and OpenAPI alike.

use serde_json::{Value, json};

/// A built-in kind as written down here.
pub(super) struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub namespaced: bool,
    pub status: bool,
    pub schema: Value,
}

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

fn flag(description: &str) -> Value {
    json!({"type": "boolean", "description": description})
}

fn time(description: &str) -> Value {
    json!({"type": "string", "format": "date-time", "description": description})
}

fn micro_time(description: &str) -> Value {
    json!({"type": "string", "format": "date-time", "description": description})
}

fn int(format: &str, description: &str) -> Value {
    json!({"type": "integer", "format": format, "description": description})
}

fn text_map(description: &str) -> Value {
    json!({"type": "object", "additionalProperties": {"type": "string"}, "description": description})
}

fn byte_map(description: &str) -> Value {
    json!({"type": "object", "additionalProperties": {"type": "string", "format": "byte"}, "description": description})
}

fn atomic_texts(description: &str) -> Value {
    json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "atomic", "description": description})
}

/// `metadata` of every object.
pub(super) fn object_meta() -> Value {
    json!({
        "type": "object",
        "description": "Standard object metadata.",
        "properties": {
            "annotations": text_map("Unstructured key-value map that tools use to store and retrieve arbitrary metadata."),
            "creationTimestamp": time("When the object was created; set by the server."),
            "deletionGracePeriodSeconds": int("int64", "Seconds the object may take to terminate; set by the server."),
            "deletionTimestamp": time("When the object is to be deleted; set by the server."),
            "finalizers": {
                "type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set", "x-kubernetes-patch-strategy": "merge",
                "description": "Must be empty before the object is deleted; each entry names a component that removes it."
            },
            "generateName": text("Prefix from which the server makes a unique name when no name is given."),
            "generation": int("int64", "Sequence number of a generation of the desired state; set by the server."),
            "labels": text_map("Map of keys and values that organise and select objects."),
            "managedFields": {
                "type": "array", "x-kubernetes-list-type": "atomic",
                "description": "Which field manager owns which fields; for internal housekeeping.",
                "items": {"type": "object", "properties": {
                    "apiVersion": text("Version that this entry's field set applies to."),
                    "fieldsType": text("Discriminator of the fields format; only FieldsV1."),
                    "fieldsV1": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "x-kubernetes-map-type": "atomic", "description": "The fields."},
                    "manager": text("Name of the manager."),
                    "operation": text("Apply or Update."),
                    "subresource": text("Subresource that was used to write, if any."),
                    "time": time("When the entry was last changed.")
                }}
            },
            "name": text("Unique within a namespace; cannot be changed."),
            "namespace": text("The space within which the name is unique; cannot be changed."),
            "ownerReferences": {
                "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uid"],
                "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "uid",
                "description": "Objects this object depends on; when all are gone, it is deleted.",
                "items": {"type": "object", "required": ["apiVersion", "kind", "name", "uid"], "x-kubernetes-map-type": "atomic", "properties": {
                    "apiVersion": text("API version of the owner."),
                    "blockOwnerDeletion": flag("Whether the owner cannot be deleted in the foreground while this reference exists."),
                    "controller": flag("Whether the owner is the managing controller."),
                    "kind": text("Kind of the owner."),
                    "name": text("Name of the owner."),
                    "uid": text("UID of the owner.")
                }}
            },
            "resourceVersion": text("Opaque version of the object for optimistic concurrency; set by the server."),
            "selfLink": text("Deprecated; not set."),
            "uid": text("Unique in time and space; set by the server.")
        }
    })
}

fn kind(mut properties: Value, description: &str) -> Value {
    if let Some(map) = properties.as_object_mut() {
        map.insert("apiVersion".into(), text("Version of the schema this object is written in."));
        map.insert("kind".into(), text("Kind of the object."));
        map.insert("metadata".into(), object_meta());
    }
    json!({"type": "object", "description": description, "properties": properties})
}

fn object_reference(description: &str) -> Value {
    json!({"type": "object", "x-kubernetes-map-type": "atomic", "description": description, "properties": {
        "apiVersion": text("API version of the referent."),
        "fieldPath": text("Part of the object that is referred to."),
        "kind": text("Kind of the referent."),
        "name": text("Name of the referent."),
        "namespace": text("Namespace of the referent."),
        "resourceVersion": text("Version of the referent."),
        "uid": text("UID of the referent.")
    }})
}

fn condition() -> Value {
    json!({"type": "object", "required": ["type", "status"], "properties": {
        "lastTransitionTime": time("When the condition last changed its status."),
        "message": text("What happened, for people."),
        "observedGeneration": int("int64", "Generation the condition was decided on."),
        "reason": text("Why, for machines."),
        "status": text("True, False or Unknown."),
        "type": text("Type of the condition.")
    }})
}

fn conditions(description: &str) -> Value {
    json!({
        "type": "array", "description": description, "items": condition(),
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
        "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "type"
    })
}

/// Every kind.
pub(super) fn all() -> Vec<Kind> {
    let core = |kind: &'static str, plural: &'static str, namespaced: bool, status: bool, schema: Value| Kind {
        group: "",
        version: "v1",
        kind,
        plural,
        namespaced,
        status,
        schema,
    };
    vec![
        core("Namespace", "namespaces", false, true, namespace()),
        core("Secret", "secrets", true, false, secret()),
        core("ConfigMap", "configmaps", true, false, config_map()),
        core("ServiceAccount", "serviceaccounts", true, false, service_account()),
        core("Event", "events", true, false, core_event()),
        Kind {
            group: "events.k8s.io",
            version: "v1",
            kind: "Event",
            plural: "events",
            namespaced: true,
            status: false,
            schema: event(),
        },
        Kind {
            group: "coordination.k8s.io",
            version: "v1",
            kind: "Lease",
            plural: "leases",
            namespaced: true,
            status: false,
            schema: lease(),
        },
        rbac("Role", "roles", true, role(false)),
        rbac(
            "RoleBinding",
            "rolebindings",
            true,
            binding("A role's rights for some, in the binding's namespace."),
        ),
        rbac("ClusterRole", "clusterroles", false, role(true)),
        rbac(
            "ClusterRoleBinding",
            "clusterrolebindings",
            false,
            binding("A role's rights for some, in every namespace."),
        ),
        Kind {
            group: "apiextensions.k8s.io",
            version: "v1",
            kind: "CustomResourceDefinition",
            plural: "customresourcedefinitions",
            namespaced: false,
            status: true,
            schema: definition(),
        },
    ]
}

fn namespace() -> Value {
    kind(
        json!({
            "spec": {"type": "object", "description": "Desired behaviour.", "properties": {
                "finalizers": atomic_texts("Must be empty before the namespace is gone.")
            }},
            "status": {"type": "object", "description": "Current state.", "properties": {
                "conditions": conditions("Latest observations of the namespace's state."),
                "phase": text("Active or Terminating.")
            }}
        }),
        "A scope for names; namespaces share a set of machines among groups of users.",
    )
}

fn secret() -> Value {
    kind(
        json!({
            "data": byte_map("The secret data, base64 encoded."),
            "immutable": flag("Whether the data cannot be changed (only metadata can)."),
            "stringData": text_map("Write-only convenience: plain text that is encoded into data."),
            "type": text("How the data is meant to be used.")
        }),
        "Secret data of a certain type.",
    )
}

fn config_map() -> Value {
    kind(
        json!({
            "binaryData": byte_map("Binary data, base64 encoded."),
            "data": text_map("Configuration data."),
            "immutable": flag("Whether the data cannot be changed (only metadata can).")
        }),
        "Configuration data for others to read.",
    )
}

fn service_account() -> Value {
    kind(
        json!({
            "automountServiceAccountToken": flag("Whether pods get a token mounted."),
            "imagePullSecrets": {
                "type": "array", "x-kubernetes-list-type": "atomic", "description": "Secrets for pulling images.",
                "items": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"name": text("Name of the secret.")}}
            },
            "secrets": {
                "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name",
                "description": "Secrets that the account may use.", "items": object_reference("A secret.")
            }
        }),
        "A name that processes authenticate with.",
    )
}

fn core_event() -> Value {
    let mut schema = kind(
        json!({
            "action": text("What was done or failed."),
            "count": int("int32", "How often it happened."),
            "eventTime": micro_time("When it was first observed."),
            "firstTimestamp": time("When it was first recorded."),
            "involvedObject": object_reference("What the event is about."),
            "lastTimestamp": time("When it was recorded last."),
            "message": text("What happened, for people."),
            "reason": text("Why, for machines."),
            "related": object_reference("A second object, for complex actions."),
            "reportingComponent": text("Name of the controller that emitted the event."),
            "reportingInstance": text("Identifier of the controller's instance."),
            "series": {"type": "object", "description": "The series this event is part of.", "properties": {
                "count": int("int32", "Occurrences so far."),
                "lastObservedTime": micro_time("Time of the last occurrence.")
            }},
            "source": {"type": "object", "description": "Which component reported it.", "properties": {
                "component": text("Component."),
                "host": text("Node.")
            }},
            "type": text("Normal or Warning.")
        }),
        "A report of something that happened.",
    );
    schema["required"] = json!(["metadata", "involvedObject"]);
    schema
}

fn event() -> Value {
    let mut schema = kind(
        json!({
            "action": text("What was done or failed."),
            "deprecatedCount": int("int32", "How often it happened."),
            "deprecatedFirstTimestamp": time("When it was first recorded."),
            "deprecatedLastTimestamp": time("When it was recorded last."),
            "deprecatedSource": {"type": "object", "description": "Which component reported it.", "properties": {
                "component": text("Component."),
                "host": text("Node.")
            }},
            "eventTime": micro_time("When it was first observed."),
            "note": text("What happened, for people."),
            "reason": text("Why, for machines."),
            "regarding": object_reference("What the event is about."),
            "related": object_reference("A second object, for complex actions."),
            "reportingController": text("Name of the controller that emitted the event."),
            "reportingInstance": text("Identifier of the controller's instance."),
            "series": {"type": "object", "required": ["count", "lastObservedTime"], "description": "The series this event is part of.", "properties": {
                "count": int("int32", "Occurrences so far."),
                "lastObservedTime": micro_time("Time of the last occurrence.")
            }},
            "type": text("Normal or Warning.")
        }),
        "A report of something that happened.",
    );
    schema["required"] = json!(["eventTime"]);
    schema
}

fn lease() -> Value {
    kind(
        json!({
            "spec": {"type": "object", "description": "Who holds the lease, and for how long.", "properties": {
                "acquireTime": micro_time("When the current holder acquired the lease."),
                "holderIdentity": text("Identity of the holder."),
                "leaseDurationSeconds": int("int32", "Seconds that others wait before they take the lease."),
                "leaseTransitions": int("int32", "How often the lease changed hands."),
                "preferredHolder": text("To whom the holder should hand over."),
                "renewTime": micro_time("When the holder last renewed the lease."),
                "strategy": text("How the leader is picked.")
            }}
        }),
        "A lease, for leader election and heartbeats.",
    )
}

fn rbac(kind: &'static str, plural: &'static str, namespaced: bool, schema: Value) -> Kind {
    Kind {
        group: "rbac.authorization.k8s.io",
        version: "v1",
        kind,
        plural,
        namespaced,
        status: false,
        schema,
    }
}

fn role(gathers: bool) -> Value {
    let rule = json!({"type": "object", "required": ["verbs"], "description": "What may be done to what.", "properties": {
        "apiGroups": atomic_texts("Groups of the resources; * is every group."),
        "nonResourceURLs": atomic_texts("Paths beside the resources; a trailing * stands for anything."),
        "resourceNames": atomic_texts("Only objects of these names; empty is every name."),
        "resources": atomic_texts("Resources and subresources; * is all of them."),
        "verbs": atomic_texts("What may be done; * is everything.")
    }});
    let mut properties = json!({
        "rules": {"type": "array", "x-kubernetes-list-type": "atomic", "items": rule, "description": "All rules of the role."}
    });
    if gathers {
        let requirement = json!({"type": "object", "required": ["key", "operator"], "properties": {
            "key": text("Key of the label."),
            "operator": text("In, NotIn, Exists or DoesNotExist."),
            "values": atomic_texts("Values for In and NotIn.")
        }});
        properties["aggregationRule"] = json!({"type": "object", "description": "Whose rules this role gathers; its own are overwritten.", "properties": {
            "clusterRoleSelectors": {
                "type": "array", "x-kubernetes-list-type": "atomic", "description": "A role is gathered that any of them selects.",
                "items": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {
                    "matchExpressions": {"type": "array", "x-kubernetes-list-type": "atomic", "items": requirement, "description": "Requirements on labels."},
                    "matchLabels": text_map("Labels and their values.")
                }}
            }
        }});
    }
    kind(
        properties,
        if gathers {
            "Rights that can be bound in one namespace or in all."
        } else {
            "Rights within one namespace."
        },
    )
}

fn binding(description: &str) -> Value {
    let mut schema = kind(
        json!({
            "roleRef": {"type": "object", "required": ["kind", "name"], "x-kubernetes-map-type": "atomic", "description": "The role; cannot be changed.",
                "properties": {
                    "apiGroup": text("rbac.authorization.k8s.io."),
                    "kind": text("Role or ClusterRole."),
                    "name": text("Name of the role.")
                }},
            "subjects": {"type": "array", "x-kubernetes-list-type": "atomic", "description": "To whom the rights are given.",
                "items": {"type": "object", "required": ["kind", "name"], "x-kubernetes-map-type": "atomic", "properties": {
                    "apiGroup": text("Empty for service accounts, rbac.authorization.k8s.io for users and groups."),
                    "kind": text("User, Group or ServiceAccount."),
                    "name": text("Name of the subject."),
                    "namespace": text("Namespace of a service account.")
                }}}
        }),
        description,
    );
    schema["required"] = json!(["roleRef"]);
    schema
}

fn names(description: &str) -> Value {
    json!({"type": "object", "required": ["plural", "kind"], "description": description, "properties": {
        "categories": atomic_texts("Groups this resource belongs to, e.g. all."),
        "kind": text("Kind, in CamelCase."),
        "listKind": text("Kind of lists."),
        "plural": text("Name in URLs."),
        "shortNames": atomic_texts("Short names for the command line."),
        "singular": text("Name of one.")
    }})
}

fn definition() -> Value {
    let column = json!({"type": "object", "required": ["name", "type", "jsonPath"], "properties": {
        "description": text("What the column shows."),
        "format": text("Format of the value."),
        "jsonPath": text("Where the value is."),
        "name": text("Heading."),
        "priority": int("int32", "0 is always shown, more only in wide output."),
        "type": text("integer, number, string, boolean or date.")
    }});
    let version = json!({"type": "object", "required": ["name", "served", "storage"], "properties": {
        "additionalPrinterColumns": {"type": "array", "x-kubernetes-list-type": "atomic", "items": column, "description": "Columns of tables."},
        "deprecated": flag("Whether requests get a warning."),
        "deprecationWarning": text("Text of the warning."),
        "name": text("Name, e.g. v1."),
        "schema": {"type": "object", "description": "How objects look.", "properties": {
            "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "description": "OpenAPI v3 schema."}
        }},
        "selectableFields": {
            "type": "array", "x-kubernetes-list-type": "atomic", "description": "Fields that field selectors may use.",
            "items": {"type": "object", "required": ["jsonPath"], "properties": {"jsonPath": text("Where the value is.")}}
        },
        "served": flag("Whether the version is reachable."),
        "storage": flag("Whether objects are stored in this version."),
        "subresources": {"type": "object", "description": "Status and scale.", "properties": {
            "scale": {"type": "object", "required": ["specReplicasPath", "statusReplicasPath"], "description": "Scale subresource.", "properties": {
                "labelSelectorPath": text("Where the selector is."),
                "specReplicasPath": text("Where the desired replicas are."),
                "statusReplicasPath": text("Where the actual replicas are.")
            }},
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "description": "Status subresource."}
        }}
    }});
    let mut schema = kind(
        json!({
            "spec": {"type": "object", "required": ["group", "names", "scope", "versions"], "description": "The definition.", "properties": {
                "conversion": {"type": "object", "required": ["strategy"], "description": "How versions convert.", "properties": {
                    "strategy": text("None or Webhook."),
                    "webhook": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "description": "How to call the webhook."}
                }},
                "group": text("API group."),
                "names": names("Names of the resource."),
                "preserveUnknownFields": flag("Deprecated; must be false."),
                "scope": text("Cluster or Namespaced."),
                "versions": {"type": "array", "x-kubernetes-list-type": "atomic", "items": version, "description": "Versions of the resource."}
            }},
            "status": {"type": "object", "description": "What the server made of it.", "properties": {
                "acceptedNames": names("Names that are in use."),
                "conditions": {
                    "type": "array", "items": condition(), "description": "State of the definition.",
                    "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]
                },
                "observedGeneration": int("int64", "Generation the status was made from."),
                "storedVersions": atomic_texts("Versions that objects were ever stored in.")
            }}
        }),
        "A resource that the API server serves like its own.",
    );
    schema["required"] = json!(["spec"]);
    schema
}
