//! What has to be changed in an object because the other API gives new uids.
//!
//! Only what *decisions* compare with an instance's present uid is changed: the machine's claim and what its status says of that claim, addresses, owner references. What machines said or
//! were told (discoveries, orders, evidence) stays as it was; `spec.claimRef.installationUid` of the machine links it to the new uid.

use std::collections::HashMap;

use kube::api::DynamicObject;
use lifecycle::hardware::REMEMBERED_RELEASES;
use serde_json::{Value, json};

/// From old uids to new ones.
#[derive(Debug, Default)]
pub struct Uids(HashMap<String, String>);

impl Uids {
    /// Notes that what had the uid `old` has `new` now.
    pub fn insert(&mut self, old: &str, new: &str) {
        self.0.insert(old.to_owned(), new.to_owned());
    }

    /// The new one.
    pub fn get(&self, old: &str) -> Option<&str> {
        self.0.get(old).map(String::as_str)
    }

    fn change(&self, at: Option<&mut Value>) {
        if let Some(at) = at
            && let Some(new) = at.as_str().and_then(|old| self.get(old))
        {
            *at = json!(new);
        }
    }

    /// A machine's spec and status.
    pub fn in_hardware(&self, hardware: &mut DynamicObject) {
        let data = &mut hardware.data;
        let status = |data: &Value, at: &str| data.pointer(&format!("/status/{at}")).cloned();
        let written = status(data, "written") == Some(json!(true)) || status(data, "installed").is_some();
        if let Some(claim) = data.pointer_mut("/spec/claimRef").and_then(Value::as_object_mut)
            && let Some(old) = claim.get("uid").and_then(Value::as_str).map(str::to_owned)
            && written
            && self.get(&old).is_some()
        {
            claim.entry("installationUid").or_insert(json!(old));
        }
        for at in ["/spec/claimRef/uid", "/status/claimUid", "/status/installed/claimUid"] {
            self.change(data.pointer_mut(at));
        }
        if let Some(released) = data.pointer_mut("/status/releasedClaims").and_then(Value::as_array_mut) {
            // Both: the instance is known by the new one here, and by the old one to its machine.
            let mut both: Vec<Value> = Vec::new();
            for old in released.drain(..) {
                let new = old.as_str().and_then(|o| self.get(o)).map(|n| json!(n));
                both.push(old);
                both.extend(new);
            }
            let surplus = both.len().saturating_sub(REMEMBERED_RELEASES);
            both.drain(..surplus);
            *released = both;
        }
    }

    /// An address's instance.
    pub fn in_address(&self, address: &mut DynamicObject) {
        self.change(address.data.pointer_mut("/spec/instanceUid"));
    }

    /// Owner references. An owner that does not move is dropped, because a collector would delete the object for its sake; returns their names.
    pub fn in_owners(&self, object: &mut DynamicObject) -> Vec<String> {
        let mut dropped = Vec::new();
        if let Some(owners) = &mut object.metadata.owner_references {
            owners.retain_mut(|owner| match self.get(&owner.uid) {
                Some(new) => {
                    new.clone_into(&mut owner.uid);
                    true
                }
                None => {
                    dropped.push(format!("{} {}", owner.kind, owner.name));
                    false
                }
            });
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    fn uids() -> Uids {
        let mut uids = Uids::default();
        uids.insert("old", "new");
        uids
    }

    #[test]
    fn a_claim_is_re_identified_and_the_disk_keeps_its_word() {
        let mut hardware = object(json!({
            "metadata": {"name": "m"},
            "spec": {"claimRef": {"namespace": "n", "name": "i", "uid": "old"}},
            "status": {
                "claimUid": "old", "written": true, "installed": {"claimUid": "old"}, "releasedClaims": ["before"],
                "order": {"claim": {"uid": "old"}}, "lastErase": {"claimUid": "before"}
            }
        }));
        uids().in_hardware(&mut hardware);
        let claim = &hardware.data["spec"]["claimRef"];
        assert_eq!((&claim["uid"], &claim["installationUid"]), (&json!("new"), &json!("old")));
        let status = &hardware.data["status"];
        assert_eq!(
            (&status["claimUid"], &status["installed"]["claimUid"]),
            (&json!("new"), &json!("new"))
        );
        assert_eq!(
            (&status["order"]["claim"]["uid"], &status["releasedClaims"]),
            (&json!("old"), &json!(["before"]))
        );
        // The next move keeps what the disk says.
        let mut again = Uids::default();
        again.insert("new", "newer");
        again.in_hardware(&mut hardware);
        let claim = &hardware.data["spec"]["claimRef"];
        assert_eq!((&claim["uid"], &claim["installationUid"]), (&json!("newer"), &json!("old")));
    }

    #[test]
    fn a_machine_on_which_nothing_was_written_has_no_other_uid() {
        let mut hardware = object(json!({
            "metadata": {"name": "m"}, "spec": {"claimRef": {"uid": "old"}}, "status": {"claimUid": "old", "written": false}
        }));
        uids().in_hardware(&mut hardware);
        assert_eq!(hardware.data.pointer("/spec/claimRef/installationUid"), None);
    }

    #[test]
    fn a_released_claim_stays_released_under_both_uids() {
        let mut hardware = object(json!({
            "metadata": {"name": "m"}, "spec": {}, "status": {"releasedClaims": ["1", "2", "3", "4", "5", "6", "7", "old"]}
        }));
        uids().in_hardware(&mut hardware);
        assert_eq!(
            hardware.data["status"]["releasedClaims"],
            json!(["2", "3", "4", "5", "6", "7", "old", "new"])
        );
    }

    #[test]
    fn owners_that_move_are_kept_and_others_dropped_by_name() {
        let owner = |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "Thing", "name": name, "uid": uid});
        let mut endpoint = object(json!({"metadata": {"name": "e", "ownerReferences": [owner("a", "old"), owner("b", "other")]}}));
        assert_eq!(uids().in_owners(&mut endpoint), ["Thing b"]);
        let left = endpoint.metadata.owner_references.unwrap();
        assert_eq!((left.len(), left[0].uid.as_str()), (1, "new"));
    }
}
