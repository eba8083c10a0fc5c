//! Who answered: each once, and no more than are bearable. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::message::{self, Answer, Refusal};

/// The most services that are kept.
pub const ANSWERS: usize = 512;
/// The most refused answers that are kept.
pub const REFUSALS: usize = 512;
/// The most services of one sender: one that talks much leaves room for others.
const OF_ONE: usize = 16;
/// The most refused answers of one sender.
const REFUSALS_OF_ONE: usize = 4;

/// An answer that is not believed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// Who sent it.
    pub from: IpAddr,
    /// Why it is not believed.
    pub why: Refusal,
}

/// What was heard so far.
#[derive(Debug, Default)]
pub struct Book {
    /// By UUID.
    answers: BTreeMap<String, Answer>,
    refused: BTreeSet<Refused>,
    senders: BTreeMap<IpAddr, (usize, usize)>,
    left_out: usize,
}

impl Book {
    /// Takes a datagram.
    pub fn hear(&mut self, from: IpAddr, datagram: &[u8]) {
        let why = match message::read(from, datagram) {
            Ok(answer) => match self.answers.get(&answer.uuid) {
                None => return self.keep(from, answer),
                // It heard several questions, or one on several of our networks.
                Some(first) if *first == answer => return,
                // One of both may be a stranger who wants to be taken for the other: a person sees both.
                Some(first) => Refusal::Double {
                    uuid: answer.uuid,
                    first: first.address.clone(),
                    second: answer.address,
                },
            },
            Err(why) => why,
        };
        let refused = Refused { from, why };
        if self.refused.contains(&refused) {
            return;
        }
        let full = self.refused.len() >= REFUSALS;
        match self.of(from) {
            Some((_, count)) if !full && *count < REFUSALS_OF_ONE => {
                *count += 1;
                self.refused.insert(refused);
            }
            _ => self.left_out += 1,
        }
    }

    fn keep(&mut self, from: IpAddr, answer: Answer) {
        let full = self.answers.len() >= ANSWERS;
        match self.of(from) {
            Some((count, _)) if !full && *count < OF_ONE => {
                *count += 1;
                self.answers.insert(answer.uuid.clone(), answer);
            }
            _ => self.left_out += 1,
        }
    }

    /// What is kept of a sender; None: there are too many.
    fn of(&mut self, from: IpAddr) -> Option<&mut (usize, usize)> {
        if self.senders.len() >= ANSWERS + REFUSALS && !self.senders.contains_key(&from) {
            return None;
        }
        Some(self.senders.entry(from).or_default())
    }

    /// The answers that may be believed so far.
    pub fn answers(&self) -> impl Iterator<Item = &Answer> {
        self.answers.values()
    }

    /// How many datagrams said something new for which there was no room.
    #[must_use]
    pub const fn left_out(&self) -> usize {
        self.left_out
    }

    /// The refused answers, by their senders.
    #[must_use]
    pub fn refused(self) -> Vec<Refused> {
        self.refused.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn sender(number: usize) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(u32::try_from(number).expect("small") + 0x0a00_0001))
    }

    fn answer(uuid: usize, at: IpAddr) -> Vec<u8> {
        let target = message::TARGET;
        format!(
            "HTTP/1.1 200 OK\r\nST:{target}\r\nUSN:uuid:6b6d6273-696d-4000-8000-{uuid:012x}::{target}\r\nAL:https://{at}/redfish/v1\r\n\r\n"
        )
        .into_bytes()
    }

    #[test]
    fn each_is_kept_once_and_doubles_are_shown() {
        let mut book = Book::default();
        for _ in 0..3 {
            book.hear(sender(0), &answer(7, sender(0)));
            book.hear(sender(1), &answer(7, sender(1)));
        }
        assert_eq!(
            book.answers().map(|answer| answer.address.as_str()).collect::<Vec<_>>(),
            ["https://10.0.0.1"]
        );
        assert_eq!(book.left_out(), 0);
        let refused = book.refused();
        assert_eq!(refused.len(), 1);
        assert_eq!(
            (refused[0].from, refused[0].why.to_string()),
            (
                sender(1),
                "its UUID 6b6d6273-696d-4000-8000-000000000007 is also that of https://10.0.0.1; it says that it is at https://10.0.0.2"
                    .to_owned()
            )
        );
    }

    #[test]
    fn no_flood_takes_more_than_its_room() {
        let mut book = Book::default();
        for number in 0..1000 {
            book.hear(sender(0), &answer(number, sender(0)));
            book.hear(sender(0), &answer(number, sender(number + 1)));
        }
        assert_eq!(book.answers().count(), OF_ONE);
        for number in 1..3000 {
            book.hear(sender(number), &answer(10_000 + number, sender(number)));
            book.hear(sender(number), b"nonsense");
        }
        assert_eq!(book.answers().count(), ANSWERS);
        assert!(book.senders.len() <= ANSWERS + REFUSALS);
        assert!(book.left_out() > 5000);
        let refused = book.refused();
        assert_eq!(refused.len(), REFUSALS);
        assert_eq!(refused.iter().filter(|refused| refused.from == sender(0)).count(), REFUSALS_OF_ONE);
    }
}
