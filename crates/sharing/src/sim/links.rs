//! The simulated network: links with a rate in each direction, and transfers that share them.
//!
//! A transfer is a fluid. It runs at the smaller of two levels: what its sender's link and what its receiver's link give to each of theirs. A
//! link divides its rate evenly, but what others cannot take, being held back at their other end, goes to the rest (max-min fairness, which
//! is about what TCP comes to). Levels follow each other until they change by less than [`TOLERANCE`].

use std::collections::VecDeque;

/// Changes of a level that are too small to be carried on.
const TOLERANCE: f64 = 0.01;
/// Most links that one change is carried to at once; the rest follows with the next change.
const STEPS: usize = 256;

/// A machine's link, or the server's.
pub type Node = usize;
/// A transfer.
pub type FlowId = usize;

#[derive(Debug)]
struct Direction {
    /// Bytes a second.
    rate: f64,
    /// What each transfer gets that is not held back elsewhere.
    level: f64,
    flows: Vec<FlowId>,
    waiting: bool,
}

#[derive(Debug)]
struct Flow {
    from: usize,
    to: usize,
    left: f64,
    rate: f64,
    at: f64,
    version: u32,
}

/// When a transfer ends, as far as is known now: valid while its version is the same.
#[derive(Debug, Clone, Copy)]
pub struct Ending {
    /// Which.
    pub flow: FlowId,
    /// Version of its rate.
    pub version: u32,
    /// Seconds.
    pub at: f64,
}

/// All links and transfers.
#[derive(Debug, Default)]
pub struct Links {
    /// Two to a node: what it sends, what it receives.
    directions: Vec<Direction>,
    flows: Vec<Option<Flow>>,
    free: Vec<FlowId>,
    versions: Vec<u32>,
    waiting: VecDeque<usize>,
    touched: Vec<usize>,
    caps: Vec<f64>,
    /// Endings that are new since [`Links::take_endings`].
    endings: Vec<Ending>,
}

impl Links {
    /// Adds a link with its rates in bytes a second.
    pub fn add(&mut self, up: f64, down: f64) -> Node {
        for rate in [up, down] {
            self.directions.push(Direction {
                rate,
                level: rate,
                flows: Vec::new(),
                waiting: false,
            });
        }
        self.directions.len() / 2 - 1
    }

    /// Begins a transfer.
    pub fn begin(&mut self, now: f64, from: Node, to: Node, bytes: f64) -> FlowId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.flows.push(None);
            self.versions.push(0);
            self.flows.len() - 1
        });
        let (from, to) = (from * 2, to * 2 + 1);
        self.versions[id] += 1;
        self.flows[id] = Some(Flow {
            from,
            to,
            left: bytes,
            rate: 0.0,
            at: now,
            version: self.versions[id],
        });
        self.directions[from].flows.push(id);
        self.directions[to].flows.push(id);
        self.mark(from);
        self.mark(to);
        self.settle(now);
        id
    }

    /// Ends a transfer, finished or not; the bytes that were left.
    pub fn end(&mut self, now: f64, id: FlowId) -> f64 {
        let Some(flow) = self.flows[id].take() else {
            return 0.0;
        };
        for at in [flow.from, flow.to] {
            self.directions[at].flows.retain(|&other| other != id);
            self.mark(at);
        }
        self.versions[id] += 1;
        self.free.push(id);
        self.settle(now);
        (flow.left - flow.rate * (now - flow.at)).max(0.0)
    }

    /// A link is cut or slowed: what it sends from now on, in bytes a second.
    pub fn set_up(&mut self, now: f64, node: Node, rate: f64) {
        self.directions[node * 2].rate = rate;
        self.mark(node * 2);
        self.settle(now);
    }

    /// Whether an ending still holds.
    pub fn holds(&self, ending: Ending) -> bool {
        self.flows[ending.flow].as_ref().is_some_and(|flow| flow.version == ending.version)
    }

    /// The endings that became known.
    pub fn take_endings(&mut self) -> std::vec::Drain<'_, Ending> {
        self.endings.drain(..)
    }

    fn mark(&mut self, at: usize) {
        if !std::mem::replace(&mut self.directions[at].waiting, true) {
            self.waiting.push_back(at);
        }
    }

    fn settle(&mut self, now: f64) {
        for _ in 0..STEPS {
            let Some(at) = self.waiting.pop_front() else {
                break;
            };
            self.directions[at].waiting = false;
            self.touched.push(at);
            let level = self.level(at);
            let old = self.directions[at].level;
            if (level - old).abs() <= TOLERANCE * old {
                continue;
            }
            self.directions[at].level = level;
            for place in 0..self.directions[at].flows.len() {
                let id = self.directions[at].flows[place];
                if let Some(flow) = &self.flows[id] {
                    let other = if flow.from == at { flow.to } else { flow.from };
                    self.mark(other);
                }
            }
        }
        while let Some(at) = self.touched.pop() {
            for place in 0..self.directions[at].flows.len() {
                let id = self.directions[at].flows[place];
                self.run(now, id);
            }
        }
    }

    /// What each transfer of a direction gets, unless its other end gives it less.
    fn level(&mut self, at: usize) -> f64 {
        let Direction { rate, flows, .. } = &self.directions[at];
        self.caps.clear();
        for &id in flows {
            if let Some(flow) = &self.flows[id] {
                let other = if flow.from == at { flow.to } else { flow.from };
                self.caps.push(self.directions[other].level);
            }
        }
        self.caps.sort_unstable_by(f64::total_cmp);
        let mut left = *rate;
        for (place, &cap) in self.caps.iter().enumerate() {
            let share = left / (self.caps.len() - place) as f64;
            if cap >= share {
                return share.max(1e-9);
            }
            left -= cap;
        }
        rate.max(1e-9)
    }

    fn run(&mut self, now: f64, id: FlowId) {
        let Some(flow) = &mut self.flows[id] else {
            return;
        };
        let rate = self.directions[flow.from].level.min(self.directions[flow.to].level);
        if (rate - flow.rate).abs() <= TOLERANCE * flow.rate {
            return;
        }
        flow.left = (flow.left - flow.rate * (now - flow.at)).max(0.0);
        flow.at = now;
        flow.rate = rate;
        self.versions[id] += 1;
        flow.version = self.versions[id];
        self.endings.push(Ending {
            flow: id,
            version: flow.version,
            at: now + flow.left / rate,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(links: &Links, id: FlowId) -> f64 {
        links.flows[id].as_ref().map_or(0.0, |flow| flow.rate)
    }

    #[test]
    fn what_one_cannot_take_goes_to_the_others() {
        let mut links = Links::default();
        let (server, slow, fast) = (links.add(100.0, 100.0), links.add(10.0, 10.0), links.add(1000.0, 1000.0));
        let to_slow = links.begin(0.0, server, slow, 1e6);
        let to_fast = links.begin(0.0, server, fast, 1e6);
        assert!((rate(&links, to_slow) - 10.0).abs() < 0.5);
        assert!((rate(&links, to_fast) - 90.0).abs() < 2.0);
        links.end(1.0, to_fast);
        let again = links.begin(1.0, slow, fast, 1e6);
        assert!((rate(&links, again) - 10.0).abs() < 0.5);
    }

    #[test]
    fn no_link_carries_more_than_its_rate() {
        let mut links = Links::default();
        let nodes: Vec<Node> = (0..20).map(|at| links.add(50.0 + at as f64, 80.0)).collect();
        let mut flows = Vec::new();
        for step in 0..4000_usize {
            let (from, to) = (nodes[step * 7 % 20], nodes[(step * 11 + step / 20 + 1) % 20]);
            if from != to {
                flows.push(links.begin(step as f64, from, to, 1e9));
            }
            if flows.len() > 60 {
                links.end(step as f64, flows.swap_remove(step * 13 % 60));
            }
        }
        for direction in &links.directions {
            let sum: f64 = direction.flows.iter().map(|&id| rate(&links, id)).sum();
            assert!(sum <= direction.rate * 1.05, "{sum} on a link of {}", direction.rate);
        }
        // And none is left idle that could do more: each transfer is held back by one of its ends.
        for flow in links.flows.iter().flatten() {
            let full = [flow.from, flow.to].into_iter().any(|at| {
                let sum: f64 = links.directions[at].flows.iter().map(|&id| rate(&links, id)).sum();
                sum >= links.directions[at].rate * 0.93
            });
            assert!(full, "a transfer of {} is held back by nobody", flow.rate);
        }
    }
}
