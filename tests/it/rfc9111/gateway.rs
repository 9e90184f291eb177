//! The table with the gateway.
//!
//! All cases run concurrently in one process, each with its own paths.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinSet, LocalSet},
};

use super::{
    Case, Script, Source, Step, cases,
    script::{Expected, filled},
};
use crate::support::{
    client::{Connection, Request, Response, ResponseHeaders},
    gateway::Gateway,
    http2,
    origins::{NUMBER, Origin, PresetOrigin, Received},
    wait::wait_for,
};

pub(super) const SOON: Duration = Duration::from_secs(10);

/// Routes, and what their caches are told beside the origin.
pub(super) const ROUTES: [(&str, &str); 5] = [
    // Nothing: only the RFC.
    ("plain", "mode: strict"),
    // A tenth of the time since `Last-Modified`.
    ("heuristic", "mode: strict, heuristic: 10%"),
    // A time where the origin does not say.
    ("ttl", "mode: strict, ttl: 1h"),
    // `stale-while-revalidate` counts beside `s-maxage`.
    ("isr", "mode: app"),
    // `stale-if-error` where the origin does not say.
    ("bridged", "mode: strict, stale_if_error: 1h"),
];

/// Number of concurrent cases: the speed of the machine is not the subject.
const AT_ONCE: usize = 32;

/// Cases that the RFC would allow and the gateway does not support.
pub(super) const STRICTER: [&str; 1] = [
    // Origins that respond to strangers and members at one path seldom use `Vary` for it.
    "a response that is stored is for clients with Authorization too",
];

/// Way in which the steps of a case are requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Unchanged.
    Plain,
    /// The same over HTTP/2.
    Http2,
    /// A stored response is requested as one range that covers all of it.
    Ranges,
    /// A stored response is requested while it still arrives.
    Filling,
    /// Nothing is in memory before a step ([`super::below`]).
    Below,
}

pub(super) struct Bench {
    pub(super) gateway: Gateway,
    /// The gateway's configuration.
    pub(super) yaml: String,
    http2: http2::Client,
    origin: Origin<PresetOrigin>,
    pub(super) slots: Arc<Semaphore>,
}

/// Response that a client got.
struct Outcome {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

/// Response in flight: its headers have arrived.
enum Pending {
    Http1(Box<(Connection, ResponseHeaders)>),
    Whole(Outcome),
}

#[tokio::test]
async fn http1_passes_the_table() {
    run_table(&[Way::Plain], "").await;
}

#[tokio::test]
async fn http2_passes_the_table() {
    run_table(&[Way::Http2], "").await;
}

#[tokio::test]
async fn ranges_and_arriving_responses_pass_the_table() {
    run_table(&[Way::Ranges, Way::Filling], "").await;
}

async fn run_table(ways: &[Way], more: &str) {
    let bench = Arc::new(Bench::start(more).await);
    let mut running = JoinSet::new();
    let all = async {
        for way in ways {
            let selected = cases().filter(|case| !STRICTER.contains(&&*case.name));
            for (number, case) in selected.enumerate() {
                let slot = Arc::clone(&bench.slots).acquire_owned().await;
                let slot = slot.expect("it is never closed");
                let bench = Arc::clone(&bench);
                running.spawn_local(run(bench, *way, number, case, slot));
            }
        }
        running.join_all().await
    };
    let failed = LocalSet::new().run_until(all).await;
    let failed: Vec<_> = failed.into_iter().flatten().collect();
    let once: Vec<&String> = failed.iter().map(|(why, _)| why).collect();
    assert!(once.len() <= 2, "{}:\n{once:#?}", once.len());
    // A write of another case may have had the place of this one in the log of purges, which keeps
    // its response out. The case holds when it runs alone.
    let mut twice = Vec::new();
    for (_, again) in &failed {
        let slot = Arc::clone(&bench.slots).acquire_owned().await;
        let slot = slot.expect("it is never closed");
        let (way, number, case) = *again;
        let bench = Arc::clone(&bench);
        let ran = run(bench, way, number + AGAIN, case, slot);
        let ran = LocalSet::new().run_until(ran).await;
        twice.extend(ran.map(|(why, _)| why));
    }
    let failed = twice;
    assert!(
        failed.is_empty(),
        "{}:\n{}",
        failed.len(),
        failed.join("\n")
    );
}

/// The control: a difference is reported, in whatever part of a step it is.
#[tokio::test]
async fn a_failed_case_is_reported() {
    let first = "> GET\n< Cache-Control: max-age=60\n< ETag: a\n< Foo: 1\n= origin";
    let bench = Arc::new(Bench::start("").await);
    for (number, wrong) in [
        "> GET\n= origin",
        "> GET\n= cache\n= 304",
        "> GET\n= cache\n= Foo: 2",
        "> GET\n= cache\n= !Foo",
        "> GET\n= cache\n= Age: 50..",
        "> GET\n= cache\n= Bar: 1",
        "> GET\n> Cache-Control: no-cache\n< 304\n= cache",
        "> GET\n> Cache-Control: no-cache\n< 304\n= validated\n= saw If-None-Match: b",
        "> GET\n> Cache-Control: no-cache\n< 304\n= validated\n= saw !If-None-Match",
    ]
    .into_iter()
    .enumerate()
    {
        let case = Case::parse(&format!("3: wrong\n{first}\n{wrong}"));
        let case: &'static Case = Box::leak(Box::new(case));
        let slot = Arc::clone(&bench.slots).acquire_owned().await;
        let slot = slot.expect("it is never closed");
        let ran = run(Arc::clone(&bench), Way::Plain, number, case, slot).await;
        assert!(ran.is_some(), "{wrong}");
    }
}

/// Added to the number of a case that runs once more.
const AGAIN: usize = 10_000;

/// Runs a case; returns what does not hold, and the case.
async fn run(
    bench: Arc<Bench>,
    way: Way,
    number: usize,
    case: &'static Case,
    _slot: OwnedSemaphorePermit,
) -> Option<(String, (Way, usize, &'static Case))> {
    let base = base_of(case, way, number);
    let steps = Script::parse(&case.script).steps;
    let mut at = 0;
    let mut stored = 200;
    while let Some(step) = steps.get(at) {
        let next = steps.get(at + 1);
        let wrong = if way == Way::Filling && next.is_some_and(|next| can_join(step, next)) {
            at += 1;
            bench
                .join(step, next.expect("it was looked at"), &base)
                .await
        } else {
            bench.step(way, step, &base, stored).await
        };
        if !wrong.is_empty() {
            let (name, section) = (&case.name, &case.section);
            let why = format!("{name} ({section}), {way:?}, step {}: {wrong:?}", at + 1);
            return Some((why, (way, number, case)));
        }
        stored = step.stored_status(stored);
        at += 1;
    }
    None
}

/// Returns the path prefix of a case.
pub(super) fn base_of(case: &Case, way: Way, number: usize) -> String {
    format!("/{}/{way:?}/{number}", case.route)
}

/// Returns true if the second request can be sent while the first response arrives. Not for a range
/// request: the length is not known yet, and then the complete response is correct.
fn can_join(step: &Step, next: &Step) -> bool {
    let is_get = step.method == "GET" && next.method == "GET" && !next.wants_a_range();
    let has_body = !matches!(step.status, 204 | 304);
    is_get
        && has_body
        && step.path == next.path
        && (step.source, next.source) == (Some(Source::Origin), Some(Source::Cache))
}

impl Bench {
    pub(super) async fn start(more: &str) -> Self {
        let origin = PresetOrigin::start().await;
        let routes = ROUTES.map(|(name, cache)| {
            format!(
                "- {{ name: {name}, match: {{ path: '/{name}/*' }}, upstream: app, \
                 cache: {{ {cache}, anonymous_cookies: ['*'], client_directives: {{ per_address: 100000/s }} }}, security_headers: false }}\n"
            )
        });
        let yaml = format!(
            "listeners: [{{ address: 127.0.0.1:0, http2: {{ cleartext: true }} }}]\n\
             {more}\
             upstreams: {{ app: {{ backends: ['{}'], health: false }} }}\n\
             routes:\n{}",
            origin.address(),
            routes.concat()
        );
        let gateway = Gateway::start(&yaml).await;
        Self {
            http2: http2::Client::open(gateway.address()).await,
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            gateway,
            yaml,
            origin,
        }
    }

    /// Returns a path that was never requested, and whose response is stored for a minute.
    pub(super) fn new_path(&self) -> String {
        let path = format!("/plain/{:x}", fastrand::u64(..));
        let minute = ("Cache-Control".to_owned(), "max-age=60".to_owned());
        self.origin.settings().tell(&path, 200, vec![minute]);
        path
    }

    /// Runs one request; returns what is wrong with the response.
    pub(super) async fn step(&self, way: Way, step: &Step, base: &str, stored: u16) -> Vec<String> {
        let path = path_of(step, base);
        self.set_response(step, base);
        let before = self.origin.settings().asked(&path).len();
        let is_range = way == Way::Ranges && step.wants_the_stored_response() && stored == 200;
        let pending = self.begin(way, step, base, is_range).await;
        let outcome = pending.finish().await;
        if step.source == Some(Source::Background) {
            self.refreshed(step, base, before).await;
        }
        let asked = self.origin.settings().asked(&path);
        let mut wrong = refuted(
            step,
            &outcome,
            &asked[before..],
            before,
            base,
            is_range,
            stored,
        );
        if asked.len() > before + 1 {
            wrong.push(format!(
                "the origin was asked {} times",
                asked.len() - before
            ));
        }
        wrong
    }

    /// Runs both requests, the second while the first response arrives.
    async fn join(&self, step: &Step, next: &Step, base: &str) -> Vec<String> {
        let path = path_of(step, base);
        self.set_response(step, base);
        let origin = self.origin.settings();
        let before = origin.asked(&path).len();
        origin.hold(&path);
        let first = self.begin(Way::Plain, step, base, false).await;
        let second = self.begin(Way::Plain, next, base, false).await;
        origin.release(&path);
        let (first, second) = (first.finish().await, second.finish().await);
        let asked = origin.asked(&path);
        let sent = &asked[before..];
        let mut wrong = refuted(step, &first, sent, before, base, false, step.status);
        wrong.extend(refuted(
            next,
            &second,
            &[],
            before + 1,
            base,
            false,
            step.status,
        ));
        if sent.len() != 1 {
            wrong.push(format!("the origin was asked {} times", sent.len()));
        }
        wrong
    }

    fn set_response(&self, step: &Step, base: &str) {
        let fields = step.response.iter();
        let headers = fields.map(|(name, value)| (name.clone(), filled(value, base)));
        let path = path_of(step, base);
        self.origin
            .settings()
            .tell(&path, step.status, headers.collect());
    }

    async fn begin(&self, way: Way, step: &Step, base: &str, is_range: bool) -> Pending {
        let target = format!("{base}{}", step.path);
        let fields = step.request.iter();
        let mut fields: Vec<_> = fields
            .map(|(name, value)| (name.clone(), filled(value, base)))
            .collect();
        if is_range {
            fields.push(("Range".to_owned(), "bytes=0-".to_owned()));
        }
        if way == Way::Http2 {
            let mut request = http2::request(&step.method, &target);
            for (name, value) in fields {
                request = request.header(name, value);
            }
            let response = self.http2.send(request, "").await.expect("a response");
            let headers = response.parts.headers.iter();
            return Pending::Whole(Outcome {
                status: response.status(),
                headers: headers
                    .map(|(name, value)| {
                        let value = value.to_str().expect("the table is ASCII");
                        (name.as_str().to_owned(), value.to_owned())
                    })
                    .collect(),
                body: response.text().to_owned(),
            });
        }
        let mut request = Request::new(&step.method, &target).header("host", "app.test");
        for (name, value) in fields {
            request = request.header(&name, value);
        }
        let mut connection = self.gateway.connect().await;
        let head = connection.start(&request).await;
        let head = head.unwrap_or_else(|error| panic!("{target}: {error}"));
        Pending::Http1(Box::new((connection, head)))
    }

    /// Waits until the background revalidation is over.
    async fn refreshed(&self, step: &Step, base: &str, before: usize) {
        let path = path_of(step, base);
        wait_for("the new response is stored", SOON, async || {
            if self.origin.settings().asked(&path).len() == before {
                return None;
            }
            let mut request = Request::new("GET", &path)
                .header("host", "app.test")
                .header("cache-control", "only-if-cached");
            for (name, value) in &step.request {
                request = request.header(name, value);
            }
            let response = self.gateway.send(&request).await;
            let number = response.header(NUMBER)?.parse::<usize>().ok()?;
            (number > before).then_some(())
        })
        .await;
    }
}

impl Step {
    fn wants_the_stored_response(&self) -> bool {
        let is_stored = matches!(
            self.source,
            Some(Source::Cache | Source::Validated | Source::Bridged)
        );
        is_stored && !self.wants_a_range() && self.method == "GET"
    }

    fn wants_a_range(&self) -> bool {
        self.request.iter().any(|(name, _)| name == "Range")
    }

    /// Returns the status of the stored response after the step.
    pub(super) fn stored_status(&self, before: u16) -> u16 {
        let is_new =
            self.source == Some(Source::Origin) && self.status != 304 && self.method == "GET";
        if is_new { self.status } else { before }
    }
}

impl Pending {
    async fn finish(self) -> Outcome {
        match self {
            Self::Whole(outcome) => outcome,
            Self::Http1(in_flight) => {
                let (mut connection, head) = *in_flight;
                let Response {
                    headers: head,
                    body,
                    ..
                } = connection.finish(head).await.expect("a whole response");
                Outcome {
                    status: head.status,
                    headers: head.fields,
                    body: String::from_utf8_lossy(&body).into_owned(),
                }
            }
        }
    }
}

impl Outcome {
    fn values(&self, name: &str) -> Vec<String> {
        let fields = self.headers.iter();
        let named = fields.filter(|(given, _)| given.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.clone()).collect()
    }

    /// Returns the source of a response, by its headers and by the requests that reached the
    /// origin.
    fn source(&self, asked: &[Received], before: usize, step: &Step) -> Option<Source> {
        let cache = self.values("x-cache-status").join(", ");
        if asked.is_empty() {
            return match (self.status, &*cache) {
                (504, "MISS") => Some(Source::Nobody),
                (_, "HIT" | "STALE") => Some(Source::Cache),
                _ => None,
            };
        }
        let number = self
            .values(NUMBER)
            .first()
            .and_then(|n| n.parse::<usize>().ok());
        let is_new = number.is_none_or(|number| number > before);
        let is_old = number.is_none_or(|number| number <= before);
        match &*cache {
            "MISS" | "EXPIRED" | "BYPASS" if is_new => Some(Source::Origin),
            "REVALIDATED" if is_old && step.status == 304 => Some(Source::Validated),
            "STALE" if is_old && step.status >= 500 => Some(Source::Bridged),
            "STALE" if is_old => Some(Source::Background),
            _ => None,
        }
    }
}

fn path_of(step: &Step, base: &str) -> String {
    let path = step.path.split('?').next().unwrap_or_default();
    format!("{base}{path}")
}

fn refuted(
    step: &Step,
    outcome: &Outcome,
    asked: &[Received],
    before: usize,
    base: &str,
    is_range: bool,
    stored: u16,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let source = outcome.source(asked, before, step);
    if source != step.source {
        let cache = outcome.values("cache-status");
        wrong.push(format!(
            "served by {source:?}, not {:?}: {cache:?}",
            step.source
        ));
    }
    let status = match step.client_status(stored) {
        200 if is_range => 206,
        status => status,
    };
    if outcome.status != status {
        wrong.push(format!("status {}, not {status}", outcome.status));
    }
    let all = |expected: &[Expected], values: &dyn Fn(&str) -> Vec<String>| {
        let refuted = expected.iter().filter_map(|one| one.refutes(values, base));
        refuted.collect::<Vec<_>>()
    };
    wrong.extend(all(&step.expected, &|name| outcome.values(name)));
    if let Some(saw) = asked.last() {
        wrong.extend(all(&step.saw, &|name| {
            let named = saw.headers.iter();
            let named = named.filter(|(given, _)| given.eq_ignore_ascii_case(name));
            named.map(|(_, value)| value.clone()).collect()
        }));
    } else if !step.saw.is_empty() {
        wrong.push("the origin was not asked".to_owned());
    }
    let is_whole = matches!(outcome.status, 200 | 206) && step.method == "GET";
    if is_whole && !step.wants_a_range() && (step.source != Some(Source::Nobody)) {
        let number = outcome.values(NUMBER).concat();
        let body = format!("{} #{number}", path_of(step, base));
        if outcome.body != body {
            wrong.push(format!("body {:?}, not {body:?}", outcome.body));
        }
    }
    wrong
}
