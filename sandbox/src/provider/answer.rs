//! What goes over the wire: objects, and refusals in the provider's own form.

use serde::Serialize;
use serde_json::{Value, json};

/// An answer, as it is stored under its key and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) replayed: bool,
    /// Of the request that was carried out; a replay has another of its own.
    pub(crate) request_id: String,
    /// In seconds.
    pub(crate) retry_after: Option<u64>,
    /// Which limit a 429 has met, in the provider's words.
    pub(crate) limited_by: Option<&'static str>,
    /// False when nothing had begun (parameters that fail validation): such an answer leaves the key unused.
    pub(crate) stored: bool,
}

/// Why a request is not carried out: the fields of an error that is our caller's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    /// The provider names no code for some of its refusals, a word that is not in a list among them.
    pub code: Option<&'static str>,
    pub param: Option<String>,
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(code: Option<&'static str>, param: &str, message: impl Into<String>) -> Self {
        Self { status: 400, code, param: Some(param.to_owned()), message: message.into() }
    }

    pub(crate) fn without_param(message: impl Into<String>) -> Self {
        Self { status: 400, code: None, param: None, message: message.into() }
    }

    /// The real provider knows it; this one would have to pretend.
    pub(crate) fn not_played(what: &str) -> Self {
        Self::new(Some("not_played"), what, format!("This provider is a fake and does not play {what}."))
    }
}

impl Answer {
    pub(crate) fn ok(object: &impl Serialize) -> Self {
        let body = serde_json::to_string(object).expect("objects with names of text can be written");
        Self { stored: true, ..Self::new(200, body) }
    }

    pub(crate) fn error(status: u16, error: &Value) -> Self {
        Self::new(status, json!({ "error": error }).to_string())
    }

    fn new(status: u16, body: String) -> Self {
        let request_id = String::new();
        Self { status, body, replayed: false, request_id, retry_after: None, limited_by: None, stored: false }
    }

    /// A refusal that needed a look at the objects is stored under its key, like a success.
    pub(crate) fn executed(self) -> Self {
        Self { stored: true, ..self }
    }

    pub(crate) fn error_500() -> Self {
        let error = json!({ "type": "api_error", "message": "Something went wrong on our end." });
        Self::error(500, &error).executed()
    }

    pub(crate) fn unavailable() -> Self {
        Self::error(503, &json!({ "type": "api_error", "message": "We are not available at the moment." }))
    }

    pub(crate) fn rate_limited(retry_after: u64, limited_by: &'static str) -> Self {
        let error = json!({ "type": "invalid_request_error", "code": "rate_limit",
            "message": "Request rate limit exceeded." });
        Self { retry_after: Some(retry_after), limited_by: Some(limited_by), ..Self::error(429, &error) }
    }

    /// Another request holds the object. It is no limit, so no limit is named.
    pub(crate) fn locked() -> Self {
        let message = "This object cannot be accessed right now because another API request or process is currently \
            accessing it.";
        Self::error(429, &json!({ "type": "invalid_request_error", "code": "lock_timeout", "message": message }))
    }

    pub(crate) fn wrong_credential() -> Self {
        Self::error(401, &json!({ "type": "invalid_request_error", "message": "Invalid API Key provided." }))
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let mut error = json!({ "type": "invalid_request_error", "message": refusal.message });
        if let Some(code) = refusal.code {
            error["code"] = code.into();
        }
        if let Some(param) = refusal.param {
            error["param"] = param.into();
        }
        Self::error(refusal.status, &error)
    }
}

/// A parameter names an object that is not there.
pub(crate) fn missing(kind: &str, id: &str, param: &str) -> Answer {
    Answer::from(Refusal::new(Some("resource_missing"), param, format!("No such {kind}: '{id}'"))).executed()
}

/// The path names an object that is not there.
pub(crate) fn not_found(kind: &str, id: &str, param: &str) -> Answer {
    let refusal = Refusal::new(Some("resource_missing"), param, format!("No such {kind}: '{id}'"));
    Refusal { status: 404, ..refusal }.into()
}

pub(crate) fn refused(code: &'static str, param: &str, message: impl Into<String>) -> Answer {
    Refusal::new(Some(code), param, message).into()
}
