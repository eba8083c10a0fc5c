//! What an agent or guest is told when something is refused. One type, so that every refusal has a code, a status and words; and so that a
//! stranger cannot tell from the words what exists and what does not.

use std::time::Duration;

use agent_protocol::{
    limits::LimitError,
    session::{ErrorCode, ErrorResponse, SignatureError},
    token::TokenError,
};
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use crate::error::Error;

/// A refusal.
#[derive(Debug, Clone)]
pub struct Refusal {
    code: ErrorCode,
    message: String,
    retry_after: Option<Duration>,
}

/// Result of a handler.
pub type Reply<T> = Result<T, Refusal>;

impl Refusal {
    /// A refusal with words that are not secret.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after: None,
        }
    }

    /// The agent acts on the code.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// Too much at once, or the API does not answer.
    pub fn overloaded(message: impl Into<String>, retry_after: Duration) -> Self {
        Self {
            code: ErrorCode::Overloaded,
            message: message.into(),
            retry_after: Some(retry_after),
        }
    }

    /// One answer for everything that a stranger could probe: unknown session, wrong key, old sequence.
    pub fn signature() -> Self {
        Self::new(
            ErrorCode::SignatureRefused,
            "the request is not signed by a session that this server knows",
        )
    }

    /// One answer for every token that is not good.
    pub fn token() -> Self {
        Self::new(
            ErrorCode::TokenRefused,
            "the boot token is not good for this machine, this address or this time: reboot the machine to get a new one",
        )
    }

    /// The session was replaced.
    pub fn gone() -> Self {
        Self::new(
            ErrorCode::SessionGone,
            "another boot of this machine opened a newer session: reboot the machine",
        )
    }

    /// The API does not answer.
    pub fn unavailable() -> Self {
        Self::overloaded("the server cannot reach its store at the moment: ask again", Duration::from_secs(2))
    }

    fn status(&self) -> StatusCode {
        match self.code {
            ErrorCode::Malformed => StatusCode::BAD_REQUEST,
            ErrorCode::TokenRefused | ErrorCode::SignatureRefused => StatusCode::UNAUTHORIZED,
            ErrorCode::SessionGone => StatusCode::GONE,
            ErrorCode::Forbidden => StatusCode::FORBIDDEN,
            ErrorCode::StaleOrder | ErrorCode::IdentityConflict => StatusCode::CONFLICT,
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::UnsupportedProtocol => StatusCode::UPGRADE_REQUIRED,
            ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        let retry = self.retry_after;
        let body = ErrorResponse {
            code: self.code,
            message: self.message,
            retry_after_ms: retry.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        };
        let mut response = (status, axum::Json(body)).into_response();
        if let Some(retry) = retry {
            let seconds = retry.as_secs_f64().ceil().max(1.0) as u64;
            response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            // What is left of the body is not read.
            response
                .headers_mut()
                .insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<LimitError> for Refusal {
    fn from(error: LimitError) -> Self {
        let code = match error {
            LimitError::Body => ErrorCode::TooLarge,
            LimitError::Depth | LimitError::Json(_) | LimitError::Field { .. } => ErrorCode::Malformed,
        };
        Self::new(code, error.to_string())
    }
}

impl From<TokenError> for Refusal {
    fn from(_: TokenError) -> Self {
        Self::token()
    }
}

impl From<SignatureError> for Refusal {
    fn from(_: SignatureError) -> Self {
        Self::signature()
    }
}

impl From<Error> for Refusal {
    /// The reason stays in the server's log; the agent learns only that it has to ask again.
    fn from(error: Error) -> Self {
        tracing::warn!(error = %crate::error::chain(&error), "a request could not be answered");
        Self::unavailable()
    }
}
