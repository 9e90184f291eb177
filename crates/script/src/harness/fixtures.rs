//! Responses that a test defines for `fetch` of a plugin.

use std::collections::HashMap;

use bytes::Bytes;
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use smart_default::SmartDefault;

use super::test_kit::headers;
use crate::capabilities::{FetchOrigins, FetchResponse, FixtureResponses};

/// Responses of one URL: one for all requests, or a list for one request after the other.
#[derive(Deserialize)]
#[serde(untagged)]
enum ResponseList {
    Many(Vec<FixtureResponse>),
    One(FixtureResponse),
}

#[derive(Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
struct FixtureResponse {
    #[default(200)]
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
    /// Body as JSON, in place of `body`.
    json: Option<Value>,
    /// Error in place of a response.
    error: Option<String>,
}

pub(super) fn read(json: &str) -> Result<FetchOrigins, String> {
    let written: HashMap<String, ResponseList> = serde_json::from_str(json).map_err(|_| {
        "`fetch` maps URLs to responses: { status, headers, body }, { json } or { error }"
            .to_owned()
    })?;
    let fixtures = FixtureResponses::default();
    for (url, written) in written {
        let all = match written {
            ResponseList::Many(all) => all,
            ResponseList::One(one) => vec![one],
        };
        let all = all.into_iter().map(FixtureResponse::made);
        let all = all.collect::<Result<_, String>>()?;
        fixtures.0.lock().insert(url, all);
    }
    Ok(FetchOrigins::with_fixtures(fixtures))
}

impl FixtureResponse {
    /// Returns the result of `fetch`; fails only if no server could send such a response.
    fn made(self) -> Result<Result<FetchResponse, String>, String> {
        if let Some(error) = self.error {
            return Ok(Err(error));
        }
        let mut headers = headers(self.headers)?;
        let body = match self.json {
            Some(json) => {
                let json_type = header::HeaderValue::from_static("application/json");
                headers.entry(header::CONTENT_TYPE).or_insert(json_type);
                json.to_string()
            }
            None => self.body,
        };
        let status = StatusCode::from_u16(self.status)
            .map_err(|_| format!("invalid response status {}", self.status))?;
        Ok(Ok(FetchResponse {
            status,
            headers,
            body: Bytes::from(body),
        }))
    }
}
