//! Calls to a peer: one request, one answer, with the secret, a time limit and a bound on the answer.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};

use super::error::Error;
use super::secret::Secret;
use super::wire::{self, Envelope, Message, Refusal, Reply};
use crate::limits::{PEER_BYTES_PER_MS_LEAST, PEER_CONNECT_MS, PEER_REPLY_BYTES_MAX};

/// Connections to peers.
pub struct Client {
    http: reqwest::Client,
    secret: Option<Secret>,
}

impl Client {
    /// A client that shows this secret.
    pub fn new(secret: Option<Secret>) -> Result<Client, Error> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_millis(PEER_CONNECT_MS))
            .redirect(reqwest::redirect::Policy::none())
            // A proxy of the environment is for the world outside, and must not see the secret.
            .no_proxy()
            .tcp_nodelay(true)
            .pool_max_idle_per_host(2)
            .build()
            .map_err(|e| Error::Unreachable(told(&e)))?;
        Ok(Client { http, secret })
    }

    /// Asks the node at this address.
    pub async fn ask(
        &self,
        address: &str,
        envelope: &Envelope<Message>,
        limit: Duration,
    ) -> Result<Envelope<Reply>, Error> {
        let body = wire::encode(envelope)?;
        // What is large may take longer, on a slow line.
        let limit = limit + Duration::from_millis(body.len() as u64 / PEER_BYTES_PER_MS_LEAST);
        let mut request = self.http.post(format!("http://{address}/cluster/message")).timeout(limit);
        request = request.header(CONTENT_TYPE, "application/octet-stream");
        if let Some(secret) = &self.secret {
            request = request.header(AUTHORIZATION, secret.header());
        }
        let failed = |e: reqwest::Error| match e.is_connect() {
            true => Error::Unreachable(told(&e)),
            false => Error::Unanswered(told(&e)),
        };
        let mut answer = request.body(body).send().await.map_err(failed)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > PEER_REPLY_BYTES_MAX {
                return Err(Error::Unreadable("its answer does not end".into()));
            }
        }
        match status {
            StatusCode::OK => wire::decode(&bytes),
            // It is there, and about to be ready.
            StatusCode::SERVICE_UNAVAILABLE => Err(Refusal::NotNow("it is starting, or busy".into()).into()),
            StatusCode::UNAUTHORIZED => Err(Error::Secret),
            status => {
                let detail = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
                let detail = detail.and_then(|problem| problem["detail"].as_str().map(str::to_owned));
                let answer = match detail {
                    Some(detail) => format!("it answered {status}: {detail}"),
                    None => format!("no node of DynaRust, but something that says {status}"),
                };
                // What it can't make sense of stays so, however often it is sent.
                Err(match status {
                    StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => Error::Unreadable(answer),
                    _ => Error::Unreachable(answer),
                })
            }
        }
    }
}

/// An error with its causes: the first line alone rarely says what happened.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    let last = causes.last().map(ToString::to_string);
    last.unwrap_or_else(|| error.to_string())
}
