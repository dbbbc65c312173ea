//! Every error that a client can meet: code, status, what to do; the only place with error statuses.
//!
//! Answers are problem details (RFC 9457). The client gets the code and what it can act on; causes inside of the node go to
//! the log, where they happen.

use std::fmt::Write as _;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};

use super::json::Fault;
use super::request::SESSION_TOKEN;
use crate::storage::{Error, Rejection};

/// What kind of error it is; the text is part of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Nothing under this key, or it has expired.
    NotFound,
    /// No such member.
    NoSuchMember,
    /// No such path.
    NoSuchPath,
    /// The path is there, the method is not.
    MethodNotAllowed,
    /// What came in is no HTTP request.
    InvalidRequest,
    /// Its head has no end.
    HeadTooLarge,
    /// The cluster secret is missing or wrong.
    Unauthorized,
    /// The key in the path is no key.
    InvalidKey,
    /// The body is not what the path takes.
    InvalidBody,
    /// A query parameter is unknown or wrong, or what a path names besides keys.
    InvalidParameter,
    /// A header is wrong.
    InvalidHeader,
    /// The request was not in by its time.
    RequestTimeout,
    /// The node stays in its cluster.
    CantLeave,
    /// The node is asked to evict itself.
    CantEvictItself,
    /// The node that is asked to evict another was evicted itself.
    NoMember,
    /// The causality token names what this node has not seen.
    TokenAhead,
    /// What the causality token names was replaced or deleted already, and something else lives. No 404: that would be read as
    /// a delete that was done before.
    TokenSpent,
    /// Too many siblings.
    TooManySiblings,
    /// The precondition does not hold.
    PreconditionFailed,
    /// The value is too large.
    TooLarge,
    /// What is stored can't be read.
    Damaged,
    /// The node has not caught up with what the client has seen.
    Behind,
    /// Too much is waiting.
    Busy,
    /// Not ready yet.
    Starting,
    /// Not any more.
    Stopping,
    /// Nobody is to be sent to a node that is no member any more.
    Out,
    /// No room on the disk.
    DiskFull,
}

impl Code {
    /// Code, status and title.
    fn row(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Code::NotFound => ("not-found", StatusCode::NOT_FOUND, "There is nothing under this key"),
            Code::NoSuchMember => ("no-such-member", StatusCode::NOT_FOUND, "There is no such member"),
            Code::NoSuchPath => ("no-such-path", StatusCode::NOT_FOUND, "There is no such path"),
            Code::MethodNotAllowed => {
                ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "The path does not take this method")
            }
            Code::InvalidRequest => ("invalid-request", StatusCode::BAD_REQUEST, "The request can't be read"),
            Code::HeadTooLarge => (
                "head-too-large",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "The head of the request is too large",
            ),
            Code::Unauthorized => {
                ("unauthorized", StatusCode::UNAUTHORIZED, "The cluster secret is missing or wrong")
            }
            Code::InvalidKey => ("invalid-key", StatusCode::BAD_REQUEST, "The key is not valid"),
            Code::InvalidBody => ("invalid-body", StatusCode::BAD_REQUEST, "The body is not valid"),
            Code::InvalidParameter => {
                ("invalid-parameter", StatusCode::BAD_REQUEST, "A parameter of the request is not valid")
            }
            Code::InvalidHeader => ("invalid-header", StatusCode::BAD_REQUEST, "A header is not valid"),
            Code::RequestTimeout => {
                ("request-timeout", StatusCode::REQUEST_TIMEOUT, "The request did not arrive in time")
            }
            Code::CantLeave => {
                ("cant-leave", StatusCode::CONFLICT, "The node does not leave its cluster now")
            }
            Code::CantEvictItself => {
                ("cant-evict-itself", StatusCode::CONFLICT, "A node does not evict itself")
            }
            Code::NoMember => {
                ("no-member", StatusCode::CONFLICT, "This node is no member of its cluster any more")
            }
            Code::TokenAhead => {
                ("causality-token-ahead", StatusCode::CONFLICT, "This node has not seen what the token names")
            }
            Code::TokenSpent => {
                ("causality-token-spent", StatusCode::CONFLICT, "What the token names is not there any more")
            }
            Code::TooManySiblings => {
                ("too-many-siblings", StatusCode::CONFLICT, "The key has too many concurrent versions")
            }
            Code::PreconditionFailed => {
                ("precondition-failed", StatusCode::PRECONDITION_FAILED, "The precondition does not hold")
            }
            Code::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE, "The value is too large"),
            Code::Damaged => ("damaged", StatusCode::INTERNAL_SERVER_ERROR, "The stored value can't be read"),
            Code::Behind => {
                ("behind", StatusCode::GATEWAY_TIMEOUT, "This node has not caught up with the session")
            }
            Code::Busy => ("busy", StatusCode::SERVICE_UNAVAILABLE, "The node has too much to do"),
            Code::Starting => ("starting", StatusCode::SERVICE_UNAVAILABLE, "The node is starting"),
            Code::Stopping => ("stopping", StatusCode::SERVICE_UNAVAILABLE, "The node is stopping"),
            Code::Out => ("out", StatusCode::SERVICE_UNAVAILABLE, "The node is out of its cluster"),
            Code::DiskFull => ("disk-full", StatusCode::INSUFFICIENT_STORAGE, "The disk is full"),
        }
    }

    /// The status that goes with it.
    pub fn status(self) -> StatusCode {
        self.row().1
    }

    /// Seconds after which trying again makes sense.
    fn retry_after(self) -> Option<&'static str> {
        matches!(self, Code::Busy | Code::Starting | Code::Stopping).then_some("1")
    }
}

/// Longest detail, in characters.
const DETAIL_CHARS_MAX: usize = 400;

/// An error on its way to the client.
#[derive(Debug)]
pub struct Problem {
    /// What kind.
    pub code: Code,
    detail: String,
    place: Option<(usize, usize)>,
    allow: Option<&'static str>,
    etag: Option<String>,
    session: Option<String>,
}

impl Problem {
    /// A problem with what the client can do about it.
    pub fn new(code: Code, detail: impl Into<String>) -> Problem {
        // What a client sent may be part of it: as much as helps.
        let detail: String = detail.into().chars().take(DETAIL_CHARS_MAX).collect();
        Problem { code, detail, place: None, allow: None, etag: None, session: None }
    }

    /// The same, with what the client has seen by it.
    pub fn in_session(self, session: String) -> Problem {
        Problem { session: Some(session), ..self }
    }

    /// The node is on its way out.
    pub fn stopping() -> Problem {
        Problem::new(Code::Stopping, "try another node, or this one after its restart")
    }

    /// The methods that the path takes.
    pub fn not_allowed(method: &str, allow: &'static str) -> Problem {
        let detail = format!("{method} is not among the methods of this path: {allow}");
        Problem { allow: Some(allow), ..Problem::new(Code::MethodNotAllowed, detail) }
    }

    /// The JSON of it.
    pub fn text(&self) -> String {
        let (code, status, title) = self.code.row();
        let mut body = format!(
            "{{\"type\":\"urn:dynarust:problem:{code}\",\"title\":\"{title}\",\"status\":{},\"detail\":{}",
            status.as_u16(),
            serde_json::Value::from(self.detail.as_str())
        );
        if let Some((line, column)) = self.place {
            let _ = write!(body, ",\"line\":{line},\"column\":{column}");
        }
        body.push('}');
        body
    }

    /// The answer.
    pub fn answer(&self) -> HttpResponse {
        let mut answer = HttpResponse::build(self.code.status());
        answer.insert_header((header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json")));
        if let Some(seconds) = self.code.retry_after() {
            answer.insert_header((header::RETRY_AFTER, HeaderValue::from_static(seconds)));
        }
        if let Some(allow) = self.allow {
            answer.insert_header((header::ALLOW, HeaderValue::from_static(allow)));
        }
        if let Some(etag) = &self.etag {
            answer.insert_header((header::ETAG, etag.as_str()));
        }
        if let Some(session) = &self.session {
            answer.insert_header((SESSION_TOKEN, session.as_str()));
        }
        answer.body(self.text())
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Problem {
        let detail = format!("{} at line {} column {}", fault.what, fault.line, fault.column);
        Problem { place: Some((fault.line, fault.column)), ..Problem::new(Code::InvalidBody, detail) }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        log::error!("{error}");
        Problem::new(Code::Damaged, "the log of the node says which")
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Problem {
        let (code, detail) = match &rejection {
            Rejection::Precondition(Some(token)) => {
                let etag = Some(format!("\"{token}\""));
                let detail = format!("the key has version {token}");
                return Problem { etag, ..Problem::new(Code::PreconditionFailed, detail) };
            }
            Rejection::Precondition(None) => (Code::PreconditionFailed, "there is nothing under the key"),
            Rejection::Nothing => (Code::NotFound, "there is nothing to delete"),
            Rejection::TokenSpent => {
                (Code::TokenSpent, "others have written since: read the key again, and use its version")
            }
            Rejection::TokenAhead => (
                Code::TokenAhead,
                "try again when this node has caught up, or read the key here and use its version",
            ),
            Rejection::TooManySiblings => (
                Code::TooManySiblings,
                "write without Causality-Token, or with the version of a read that shows them all",
            ),
            // No client sends what a peer does.
            Rejection::OutOfTurn | Rejection::TooManyOrigins | Rejection::Busy => {
                (Code::Busy, "too many writes are waiting for the disk: try again")
            }
            Rejection::DiskFull => {
                (Code::DiskFull, "reads go on, deletes may; writes go on when there is room")
            }
            Rejection::Stopping => return Problem::stopping(),
            Rejection::Damaged => (Code::Damaged, "the log of the node says which"),
        };
        Problem::new(code, detail)
    }
}
