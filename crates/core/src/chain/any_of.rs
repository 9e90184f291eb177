//! Filters of which one has to let a request pass (`satisfy: any`).

use std::sync::Arc;

use edgeway_base::accept::preferred;
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::{
    AsyncFilter, BoxFuture, CompiledFilter, Exchange, Filter, Guard, Phase, Phases, Reply, Traits,
    Verdict,
};

/// Names of the filters that stand for one another: those that decide who may pass.
pub const ALTERNATIVES: [&str; 6] = [
    "access",
    "client_cert",
    "api_key",
    "basic_auth",
    "jwt",
    "forward_auth",
];

/// Several filters as one: a request passes once one of them lets it.
///
/// Stands in for their hooks of the request phase only. If all of them refuse, a browser gets a
/// redirect, such as to a login page; any other client gets the refusal that asks for credentials,
/// with the challenges of all of them (RFC 9110, 11.6.1), or else the last one.
pub struct AnyOf(Box<[CompiledFilter]>);

impl AnyOf {
    /// Returns the alternatives among `filters`; `None` if there are fewer than two.
    pub fn from_filters(filters: &[CompiledFilter]) -> Option<Self> {
        let members = filters
            .iter()
            .filter(|each| ALTERNATIVES.contains(&each.name));
        let members: Box<[CompiledFilter]> = members.cloned().collect();
        (members.len() > 1).then_some(Self(members))
    }

    /// Returns the alternatives as a guard of their own.
    #[must_use]
    pub fn guards_alone(&self) -> Self {
        Self(self.0.iter().map(CompiledFilter::guard_alone).collect())
    }

    /// Returns the names of the alternatives.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|each| each.name).collect()
    }

    async fn decide(&self, ex: &mut Exchange<'_>) -> Verdict {
        let mut refusal: Option<Box<Reply>> = None;
        let mut challenges = Vec::new();
        let mut known = None;
        let accept = ex.header(&header::ACCEPT).map(HeaderValue::as_bytes);
        let is_browser = accept.is_some_and(|accept| preferred(accept, &["text/html"]).is_some());
        let rank = |reply: &Reply| match reply.status {
            status if status.is_redirection() && is_browser => 2,
            StatusCode::UNAUTHORIZED => 1,
            _ => 0,
        };
        for member in &self.0 {
            let verdict = match member.traits.waiting_in(Phase::Request) {
                Some(filter) => filter.on_request_async(ex).await,
                None => member.filter.on_request(ex),
            };
            let Verdict::Reply(mut reply) = verdict else {
                // What another alternative noted about a refusal is not the outcome.
                ex.facts.noted = None;
                return Verdict::Next;
            };
            // Nor is whom it knows, unless all refuse.
            if let Some(identity) = &mut ex.facts.identity {
                let refused = std::mem::take(&mut **identity);
                known = known.or(Some(refused).filter(|it| it.user.is_some()));
            }
            if reply.status == StatusCode::UNAUTHORIZED {
                let is_challenge =
                    |header: &mut (HeaderName, _)| header.0 == header::WWW_AUTHENTICATE;
                challenges.extend(reply.headers.extract_if(.., is_challenge));
            }
            let is_better = |known: &Reply| rank(known) == 0 || rank(&reply) > rank(known);
            if refusal.as_deref().is_none_or(is_better) {
                refusal = Some(reply);
            }
        }
        let Some(mut refusal) = refusal else {
            return Verdict::Next;
        };
        if let Some(known) = known {
            *ex.facts.identity_mut() = known;
        }
        if refusal.status == StatusCode::UNAUTHORIZED {
            refusal.headers.extend(challenges);
        }
        Verdict::Reply(refusal)
    }
}

impl Filter for AnyOf {
    fn traits(self: Arc<Self>) -> Traits {
        Traits::new(Phases::NONE, Guard::Identity).waiting(Phases::REQUEST, self)
    }
}

impl AsyncFilter for AnyOf {
    fn on_request_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        Box::pin(self.decide(ex))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{Chain, Client, HookOutcome, HookProgress, RequestFacts};

    /// Filter that refuses with a status, or lets every request pass.
    struct Refusing(Option<u16>);

    impl Filter for Refusing {
        fn traits(self: Arc<Self>) -> Traits {
            Traits::new(Phases::REQUEST, Guard::Access)
        }

        fn on_request(&self, _ex: &mut Exchange<'_>) -> Verdict {
            match self.0 {
                Some(status) => {
                    let status = StatusCode::from_u16(status).expect("a status");
                    let challenge = HeaderValue::from_static("A");
                    Reply::refuse(status, "refused")
                        .header(header::WWW_AUTHENTICATE, challenge)
                        .into()
                }
                None => Verdict::Next,
            }
        }
    }

    async fn refusal(chain: &Chain, accept: &'static str) -> Option<Box<Reply>> {
        let mut head = pingora::http::RequestHeader::build("GET", b"/", None).expect("a request");
        head.insert_header("accept", accept).expect("a header");
        let mut facts = RequestFacts::new(crate::base::clock::Clock::test().now());
        facts.client = Client::default();
        let mut ex = Exchange::new(&head, &mut facts);
        match chain
            .on_request(&mut ex, &mut HookProgress::default())
            .await
        {
            HookOutcome::Over(Verdict::Reply(reply)) => Some(reply),
            HookOutcome::Over(Verdict::Next) | HookOutcome::Body(_) => None,
        }
    }

    async fn status(chain: &Chain) -> u16 {
        let reply = refusal(chain, "*/*").await;
        reply.map_or(200, |reply| reply.status.as_u16())
    }

    /// RFC 9110, 11.6.1: a client knows only the schemes that it is told.
    #[tokio::test]
    async fn clients_learn_all_ways_to_pass() {
        let filters: Vec<CompiledFilter> = [("api_key", 401), ("jwt", 401), ("forward_auth", 302)]
            .map(|(name, status)| CompiledFilter::new(name, Arc::new(Refusing(Some(status)))))
            .into();
        let any = Arc::new(AnyOf::from_filters(&filters).expect("three of them"));
        let chain = Chain::satisfying_any(filters, &any);
        for (accept, status, challenges) in [("*/*", 401, 2), ("text/html,*/*;q=0.8", 302, 1)] {
            let reply = refusal(&chain, accept).await.expect("all of them refuse");
            assert_eq!(reply.status, status, "{accept}");
            assert_eq!(reply.headers.len(), challenges, "{accept}");
        }
    }

    /// Filter that knows the user, and refuses.
    struct Denying;

    impl Filter for Denying {
        fn traits(self: Arc<Self>) -> Traits {
            Traits::new(Phases::REQUEST, Guard::Identity)
        }

        fn on_request(&self, ex: &mut Exchange<'_>) -> Verdict {
            ex.facts.identity_mut().user = Some("ann".into());
            Reply::refuse(StatusCode::FORBIDDEN, "denied").into()
        }
    }

    /// Invariant: the user is whom an alternative has let pass, or else whom one has refused.
    #[tokio::test]
    async fn a_refused_user_is_not_that_of_a_request_that_passes() {
        for (other, user) in [(None, None), (Some(401), Some("ann"))] {
            let filters = [
                CompiledFilter::new("jwt", Arc::new(Denying)),
                CompiledFilter::new("forward_auth", Arc::new(Refusing(other))),
            ];
            let head = pingora::http::RequestHeader::build("GET", b"/", None).expect("a request");
            let mut facts = RequestFacts::new(crate::base::clock::Clock::test().now());
            let mut ex = Exchange::new(&head, &mut facts);
            let any = AnyOf::from_filters(&filters).expect("two of them");
            drop(any.decide(&mut ex).await);
            let known = facts.identity.as_ref().and_then(|it| it.user.as_deref());
            assert_eq!(known, user, "{other:?}");
        }
    }

    /// Invariant: a request passes if every other filter and one of the alternatives let it; else
    /// it gets 401 if one of them asks for credentials.
    #[tokio::test]
    async fn one_of_several_is_enough() {
        let mut random = fastrand::Rng::with_seed(9);
        for _ in 0..500 {
            let names = [
                "methods",
                "access",
                "rate_limit",
                "basic_auth",
                "jwt",
                "headers",
            ];
            let statuses = names.map(|_| match random.u8(..5) {
                0 | 1 => None,
                2 => Some(401),
                _ => Some(403),
            });
            let filters: Vec<CompiledFilter> = names
                .iter()
                .zip(statuses)
                .map(|(name, status)| CompiledFilter::new(name, Arc::new(Refusing(status))))
                .collect();
            let any = Arc::new(AnyOf::from_filters(&filters).expect("three of them"));
            assert_eq!(any.names(), ["access", "basic_auth", "jwt"]);
            let chain = Chain::satisfying_any(filters.clone(), &any);
            let [methods, access, limit, basic, jwt, headers] = statuses;
            let alternatives = [access, basic, jwt];
            let expected = if let Some(first) = methods.or(limit) {
                first
            } else if alternatives.contains(&None) {
                headers.unwrap_or(200)
            } else if alternatives.contains(&Some(401)) {
                401
            } else {
                403
            };
            assert_eq!(status(&chain).await, expected, "{statuses:?}");
            // Without `satisfy: any`, the first refusal counts.
            let all = statuses.into_iter().flatten().next().unwrap_or(200);
            assert_eq!(status(&Chain::new(filters)).await, all, "{statuses:?}");
        }
    }
}
