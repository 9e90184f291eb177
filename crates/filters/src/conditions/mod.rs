//! Refuses or redirects requests for which a condition on their values holds, as `if` of nginx does
//! with `return`.

mod config;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use edgeway_base::{expression::Undecided, target::Target};
use edgeway_core::chain::{Exchange, Filter, Guard, Phases, Reply, RequestFacts, Traits, Verdict};
use edgeway_routes::values::{Comparison, ConditionResponse, ReadRequest, undecided};

/// The compiled filter: the first condition that holds decides.
#[derive(Debug)]
pub struct Conditions(Box<[Arc<Condition>]>);

#[derive(Debug)]
struct Condition {
    comparison: Comparison,
    response: ConditionResponse,
}

impl Conditions {
    /// Returns the refusal of a request as some app may read it.
    fn refusal(
        &self,
        read: &ReadRequest,
        facts: &mut RequestFacts,
        value: &mut String,
    ) -> Option<Reply> {
        for own in &self.0 {
            match own.comparison.holds_as_read(read, facts, value) {
                Ok(false) => {}
                Ok(true) if !own.response.refuses() => return None,
                Ok(true) => return Some(own.response.reply(&read.exchange(facts), None, value)),
                Err(Undecided) => return Some(undecided()),
            }
        }
        None
    }
}

filter_kind!(Conditions: config::ConditionsConfig = "conditions");

impl Filter for Conditions {
    fn traits(self: Arc<Self>) -> Traits {
        // A redirect protects nothing, and requests of other routes are none of its business.
        let all = self.0.iter();
        let refusals: Box<[_]> = all.filter(|own| own.response.refuses()).cloned().collect();
        let traits = Traits::new(Phases::REQUEST, Guard::Nothing);
        if refusals.is_empty() {
            return traits;
        }
        Traits {
            guard: Guard::Access,
            guard_alone: Some(Arc::new(Self(refusals))),
            ..traits
        }
    }

    fn on_request(&self, ex: &mut Exchange<'_>) -> Verdict {
        let mut value = String::new();
        for (at, own) in self.0.iter().enumerate() {
            match own.comparison.holds(ex, &mut value) {
                Ok(true) => {
                    let pattern = own.comparison.pattern();
                    return own.response.reply(ex, pattern, &value).into();
                }
                // This one might refuse, or one of those behind it.
                Err(Undecided) if self.0[at..].iter().any(|own| own.response.refuses()) => {
                    return undecided().into();
                }
                Ok(false) | Err(Undecided) => {}
            }
        }
        let path = Target::new("", ex.head.raw_path()).path;
        if !self.0.iter().any(|own| own.comparison.is_read(path)) {
            return Verdict::Next;
        }
        let facts = &mut *ex.facts;
        let refusal = ReadRequest::first(ex.head, |read| self.refusal(read, facts, &mut value));
        refusal.map_or(Verdict::Next, Verdict::from)
    }

    fn explain(&self, ex: &Exchange<'_>) -> Vec<String> {
        let mut value = String::new();
        let mut all = self.0.iter().enumerate();
        let held = all.find(|(_, own)| own.comparison.holds(ex, &mut value) != Ok(false));
        vec![match held {
            Some((index, condition)) => {
                let status = condition.response.status().as_u16();
                format!("condition {} holds: {status}", index + 1)
            }
            None => format!("none of {} holds", self.0.len()),
        }]
    }
}
