//! Selection of requests: the query of `/v1/requests`, and the options of `edgeway logs`.

use edgeway_base::{
    net::{Cidr, CidrSet},
    statuses::Statuses,
    units::Span,
};
use edgeway_core::{
    chain::CacheOutcome,
    chain::{LoggedRequest, Text},
};
use serde::{Deserialize, Deserializer, de};

use super::Kind;

/// Number of requests that are listed if the query has no `n`.
const USUAL: usize = 100;
/// Maximum number of requests to list.
const MOST: usize = 10_000;

/// Conditions that a listed request meets, all of them, and how many to list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RequestQuery {
    n: Option<usize>,
    /// Only requests that failed.
    errors: bool,
    /// Only requests that failed, and degraded ones: served after a retry or
    /// without a plugin, for example.
    problems: bool,
    status: Option<Statuses>,
    #[serde(deserialize_with = "network")]
    client: Option<CidrSet>,
    /// Minimum duration.
    slower: Option<Span>,
    method: Option<String>,
    host: Option<String>,
    /// Beginning of the path.
    path: Option<String>,
    /// Name of the route; `-` for requests that no route took.
    route: Option<String>,
    upstream: Option<String>,
    backend: Option<String>,
    reason: Option<String>,
    limit: Option<String>,
    cache: Option<String>,
    user: Option<String>,
    id: Option<String>,
}

fn network<'de, D: Deserializer<'de>>(d: D) -> Result<Option<CidrSet>, D::Error> {
    let text = String::deserialize(d)?;
    let networks: Result<CidrSet, _> = text
        .split(',')
        .map(|one| one.trim().parse::<Cidr>())
        .collect();
    networks.map(Some).map_err(de::Error::custom)
}

impl RequestQuery {
    /// Returns how many requests to list.
    pub fn number(&self) -> usize {
        self.n.unwrap_or(USUAL).min(MOST)
    }

    /// Returns how many requests that are over come before those that follow.
    pub fn number_before(&self) -> usize {
        self.n.unwrap_or(0).min(MOST)
    }

    /// Returns true if some request of this kind may match.
    pub(super) fn may_match(&self, kind: Kind) -> bool {
        match kind {
            Kind::Failed => true,
            Kind::Degraded => !self.errors,
            Kind::WithReason => !self.errors && !self.problems,
            Kind::Plain => !self.errors && !self.problems && self.reason.is_none(),
        }
    }

    pub(super) fn matches(&self, request: &LoggedRequest<'_>) -> bool {
        let fixed = &request.fixed;
        let is_text = |wanted: &Option<String>, text: Text| {
            wanted
                .as_ref()
                .is_none_or(|wanted| request.text(text) == Some(wanted.as_bytes()))
        };
        let is_word = |wanted: &Option<String>, word: Option<&str>| {
            wanted
                .as_ref()
                .is_none_or(|wanted| word.is_some_and(|word| word.eq_ignore_ascii_case(wanted)))
        };
        let is_failed = fixed.is_failed();
        (!self.errors || is_failed)
            && (!self.problems || is_failed || fixed.is_degraded)
            && self
                .status
                .as_ref()
                .is_none_or(|statuses| statuses.contains(fixed.status))
            && self
                .client
                .as_ref()
                .is_none_or(|networks| networks.contains(fixed.client))
            && self.slower.is_none_or(|least| fixed.total >= least.0)
            && is_word(&self.reason, fixed.reason)
            && is_word(&self.cache, fixed.cache.map(CacheOutcome::name))
            && self.matches_route(request)
            && is_text(&self.upstream, Text::Upstream)
            && (is_text(&self.backend, Text::Backend)
                || is_text(&self.backend, Text::FailedBackend))
            && is_text(&self.limit, Text::Limit)
            && is_text(&self.user, Text::User)
            && is_text(&self.id, Text::Id)
            && self.method.as_ref().is_none_or(|method| {
                request
                    .plain(Text::Method)
                    .eq_ignore_ascii_case(method.as_bytes())
            })
            && self
                .path
                .as_ref()
                .is_none_or(|path| request.plain(Text::Path).starts_with(path.as_bytes()))
            && self.matches_host(request)
    }

    fn matches_route(&self, request: &LoggedRequest<'_>) -> bool {
        match self.route.as_deref() {
            None => true,
            Some("-") => request.text(Text::Route).is_none(),
            Some(name) => request.text(Text::Route) == Some(name.as_bytes()),
        }
    }

    /// Compares the host, with its port or without.
    fn matches_host(&self, request: &LoggedRequest<'_>) -> bool {
        let Some(wanted) = &self.host else {
            return true;
        };
        let host = request.plain(Text::Host);
        let end = host.iter().rposition(|b| *b == b':');
        let name = &host[..end.unwrap_or(host.len())];
        [host, name]
            .iter()
            .any(|host| host.eq_ignore_ascii_case(wanted.as_bytes()))
    }
}
