//! Why a call came to nothing: what failed, on what, and what to do next.
//!
//! A driver returns a [`Fault`]; [`crate::calls`] adds which machine, through what and which call. Whatever a controller said is printed harmlessly and shortened,
//! and what is secret is taken out by the driver that knows it.

use std::time::Duration;

use crate::driver::Operation;

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The kind of driver does not have this call; nothing was sent.
    #[error("this kind of driver cannot {0}: the guest helper or a person has to")]
    Incapable(Operation),
    /// A setting is wrong; nothing was sent.
    #[error("{field}: {problem}")]
    Settings {
        /// Which setting.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// The controller was not reached, so nothing happened.
    #[error("the controller does not answer ({0}): see that it has power and network, and that address and port are right")]
    Unreachable(String),
    /// The command went out and no answer came: it may have been carried out.
    #[error("the controller took the command and did not answer ({0}): look at the machine's state before you repeat it")]
    Unanswered(String),
    /// It does not know us.
    #[error("the controller refuses the credentials ({0}): correct user and password in the Secret")]
    Credentials(String),
    /// It knows us, and we may not.
    #[error("the user may not do this ({0}): give it the privilege on the controller, or name another user")]
    Privilege(String),
    /// It is not who we were told it is.
    #[error("the controller is not trusted ({0})")]
    Untrusted(String),
    /// It has no time, or no session left.
    #[error("the controller is busy ({detail})")]
    Busy {
        /// What it said.
        detail: String,
        /// When it wants to be asked again, if it said so.
        after: Option<Duration>,
    },
    /// This controller does not have what the kind of driver could do.
    #[error("this controller does not offer {wanted}; it offers {offered}")]
    NotOffered {
        /// What was to be done.
        wanted: String,
        /// What it has instead.
        offered: String,
    },
    /// It understood, and refused.
    #[error("the controller refused: {0}")]
    Refused(String),
    /// It answered something that is no answer.
    #[error("the controller's answer makes no sense ({0}): see whether there is newer firmware for it")]
    Garbled(String),
    /// It said yes, and shows something else.
    #[error("the controller took the command and did not do it ({0})")]
    NotTaken(String),
    /// The time of the call was up before the controller was asked.
    #[error("its turn did not come within {} s: {detail}", limit.as_secs())]
    Late {
        /// How long was waited.
        limit: Duration,
        /// For what was waited.
        detail: String,
    },
}

/// Whether another try makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It would end alike, or do harm.
    No,
    /// After a pause, at least so long.
    After(Duration),
}

impl Fault {
    /// Whether the same call may be tried again. Wrong credentials never are: controllers lock users out.
    #[must_use]
    pub fn again(&self, operation: Operation) -> Again {
        if operation == Operation::Survey {
            // It is repeated between its turns, where others come first ([`crate::calls::Calls::inventory`]).
            return Again::No;
        }
        match self {
            Self::Unreachable(_) | Self::Garbled(_) => Again::After(Duration::ZERO),
            Self::Busy { after, .. } => Again::After(after.unwrap_or_default()),
            Self::Unanswered(_) | Self::NotTaken(_) if operation.may_be_repeated() => Again::After(Duration::ZERO),
            Self::Unanswered(_)
            | Self::NotTaken(_)
            | Self::Incapable(_)
            | Self::Settings { .. }
            | Self::Credentials(_)
            | Self::Privilege(_)
            | Self::Untrusted(_)
            | Self::NotOffered { .. }
            | Self::Refused(_)
            | Self::Late { .. } => Again::No,
        }
    }

    /// Whether it shows that the controller may be dead: others should not wait for it.
    #[must_use]
    pub const fn doubts_the_controller(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Unanswered(_))
    }
}

/// A call that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{machine}: cannot {operation} through {controller}: {fault}")]
pub struct PowerError {
    /// Which machine.
    pub machine: String,
    /// Through what.
    pub controller: String,
    /// Which call.
    pub operation: Operation,
    /// Why.
    pub fault: Fault,
}

/// The most characters of a controller's own words that are shown.
const SHOWN: usize = 300;

/// A controller's own words, for people: printable, without what is secret, shortened.
pub(crate) fn quoted(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        for form in [(*secret).to_owned(), escaped(secret), percent(secret)] {
            text = text.replace(&form, "***");
        }
    }
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.chars().take(SHOWN).map(plain).collect();
    if text.chars().nth(SHOWN).is_some() {
        short.push('…');
    }
    short
}

/// As JSON has it in a string.
fn escaped(secret: &str) -> String {
    let text = serde_json::Value::from(secret).to_string();
    text[1..text.len() - 1].to_owned()
}

/// As a URL has it.
fn percent(secret: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    secret.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_controller_says_is_shortened_and_without_secrets() {
        assert_eq!(
            quoted("user admin, password hunter2\n\x1b[31m", &["", "hunter2"]),
            "user admin, password ***  [31m"
        );
        let long = quoted(&"é".repeat(1000), &[]);
        assert_eq!(long.chars().count(), SHOWN + 1);
    }

    #[test]
    fn only_what_does_no_harm_is_tried_again() {
        let lost = Fault::Unanswered("reset".to_owned());
        assert_eq!(lost.again(Operation::On), Again::After(Duration::ZERO));
        assert_eq!(lost.again(Operation::Cycle), Again::No);
        let busy = Fault::Busy {
            detail: String::new(),
            after: Some(Duration::from_secs(7)),
        };
        assert_eq!(busy.again(Operation::Cycle), Again::After(Duration::from_secs(7)));
        assert_eq!(Fault::Credentials(String::new()).again(Operation::State), Again::No);
    }

    #[test]
    fn an_error_names_machine_controller_and_what_to_do() {
        let error = PowerError {
            machine: "m-1".to_owned(),
            controller: "192.0.2.7:623".to_owned(),
            operation: Operation::Cycle,
            fault: Fault::Credentials("no such user".to_owned()),
        };
        assert_eq!(
            error.to_string(),
            "m-1: cannot power-cycle it through 192.0.2.7:623: the controller refuses the credentials (no such user): correct user and password in the Secret"
        );
    }

    #[test]
    fn a_secret_is_found_in_every_form() {
        let said = quoted(r#"a"b\c, {"p": "a\"b\\c"}, ?p=a%22b%5Cc"#, &[r#"a"b\c"#]);
        assert_eq!(said, r#"***, {"p": "***"}, ?p=***"#);
    }
}
