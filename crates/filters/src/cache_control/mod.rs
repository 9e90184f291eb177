//! Sets the lifetimes of responses in browsers and in the shared caches of others, by class, path
//! and status. The gateway's own cache follows the origin and `cache`, not this.

mod config;
mod hashed_name;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use edgeway_base::target::PathRule;
use edgeway_cache::policy::{self, ClientLifetimes};
use edgeway_core::chain::{Certificate, Class, Exchange, Filter, Guard, Phases, Traits};
use http::{HeaderMap, Method, StatusCode, header, response};

/// The compiled filter.
#[derive(Debug)]
pub struct CacheControl {
    rules: Box<[Rule]>,
}

/// A rule, whose conditions must all hold. The first such rule of a response decides.
#[derive(Debug)]
struct Rule {
    /// Any class if empty.
    classes: Box<[Class]>,
    /// Any path if empty.
    paths: Box<[PathRule]>,
    /// True to take only files with a hash of their content in their names.
    is_hashed: bool,
    statuses: Box<[(u16, u16)]>,
    effect: Effect,
}

#[derive(Debug)]
enum Effect {
    Forbid,
    Set(ClientLifetimes),
}

filter_kind!(CacheControl: config::CacheControlConfig = "cache_control");

impl Filter for CacheControl {
    fn traits(self: Arc<Self>) -> Traits {
        Traits::new(Phases::RESPONSE, Guard::Nothing)
    }

    fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        let path = path_of(ex);
        let class = ex.facts.class;
        let mut rules = self.rules.iter();
        let Some(rule) = rules.find(|rule| rule.takes(class, path, head.status)) else {
            return;
        };
        match &rule.effect {
            Effect::Forbid => policy::forbid_storing(&mut head.headers),
            // A lifetime on the response to another method would be one for that of a later GET
            // (RFC 9111, 4).
            Effect::Set(_) if !matches!(ex.head.method, Method::GET | Method::HEAD) => {}
            Effect::Set(lifetimes) => {
                let age = ex.facts.cache.as_ref().and_then(|facts| facts.age);
                lifetimes.write(&mut head.headers, age.unwrap_or_default(), is_personal(ex));
            }
        }
    }

    fn explain(&self, ex: &Exchange<'_>) -> Vec<String> {
        let path = path_of(ex);
        let mut rules = self.rules.iter().enumerate();
        let matched = rules.find(|(_, rule)| rule.takes(ex.facts.class, path, StatusCode::OK));
        match matched {
            Some((index, _)) => vec![format!("rule {} applies to status 200", index + 1)],
            None => vec!["no rule applies to status 200".to_owned()],
        }
    }
}

impl Rule {
    fn takes(&self, class: Class, path: &[u8], status: StatusCode) -> bool {
        // They stand for a whole response (RFC 9110, 15.4.5 and 15.3.7).
        let status = match status.as_u16() {
            304 | 206 => 200,
            other => other,
        };
        let mut statuses = self.statuses.iter();
        statuses.any(|(first, last)| (*first..=*last).contains(&status))
            && (self.classes.is_empty() || self.classes.contains(&class))
            && (self.paths.is_empty() || self.paths.iter().any(|rule| rule.takes(path)))
            && (!self.is_hashed || hashed_name::is_hashed(path))
    }
}

/// Returns the path of a request as it was sent.
fn path_of<'a>(ex: &Exchange<'a>) -> &'a [u8] {
    let mut parts = ex.head.raw_path().split(|byte| *byte == b'?');
    parts.next().unwrap_or_default()
}

/// Returns true if the response may be meant for this client alone.
fn is_personal(ex: &Exchange<'_>) -> bool {
    let headers: &HeaderMap = &ex.head.headers;
    headers.contains_key(header::AUTHORIZATION)
        || headers.contains_key(header::COOKIE)
        || ex.facts.identity.is_some()
        || matches!(ex.facts.client.certificate, Certificate::Verified(_))
}
