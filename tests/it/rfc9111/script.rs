//! The notation of cases.

use std::time::{Duration, SystemTime};

/// The steps of a case.
#[derive(Debug)]
pub(crate) struct Script {
    pub steps: Vec<Step>,
}

/// Request, the origin's response, and the expectations.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub method: String,
    /// Suffix to the path of the case.
    pub path: String,
    pub request: Vec<(String, String)>,
    pub status: u16,
    pub response: Vec<(String, String)>,
    pub source: Option<Source>,
    pub expected_status: Option<u16>,
    pub expected: Vec<Expected>,
    pub saw: Vec<Expected>,
}

/// Source of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The cache, without a request to the origin.
    Cache,
    /// The origin: the client gets its current response.
    Origin,
    /// The cache, after a conditional request to the origin.
    Validated,
    /// The cache, while the origin is requested in the background.
    Background,
    /// The cache, since the origin was requested and failed.
    Bridged,
    /// Neither the cache nor the origin: 504.
    Nobody,
}

/// Expectation about a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Is(String, String),
    AtLeast(String, u64),
    Absent(String),
}

impl Script {
    /// # Panics
    /// On a line that cannot be read: the table is part of the tests.
    pub(crate) fn parse(text: &str) -> Self {
        let mut steps: Vec<Step> = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (mark, text) = line.split_at(1);
            let text = text.trim();
            let is_request_line = mark == ">" && !text.contains(": ") && !text.ends_with(':');
            if is_request_line {
                let (method, path) = text.split_once(' ').unwrap_or((text, ""));
                steps.push(Step {
                    method: method.to_owned(),
                    path: path.to_owned(),
                    status: 200,
                    ..Step::default()
                });
                continue;
            }
            let step = steps.last_mut().expect("a step begins with a request");
            match mark {
                ">" => step.request.push(field(text)),
                "<" => match text.parse() {
                    Ok(status) => step.status = status,
                    Err(_) => step.response.push(field(text)),
                },
                "=" => step.expect(text),
                _ => panic!("{line}"),
            }
        }
        assert!(steps.iter().all(|step| step.source.is_some()), "{text}");
        Self { steps }
    }
}

impl Step {
    fn expect(&mut self, text: &str) {
        self.source = match text {
            "cache" => Some(Source::Cache),
            "origin" => Some(Source::Origin),
            "validated" => Some(Source::Validated),
            "background" => Some(Source::Background),
            "bridged" => Some(Source::Bridged),
            "nobody" => Some(Source::Nobody),
            _ => {
                match (text.parse(), text.strip_prefix("saw ")) {
                    (Ok(status), _) => self.expected_status = Some(status),
                    (_, Some(seen)) => self.saw.push(Expected::parse(seen)),
                    _ => self.expected.push(Expected::parse(text)),
                }
                return;
            }
        };
    }

    /// Returns the status that the client should get.
    pub(crate) fn client_status(&self, stored: u16) -> u16 {
        self.expected_status.unwrap_or(match self.source {
            Some(Source::Origin) => self.status,
            Some(Source::Nobody) => 504,
            _ => stored,
        })
    }
}

impl Expected {
    fn parse(text: &str) -> Self {
        if let Some(name) = text.strip_prefix('!') {
            return Self::Absent(name.to_owned());
        }
        let (name, value) = field(text);
        match value.strip_suffix("..").map(str::parse) {
            Some(Ok(least)) => Self::AtLeast(name, least),
            _ => Self::Is(name, value),
        }
    }

    /// Returns the difference if a header section is not as expected. `values` are those of the
    /// field, in their order.
    pub(crate) fn refutes(
        &self,
        values: impl Fn(&str) -> Vec<String>,
        path: &str,
    ) -> Option<String> {
        match self {
            Self::Is(name, value) => {
                let (found, wanted) = (values(name).join(", "), filled(value, path));
                (found != wanted).then(|| format!("{name}: {found:?}, not {wanted:?}"))
            }
            Self::AtLeast(name, least) => {
                let found = values(name).join(", ");
                let is_enough = found.parse::<u64>().is_ok_and(|number| number >= *least);
                (!is_enough).then(|| format!("{name}: {found:?}, not {least} or more"))
            }
            Self::Absent(name) => {
                let found = values(name);
                (!found.is_empty()).then(|| format!("{name}: {found:?}, not absent"))
            }
        }
    }
}

fn field(text: &str) -> (String, String) {
    let (name, value) = text
        .split_once(':')
        .unwrap_or_else(|| panic!("{text:?} is no field"));
    (name.to_owned(), value.trim().to_owned())
}

/// Returns a value as it is sent.
pub(crate) fn filled(value: &str, path: &str) -> String {
    let offset = value
        .strip_prefix('@')
        .and_then(|offset| offset.parse::<i64>().ok());
    let Some(offset) = offset else {
        return value.replace("{path}", path);
    };
    httpdate::fmt_http_date(moved(edgeway_base::clock::Clock::machine().wall(), offset))
}

fn moved(time: SystemTime, seconds: i64) -> SystemTime {
    let span = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        time - span
    } else {
        time + span
    }
}
