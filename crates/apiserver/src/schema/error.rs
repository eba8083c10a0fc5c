//! Field errors as Kubernetes words them: the path of the field, a machine-readable cause, and the text that
//! clients print. The texts are those of `k8s.io/apimachinery/pkg/util/validation/field`, because people and
//! scripts match on them.

use super::gofmt;
use serde_json::{Value, json};

/// Why a field was refused; the names are the values of `StatusCause.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CauseReason {
    /// A required value is absent.
    Required,
    /// A value is there twice.
    Duplicate,
    /// A value is malformed.
    Invalid,
    /// A value is none of the allowed ones.
    NotSupported,
    /// A value is not allowed here.
    Forbidden,
    /// A text is too long.
    TooLong,
    /// A list or map has too many entries.
    TooMany,
    /// A list has too few entries.
    TooFew,
    /// A value has the wrong type.
    TypeInvalid,
    /// A referenced value does not exist.
    NotFound,
    /// The server could not decide.
    Internal,
    /// Another field manager owns the field (server-side apply).
    FieldManagerConflict,
}

impl CauseReason {
    /// The value of `StatusCause.reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::NotFound => "FieldValueNotFound",
            Self::Internal => "InternalError",
            Self::FieldManagerConflict => "FieldManagerConflict",
        }
    }

    /// The words that open the error text.
    fn title(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::NotFound => "Not found",
            Self::Internal => "Internal error",
            Self::FieldManagerConflict => "Conflict",
        }
    }
}

/// One refused field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, e.g. `spec.disks[0].name`; `<nil>` is the object itself.
    pub field: String,
    /// Why.
    pub reason: CauseReason,
    /// The text without the path, e.g. `Required value`.
    pub message: String,
}

impl FieldError {
    fn with_detail(field: impl Into<String>, reason: CauseReason, value: Option<String>, detail: &str) -> Self {
        let mut message = reason.title().to_string();
        if let Some(value) = value {
            message.push_str(": ");
            message.push_str(&value);
        }
        if !detail.is_empty() {
            message.push_str(": ");
            message.push_str(detail);
        }
        Self {
            field: field.into(),
            reason,
            message,
        }
    }

    /// A required field is absent.
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        Self::with_detail(field, CauseReason::Required, None, detail)
    }

    /// A value is malformed.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::with_detail(field, CauseReason::Invalid, Some(gofmt::bad_value(value)), detail)
    }

    /// A text is malformed.
    pub fn invalid_str(field: impl Into<String>, value: &str, detail: &str) -> Self {
        Self::with_detail(field, CauseReason::Invalid, Some(gofmt::quote(value)), detail)
    }

    /// A value is malformed and too large to repeat.
    pub fn invalid_omitted(field: impl Into<String>, detail: &str) -> Self {
        Self::with_detail(field, CauseReason::Invalid, None, detail)
    }

    /// A value has the wrong type.
    pub fn type_invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::with_detail(field, CauseReason::TypeInvalid, Some(gofmt::bad_value(value)), detail)
    }

    /// A value is none of the allowed ones.
    pub fn not_supported<S: AsRef<str>>(field: impl Into<String>, value: &Value, allowed: &[S]) -> Self {
        let detail = if allowed.is_empty() {
            String::new()
        } else {
            let quoted: Vec<String> = allowed.iter().map(|v| gofmt::quote(v.as_ref())).collect();
            format!("supported values: {}", quoted.join(", "))
        };
        Self::with_detail(field, CauseReason::NotSupported, Some(gofmt::bad_value(value)), &detail)
    }

    /// A value is not allowed here.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::with_detail(field, CauseReason::Forbidden, None, detail)
    }

    /// A value is there twice.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self::with_detail(field, CauseReason::Duplicate, Some(gofmt::bad_value(value)), "")
    }

    /// A value is there twice and too large to repeat.
    pub fn duplicate_omitted(field: impl Into<String>) -> Self {
        Self::with_detail(field, CauseReason::Duplicate, None, "")
    }

    /// A text is longer than `max` bytes.
    pub fn too_long(field: impl Into<String>, max: i64) -> Self {
        let detail = if max < 0 {
            "value is too long".to_string()
        } else {
            format!("may not be more than {max} {}", if max == 1 { "byte" } else { "bytes" })
        };
        Self::with_detail(field, CauseReason::TooLong, None, &detail)
    }

    /// A collection has more than `max` entries.
    pub fn too_many(field: impl Into<String>, actual: i64, max: i64) -> Self {
        let detail = if max < 0 {
            "has too many items".to_string()
        } else {
            format!("must have at most {max} {}", if max == 1 { "item" } else { "items" })
        };
        let value = (actual >= 0).then(|| actual.to_string());
        Self::with_detail(field, CauseReason::TooMany, value, &detail)
    }

    /// The server could not decide.
    pub fn internal(field: impl Into<String>, detail: &str) -> Self {
        Self::with_detail(field, CauseReason::Internal, None, detail)
    }

    /// The `StatusCause` object of this error.
    pub fn to_cause(&self) -> Value {
        json!({"reason": self.reason.as_str(), "message": self.message, "field": self.field})
    }

    /// Whether later checks would only repeat this error's consequences: CEL rules are not run then.
    pub(crate) fn blocks_rules(&self) -> bool {
        matches!(
            self.reason,
            CauseReason::NotSupported | CauseReason::Required | CauseReason::TooLong | CauseReason::TooMany | CauseReason::TypeInvalid
        )
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// The text of `n` field errors as the server joins them in a `Status.message`.
pub fn aggregate(errors: &[FieldError]) -> String {
    match errors {
        [] => String::new(),
        [one] => one.to_string(),
        many => {
            let mut seen: Vec<String> = Vec::with_capacity(many.len());
            for error in many {
                let text = error.to_string();
                if !seen.contains(&text) {
                    seen.push(text);
                }
            }
            if seen.len() == 1 {
                seen.remove(0)
            } else {
                format!("[{}]", seen.join(", "))
            }
        }
    }
}
