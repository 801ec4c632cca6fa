//! Answers that are none: what was found, and what to do about it.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use serde_json::json;

use crate::Error;

/// Why a request has no answer. In JSON `error` and `remedy`; the open inference protocol wants the first, too.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    found: String,
    remedy: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status, found: found.into(), remedy: remedy.into() }
    }

    /// What the model or a limit does not take.
    pub(super) fn unprocessable(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, found, remedy)
    }

    /// What is no request.
    pub(super) fn malformed(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, found, remedy)
    }

    /// The queue is full.
    pub(super) fn busy() -> Self {
        let found = "as many requests wait as may";
        Self::new(StatusCode::TOO_MANY_REQUESTS, found, "ask again after the seconds that Retry-After says")
    }

    /// The server is about to end.
    pub(super) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping", "ask another one, or later")
    }

    /// The thread that computes has ended.
    pub(super) fn broken() -> Self {
        let remedy = "start it again, and report what its log says";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the server computes no more", remedy)
    }

    /// What computing ended with.
    pub(super) fn of(error: Error) -> Self {
        match error {
            Error::Usage { found, remedy } | Error::Input { found, remedy, .. } => {
                // Requests have no options.
                Self::unprocessable(found.trim_start_matches("--"), remedy)
            }
            other => {
                tracing::error!("{other}");
                let text = other.to_string();
                let (found, remedy) =
                    text.split_once("\n  what to do: ").unwrap_or((&text, "look into the server's log"));
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, found, remedy)
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let body = json!({ "error": self.found, "remedy": self.remedy }).to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
