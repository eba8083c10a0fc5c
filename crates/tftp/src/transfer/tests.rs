use super::*;

const START: Time = Time::from_secs(100);

fn options(list: &[(OptionKind, u64)]) -> Options {
    let mut options = Options::default();
    for (kind, value) in list {
        options.push(*kind, *value);
    }
    options
}

fn transfer(bytes: usize, asked: &[(OptionKind, u64)]) -> Transfer {
    let content: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
    Transfer::new(content.into(), &options(asked), Settings::default(), START)
}

/// Sends all that is ready; the numbers of the blocks, or [0] for the OACK.
fn send(transfer: &mut Transfer, now: Time) -> Vec<u16> {
    let sent = (0..transfer.ready())
        .map(|i| match transfer.packet(i) {
            Some(Outgoing::Data { block, .. }) => block,
            Some(Outgoing::OptionAck(_)) => 0,
            other => panic!("{other:?}"),
        })
        .collect();
    transfer.sent(transfer.ready(), now);
    sent
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn terms_that_are_agreed_to() {
    use OptionKind::{BlockSize, Timeout, TransferSize, WindowSize};
    let settings = Settings {
        max_block_size: 1468,
        ..Settings::default()
    };
    let agreed = |asked: &[(OptionKind, u64)], settings: &Settings| Terms::negotiate(&options(asked), 1000, settings);
    for (asked, answer) in [
        (vec![(BlockSize, 8)], vec![(BlockSize, 8)]),
        (vec![(BlockSize, 7)], vec![]),
        (vec![(BlockSize, 70_000)], vec![(BlockSize, 1468)]),
        (
            vec![(TransferSize, 77), (BlockSize, 1024)],
            vec![(TransferSize, 1000), (BlockSize, 1024)],
        ),
        (vec![(Timeout, 0)], vec![]),
        (vec![(Timeout, 256)], vec![]),
        (vec![(Timeout, 255)], vec![(Timeout, 255)]),
        (vec![(WindowSize, 0)], vec![]),
        (vec![(WindowSize, 65_536)], vec![(WindowSize, 64)]),
        (vec![(WindowSize, 4), (BlockSize, 1468)], vec![(WindowSize, 4), (BlockSize, 1468)]),
    ] {
        assert_eq!(agreed(&asked, &settings).answer, options(&answer), "{asked:?}");
    }
    let plain = agreed(&[], &settings);
    assert_eq!((plain.block_size, plain.window, plain.answer.is_empty()), (512, 1, true));
    let large = agreed(&[(WindowSize, 64), (BlockSize, 65_464)], &Settings::default());
    assert_eq!(
        (large.block_size, large.window),
        (65_464, 2),
        "a window that no receive buffer holds is not agreed to"
    );
}

#[test]
fn lock_step_ignores_repeated_acknowledgements() {
    let mut t = transfer(1024, &[]);
    assert_eq!(send(&mut t, START), [1]);
    t.acknowledged(1, START + ms(1));
    assert_eq!(send(&mut t, START + ms(1)), [2]);
    for _ in 0..5 {
        t.acknowledged(1, START + ms(2));
        assert_eq!(t.ready(), 0, "Sorcerer's Apprentice");
    }
    t.acknowledged(7, START + ms(2));
    t.acknowledged(2, START + ms(3));
    assert_eq!(send(&mut t, START + ms(3)), [3], "a file of whole blocks ends in an empty one");
    t.acknowledged(3, START + ms(4));
    assert_eq!(t.outcome(), Some(&Outcome::Finished));
    assert_eq!((t.delivered(), t.resent(), t.timeouts(), t.deadline()), (1024, 0, 0, None));
}

#[test]
fn a_gap_in_a_window_goes_back_once() {
    let mut t = transfer(512 * 20, &[(OptionKind::WindowSize, 4)]);
    assert_eq!(send(&mut t, START), [0]);
    t.acknowledged(0, START);
    assert_eq!(send(&mut t, START), [1, 2, 3, 4]);
    // Block 3 is lost; EDK2 acknowledges 2 for each block that follows.
    t.acknowledged(2, START);
    assert_eq!(send(&mut t, START), [3, 4, 5, 6]);
    t.acknowledged(2, START);
    t.acknowledged(2, START);
    assert_eq!(t.ready(), 0, "echoes");
    t.acknowledged(6, START);
    assert_eq!(send(&mut t, START), [7, 8, 9, 10]);
    t.acknowledged(6, START);
    assert_eq!(t.ready(), 0, "the window before was not clean, so this may be an echo");
    t.acknowledged(10, START);
    assert_eq!(send(&mut t, START), [11, 12, 13, 14]);
    t.acknowledged(10, START);
    assert_eq!(send(&mut t, START), [11, 12, 13, 14], "the first block of the window is missing");
    t.acknowledged(10, START);
    assert_eq!(t.ready(), 0);
    assert_eq!(t.resent(), 2 + 4);
}

#[test]
fn copies_of_a_window_do_not_go_back_for_each() {
    let mut t = transfer(512 * 20, &[(OptionKind::WindowSize, 4)]);
    send(&mut t, START);
    t.acknowledged(0, START + ms(2));
    assert_eq!(send(&mut t, START + ms(2)), [1, 2, 3, 4]);
    // The network doubled it, and the client acknowledges each copy.
    t.acknowledged(1, START + ms(4));
    assert_eq!(send(&mut t, START + ms(4)), [2, 3, 4, 5], "it might have been a gap");
    t.acknowledged(2, START + ms(4));
    assert_eq!(send(&mut t, START + ms(4)), [6], "the client's window begins where it acknowledged");
    t.acknowledged(3, START + ms(4));
    t.acknowledged(4, START + ms(4));
    assert_eq!(send(&mut t, START + ms(4)), [7, 8]);
    for _ in 0..3 {
        t.acknowledged(4, START + ms(5));
        assert_eq!(t.ready(), 0, "it speaks of what it had before");
    }
    t.acknowledged(8, START + ms(6));
    assert_eq!(send(&mut t, START + ms(6)), [9, 10, 11, 12]);
    assert_eq!((t.resent(), t.timeouts()), (3, 0));
}

#[test]
fn a_gap_in_what_was_sent_again_needs_no_timer() {
    let mut t = transfer(512 * 20, &[(OptionKind::WindowSize, 4)]);
    send(&mut t, START);
    t.acknowledged(0, START + ms(2));
    assert_eq!(send(&mut t, START + ms(2)), [1, 2, 3, 4]);
    t.acknowledged(1, START + ms(4));
    assert_eq!(send(&mut t, START + ms(4)), [2, 3, 4, 5]);
    // Block 2 is lost again.
    t.acknowledged(1, START + ms(5));
    assert_eq!(t.ready(), 0, "from before");
    t.acknowledged(1, START + ms(6));
    assert_eq!(send(&mut t, START + ms(6)), [2, 3, 4, 5]);
    // Block 3 is.
    t.acknowledged(2, START + ms(8));
    assert_eq!(send(&mut t, START + ms(8)), [3, 4, 5, 6]);
    assert_eq!(t.timeouts(), 0);
}

#[test]
fn a_client_that_only_asks_is_given_up() {
    let mut t = transfer(512, &[]);
    let mut now = START;
    while t.outcome().is_none() {
        send(&mut t, now);
        now += ms(300);
        t.asked_again(now);
        t.timer(now);
        assert!(now < START + Duration::from_secs(30));
    }
    assert_eq!(t.outcome(), Some(&Outcome::Failed(Failure::NeverAnswered)));
}

#[test]
fn timers_back_off_and_give_up() {
    let mut t = transfer(512, &[]);
    let mut now = START;
    let mut waits = Vec::new();
    while let Some(deadline) = t.deadline() {
        assert_eq!(send(&mut t, now), [1]);
        let deadline = t.deadline().unwrap_or(deadline);
        t.timer(deadline - ms(1));
        assert_eq!(t.ready(), 0, "not before the deadline");
        waits.push((deadline - now).as_secs());
        now = deadline;
        t.timer(now);
    }
    assert_eq!(waits, [1, 2, 4, 8, 8]);
    assert_eq!(t.outcome(), Some(&Outcome::Failed(Failure::NeverAnswered)));
    assert_eq!((t.timeouts(), t.resent()), (5, 4));
}

#[test]
fn the_time_between_tries_that_was_agreed_to_counts_after_the_agreement() {
    let mut t = transfer(512, &[(OptionKind::Timeout, 200)]);
    send(&mut t, START);
    assert_eq!(t.deadline(), Some(START + ms(1000)));
    t.acknowledged(0, START);
    send(&mut t, START);
    assert_eq!(t.deadline(), Some(START + Duration::from_secs(200)));
}

#[test]
fn short_round_trips_shorten_the_wait() {
    let mut t = transfer(512 * 9, &[]);
    for block in 1..=8 {
        assert_eq!(send(&mut t, START), [block]);
        t.acknowledged(block, START + ms(2));
    }
    send(&mut t, START);
    assert_eq!(t.deadline(), Some(START + ms(250)));
}

#[test]
fn a_lost_oack_is_sent_again_by_timer_and_by_request() {
    let mut t = transfer(512, &[(OptionKind::TransferSize, 0)]);
    assert_eq!(send(&mut t, START), [0]);
    t.asked_again(START + ms(500));
    assert_eq!(send(&mut t, START + ms(500)), [0]);
    t.timer(START + ms(1500));
    assert_eq!(send(&mut t, START + ms(1500)), [0]);
    t.acknowledged(0, START + ms(1501));
    assert_eq!(send(&mut t, START + ms(1501)), [1]);
    t.asked_again(START + ms(1600));
    assert_eq!(t.ready(), 0, "an old copy of the request");
    t.asked_again(START + ms(2600));
    assert_eq!(send(&mut t, START + ms(2600)), [0], "the client was reset");
    t.acknowledged(0, START + ms(2601));
    assert_eq!(send(&mut t, START + ms(2601)), [1]);
}

#[test]
fn clients_that_only_ask_for_the_size() {
    let mut t = transfer(512, &[(OptionKind::TransferSize, 0), (OptionKind::BlockSize, 1468)]);
    send(&mut t, START);
    t.refused(ErrorCode::UNDEFINED, b"User aborted the transfer");
    assert_eq!(t.outcome(), Some(&Outcome::Probed));
    assert_eq!(t.ready(), 0);

    let mut t = transfer(512, &[(OptionKind::TransferSize, 0)]);
    send(&mut t, START);
    t.refused(ErrorCode::OPTIONS, b"\x1b[31mno");
    let Some(Outcome::Failed(failure)) = t.outcome() else {
        panic!("{:?}", t.outcome())
    };
    assert_eq!(failure.to_string(), "the client gave up: option negotiation failed: \\x1b[31mno");
}

#[test]
fn what_the_server_ends_is_told_where_it_helps() {
    let mut t = transfer(512, &[]);
    t.end(Failure::Stopped);
    assert!(matches!(
        t.packet(0),
        Some(Outgoing::Error {
            code: ErrorCode::UNDEFINED,
            ..
        })
    ));
    t.sent(1, START);
    assert_eq!((t.ready(), t.deadline()), (0, None));
    let mut t = transfer(512, &[]);
    t.end(Failure::Superseded);
    assert_eq!(t.ready(), 0);
}

#[test]
fn numbers_roll_over() {
    let mut t = transfer(8 * 140_000, &[(OptionKind::BlockSize, 8), (OptionKind::WindowSize, 64)]);
    assert_eq!(send(&mut t, START), [0]);
    t.acknowledged(0, START);
    let mut received = 0_usize;
    while t.outcome().is_none() {
        let mut last = 0;
        for index in 0..t.ready() {
            let Some(Outgoing::Data { block, data }) = t.packet(index) else {
                panic!("no data")
            };
            assert!(data.iter().enumerate().all(|(i, b)| usize::from(*b) == (received + i) % 251));
            received += data.len();
            last = block;
        }
        t.sent(t.ready(), START);
        t.acknowledged(last, START);
    }
    assert_eq!((received, t.resent(), t.outcome()), (8 * 140_000, 0, Some(&Outcome::Finished)));
}
