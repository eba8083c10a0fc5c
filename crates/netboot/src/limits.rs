//! Rate limits and quotas per source address.
//!
//! Token buckets in a table of bounded size: however many addresses ask, the table does not grow beyond [`MAX_SOURCES`]. An IPv6 source is its
//! /64, because one machine owns all of that. When the table is full of sources that are still being limited, newcomers share one bucket.
//!
//! What this does not do: tell machines behind one NAT address apart.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Mutex,
    time::{Duration, Instant},
};

/// Most sources that are told apart.
pub const MAX_SOURCES: usize = 16_384;

/// The address a quota counts by: IPv4 as it is (also when mapped into IPv6), IPv6 by its /64.
pub fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

#[derive(Debug)]
struct Table {
    buckets: HashMap<IpAddr, Bucket>,
    overflow: Bucket,
}

/// One limit for every source.
#[derive(Debug)]
pub struct RateLimit {
    burst: f64,
    per_second: f64,
    table: Mutex<Table>,
}

impl RateLimit {
    /// `per_minute` in the long run, and as many at once.
    pub fn per_minute(per_minute: u32) -> Self {
        let burst = f64::from(per_minute);
        Self {
            burst,
            per_second: burst / 60.0,
            table: Mutex::new(Table {
                buckets: HashMap::new(),
                overflow: Bucket {
                    tokens: burst,
                    at: Instant::now(),
                },
            }),
        }
    }

    /// Takes one from the source's bucket.
    ///
    /// # Errors
    /// How long to wait for the next one.
    pub fn take(&self, source: IpAddr, now: Instant) -> Result<(), Duration> {
        let source = source_of(source);
        let mut table = self.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !table.buckets.contains_key(&source) && table.buckets.len() >= MAX_SOURCES {
            // A bucket that is full again says no more than one that is not there.
            table.buckets.retain(|_, bucket| self.level(*bucket, now) < self.burst);
        }
        let full = Bucket {
            tokens: self.burst,
            at: now,
        };
        let bucket = if table.buckets.len() < MAX_SOURCES || table.buckets.contains_key(&source) {
            table.buckets.entry(source).or_insert(full)
        } else {
            &mut table.overflow
        };
        let tokens = self.level(*bucket, now);
        bucket.at = now;
        if tokens >= 1.0 {
            bucket.tokens = tokens - 1.0;
            return Ok(());
        }
        bucket.tokens = tokens;
        let wait = if self.per_second > 0.0 {
            (1.0 - tokens) / self.per_second
        } else {
            60.0
        };
        Err(Duration::from_secs_f64(wait.clamp(0.0, 3600.0)))
    }

    fn level(&self, bucket: Bucket, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.tokens + passed * self.per_second).min(self.burst)
    }

    #[cfg(test)]
    fn sources(&self) -> usize {
        self.table.lock().unwrap().buckets.len()
    }
}

/// Counts what is open at once, in all and per source.
#[derive(Debug)]
pub struct Slots {
    total: usize,
    per_source: usize,
    open: Mutex<(usize, HashMap<IpAddr, usize>)>,
}

/// One open thing; dropping it frees its place.
#[derive(Debug)]
pub struct Slot {
    slots: std::sync::Arc<Slots>,
    source: IpAddr,
}

impl Slots {
    /// At most `total` at once, and `per_source` of one source.
    pub fn new(total: usize, per_source: usize) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self {
            total,
            per_source,
            open: Mutex::new((0, HashMap::new())),
        })
    }

    /// A place, or nothing when there is none left.
    pub fn take(self: &std::sync::Arc<Self>, source: IpAddr) -> Option<Slot> {
        let source = source_of(source);
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if open.0 >= self.total || open.1.get(&source).is_some_and(|n| *n >= self.per_source) {
            return None;
        }
        open.0 += 1;
        *open.1.entry(source).or_insert(0) += 1;
        drop(open);
        Some(Slot {
            slots: self.clone(),
            source,
        })
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        open.0 = open.0.saturating_sub(1);
        if let Some(n) = open.1.get_mut(&self.source) {
            *n -= 1;
            if *n == 0 {
                open.1.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_its_burst_and_then_its_rate() {
        let limit = RateLimit::per_minute(60);
        let start = Instant::now();
        let source = IpAddr::from([10, 0, 0, 1]);
        assert_eq!((0..100).filter(|_| limit.take(source, start).is_ok()).count(), 60);
        let wait = limit.take(source, start).unwrap_err();
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
        assert!(limit.take(source, start + Duration::from_millis(1001)).is_ok());
        assert!(
            limit.take(IpAddr::from([10, 0, 0, 2]), start).is_ok(),
            "another source is not affected"
        );
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert!(limit.take(mapped, start).is_err(), "the same source in another dress");
    }

    #[test]
    fn a_whole_64_is_one_source_and_the_table_does_not_grow() {
        let limit = RateLimit::per_minute(5);
        let start = Instant::now();
        let taken = (0..100u16)
            .filter(|n| limit.take(IpAddr::from([0x2001, 0xdb8, 0, 0, 1, 2, 3, *n]), start).is_ok())
            .count();
        assert_eq!(taken, 5);
        for n in 0..100_000u32 {
            limit.take(IpAddr::from(n.to_be_bytes()), start).ok();
        }
        assert!(limit.sources() <= MAX_SOURCES);
        // After a while the old ones are forgotten and newcomers have a bucket of their own again.
        let later = start + Duration::from_secs(120);
        assert!((0..5).all(|_| limit.take(IpAddr::from([203, 0, 113, 9]), later).is_ok()));
    }

    #[test]
    fn slots_are_given_back() {
        let slots = Slots::new(3, 2);
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = slots.take(a).unwrap();
        let _second = slots.take(a).unwrap();
        assert!(slots.take(a).is_none(), "two of one source");
        let _third = slots.take(b).unwrap();
        assert!(slots.take(b).is_none(), "three in all");
        drop(first);
        assert!(slots.take(a).is_some());
        assert_eq!(slots.open(), 2);
    }
}
