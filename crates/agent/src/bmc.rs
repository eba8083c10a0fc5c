//! The user that the operator wants in this machine's controller: opened, made, and answered for.
//!
//! Each wish is carried out once in a boot, in a thread of its own and within [`PATIENCE`]; its answer is kept until the server has stored it. It is done between two orders, the next of which waits for it: at most twice [`PATIENCE`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use agent_protocol::{
    bmc_user::{BmcPrivilege, BmcUser, BmcUserReport, PATH_BMC_USER, SealedBmcUser, open},
    limits::{MAX_MESSAGE, clip},
    seed::SealingKey,
};
use machine::bmc::{
    KernelInterface,
    user::{Account, Privilege, ensure},
};
use reqwest::Method;

use crate::{
    client::{Client, PATIENCE as ANSWER},
    console::Console,
};

/// How long it may take in all. A controller has up to 63 places for users, and is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// Before an answer that was not stored is told again.
const RETELL: Duration = Duration::from_secs(5);

/// What was wanted in this boot.
#[derive(Debug, Default)]
pub struct Users {
    /// The latest wish, with its answer.
    latest: Option<BmcUserReport>,
    /// One that was carried out and whose answer is not stored yet.
    untold: Option<BmcUserReport>,
}

impl Users {
    /// Id of the latest wish, for the server.
    pub fn seen(&self) -> &str {
        self.latest.as_ref().map_or("", |report| report.id.as_str())
    }

    /// Carries a wish out, unless that was done, and tells the server. What is not stored is told when the server asks again.
    pub async fn obey(&mut self, sealed: &SealedBmcUser, key: &SealingKey, client: &Client, console: &Arc<Console>) {
        if self.seen() == sealed.id {
            return;
        }
        let report = match self.untold.take().filter(|report| report.id == sealed.id) {
            Some(report) => {
                // The server asks at once and over again while it cannot store the answer.
                tokio::time::sleep(RETELL).await;
                report
            }
            None => carry_out(sealed, key, console).await,
        };
        let told = match serde_json::to_vec(&report) {
            Ok(body) => client.request::<serde_json::Value>(Method::POST, PATH_BMC_USER, body, ANSWER).await,
            Err(error) => return console.say(format!("bmc user: the answer cannot be written: {error}")),
        };
        match told {
            Ok(_) => self.latest = Some(report),
            // It is asked for again, and told again; controllers' memory wears out by writing.
            Err(error) => {
                console.say(format!("bmc user: not stored yet: {error}"));
                self.untold = Some(report);
            }
        }
    }
}

async fn carry_out(sealed: &SealedBmcUser, key: &SealingKey, console: &Arc<Console>) -> BmcUserReport {
    let fault = match open(sealed, key) {
        Ok(user) => make(user, console).await.err(),
        Err(error) => Some(error.to_string()),
    };
    if let Some(fault) = &fault {
        console.say(format!("bmc user: {fault}"));
    }
    BmcUserReport {
        id: sealed.id.clone(),
        fault: fault.map(|fault| clip(&fault, MAX_MESSAGE / 4)),
    }
}

/// Makes the user through the kernel's device.
async fn make(user: BmcUser, console: &Console) -> Result<(), String> {
    let name = user.name.clone();
    let work = move || {
        let account = Account {
            name: user.name,
            password: user.password,
            privilege: match user.privilege {
                BmcPrivilege::Operator => Privilege::Operator,
                BmcPrivilege::Administrator => Privilege::Administrator,
            },
        };
        let mut interface = KernelInterface::open()?;
        ensure(&mut interface, &account, &[user.channel], Instant::now() + PATIENCE)
    };
    let made = tokio::time::timeout(PATIENCE * 2, tokio::task::spawn_blocking(work)).await;
    match made {
        Ok(Ok(Ok(number))) => {
            console.say(format!("bmc user {name} is there (number {number})"));
            Ok(())
        }
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(_)) => Err("the agent failed while it made the user; its console shows where".to_owned()),
        Err(_) => Err("the kernel's IPMI driver hangs; cut the machine's power where it stays like that".to_owned()),
    }
}
