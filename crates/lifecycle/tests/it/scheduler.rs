//! Which machine does an instance get, and why none?

use std::collections::{BTreeMap, BTreeSet};

use api::{
    BareMetalHardware, BareMetalHardwareStatus, BareMetalInstance, HardwarePhase,
    common::{Taint, TaintEffect, Toleration, TolerationOperator},
    hardware::ClaimRef,
};
use k8s_openapi::apimachinery::pkg::{
    api::resource::Quantity,
    apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
};
use lifecycle::scheduler::{Placement, schedule, selector_matches};
use proptest::prelude::*;

use crate::world::{instance, named};

fn machine(name: &str, cpu: &str, memory: &str) -> BareMetalHardware {
    BareMetalHardware {
        metadata: named(name),
        spec: api::BareMetalHardwareSpec::default(),
        status: Some(BareMetalHardwareStatus {
            phase: HardwarePhase::Ready,
            capacity: [("cpu", cpu), ("memory", memory), ("disk", "100Gi")]
                .map(|(k, v)| (k.to_owned(), Quantity(v.to_owned())))
                .into(),
            ..BareMetalHardwareStatus::default()
        }),
    }
}

fn asking(requests: &[(&str, &str)]) -> BareMetalInstance {
    let mut made = instance("web", "uid-1");
    made.spec.requests = requests.iter().map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned()))).collect();
    made
}

fn placed(instance: &BareMetalInstance, machines: &[BareMetalHardware]) -> Placement {
    schedule(instance, machines, &BTreeSet::new())
}

fn on(name: &str) -> Placement {
    Placement::Machine(name.to_owned())
}

fn why(placement: Placement) -> String {
    match placement {
        Placement::Pending { message, .. } => message,
        Placement::Machine(name) => panic!("placed on {name}"),
    }
}

#[test]
fn the_machine_that_wastes_least_is_taken() {
    let machines = [
        machine("big", "64", "512Gi"),
        machine("fit", "8", "32Gi"),
        machine("small", "4", "8Gi"),
    ];
    assert_eq!(placed(&asking(&[("cpu", "8"), ("memory", "32Gi")]), &machines), on("fit"));
    assert_eq!(placed(&asking(&[("memory", "32.5Gi")]), &machines), on("big"));
    assert_eq!(placed(&asking(&[]), &machines), on("small"));
}

#[test]
fn pending_counts_every_machine_once_by_reason() {
    let mut machines: Vec<_> = (0..12).map(|i| machine(&format!("m{i:02}"), "8", "32Gi")).collect();
    for machine in &mut machines[0..5] {
        machine.status.as_mut().unwrap().phase = HardwarePhase::Cleaning;
    }
    for machine in &mut machines[5..8] {
        machine
            .status
            .as_mut()
            .unwrap()
            .capacity
            .insert("memory".to_owned(), Quantity("8Gi".to_owned()));
    }
    machines[8].spec.claim_ref = Some(ClaimRef {
        namespace: "a".to_owned(),
        name: "b".to_owned(),
        uid: "c".to_owned(),
        ..ClaimRef::default()
    });
    machines[9].spec.taints = vec![Taint {
        key: "dedicated".to_owned(),
        value: None,
        effect: TaintEffect::NoSchedule,
    }];
    machines[10].spec.maintenance = true;
    machines[11].status = None;
    let spoken_for = BTreeSet::from(["m08".to_owned()]);
    let message = why(schedule(&asking(&[("memory", "16Gi")]), &machines, &spoken_for));
    assert_eq!(
        message,
        "0/12 machines fit: 3 have too little memory, 1 has a taint that is not tolerated, 1 in maintenance, 1 in use, 6 not ready"
    );
    let message = why(placed(&asking(&[("cpu", "-1")]), &machines));
    assert!(message.contains("spec.requests.cpu"), "{message}");
    assert!(why(placed(&asking(&[]), &[])).contains("There is no BareMetalHardware yet"));
}

#[test]
fn a_machine_that_another_instance_names_is_not_free() {
    let machines = [machine("a", "8", "32Gi")];
    let message = why(schedule(&asking(&[]), &machines, &BTreeSet::from(["a".to_owned()])));
    assert_eq!(message, "0/1 machines fit: 1 in use");
}

#[test]
fn taints_and_tolerations_work_as_for_pods() {
    let mut machines = [machine("a", "8", "32Gi"), machine("b", "64", "512Gi")];
    machines[0].spec.taints = vec![Taint {
        key: "gpu".to_owned(),
        value: Some("yes".to_owned()),
        effect: TaintEffect::PreferNoSchedule,
    }];
    let mut web = asking(&[]);
    assert_eq!(placed(&web, &machines), on("b"), "avoided, though it fits better");
    web.spec.tolerations = vec![Toleration {
        key: Some("gpu".to_owned()),
        operator: TolerationOperator::Equal,
        value: Some("yes".to_owned()),
        effect: None,
    }];
    assert_eq!(placed(&web, &machines), on("a"));
    machines[0].spec.taints[0].effect = TaintEffect::NoSchedule;
    web.spec.tolerations[0].value = Some("no".to_owned());
    assert_eq!(placed(&web, &machines), on("b"));
    web.spec.tolerations = vec![Toleration {
        operator: TolerationOperator::Exists,
        ..Toleration::default()
    }];
    assert_eq!(placed(&web, &machines), on("a"));
}

#[test]
fn selectors_and_class_choose() {
    let mut machines = [machine("a", "8", "32Gi"), machine("b", "8", "32Gi")];
    machines[1].metadata.labels = Some([("rack".to_owned(), "r2".to_owned())].into());
    machines[1].spec.class = Some("large".to_owned());
    let mut web = asking(&[]);
    web.spec.class = Some("large".to_owned());
    assert_eq!(placed(&web, &machines), on("b"));
    web.spec.class = None;
    let requirement = |operator: &str, values: &[&str]| LabelSelector {
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: "rack".to_owned(),
            operator: operator.to_owned(),
            values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
        }]),
        match_labels: None,
    };
    for (operator, values, name) in [
        ("In", &["r1", "r2"][..], "b"),
        ("NotIn", &["r2"], "a"),
        ("Exists", &[], "b"),
        ("DoesNotExist", &[], "a"),
    ] {
        web.spec.hardware_selector = Some(requirement(operator, values));
        assert_eq!(placed(&web, &machines), on(name), "{operator}");
    }
    web.spec.hardware_selector = Some(requirement("Near", &[]));
    assert!(why(placed(&web, &machines)).contains("spec.hardwareSelector"));
    assert_eq!(selector_matches(&LabelSelector::default(), &BTreeMap::new()), Ok(true));
}

proptest! {
    #[test]
    fn what_is_chosen_fits_and_nothing_smaller_does(sizes in prop::collection::vec((1u32..64, 1u32..512), 1..20), cpu in 1u32..64, memory in 1u32..512) {
        let machines: Vec<_> = sizes.iter().enumerate().map(|(i, (c, m))| machine(&format!("m{i:02}"), &c.to_string(), &format!("{m}Gi"))).collect();
        let fits = |(c, m): (u32, u32)| c >= cpu && m >= memory;
        match placed(&asking(&[("cpu", &cpu.to_string()), ("memory", &format!("{memory}Gi"))]), &machines) {
            Placement::Machine(name) => {
                let at: usize = name[1..].parse().unwrap();
                prop_assert!(fits(sizes[at]));
                prop_assert!(sizes.iter().all(|s| !fits(*s) || (s.1, s.0) >= (sizes[at].1, sizes[at].0)));
            }
            Placement::Pending { message, .. } => {
                prop_assert!(!sizes.iter().any(|s| fits(*s)));
                let counted: usize = message.split(['/', ':', ',']).skip(2).filter_map(|p| p.trim().split(' ').next()?.parse::<usize>().ok()).sum();
                prop_assert_eq!(counted, sizes.len(), "every machine is counted once: {}", message);
            }
        }
    }
}
