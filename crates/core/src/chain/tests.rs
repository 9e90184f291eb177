//! Rules of the chain itself: the hooks called, their twins and their order.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, response};
use parking_lot::Mutex;
use pingora::http::RequestHeader;

use super::{
    AsyncFilter, BoxFuture, Chain, CompiledFilter, Exchange, Filter, Guard, HookOutcome,
    HookProgress, KeyBuilder, Phase, Phases, Reply, RequestFacts, Traits, Verdict,
};
use crate::base::clock::Clock;

/// Records each call of its hooks.
struct Spy {
    name: &'static str,
    phases: Phases,
    waits: Phases,
    calls: Arc<Mutex<Vec<String>>>,
    replies: bool,
}

impl Spy {
    fn note(&self, hook: &str) {
        self.calls.lock().push(format!("{}.{hook}", self.name));
    }

    fn verdict(&self) -> Verdict {
        if self.replies {
            Reply::refuse(StatusCode::FORBIDDEN, "spy").into()
        } else {
            Verdict::Next
        }
    }
}

impl Filter for Spy {
    fn traits(self: Arc<Self>) -> Traits {
        Traits::new(self.phases, Guard::Access).waiting(self.waits, self)
    }

    fn on_request(&self, _ex: &mut Exchange<'_>) -> Verdict {
        self.note("request");
        self.verdict()
    }

    fn on_upstream(&self, _ex: &mut Exchange<'_>, _headers: &mut HeaderMap) {
        self.note("upstream");
    }

    fn on_response(&self, _ex: &mut Exchange<'_>, _head: &mut response::Parts) {
        self.note("response");
    }

    fn on_error(&self, _ex: &mut Exchange<'_>, _reply: &mut Reply) {
        self.note("error");
    }

    fn on_route(&self, _ex: &Exchange<'_>) -> Option<Arc<str>> {
        self.note("route");
        self.replies.then(|| self.name.into())
    }

    fn on_cache_key(&self, _ex: &Exchange<'_>, key: &mut KeyBuilder) {
        key.part(self.name, b"1");
    }

    fn on_request_body(
        &self,
        _ex: &mut Exchange<'_>,
        _chunk: &mut Option<Bytes>,
        _end: bool,
    ) -> Verdict {
        self.note("request_body");
        self.verdict()
    }

    fn on_response_body(&self, _ex: &mut Exchange<'_>, _chunk: &mut Option<Bytes>, _end: bool) {
        self.note("response_body");
    }

    fn on_log(
        &self,
        _ex: &Exchange<'_>,
        _logged: &super::LoggedRequest<'_>,
        _late: &mut Option<super::LateFields>,
    ) {
        self.note("log");
    }
}

impl AsyncFilter for Spy {
    fn on_request_async<'a>(&'a self, _ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.note("request_async");
            self.verdict()
        })
    }

    fn on_response_async<'a>(
        &'a self,
        _ex: &'a mut Exchange<'_>,
        _head: &'a mut response::Parts,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.note("response_async") })
    }
}

/// Returns the hooks that a chain of spies calls for one request, in order.
fn calls(spies: &[(&'static str, Phases, bool)]) -> (Vec<String>, Chain) {
    calls_waiting(spies, Phases::NONE)
}

/// Returns the same if the first spy waits in the phases `waits`.
fn calls_waiting(spies: &[(&'static str, Phases, bool)], waits: Phases) -> (Vec<String>, Chain) {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let filters = spies
        .iter()
        .enumerate()
        .map(|(index, (name, phases, replies))| {
            let spy = Spy {
                name,
                phases: *phases,
                waits: waits.when(index == 0),
                calls: Arc::clone(&calls),
                replies: *replies,
            };
            CompiledFilter::new(name, Arc::new(spy))
        })
        .collect();
    let chain = Chain::new(filters);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let request = RequestHeader::build("GET", b"/", None).unwrap();
        let mut facts = RequestFacts::new(Clock::test().now());
        let mut ex = Exchange {
            head: &request,
            facts: &mut facts,
        };
        let turn = chain
            .on_request(&mut ex, &mut HookProgress::default())
            .await;
        if let HookOutcome::Over(Verdict::Reply(mut reply)) = turn {
            chain.on_error(&mut ex, &mut reply).await;
        } else {
            let mut headers = HeaderMap::new();
            chain.on_upstream(&mut ex, &mut headers).await;
        }
        let mut parts = http::Response::new(()).into_parts().0;
        chain.on_response(&mut ex, &mut parts).await;
        chain.on_response_body(&mut ex, &mut None, true);
        chain.on_log(&ex, &super::LoggedRequest::new(&ex));
    });
    let calls = calls.lock().clone();
    (calls, chain)
}

#[test]
fn requests_pass_filters_in_order_and_responses_in_reverse() {
    let phases = Phases::REQUEST | Phases::UPSTREAM | Phases::RESPONSE | Phases::LOG;
    let (calls, _) = calls(&[("a", phases, false), ("b", phases, false)]);
    assert_eq!(
        calls,
        [
            "a.request",
            "b.request",
            "a.upstream",
            "b.upstream",
            "b.response",
            "a.response",
            "b.log",
            "a.log"
        ]
    );
}

#[test]
fn a_filter_that_replies_ends_the_request_and_its_reply_passes_the_response_phase() {
    let phases = Phases::REQUEST | Phases::RESPONSE | Phases::ERROR;
    let (calls, _) = calls(&[("a", phases, true), ("b", phases, false)]);
    assert_eq!(
        calls,
        [
            "a.request",
            "b.error",
            "a.error",
            "b.response",
            "a.response"
        ]
    );
}

#[test]
fn a_filter_that_waits_gets_the_asynchronous_hooks() {
    let phases = Phases::REQUEST | Phases::RESPONSE;
    let spies = [("a", Phases::NONE, false), ("b", phases, false)];
    let (calls, _) = calls_waiting(&spies, phases);
    assert_eq!(
        calls,
        [
            "a.request_async",
            "b.request",
            "b.response",
            "a.response_async"
        ]
    );
}

#[test]
fn a_phase_that_no_filter_requested_is_not_called() {
    let (calls, chain) = calls(&[("a", Phases::LOG, true), ("b", Phases::NONE, true)]);
    assert_eq!(calls, ["a.log"]);
    assert!(chain.has(Phase::Log));
    assert!(!chain.has(Phase::Request));
    assert!(!chain.has(Phase::ResponseBody));
    assert_eq!(chain.filters().len(), 2);
}

#[test]
fn the_first_filter_that_names_an_upstream_wins_and_key_parts_add_up() {
    let phases = Phases::ROUTE | Phases::CACHE_KEY | Phases::REQUEST_BODY;
    let (_, chain) = calls(&[
        ("a", phases, false),
        ("b", phases, true),
        ("c", phases, true),
    ]);
    let request = RequestHeader::build("GET", b"/", None).unwrap();
    let mut facts = RequestFacts::new(Clock::test().now());
    let mut ex = Exchange {
        head: &request,
        facts: &mut facts,
    };
    assert_eq!(chain.on_route(&ex).as_deref(), Some("b"));
    let mut expected = KeyBuilder::default();
    for name in ["a", "b", "c"] {
        expected.part(name, b"1");
    }
    let mut key = KeyBuilder::default();
    chain.on_cache_key(&ex, &mut key);
    assert_eq!(key, expected);
    let verdict = chain.on_request_body(&mut ex, &mut None, true);
    assert!(matches!(verdict, Verdict::Reply(_)));
}

/// A filter that handles `/a` alone.
struct Choosing(Arc<Spy>);

impl Filter for Choosing {
    fn traits(self: Arc<Self>) -> Traits {
        Traits {
            is_selective: true,
            ..Traits::new(self.0.phases, Guard::Access)
        }
    }

    fn is_for(&self, ex: &Exchange<'_>, _phase: Phase) -> bool {
        ex.head.raw_path() == b"/a"
    }

    fn on_log(
        &self,
        ex: &Exchange<'_>,
        logged: &super::LoggedRequest<'_>,
        late: &mut Option<super::LateFields>,
    ) {
        self.0.on_log(ex, logged, late);
    }
}

#[test]
fn a_request_that_a_filter_is_not_for_meets_the_others_alone() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let spy = |name, phases| {
        Arc::new(Spy {
            name,
            phases,
            waits: Phases::NONE,
            calls: Arc::clone(&calls),
            replies: false,
        })
    };
    let choosing = Choosing(spy("choosing", Phases::LOG | Phases::RESPONSE));
    let filters: [(_, Arc<dyn Filter>); 2] = [
        ("choosing", Arc::new(choosing)),
        ("other", spy("other", Phases::LOG)),
    ];
    let compiled = filters.map(|(name, filter)| CompiledFilter::new(name, filter));
    let chain = Chain::new(compiled.into());
    for (path, expected) in [
        ("/a", &["other.log", "choosing.log"][..]),
        ("/b", &["other.log"]),
    ] {
        let request = RequestHeader::build("GET", path.as_bytes(), None).unwrap();
        let mut facts = RequestFacts::new(Clock::test().now());
        let facts = &mut facts;
        let ex = Exchange {
            head: &request,
            facts,
        };
        let is_short = chain.is_short_for(&ex);
        let own = if is_short { chain.short() } else { &chain };
        assert_eq!(
            (is_short, own.has(Phase::Response)),
            (path == "/b", path == "/a")
        );
        own.on_log(&ex, &super::LoggedRequest::new(&ex));
        assert_eq!(std::mem::take(&mut *calls.lock()), expected, "{path}");
    }
    let (_, plain) = self::calls(&[("a", Phases::LOG, false)]);
    assert!(std::ptr::eq(plain.short(), &raw const plain));
}
