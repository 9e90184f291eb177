//! The requests that ended last, with a filter.

use std::collections::BTreeMap;

use axum::{extract::Query, http::Uri};
use edgeway_proxy::live::history::{RequestHistory, RequestQuery};
use url::form_urlencoded;

use crate::logged_request::LoggedRequest;

/// Number of requests on the page.
const SHOWN: usize = 50;

/// Fields of the filter, with their labels and examples.
pub(super) const FIELDS: [(&str, &str, &str); 5] = [
    ("route", "Route", "api"),
    ("status", "Status", "5xx"),
    ("path", "Path", "/blog"),
    ("client", "Client", "192.0.2.7"),
    ("reason", "Reason", "rate_limit"),
];
const ERRORS: &str = "errors";
const PROBLEMS: &str = "problems";

/// The latest requests that a filter lets through.
pub(super) struct Tail {
    fields: BTreeMap<String, String>,
    /// The requests, the newest first; or why the filter cannot be read.
    pub(super) requests: Result<Vec<LoggedRequest>, String>,
}

impl Tail {
    /// Reads the filter of the page's own address, and what it lets through.
    pub(super) fn from_uri(uri: &Uri, history: &RequestHistory) -> Self {
        let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        let is_field = |name: &str| {
            [ERRORS, PROBLEMS].contains(&name) || FIELDS.iter().any(|field| field.0 == name)
        };
        let fields: BTreeMap<String, String> = pairs
            .map(|(name, value)| (name.into_owned(), value.trim().to_owned()))
            .filter(|(name, value)| is_field(name) && !value.is_empty())
            .collect();
        let query = form_urlencoded::Serializer::new(format!("n={SHOWN}"))
            .extend_pairs(&fields)
            .finish();
        let requests = format!("/?{query}")
            .parse::<Uri>()
            .map_err(|error| error.to_string())
            .and_then(|uri| {
                let query = Query::<RequestQuery>::try_from_uri(&uri);
                let Query(query) = query.map_err(|error| error.body_text())?;
                let lines = history.latest(&query);
                let lines = lines.split(|b| *b == b'\n').rev();
                Ok(lines
                    .filter_map(|line| serde_json::from_slice(line).ok())
                    .collect())
            });
        Self { fields, requests }
    }

    pub(super) fn value(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }
}

impl LoggedRequest {
    pub(super) fn time_of_day(&self) -> &str {
        self.time.get(11..23).unwrap_or(&self.time)
    }

    /// Returns the status; that of nginx for a client that left before its response.
    pub(super) fn shown_status(&self) -> u16 {
        if self.status == 0 { 499 } else { self.status }
    }

    /// Returns the reason of the response: of a refusal or failure, or else of the cache.
    pub(super) fn why(&self) -> String {
        let words = [&self.reason, &self.cache, &self.cache_why];
        let words: Vec<&str> = words.into_iter().flatten().map(String::as_str).collect();
        words.join(" ")
    }
}
