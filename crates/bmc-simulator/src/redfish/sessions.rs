//! Who is let in: by the token of a session, or by user and password (DSP0266, 13.3).

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{ROOT, Request, missing, refusal};
use crate::{bmc::Session, faults::What, http::Answer};

impl Request<'_> {
    /// Whether the request says who it is, and is right.
    pub(super) fn is_known(&self) -> bool {
        if let Some(token) = &self.ask.token {
            return match self.bmc.memory().sessions.get_mut(token) {
                Some(session) => {
                    session.used = Instant::now();
                    true
                }
                None => false,
            };
        }
        let Some(basic) = self.ask.authorization.as_deref().and_then(|text| text.strip_prefix("Basic ")) else {
            return false;
        };
        let said = BASE64_STANDARD.decode(basic.trim()).unwrap_or_default();
        said == format!("{}:{}", self.bmc.access.user, self.bmc.access.password).into_bytes()
    }

    pub(super) fn log_in(&self) -> Answer {
        let Some(profile) = &self.bmc.profile.sessions else {
            return missing();
        };
        let said = |name: &str| self.ask.body.get(name).and_then(Value::as_str).unwrap_or_default();
        if said("UserName") != self.bmc.access.user || said("Password") != self.bmc.access.password {
            return refusal(401, "ResourceAtUriUnauthorized", "user or password is wrong", &[]);
        }
        let mut memory = self.bmc.memory();
        if memory.sessions.len() >= profile.most || self.mishap.what == Some(What::SessionsFull) {
            return refusal(
                profile.full,
                "SessionLimitExceeded",
                "there is no session left: end another one first",
                &[],
            );
        }
        memory.opened += 1;
        let id = memory.opened;
        let token = format!("{:032x}", rand::random::<u128>());
        let session = Session { id, used: Instant::now() };
        memory.sessions.insert(token.clone(), session);
        let at = format!("{ROOT}/SessionService/Sessions/{id}");
        let document = json!({"@odata.id": at, "@odata.type": "#Session.v1_2_1.Session", "Id": id.to_string(), "Name": "User Session", "UserName": self.bmc.access.user});
        Answer::json(201, document).with("x-auth-token", token).with("location", at)
    }

    pub(super) fn log_out(&self, id: &str) -> Answer {
        let mut memory = self.bmc.memory();
        let before = memory.sessions.len();
        memory.sessions.retain(|_, session| session.id.to_string() != id);
        if memory.sessions.len() == before {
            return missing();
        }
        Answer::empty(204)
    }
}
