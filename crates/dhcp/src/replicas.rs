//! Several replicas on one segment, and one answer per client.
//!
//! Every replica hears every broadcast. By a hash of the client and each replica's number all of them know, without a word, who comes first, second and
//! so on (rendezvous hashing; the idea of RFC 3074 without its table). The first answers at once. The second answers when the client has been
//! trying for four seconds by its own account, or is heard for the second time, which means that the first one is gone; and so on.
//!
//! Should two answer after all, no harm is done: they choose the same address for the same client, and what comes later is addressed to one of them by
//! the server identifier.

use crate::{Time, hash};

/// Clients that are remembered by those who are not the first for them.
const HEARD: usize = 4096;
/// Seconds of trying after which the next one takes its turn.
const PATIENCE: u16 = 4;
/// Copies of one packet, which came through two relay agents, are nearer to each other than this.
const COPY: Time = Time::from_millis(500);
/// A client that was heard before that long starts anew.
const FORGOTTEN: Time = Time::from_secs(60);

#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    client: u64,
    times: u16,
    last: Time,
}

/// The replicas that answer on a segment.
#[derive(Debug)]
pub struct Replicas {
    me: u64,
    others: Vec<u64>,
    /// By the client's hash; a collision makes a replica answer a little late or early.
    heard: Vec<Heard>,
}

impl Replicas {
    /// Each replica has a number that is its own, for instance from its name. `all` are those that are alive as far as is known, with or without `me`.
    pub fn new(me: u64, all: &[u64]) -> Self {
        Self {
            me,
            others: all.iter().copied().filter(|r| *r != me).collect(),
            heard: Vec::new(),
        }
    }

    /// How many come before us with this client.
    fn rank(&self, client: &[u8]) -> u16 {
        let weight = |replica: u64| (hash::stable(replica, client), replica);
        let mine = weight(self.me);
        self.others.iter().filter(|other| weight(**other) > mine).count() as u16
    }

    /// Whether we answer a broadcast of this client, which says that it has been trying for so many seconds.
    pub fn is_our_turn(&mut self, client: &[u8], seconds: u16, now: Time) -> bool {
        let rank = self.rank(client);
        if rank == 0 || seconds / PATIENCE >= rank {
            return true;
        }
        if self.heard.is_empty() {
            self.heard.resize(HEARD, Heard::default());
        }
        let client = hash::stable(0, client);
        let heard = &mut self.heard[hash::below(client, HEARD as u32) as usize];
        if heard.client != client || now.saturating_sub(heard.last) > FORGOTTEN {
            *heard = Heard {
                client,
                times: 0,
                last: now,
            };
        } else if now.saturating_sub(heard.last) >= COPY {
            heard.times = heard.times.saturating_add(1);
            heard.last = now;
        }
        heard.times >= rank
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> [Replicas; 3] {
        [1, 2, 3].map(|me| Replicas::new(me, &[1, 2, 3]))
    }

    fn client(i: u32) -> [u8; 4] {
        i.to_be_bytes()
    }

    #[test]
    fn exactly_one_answers_at_first_and_the_work_is_shared() {
        let mut replicas = all();
        let mut answered = [0; 3];
        for i in 0..3000 {
            let turns = replicas.each_mut().map(|r| r.is_our_turn(&client(i), 0, Time::ZERO));
            assert_eq!(turns.iter().filter(|t| **t).count(), 1, "client {i}");
            for (count, turn) in answered.iter_mut().zip(turns) {
                *count += u32::from(turn);
            }
        }
        assert!(answered.iter().all(|a| (850..1150).contains(a)), "{answered:?}");
    }

    #[test]
    fn when_the_first_is_gone_the_next_answers_the_second_try() {
        let mut replicas = all();
        for i in 0..100 {
            let first = (0..3).find(|r| replicas[*r].rank(&client(i)) == 0).unwrap();
            let second = (0..3).find(|r| replicas[*r].rank(&client(i)) == 1).unwrap();
            let at = |ms: u64| Time::from_millis(1_000_000 + ms);
            assert!(!replicas[second].is_our_turn(&client(i), 0, at(0)));
            assert!(!replicas[second].is_our_turn(&client(i), 0, at(2)), "a copy by another relay agent");
            assert!(replicas[second].is_our_turn(&client(i), 0, at(4_000)));
            let third = 3 - first - second;
            assert!(!replicas[third].is_our_turn(&client(i), 4, at(4_000)));
            assert!(replicas[third].is_our_turn(&client(i), 8, at(8_000)));
        }
    }
}
