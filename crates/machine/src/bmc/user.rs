//! One dedicated user in the controller (22.26 to 22.31), and remote access for it (22.22, 22.23).
//!
//! Invariants: a user of another name is never changed; what was set is read back, and the password is tried by the controller itself, before anything is said to be done; a password is in
//! no error and in no `Debug`. Everything may be done again: a user that is there has its password and rights set anew.

use std::time::Instant;

use super::{APPLICATION, Asking, BmcError, Interface, Request, exactly};

/// Longest name (22.28).
pub const MAX_NAME: usize = 16;
/// Longest password of IPMI 2.0 (22.30).
pub const MAX_PASSWORD: usize = 20;
/// What IPMI 1.5 takes, and every controller keeps.
const SHORT_PASSWORD: usize = 16;
/// The first user is the one without a name.
const FIRST: u8 = 2;
/// User numbers have six bits.
const USERS: u8 = 0x3f;

/// What a user may do, at most (table 6-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Privilege {
    /// Switch the machine, and choose what it boots.
    Operator = 3,
    /// Everything.
    Administrator = 4,
}

/// The user that is wanted.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// At most [`MAX_NAME`] bytes of printable ASCII.
    pub name: String,
    /// At most [`MAX_PASSWORD`] bytes; no NUL.
    pub password: String,
    /// What it may do.
    pub privilege: Privilege,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account")
            .field("name", &self.name)
            .field("privilege", &self.privilege)
            .finish_non_exhaustive()
    }
}

impl Account {
    fn check(&self) -> Result<(), BmcError> {
        let graphic = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if !graphic(&self.name) || self.name.len() > MAX_NAME {
            return Err(BmcError::User(format!(
                "the BMC user {:?} cannot be made: a name has 1 to {MAX_NAME} printable ASCII characters",
                self.name
            )));
        }
        if !graphic(&self.password) || self.password.len() > MAX_PASSWORD {
            return Err(BmcError::User(format!(
                "the BMC user {} cannot be made: a password has 1 to {MAX_PASSWORD} printable ASCII characters",
                self.name
            )));
        }
        Ok(())
    }
}

/// What Get User Access says (table 22-32).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Access {
    /// The highest number that a user may have.
    highest: u8,
    /// So many users have names that cannot be changed.
    fixed: u8,
    /// Whether the user is enabled, where the controller says it.
    enabled: Option<bool>,
    /// Whether it may use IPMI messages over this channel.
    messaging: bool,
    /// Its limit of privilege on this channel.
    limit: u8,
}

const GET_USER_ACCESS: &str = "Get User Access";
const GET_CHANNEL_ACCESS: &str = "Get Channel Access";

impl Access {
    fn parse(data: &[u8]) -> Result<Self, BmcError> {
        let [highest, enabled, fixed, access] = *exactly::<4>(GET_USER_ACCESS, data)?;
        Ok(Self {
            highest: highest & USERS,
            fixed: fixed & USERS,
            enabled: match enabled >> 6 {
                1 => Some(true),
                2 => Some(false),
                _ => None,
            },
            messaging: access & 0x10 != 0,
            limit: access & 0x0f,
        })
    }
}

fn get_access(channel: u8, user: u8) -> Request {
    Request::new(GET_USER_ACCESS, APPLICATION, 0x44, [channel, user])
}

fn set_access(channel: u8, user: u8, privilege: Privilege) -> Request {
    // Change the bits (7); IPMI messaging (4), and neither call-back only (6) nor link authentication (5).
    Request::new("Set User Access", APPLICATION, 0x43, [0x90 | channel, user, privilege as u8, 0])
}

fn get_name(user: u8) -> Request {
    Request::new("Get User Name", APPLICATION, 0x46, [user])
}

fn set_name(user: u8, name: &str) -> Request {
    let mut data = vec![user];
    data.extend_from_slice(name.as_bytes());
    data.resize(1 + MAX_NAME, 0);
    Request::new("Set User Name", APPLICATION, 0x45, data)
}

/// Operations of Set User Password.
#[derive(Clone, Copy)]
enum Password<'a> {
    Enable,
    Set(&'a str),
    Test(&'a str),
}

fn password(user: u8, what: Password<'_>, size: usize) -> Request {
    let long = if size > SHORT_PASSWORD { 0x80 } else { 0 };
    let (operation, text) = match what {
        Password::Enable => return Request::new("Set User Password (enable)", APPLICATION, 0x47, [user, 1]),
        Password::Set(text) => (2, text),
        Password::Test(text) => (3, text),
    };
    let mut data = vec![long | user, operation];
    data.extend_from_slice(text.as_bytes());
    data.resize(2 + size, 0);
    let name = if operation == 2 {
        "Set User Password (set)"
    } else {
        "Set User Password (test)"
    };
    Request::new(name, APPLICATION, 0x47, data)
}

/// The name in an answer to Get User Name; nothing where it is empty.
fn name(data: &[u8]) -> &[u8] {
    let field = data.get(..MAX_NAME).unwrap_or(data);
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// Makes the user, or sets the one of that name right, on these channels. Gives its number.
///
/// # Errors
/// [`BmcError::User`] where there is no place for it or it does not come out as it was set; else what the controller says.
pub fn ensure(interface: &mut dyn Interface, account: &Account, channels: &[u8], deadline: Instant) -> Result<u8, BmcError> {
    account.check()?;
    let Some(first) = channels.first().copied() else {
        return Err(BmcError::User(
            "the BMC has no LAN channel, so that a user of it could log in by no network".to_owned(),
        ));
    };
    let mut asking = Asking::new(interface, deadline);
    let (user, is_new) = place(&mut asking, account, first)?;
    if is_new {
        asking.ask(&set_name(user, &account.name))?;
    }
    let size = set_password(&mut asking, account, user)?;
    for channel in channels {
        asking.ask(&set_access(*channel, user, account.privilege))?;
    }
    asking.ask(&password(user, Password::Enable, 0))?;
    for channel in channels {
        open_channel(&mut asking, *channel, account.privilege)?;
    }
    confirm(&mut asking, account, user, channels, size)?;
    Ok(user)
}

/// The number of the user of that name, else of a free place; and whether it is the latter.
fn place(asking: &mut Asking<'_>, account: &Account, channel: u8) -> Result<(u8, bool), BmcError> {
    let access = Access::parse(&asking.ask(&get_access(channel, 1))?)?;
    let mut free = None;
    for user in FIRST..=access.highest {
        let answer = asking.ask_if_there(&get_name(user))?.unwrap_or_default();
        let found = name(&answer);
        if found == account.name.as_bytes() {
            return Ok((user, false));
        }
        if found.is_empty() && free.is_none() && user > access.fixed {
            // One without a name that may log in is somebody's.
            let there = asking.ask_if_there(&get_access(channel, user))?;
            let taken = there.is_some_and(|data| Access::parse(&data).is_ok_and(|a| a.enabled == Some(true) && a.messaging));
            free = (!taken).then_some(user);
        }
    }
    let free = free.map(|user| (user, true));
    free.ok_or_else(|| {
        BmcError::User(format!(
            "the BMC has no place for the user {}: all {} are taken; delete one of them in the BMC",
            account.name, access.highest
        ))
    })
}

/// Sets the password in the longer form, or in the shorter one where the controller knows no other. Gives the size.
fn set_password(asking: &mut Asking<'_>, account: &Account, user: u8) -> Result<usize, BmcError> {
    let text = account.password.as_str();
    match asking.ask(&password(user, Password::Set(text), MAX_PASSWORD)) {
        Ok(_) => Ok(MAX_PASSWORD),
        Err(BmcError::Refused { .. }) if text.len() <= SHORT_PASSWORD => {
            asking.ask(&password(user, Password::Set(text), SHORT_PASSWORD))?;
            Ok(SHORT_PASSWORD)
        }
        Err(error) => Err(error),
    }
}

/// Lets sessions be opened over a channel whenever the machine is on or off, and with that privilege, where it does not do so yet.
fn open_channel(asking: &mut Asking<'_>, channel: u8, privilege: Privilege) -> Result<(), BmcError> {
    const ALWAYS: u8 = 2;
    // What is kept over a reset (1) and what is in force (2), as bits 7:6 of both commands.
    for (kept, present) in [(0x40, "Set Channel Access (kept)"), (0x80, "Set Channel Access (present)")] {
        let answer = asking.ask(&Request::new(GET_CHANNEL_ACCESS, APPLICATION, 0x41, [channel, kept]))?;
        let [access, limit] = *exactly::<2>(GET_CHANNEL_ACCESS, &answer)?;
        let (mode, limit) = (access & 0x07, limit & 0x0f);
        if mode >= ALWAYS && limit >= privilege as u8 {
            continue;
        }
        // Alerting and the two kinds of authentication stay as they are.
        let access = kept | (access & 0x38) | mode.max(ALWAYS);
        let limit = kept | limit.max(privilege as u8);
        asking.ask(&Request::new(present, APPLICATION, 0x40, [channel, access, limit]))?;
    }
    Ok(())
}

/// Reads back what was set, and has the controller compare the password.
fn confirm(asking: &mut Asking<'_>, account: &Account, user: u8, channels: &[u8], size: usize) -> Result<(), BmcError> {
    let bad = |problem: &str| {
        BmcError::User(format!(
            "the BMC took the user {} and does not have it so: {problem}; look at it in the BMC",
            account.name
        ))
    };
    if name(&asking.ask(&get_name(user))?) != account.name.as_bytes() {
        return Err(bad("its name is another"));
    }
    for channel in channels {
        let access = Access::parse(&asking.ask(&get_access(*channel, user))?)?;
        if !access.messaging || access.limit != account.privilege as u8 {
            return Err(bad(&format!(
                "on channel {channel} it has privilege {} and {} IPMI messages",
                access.limit,
                if access.messaging { "may use" } else { "may not use" }
            )));
        }
        if access.enabled == Some(false) {
            return Err(bad("it is switched off"));
        }
    }
    match asking.ask(&password(user, Password::Test(&account.password), size)) {
        Ok(_) => Ok(()),
        Err(BmcError::Refused { code: 0x80 | 0x81, .. }) => Err(bad("its password is another")),
        Err(error) => Err(error),
    }
}
