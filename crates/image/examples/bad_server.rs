//! Serves a file with one of the faults that the tests try, so that other programs can be tried against it too:
//!
//! ```text
//! cargo run -p image --example bad_server -- FILE [FAULT]
//! ```
//!
//! Prints the URL and serves until it is stopped. Without a fault it lists them.

#[path = "../tests/support/bad_server.rs"]
mod bad_server;
#[path = "../tests/support/faults.rs"]
mod faults;

use std::time::Duration;

/// What `slow, but never silent` stays below.
const STALL: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("usage: bad_server FILE [FAULT]")?;
    let body = std::fs::read(&file)?;
    let mut known = faults::faults(body.len(), STALL);
    let Some(fault) = arguments.next() else {
        for (name, _) in known {
            println!("{name}");
        }
        return Ok(());
    };
    let at = known.iter().position(|(name, _)| *name == fault).ok_or("there is no such fault")?;
    let server = bad_server::Server::start(body, known.swap_remove(at).1);
    // Programs that go by the name's extension shall find one.
    let name = file.rsplit('/').next().unwrap_or_default();
    println!("{}", server.url_of(name));
    loop {
        std::thread::park();
    }
}
