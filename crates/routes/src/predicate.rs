//! Predicates of a route on method, listener, headers, query and cookies, and their order by
//! specificity.

use std::cmp::Reverse;

use derive_more::Display;
use edgeway_base::query::{cookie_values, form_values};
use edgeway_config::{
    diagnostic::{Diagnostics, closest},
    model::MatchConfig,
    tree::Spanned,
};
use http::{HeaderName, Method, header};
use pingora::http::RequestHeader;
use regex::bytes::Regex;

use super::{InvalidValue, Target};

/// Conditions of a route that all must hold.
#[derive(Clone, Debug)]
pub(super) struct Predicates {
    /// Accepted methods; any if empty.
    methods: Vec<Method>,
    /// Accepted listeners; any if empty.
    listeners: Vec<Box<str>>,
    /// Headers first, then parameters, then cookies.
    named: Vec<(NamedPart, PredicateCondition)>,
    pub(super) rank: Rank,
    /// True if the route has access control. If a name has several values, an app may use any of
    /// them: such a route takes the request if one value fits, so that no other value bypasses it,
    /// and an open route only if all fit, so that no other value enters it.
    is_guarded: bool,
}

/// Result of comparing a request with the predicates of a route.
#[derive(Clone, Copy, Debug)]
pub(super) enum PredicateResult<'a> {
    Yes,
    /// Several values of one name, of which some fit: the app decides which one it uses.
    /// `is_taken`: the route takes the request nevertheless.
    Unclear {
        is_taken: bool,
    },
    No(FailedPredicate<'a>),
}

/// A part of a request with a name, which may have several values.
#[derive(Clone, Debug, Display)]
pub(super) enum NamedPart {
    #[display("header `{_0}`")]
    Header(HeaderName),
    #[display("query `{_0}`")]
    Query(String),
    #[display("cookie `{_0}`")]
    Cookie(String),
}

#[derive(Clone, Debug)]
enum PredicateCondition {
    Exact(Vec<u8>),
    Like(Regex),
    Any,
}

/// Order in which routes of one host and path are compared: least first.
///
/// Equal ranks mean equal predicates.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    count: Reverse<usize>,
    headers: Reverse<usize>,
    queries: Reverse<usize>,
    cookies: Reverse<usize>,
    methods: usize,
    listeners: usize,
    any_values: usize,
    like_values: usize,
    text: Vec<String>,
}

/// The first condition that did not hold.
#[derive(Clone, Copy, Debug, Display)]
pub(super) enum FailedPredicate<'a> {
    #[display("method is not {}", _0.iter().map(Method::as_str).collect::<Vec<_>>().join(" or "))]
    Method(&'a [Method]),
    #[display("listener is not {}", _0.join(" or "))]
    Listener(&'a [Box<str>]),
    #[display("{_0} does not match")]
    Named(&'a NamedPart),
}

const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT",
];

impl Predicates {
    /// Compiles the valid predicates, and reports invalid ones.
    pub(super) fn compile(config: &MatchConfig, diagnostics: &mut Diagnostics) -> Self {
        let mut read = Reader {
            diagnostics,
            text: Vec::new(),
        };
        let methods = read.methods(&config.method.0);
        let listeners = read.listeners(&config.listener.0);
        let mut named = read.list("header", &config.header, header_name);
        named.extend(read.list("query", &config.query, query_name));
        named.extend(read.list("cookie", &config.cookie, cookie_name));
        let count = |is_it: fn(&PredicateCondition) -> bool| {
            let wants = named.iter().map(|(_, want)| want);
            wants.filter(|want| is_it(want)).count()
        };
        let others = usize::from(!methods.is_empty()) + usize::from(!listeners.is_empty());
        let rank = Rank {
            count: Reverse(named.len() + others),
            headers: Reverse(config.header.len()),
            queries: Reverse(config.query.len()),
            cookies: Reverse(config.cookie.len()),
            methods: methods.len(),
            listeners: listeners.len(),
            any_values: count(|want| matches!(want, PredicateCondition::Any)),
            like_values: count(|want| matches!(want, PredicateCondition::Like(_))),
            text: read.text,
        };
        Self {
            methods,
            listeners,
            named,
            rank,
            is_guarded: false,
        }
    }

    pub(super) fn guard(&mut self, is_guarded: bool) {
        self.is_guarded = is_guarded;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rank.count.0 == 0
    }

    /// Compares a request with every condition.
    pub(super) fn fit(&self, target: &Target<'_>, request: &RequestHeader) -> PredicateResult<'_> {
        if !self.methods.is_empty() && !self.methods.contains(&request.method) {
            return PredicateResult::No(FailedPredicate::Method(&self.methods));
        }
        if !self.listeners.is_empty()
            && !self.listeners.iter().any(|name| **name == *target.listener)
        {
            return PredicateResult::No(FailedPredicate::Listener(&self.listeners));
        }
        let mut fit = PredicateResult::Yes;
        for (part, want) in &self.named {
            match part.fits(want, target, request) {
                Some(true) => {}
                Some(false) => {
                    let is_header = matches!(part, NamedPart::Header(_));
                    fit = fit.unclear(is_header || self.is_guarded);
                }
                None => return PredicateResult::No(FailedPredicate::Named(part)),
            }
        }
        fit
    }
}

impl NamedPart {
    /// Returns true if all values of the part fit, false if only some do, `None` if none does.
    fn fits(
        &self,
        want: &PredicateCondition,
        target: &Target<'_>,
        request: &RequestHeader,
    ) -> Option<bool> {
        match self {
            Self::Header(name) => {
                let values = request.headers.get_all(name).iter();
                of_several(values.map(|value| want.takes(value.as_bytes())))
            }
            Self::Query(name) => {
                let values = form_values(target.query.unwrap_or_default(), name.as_bytes());
                of_several(values.map(|value| want.takes(&value)))
            }
            Self::Cookie(name) => {
                let values = cookie_values(&request.headers, name.as_bytes());
                of_several(values.map(|value| want.takes(&value)))
            }
        }
    }
}

impl PredicateResult<'_> {
    fn unclear(self, is_taken: bool) -> Self {
        match self {
            Self::Yes => Self::Unclear { is_taken },
            Self::Unclear { is_taken: before } => Self::Unclear {
                is_taken: before && is_taken,
            },
            Self::No(_) => self,
        }
    }
}

fn of_several(fits: impl Iterator<Item = bool>) -> Option<bool> {
    let (mut any, mut all) = (false, true);
    for fits in fits {
        any |= fits;
        all &= fits;
    }
    any.then_some(all)
}

impl PredicateCondition {
    fn takes(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(wanted) => wanted == value,
            Self::Like(regex) => regex.is_match(value),
            Self::Any => true,
        }
    }
}

struct Reader<'a> {
    diagnostics: &'a mut Diagnostics,
    /// Each predicate in canonical form and order.
    text: Vec<String>,
}

impl Reader<'_> {
    fn methods(&mut self, written: &[Spanned<String>]) -> Vec<Method> {
        let methods = methods(written, self.diagnostics);
        if !methods.is_empty() {
            let names: Vec<_> = methods.iter().map(Method::as_str).collect();
            self.text.push(format!("method {}", names.join(",")));
        }
        methods
    }

    /// Reads listener names; their existence is checked where the listeners are known.
    fn listeners(&mut self, written: &[Spanned<String>]) -> Vec<Box<str>> {
        let mut names: Vec<&str> = written.iter().map(|name| name.value.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if !names.is_empty() {
            self.text.push(format!("listener {}", names.join(",")));
        }
        names.into_iter().map(Box::from).collect()
    }

    fn list(
        &mut self,
        kind: &str,
        written: &std::collections::BTreeMap<String, Spanned<String>>,
        name_of: fn(&str) -> Result<NamedPart, InvalidValue>,
    ) -> Vec<(NamedPart, PredicateCondition)> {
        let mut list = Vec::new();
        for (name, value) in written {
            let read = name_of(name).and_then(|name| Ok((name, want(&value.value)?)));
            let code = "edgeway::route::bad_predicate";
            list.extend(self.diagnostics.at(value.place, code).reported(read));
            let name = match kind {
                "header" => name.to_ascii_lowercase(),
                _ => name.clone(),
            };
            self.text.push(format!("{kind} {name}={}", value.value));
        }
        self.text.sort_unstable();
        list
    }
}

/// Returns the methods that a `match` takes, in order; any if there are none.
pub fn methods(written: &[Spanned<String>], diagnostics: &mut Diagnostics) -> Vec<Method> {
    let mut names: Vec<&str> = Vec::new();
    for method in written {
        let text = method.value.as_str();
        let checked = check_method(text).map(|()| text);
        let code = "edgeway::route::bad_method";
        names.extend(diagnostics.at(method.place, code).reported(checked));
    }
    // RFC 9110, 9.3.2: HEAD is GET without the body, so a route for GET takes HEAD too. A route
    // that names HEAD alone has fewer methods and so comes first.
    names.extend((names.contains(&"GET")).then_some("HEAD"));
    names.sort_unstable();
    names.dedup();
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

fn check_method(text: &str) -> Result<(), InvalidValue> {
    let upper = text.to_ascii_uppercase();
    let known = METHODS.contains(&text);
    // An app's own methods, such as PURGE, are valid unless they look like a typo.
    let is_token = !text.is_empty()
        && text == upper
        && text
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b == b'-' || b == b'_');
    if known || (is_token && closest(text, METHODS).is_none()) {
        return Ok(());
    }
    let help = match closest(&upper, METHODS) {
        _ if METHODS.contains(&upper.as_str()) => format!("write `{upper}`"),
        Some(near) => format!("did you mean `{near}`?"),
        None => "write it in capitals, such as `GET`".to_owned(),
    };
    Err(InvalidValue::new(format!("invalid method `{text}`"), help))
}

fn want(text: &str) -> Result<PredicateCondition, InvalidValue> {
    Ok(match text.strip_prefix('~') {
        Some(regex) => PredicateCondition::Like(super::regex(regex)?),
        None if text == "*" => PredicateCondition::Any,
        None => PredicateCondition::Exact(text.as_bytes().to_vec()),
    })
}

fn header_name(name: &str) -> Result<NamedPart, InvalidValue> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
        InvalidValue::new(
            format!("invalid header name `{name}`"),
            "write a name such as `x-api-version`",
        )
    })?;
    if parsed == header::HOST {
        return Err(InvalidValue::new(
            "the host is not matched as a header",
            "write it in `host`",
        ));
    }
    Ok(NamedPart::Header(parsed))
}

fn query_name(name: &str) -> Result<NamedPart, InvalidValue> {
    plain_name(name, "query", "&=#?").map(NamedPart::Query)
}

fn cookie_name(name: &str) -> Result<NamedPart, InvalidValue> {
    plain_name(name, "cookie", "=;,").map(NamedPart::Cookie)
}

fn plain_name(name: &str, kind: &str, separators: &str) -> Result<String, InvalidValue> {
    let is_plain = |c: char| c.is_ascii_graphic() && !separators.contains(c);
    if name.is_empty() || !name.chars().all(is_plain) {
        return Err(InvalidValue::new(
            format!("invalid {kind} name `{name}`"),
            "write it decoded, in visible ASCII without separators",
        ));
    }
    Ok(name.to_owned())
}
