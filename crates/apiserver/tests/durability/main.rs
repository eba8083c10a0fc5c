//! Durability of the whole server: what it acknowledged or showed survives a kill -9 and a power cut, and nothing survives in part.
//!
//! * `kills`: a server process under a load of writes over TLS is killed with SIGKILL and started again on the same folder.
//! * `cuts`: a server on a disk that forgets, reorders and tears whatever was not synced (`platter`) loses power.
//! * `ledger`: what the server said, and the judge; `load`: the clients that write; `observer`: the clients that watch.
//!
//! Each test can fail: the judge is tried on histories with planted faults, the cuts on disks that lie about a sync, and the kills on a server that keeps
//! its file in memory. `make durability` runs the long version (`KBM_DURABILITY` is the number of kills and of cuts).
//!
//! It does not try a file system's own bugs, nor a lost directory entry: the file's creation is synced with its folder, and that is not tested here.

mod cuts;
mod kills;
mod ledger;
mod load;
mod observer;
mod platter;

/// How many kills or cuts: the short number, or what `KBM_DURABILITY` says.
fn how_many(short: u64) -> u64 {
    match std::env::var("KBM_DURABILITY") {
        Ok(text) => text.parse().expect("KBM_DURABILITY is a number"),
        Err(_) => short,
    }
}
