//! Refuses or redirects requests for which a condition on their values holds, as `if` of nginx does
//! with `return`.

mod config;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use regex::Regex;

use crate::{
    chain::{
        CompileContext, Exchange, Filter, FilterKind, Guard, Phases, Reply, ReplyBody, Verdict,
    },
    values::Template,
};

/// The compiled filter: the first condition that holds decides.
#[derive(Debug)]
pub(crate) struct Conditions(Box<[Arc<Condition>]>);

#[derive(Debug)]
struct Condition {
    value: Template,
    test: Test,
    is_negated: bool,
    status: StatusCode,
    then: Then,
}

/// Comparison of a value.
#[derive(Debug)]
enum Test {
    /// Neither empty nor `0`.
    True,
    Equal(Box<str>),
    Like(Regex),
}

/// Response of a condition that holds.
#[derive(Debug)]
enum Then {
    /// Built-in page of an error, or no body.
    ByStatus,
    Redirect(Template),
    Body(HeaderValue, Bytes),
    /// Body with placeholders.
    Text(HeaderValue, Template),
}

impl Test {
    fn holds(&self, value: &str) -> bool {
        match self {
            Self::True => !matches!(value, "" | "0"),
            Self::Equal(text) => **text == *value,
            Self::Like(regex) => regex.is_match(value),
        }
    }
}

impl Condition {
    fn holds(&self, ex: &Exchange<'_>, value: &mut String) -> bool {
        value.clear();
        self.value.write(ex, value);
        self.test.holds(value) != self.is_negated
    }

    fn refuses(&self) -> bool {
        self.status.as_u16() >= 400
    }

    fn reply(&self, ex: &Exchange<'_>) -> Reply {
        let mut reply = Reply::empty(self.status);
        match &self.then {
            Then::ByStatus if self.status.as_u16() >= 400 => {
                reply = Reply::refuse(self.status, "condition");
            }
            Then::ByStatus => {}
            Then::Redirect(to) => {
                if let Some(to) = to.target(ex) {
                    reply = reply.header(header::LOCATION, to);
                } else {
                    let status = StatusCode::INTERNAL_SERVER_ERROR;
                    reply = Reply::refuse(status, "condition_target");
                }
            }
            Then::Body(content_type, body) => {
                reply.body = ReplyBody::Bytes {
                    content_type: content_type.clone(),
                    body: body.clone(),
                };
            }
            Then::Text(content_type, text) => {
                let mut body = String::new();
                text.write(ex, &mut body);
                reply.body = ReplyBody::Bytes {
                    content_type: content_type.clone(),
                    body: body.into(),
                };
            }
        }
        reply
    }
}

impl FilterKind for Conditions {
    const NAME: &'static str = "conditions";
    type Config = config::ConditionsConfig;
    type Filter = Self;

    fn compile(config: config::ConditionsConfig, cx: &mut CompileContext<'_>) -> Option<Self> {
        config.compile(cx)
    }
}

impl Filter for Conditions {
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    fn guard(&self) -> Guard {
        if self.0.iter().any(|condition| condition.refuses()) {
            Guard::Access
        } else {
            Guard::None
        }
    }

    /// Returns the refusals: a redirect protects nothing, and requests of other routes are none of
    /// its business.
    fn guard_alone(&self) -> Option<Arc<dyn Filter>> {
        let refusals = self.0.iter().filter(|condition| condition.refuses());
        Some(Arc::new(Self(refusals.cloned().collect())))
    }

    fn on_request(&self, ex: &mut Exchange<'_>) -> Verdict {
        let mut value = String::new();
        let mut all = self.0.iter();
        match all.find(|condition| condition.holds(ex, &mut value)) {
            Some(condition) => condition.reply(ex).into(),
            None => Verdict::Next,
        }
    }

    fn explain(&self, ex: &Exchange<'_>) -> Vec<String> {
        let mut value = String::new();
        let mut all = self.0.iter().enumerate();
        let held = all.find(|(_, condition)| condition.holds(ex, &mut value));
        vec![match held {
            Some((index, condition)) => {
                let status = condition.status.as_u16();
                format!("condition {} holds: {status}", index + 1)
            }
            None => format!("none of {} holds", self.0.len()),
        }]
    }
}
