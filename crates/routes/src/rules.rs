//! Rules of routes and sites: conditions and rewrites in the order of the file, as those of nginx's
//! rewrite module. They run once a route is found, before its filters.

use std::sync::Arc;

use edgeway_base::{
    expression::Undecided,
    http::content_length,
    query,
    target::{has_spellings, join},
};
use edgeway_config::{
    diagnostic::Place,
    model::{RuleConfig, ThenConfig},
    tree::Spanned,
};
use edgeway_core::chain::{CompileContext, Exchange, Reply, RequestFacts, RerouteFacts};
use pingora::http::RequestHeader;

use super::{InvalidTarget, Slashes, Target, normalise};
use crate::values::{
    Codes, Comparison, ConditionResponse, Destination, Groups, Pattern, ReadRequest, ResponseParts,
    Template, Values, decoded_path, encoded_path, is_odd, undecided,
};

const CODES: Codes = Codes {
    value: "edgeway::rules::value",
    regex: "edgeway::rules::regex",
    response: "edgeway::rules::response",
};
const SHAPE: &str = "edgeway::rules::shape";

/// Compiled rules, in their order.
#[derive(Debug)]
pub struct Rules(Box<[Rule]>);

#[derive(Debug)]
struct Rule {
    /// `None` for every request.
    comparison: Option<Comparison>,
    /// Length of a body that a request must name more than.
    body_over: Option<u64>,
    /// Expression that the path must match, without its percent-encoding.
    path: Option<Pattern>,
    /// The same without regard to case, for the path as apps read it. `None` without an expression,
    /// and where no rule refuses.
    folded: Option<Pattern>,
    is_odd: bool,
    /// Route that takes the request, or whose headers a response has.
    route: Option<RouteName>,
    action: RuleAction,
}

/// Name of a route, and the place where it is written.
type RouteName = (Arc<str>, Place);

#[derive(Debug)]
enum RuleAction {
    Rewrite(PathRewrite),
    Respond(ConditionResponse),
    Then(ThenConfig),
    /// Its route takes the request.
    Lead,
}

/// Rewrite of the path without its percent-encoding.
#[derive(Debug)]
struct PathRewrite {
    path: Template,
    /// New query, if there is one.
    query: Option<Template>,
    /// True if the query of the request is left out.
    drops_query: bool,
    then: Option<ThenConfig>,
}

/// Course of a request after the rules.
#[derive(Debug)]
pub enum RuleCourse {
    /// The route stays.
    GoOn,
    /// The new path chooses the route.
    Reroute,
    /// The route with this name takes the request.
    Named(Arc<str>),
    /// A response, which may have the headers of the route with this name.
    Reply(Box<Reply>, Option<Arc<str>>),
}

impl Rules {
    /// Returns the names of routes that the rules lead to, with their places.
    pub fn names(&self) -> impl Iterator<Item = &RouteName> {
        self.0.iter().filter_map(|rule| rule.route.as_ref())
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns true if each request that no rule before has ended gets a response.
    pub fn respond_to_all(&self) -> bool {
        let responds = |rule: &Rule| matches!(rule.action, RuleAction::Respond(_));
        self.0
            .iter()
            .any(|rule| rule.is_for_all() && responds(rule))
    }

    /// Compiles rules as written; `None` if there are none, or a problem was reported. Reports all
    /// problems.
    pub fn compile(rules: &[Spanned<RuleConfig>], cx: &mut CompileContext<'_>) -> Option<Self> {
        let status = |rule: &Spanned<RuleConfig>| Some(rule.value.status.as_ref()?.value);
        let guards = rules.iter().filter_map(status).any(|status| status >= 400);
        let all: Box<[Rule]> = cx.checked(|cx| {
            let all = rules.iter();
            all.filter_map(|rule| Rule::compile(rule, guards, cx))
                .collect()
        })?;
        (!all.is_empty()).then_some(Self(all))
    }

    /// Returns true if one of the rules refuses requests: they guard their route.
    pub fn refuse(&self) -> bool {
        self.0.iter().any(|rule| rule.refusal().is_some())
    }

    /// Returns the refusal of a request by the rules from `first` on, if some app may read its path
    /// so that one of them refuses, and the name of the route that this rule names.
    #[cold]
    pub fn refusal(
        &self,
        first: usize,
        request: &RequestHeader,
        facts: &mut RequestFacts,
    ) -> Option<(Reply, Option<Arc<str>>)> {
        let rules = self.0.get(first..).unwrap_or_default();
        if !rules.iter().any(|rule| rule.refusal().is_some()) {
            return None;
        }
        ReadRequest::first(request, |read| {
            for rule in rules {
                match rule.holds_as_read(read, facts) {
                    Ok(false) => {}
                    Ok(true) => {
                        let reply = rule
                            .refusal()?
                            .reply_with(&read.exchange(facts), None, false);
                        let route = rule.route.as_ref().map(|(name, _)| Arc::clone(name));
                        return Some((reply, route));
                    }
                    Err(Undecided) => return Some((undecided(), None)),
                }
            }
            None
        })
    }

    /// Returns the refusal by the rules from `first` on of a request whose path has other spellings.
    fn refusal_of_spelling(
        &self,
        first: usize,
        request: &RequestHeader,
        facts: &mut RequestFacts,
    ) -> Option<RuleCourse> {
        let path = Target::new("", request.raw_path()).path;
        let mut rules = self.0.iter().skip(first);
        let refusal = rules
            .any(|rule| rule.is_read(path))
            .then(|| self.refusal(first, request, facts))?;
        refusal.map(|(reply, route)| RuleCourse::Reply(Box::new(reply), route))
    }

    /// Runs the rules, which may change the request's path.
    ///
    /// # Errors
    /// Fails if a new path is none that clients may send either.
    pub fn run(
        &self,
        request: &mut RequestHeader,
        facts: &mut RequestFacts,
        slashes: Slashes,
    ) -> Result<RuleCourse, InvalidTarget> {
        let mut value = String::new();
        let (mut is_moved, mut lead) = (false, None);
        if let Some(refusal) = self.refusal_of_spelling(0, request, facts) {
            return Ok(refusal);
        }
        for (index, rule) in self.0.iter().enumerate() {
            let head = &*request;
            let ex = Exchange::new(head, facts);
            let path = match &rule.path {
                Some(_) => decoded_path(head),
                None => String::new(),
            };
            let groups = match rule.holds(&ex, &path, &mut value) {
                Ok((true, groups)) => groups,
                Ok((false, _)) => continue,
                // This rule, or one that it leads to or keeps from being asked, might refuse.
                Err(Undecided) => {
                    return Ok(RuleCourse::Reply(Box::new(undecided()), None));
                }
            };
            let route = rule.route.as_ref().map(|(name, _)| name);
            let then = match &rule.action {
                RuleAction::Respond(response) => {
                    let pattern = rule.comparison.as_ref().and_then(Comparison::pattern);
                    // It matched: it was decided.
                    let groups = groups.or_else(|| pattern?.groups(&value).ok().flatten());
                    let reply = response.reply_with(&ex, groups.as_ref(), rule.path.is_some());
                    let route = route.cloned().or(lead);
                    return Ok(RuleCourse::Reply(Box::new(reply), route));
                }
                RuleAction::Lead => {
                    lead = route.cloned();
                    None
                }
                RuleAction::Then(then) => {
                    lead = route.cloned().or(lead);
                    Some(*then)
                }
                RuleAction::Rewrite(rewrite) => {
                    let Some(target) = rewrite.target(&ex, groups.as_ref(), slashes)? else {
                        return Ok(RuleCourse::Reply(Box::new(undecided()), None));
                    };
                    move_to(&target, request, facts, Some(!rewrite.drops_query))?;
                    let goes_on = matches!(rewrite.then, None | Some(ThenConfig::Later));
                    if goes_on
                        && let Some(refusal) = self.refusal_of_spelling(index + 1, request, facts)
                    {
                        return Ok(refusal);
                    }
                    rewrite.then
                }
            };
            match then {
                None => {}
                Some(ThenConfig::Stop) => {
                    is_moved = false;
                    break;
                }
                Some(ThenConfig::Reroute) => return Ok(RuleCourse::Reroute),
                Some(ThenConfig::Later) => is_moved = true,
            }
        }
        Ok(match lead {
            _ if is_moved => RuleCourse::Reroute,
            Some(name) => RuleCourse::Named(name),
            None => RuleCourse::GoOn,
        })
    }
}

/// Returns the length that a request names for its body.
fn length(request: &RequestHeader) -> u64 {
    content_length(&request.headers).unwrap_or_default()
}

/// Gives a request another target, and keeps the one that the client sent. `keeps_query`: the target
/// ends with the whole query that the request had; `None` if it is another page.
///
/// # Errors
/// Fails if the target has a form that no request may have.
pub fn move_to(
    target: &[u8],
    request: &mut RequestHeader,
    facts: &mut RequestFacts,
    keeps_query: Option<bool>,
) -> Result<(), InvalidTarget> {
    let rerouted = facts.rerouted.get_or_insert_with(|| {
        Box::new(RerouteFacts {
            original: request.raw_path().into(),
            own_query: Some(query::query_of(request.raw_path()).map_or(0, <[u8]>::len)),
            ..RerouteFacts::default()
        })
    });
    let sent = &rerouted.original;
    rerouted.own_query = match (keeps_query, rerouted.own_query) {
        (Some(true), Some(length)) if target.ends_with(&sent[sent.len() - length..]) => {
            Some(length)
        }
        (Some(_), Some(_)) => Some(0),
        (None, _) | (_, None) => None,
    };
    request
        .set_raw_path(target)
        .map_err(|_| InvalidTarget::Form)
}

impl Rule {
    fn is_for_all(&self) -> bool {
        self.comparison.is_none() && self.body_over.is_none() && self.path.is_none()
    }

    /// Returns true if the rule holds for a request with this decoded path, and the groups of its
    /// expression. The value of the request is then in `value`.
    fn holds<'p>(
        &self,
        ex: &Exchange<'_>,
        path: &'p str,
        value: &mut String,
    ) -> Result<(bool, Option<Groups<'p>>), Undecided> {
        let comparison = self.comparison.as_ref();
        let is_met = comparison.map_or(Ok(true), |own| own.holds(ex, value))?;
        if !is_met || !self.takes_body(ex) {
            return Ok((false, None));
        }
        let Some(pattern) = &self.path else {
            return Ok((true, None));
        };
        let groups = pattern.groups(path)?;
        Ok((groups.is_some(), groups))
    }

    /// The page of an error gets no body.
    fn takes_body(&self, ex: &Exchange<'_>) -> bool {
        let is_over = |most| !ex.facts.is_page() && length(ex.head) > most;
        self.body_over.is_none_or(is_over)
    }

    /// Returns true if the rule holds for a request as some app may read it.
    fn holds_as_read(
        &self,
        read: &ReadRequest,
        facts: &mut RequestFacts,
    ) -> Result<bool, Undecided> {
        let mut value = String::new();
        let comparison = self.comparison.as_ref();
        let is_met =
            comparison.map_or(Ok(true), |own| own.holds_as_read(read, facts, &mut value))?;
        if !is_met || !self.takes_body(&read.exchange(facts)) {
            return Ok(false);
        }
        let pattern = self.folded.as_ref().or(self.path.as_ref());
        pattern.map_or(Ok(true), |pattern| read.matches(pattern))
    }

    /// Returns true if the rule compares the path, and this path may have other spellings for an app.
    fn is_read(&self, path: &[u8]) -> bool {
        let comparison = self.comparison.as_ref();
        self.folded.is_some() && (self.is_odd || has_spellings(path))
            || comparison.is_some_and(|own| own.is_read(path))
    }

    /// Returns the response of the rule, if it is a refusal.
    fn refusal(&self) -> Option<&ConditionResponse> {
        // An exhaustive list: each action says whether it refuses.
        match &self.action {
            RuleAction::Respond(response) => Some(response).filter(|own| own.refuses()),
            RuleAction::Rewrite(_) | RuleAction::Then(_) | RuleAction::Lead => None,
        }
    }

    fn compile(
        rule: &Spanned<RuleConfig>,
        guards: bool,
        cx: &mut CompileContext<'_>,
    ) -> Option<Self> {
        let Spanned { value: raw, place } = rule;
        let comparison = match &raw.value {
            Some(value) => Some(Comparison::compile(
                value,
                raw.is.as_ref(),
                raw.not,
                CODES,
                cx,
            )?),
            None if raw.is.is_some() || raw.not => {
                let help = "write the value that is compared: `if: \"{cookie.session}\"`";
                return cx
                    .at(*place, SHAPE)
                    .refuse("a rule has `is` or `not` without `if`", help);
            }
            None => None,
        };
        let route = raw.route.as_ref();
        let route = route.map(|name| (Arc::from(&*name.value), name.place));
        let path = match &raw.regex {
            Some(regex) => Some(pattern(regex, cx)?),
            None => None,
        };
        let is_rewrite = raw.with.is_some();
        let is_response = raw.status.is_some() || raw.to.is_some() || raw.body.is_some();
        let action = match (is_rewrite, is_response, raw.then) {
            (true, false, then) if route.is_none() => {
                RuleAction::Rewrite(PathRewrite::compile(rule, path.as_ref(), then, cx)?)
            }
            (false, true, None) => {
                let Some(status) = &raw.status else {
                    let help = "write one: `status: 301`";
                    return cx
                        .at(*place, SHAPE)
                        .refuse("the response of a rule has no status", help);
                };
                let parts = ResponseParts {
                    status,
                    to: raw.to.as_ref(),
                    body: raw.body.as_ref(),
                    content_type: raw.content_type.as_ref(),
                };
                let by = comparison.as_ref().and_then(Comparison::pattern);
                let pattern = path.as_ref().or(by);
                RuleAction::Respond(ConditionResponse::compile(&parts, pattern, CODES, cx)?)
            }
            (false, false, Some(then)) if route.is_none() || then == ThenConfig::Stop => {
                RuleAction::Then(then)
            }
            (false, false, None) if route.is_some() => RuleAction::Lead,
            _ => {
                let help = "write `regex` and `with` of a rewrite, `status` of a response, \
                            `route` alone or with `then: stop`, or `then` alone";
                return cx
                    .at(*place, SHAPE)
                    .refuse("the rule has no action, or several", help);
            }
        };
        Some(Self {
            comparison,
            body_over: raw.body_over.map(|size| size.0),
            folded: path.as_ref().filter(|_| guards).map(Pattern::folded),
            is_odd: raw.regex.as_ref().is_some_and(|regex| is_odd(&regex.value)),
            path,
            route,
            action,
        })
    }
}

/// Compiles an expression over paths; `None` if a problem was reported.
fn pattern(regex: &Spanned<String>, cx: &mut CompileContext<'_>) -> Option<Pattern> {
    let text = &regex.value;
    let compiled = Pattern::new(text, false).map_err(|reason| {
        let message = format!("invalid regular expression `{text}`: {reason}");
        (message, "correct it".to_owned())
    });
    cx.at(regex.place, CODES.regex).reported(compiled)
}

impl PathRewrite {
    fn compile(
        rule: &Spanned<RuleConfig>,
        pattern: Option<&Pattern>,
        then: Option<ThenConfig>,
        cx: &mut CompileContext<'_>,
    ) -> Option<Self> {
        let Spanned { value: raw, place } = rule;
        let Some(with) = &raw.with else {
            return cx
                .at(*place, SHAPE)
                .refuse("a rewrite has no new path", "write `with`");
        };
        let text = with.value.as_str();
        let drops_query = text.ends_with('?');
        let text = text.strip_suffix('?').unwrap_or(text);
        let (path, query) = match text.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (text, None),
        };
        if !path.starts_with(['/', '{']) {
            let message = format!("`{path}` is no path");
            return cx
                .at(with.place, SHAPE)
                .refuse(message, "begin it with `/`");
        }
        let mut compile = |text: &str, destination| {
            let text = Spanned {
                value: text.to_owned(),
                place: with.place,
            };
            Template::compile_with_groups(&text, destination, pattern, CODES.value, cx)
        };
        let path = compile(path, Destination::Path);
        let query = match query {
            Some(query) => Some(compile(query, Destination::Query)?),
            None => None,
        };
        Some(Self {
            path: path?,
            query,
            drops_query,
            then,
        })
    }

    /// Returns the new target of a request whose path has these groups; `None` if a lookup table
    /// cannot decide about it.
    fn target(
        &self,
        ex: &Exchange<'_>,
        groups: Option<&Groups<'_>>,
        slashes: Slashes,
    ) -> Result<Option<Vec<u8>>, InvalidTarget> {
        let values = Values::of_request(ex);
        let (mut path, mut query) = (String::new(), String::new());
        let mut written = self.path.write_with(&values, groups, &mut path);
        if path.split('/').any(|segment| matches!(segment, "." | "..")) {
            // A group or a value of the client would lead out of the path that is written.
            return Err(InvalidTarget::Form);
        }
        // Several slashes at the beginning would be the address of a host.
        let path = format!("/{}", encoded_path(path.trim_start_matches('/')));
        let normal = normalise(path.as_bytes(), slashes)?.path.into_owned();
        if let Some(own) = &self.query {
            written = own.write_with(&values, groups, &mut query).and(written);
        }
        let theirs = Target::new("", ex.head.raw_path()).query;
        let theirs = theirs.filter(|_| !self.drops_query).unwrap_or_default();
        if !theirs.is_empty() {
            if !query.is_empty() {
                query.push('&');
            }
            query.push_str(&String::from_utf8_lossy(theirs));
        }
        let query = Some(query.as_bytes()).filter(|query| !query.is_empty());
        Ok(written.ok().map(|()| join(&normal, query)))
    }
}
