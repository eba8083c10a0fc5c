use super::{super::faults::Plan, *};

fn script(random: &mut Random) -> Vec<u8> {
    if random.chance(0.3) {
        return b"#!ipxe\nsanboot --no-describe --drive 0x80 ||\n".to_vec();
    }
    format!(
        "#!ipxe\nkernel /x kbm.server=https://127.0.0.1:1 kbm.ca={} kbm.token=kbm1.a.b",
        "0".repeat(64)
    )
    .into_bytes()
}

fn reply(point: Point, random: &mut Random) -> Answer {
    let error = |code| {
        serde_json::to_vec(&ErrorResponse {
            code,
            message: "no".to_owned(),
            retry_after_ms: Some(10),
        })
        .unwrap()
    };
    let codes = [
        ErrorCode::Overloaded,
        ErrorCode::TokenRefused,
        ErrorCode::SessionGone,
        ErrorCode::StaleOrder,
        ErrorCode::NotFound,
        ErrorCode::Forbidden,
        ErrorCode::IdentityConflict,
        ErrorCode::Internal,
    ];
    match random.draw() % 8 {
        0 => Answer::Lost,
        1 => Answer::Reply(200, random.bytes::<40>().to_vec()),
        2 => Answer::Reply(403, error(codes[random.draw() as usize % codes.len()])),
        _ => Answer::Reply(
            200,
            match point {
                Point::Boot => script(random),
                Point::Session => br#"{"session": "s", "discovery": "m", "protocol": 1, "pollSeconds": 30}"#.to_vec(),
                Point::Order => br#"{"order": {"id": "o", "kind": "Erase"}}"#.to_vec(),
                Point::Seed | Point::Progress | Point::Result | Point::Register | Point::GuestOrder => b"{}".to_vec(),
            },
        ),
    }
}

/// Whatever a server answers, the machine goes on, asks one thing at a time, and touches its disk only for an order that names it.
#[test]
fn no_answer_stops_a_machine_or_makes_it_touch_a_disk_that_no_order_names() {
    for seed in 0..50 {
        let mut random = Random::of(seed, 1);
        let mut machine = Machine::new(0, seed, Plan::many(seed).of_machine(0), Timing::short());
        let before = machine.body.contents.clone();
        let (mut input, mut asked) = (Input::Go, 0);
        for _ in 0..2_000 {
            let point = match machine.step(input) {
                Action::Wait(wait) => {
                    assert!(wait < Duration::from_secs(60));
                    input = Input::Go;
                    continue;
                }
                Action::Boot { path } => {
                    assert!(path.starts_with("/boot/ipxe?uuid="));
                    Point::Boot
                }
                Action::Call { call, point, .. } => {
                    assert!(call.headers.iter().any(|(name, _)| *name == session::HEADER_SIGNATURE));
                    point
                }
                Action::Off => panic!("nobody switched it off"),
            };
            asked += 1;
            input = Input::Answer(reply(point, &mut random));
        }
        assert!(asked > 200, "it asked {asked} times only");
        assert_eq!(machine.body.contents, before, "an order without a disk is refused");
    }
}

/// Whether firmware asks the network at this boot.
fn asks_the_network(machine: &mut Machine) -> bool {
    machine.lose_power();
    assert!(matches!(machine.step(Input::Go), Action::Wait(_)), "firmware takes its time");
    matches!(machine.step(Input::Go), Action::Boot { .. })
}

#[test]
fn firmware_that_tries_the_disk_first_goes_to_the_network_when_it_is_told_once() {
    let new = || Machine::new(0, 1, Plan::none(1).of_machine(0), Timing::short());
    let mut machine = new().disk_first();
    assert!(asks_the_network(&mut machine), "nothing boots from a blank disk");
    machine.body.contents.state = ContentsState::Marked;
    assert!(!asks_the_network(&mut machine));
    machine.boots_from(First::Network);
    assert!(asks_the_network(&mut machine));
    assert!(!asks_the_network(&mut machine), "that was for one boot");

    let mut machine = new();
    machine.body.contents.state = ContentsState::Marked;
    assert!(asks_the_network(&mut machine));
    machine.boots_from(First::Disk);
    assert!(!asks_the_network(&mut machine));
    machine.boots_from(First::Setup);
    machine.lose_power();
    assert!(matches!(machine.step(Input::Go), Action::Wait(wait) if wait > Duration::from_secs(3_600)));
}
