//! The requests that ended last, with a filter.

use std::collections::BTreeMap;

use axum::{extract::Query, http::Uri};
use edgeway_proxy::live::history::{RequestHistory, RequestQuery};
use maud::{Markup, html};
use url::form_urlencoded;

use super::{
    STATUS,
    tables::{labelled, mark},
};
use crate::logged_request::LoggedRequest;

/// Number of requests on the page.
const SHOWN: usize = 50;

/// Fields of the filter, with their labels and examples.
const FIELDS: [(&str, &str, &str); 5] = [
    ("route", "Route", "api"),
    ("status", "Status", "5xx"),
    ("path", "Path", "/blog"),
    ("client", "Client", "192.0.2.7"),
    ("reason", "Reason", "rate_limit"),
];
/// Columns of the requests; those of numbers begin with `#`.
const COLUMNS: [&str; 8] = [
    "Time", "#Status", "Request", "Route", "#ms", "Reason", "Client", "Backend",
];
const ERRORS: &str = "errors";
const PROBLEMS: &str = "problems";

/// The latest requests that a filter lets through.
pub(super) struct Tail {
    fields: BTreeMap<String, String>,
    /// The requests, the newest first; or why the filter cannot be read.
    requests: Result<Vec<LoggedRequest>, String>,
}

impl Tail {
    /// Reads the filter of the page's own address, and what it lets through.
    pub(super) fn of(uri: &Uri, history: &RequestHistory) -> Self {
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

    pub(super) fn section(&self) -> Markup {
        let value = |name: &str| self.fields.get(name).map_or("", String::as_str);
        html! {
            section id="tail" class="forms" {
                h2 { "Latest requests" }
                // Script closes it; without, the page is loaded again, and would close it meanwhile.
                details data-key="filter" open {
                  summary { "Filter" }
                  form method="get" action=(STATUS) data-tail {
                    @for (name, label, example) in FIELDS {
                        label { (label) " "
                            input name=(name) value=(value(name)) placeholder=(example) size="12";
                        }
                    }
                    @for (name, text) in [
                        (ERRORS, " only failed"),
                        (PROBLEMS, " only failed, retried and degraded"),
                    ] {
                        label {
                            input type="checkbox" name=(name) value="true"
                                checked[self.fields.contains_key(name)];
                            (text)
                        }
                    }
                    button { "Filter" }
                  }
                }
                p id="filter-problem" class="bad" role="alert" hidden[self.requests.is_ok()] {
                    @if let Err(why) = &self.requests { (why) }
                }
                div class="wide tail" tabindex="0" {
                    table {
                        thead {
                            tr class="columns" {
                                @for column in COLUMNS {
                                    @let number = column.strip_prefix('#');
                                    th class=[number.map(|_| "number")] { (number.unwrap_or(column)) }
                                }
                            }
                        }
                        tbody id="requests" {
                            @for request in self.requests.iter().flatten() {
                                (labelled(&COLUMNS, &request.row()))
                            }
                        }
                    }
                }
            }
        }
    }
}

impl LoggedRequest {
    /// Renders a row, with the cells that the script makes for later requests.
    fn row(&self) -> Markup {
        let time = self.time.get(11..23).unwrap_or(&self.time);
        let status = if self.status == 0 { 499 } else { self.status };
        html! {
            tr {
                td { (time) }
                td class="number" { (mark_status(status)) }
                td class="target" { (self.method) " " (self.host) (self.path) }
                td { (self.route.as_deref().unwrap_or("–")) }
                td class="number" { (format!("{:.1}", self.total_ms)) }
                td { (self.why()) }
                td { (self.client) }
                td { (self.backends()) }
            }
        }
    }

    /// Returns the reason of the response: of a refusal or failure, or else of the cache.
    fn why(&self) -> String {
        let words = [&self.reason, &self.cache, &self.cache_why];
        let words: Vec<&str> = words.into_iter().flatten().map(String::as_str).collect();
        words.join(" ")
    }
}

fn mark_status(status: u16) -> Markup {
    let text = status.to_string();
    if status >= 500 {
        mark(false, &text)
    } else {
        html! { (text) }
    }
}
