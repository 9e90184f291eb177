//! Filters of a route, sorted by phase when the route is compiled.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, response};

use super::{
    AnyOf, Body, Exchange, Filter, KeyBuilder, LateFields, LoggedRequest, Phase, Phases,
    ReadyLines, Reply, RequestChanges, RouteRequest, Verdict,
};

/// A compiled filter and its YAML key.
#[derive(Clone)]
pub struct Named {
    pub name: &'static str,
    pub filter: Arc<dyn Filter>,
}

/// A hook to call: the filter, and the twin to use.
struct Step {
    name: &'static str,
    filter: Arc<dyn Filter>,
    is_async: bool,
}

/// Progress of a request through the request hooks of its filters.
#[derive(Debug, Default)]
pub struct HookProgress {
    request: usize,
    authorized: usize,
}

/// Reason why the request hooks returned.
#[derive(Debug)]
#[must_use]
pub enum HookOutcome {
    Over(Verdict),
    /// The next filter wants this many bytes of the body.
    Body(usize),
}

fn wanted(step: &Step, ex: &Exchange<'_>, phase: Phase) -> Option<usize> {
    // Synchronous filters are those that cost nothing, and none of them reads a body.
    if !step.is_async || ex.facts.body != Body::NotRead {
        return None;
    }
    step.filter.wants_body(ex, phase)
}

/// Steps that the trace of a request records. Read once for all of them: most requests have neither
/// kind, and most steps are quick.
#[derive(Clone, Copy)]
struct TimedSteps {
    waiting: bool,
    quick: bool,
}

impl TimedSteps {
    fn of(ex: &Exchange<'_>) -> Self {
        let trace = ex.facts.trace.as_ref();
        Self {
            waiting: trace.is_some(),
            quick: trace.is_some_and(|trace| trace.is_sampled),
        }
    }

    /// Returns the time at which `step` begins, if it is recorded.
    fn begin(self, step: &Step, ex: &Exchange<'_>) -> Option<Instant> {
        let is_timed = if step.is_async {
            self.waiting
        } else {
            self.quick
        };
        if !is_timed {
            return None;
        }
        ex.facts.trace.as_ref()?.begin_step(step.is_async)
    }
}

/// Records an asynchronous step that began at `started`.
fn end_step(step: &Step, ex: &mut Exchange<'_>, started: Option<Instant>) {
    if let (Some(started), Some(trace)) = (started, &mut ex.facts.trace) {
        trace.end_step(step.name, started, false);
    }
}

/// Replaces the members of `any` by itself.
fn with_any(mut steps: Vec<Step>, any: &Arc<AnyOf>) -> Box<[Step]> {
    let members = any.names();
    let is_member = |step: &Step| members.contains(&step.name);
    let last = steps.iter().rposition(is_member);
    let before = |at: usize| steps[..at].iter().filter(|step| !is_member(step)).count();
    let at = last.map_or(0, before);
    steps.retain(|step| !is_member(step));
    let step = Step {
        name: "satisfy",
        filter: Arc::clone(any) as Arc<dyn Filter>,
        is_async: true,
    };
    steps.insert(at, step);
    steps.into()
}

/// Filters of one route, one list for each phase.
///
/// The asynchronous runners hold no future for a list without asynchronous filters.
#[derive(Default)]
pub struct Chain {
    all: Box<[Named]>,
    request: Box<[Step]>,
    authorized: Box<[Step]>,
    upstream: Box<[Step]>,
    upstream_response: Box<[Step]>,
    response: Box<[Step]>,
    error: Box<[Step]>,
    route: Box<[Step]>,
    cache_key: Box<[Step]>,
    /// Filters that write what a cache key has to hold into requests for a backend.
    writing: Box<[Arc<dyn Filter>]>,
    request_body: Box<[Step]>,
    response_body: Box<[Step]>,
    log: Box<[Step]>,
    /// Filters that may need every header of a response.
    in_need: Box<[Arc<dyn Filter>]>,
    /// Filters that may replace error responses of backends.
    intercepting: Box<[Arc<dyn Filter>]>,
    /// Filters that know routes with the pages of errors.
    with_pages: Box<[Arc<dyn Filter>]>,
    dropped_queries: Box<[Box<str>]>,
    replaces_location: bool,
    replaces_errors: bool,
    /// Filters of which one is enough.
    any: Option<Arc<AnyOf>>,
    /// A selective filter, and the chain without it.
    short: Option<(Arc<dyn Filter>, Box<Chain>)>,
}

impl Chain {
    /// Sorts `filters`, given in the registry's order, by phase.
    pub fn new(filters: Vec<Named>) -> Self {
        Self::sorted(filters, None)
    }

    /// Sorts `filters` as [`Chain::new`] does, with `any` in place of its members in the request
    /// phase: where the last of them is.
    pub fn satisfying_any(filters: Vec<Named>, any: &Arc<AnyOf>) -> Self {
        Self::sorted(filters, Some(any))
    }

    fn sorted(filters: Vec<Named>, any: Option<&Arc<AnyOf>>) -> Self {
        let steps = |phase: Phase| -> Box<[Step]> {
            let mut steps: Vec<Step> = filters
                .iter()
                .map(|named| (named, named.filter.phases()))
                .filter(|(_, phases)| phases.wants(phase))
                .map(|(named, phases): (&Named, Phases)| Step {
                    name: named.name,
                    filter: Arc::clone(&named.filter),
                    is_async: phases.is_async(phase),
                })
                .collect();
            if matches!(
                phase,
                Phase::UpstreamResponse
                    | Phase::Response
                    | Phase::Error
                    | Phase::ResponseBody
                    // The access log comes early in the registry, and needs the fields of the other
                    // filters.
                    | Phase::Log
            ) {
                steps.reverse();
            }
            if phase == Phase::Response {
                steps.sort_by_key(|step| step.filter.observes_response());
            }
            steps.into()
        };
        let mut request = steps(Phase::Request);
        if let Some(any) = any {
            request = with_any(request.into(), any);
        }
        Self {
            request,
            authorized: steps(Phase::Authorized),
            upstream: steps(Phase::Upstream),
            upstream_response: steps(Phase::UpstreamResponse),
            response: steps(Phase::Response),
            error: steps(Phase::Error),
            route: steps(Phase::Route),
            cache_key: steps(Phase::CacheKey),
            writing: steps(Phase::Upstream)
                .into_iter()
                .map(|step| step.filter)
                .filter(|filter| !filter.is_keyed_without())
                .collect(),
            request_body: steps(Phase::RequestBody),
            response_body: steps(Phase::ResponseBody),
            log: steps(Phase::Log),
            in_need: filters
                .iter()
                .filter(|named| named.filter.needs_every_header())
                .map(|named| Arc::clone(&named.filter))
                .collect(),
            intercepting: filters
                .iter()
                .filter(|named| named.filter.may_intercept())
                .map(|named| Arc::clone(&named.filter))
                .collect(),
            with_pages: filters
                .iter()
                .filter(|named| named.filter.has_page_routes())
                .map(|named| Arc::clone(&named.filter))
                .collect(),
            dropped_queries: filters
                .iter()
                .flat_map(|named| named.filter.dropped_queries())
                .cloned()
                .collect(),
            short: filters
                .iter()
                .position(|named| named.filter.is_selective())
                .map(|at| {
                    let mut others = filters.clone();
                    let choosing = others.remove(at).filter;
                    (choosing, Box::new(Self::sorted(others, any)))
                }),
            replaces_location: filters.iter().any(|named| named.filter.replaces_location()),
            replaces_errors: filters.iter().any(|named| named.filter.replaces_errors()),
            any: any.map(Arc::clone),
            all: filters.into(),
        }
    }

    /// Returns the names of the filters of which one is enough; none if all have to let a request
    /// pass.
    pub fn alternatives(&self) -> Vec<&'static str> {
        self.any.as_deref().map(AnyOf::names).unwrap_or_default()
    }

    /// Returns true if a filter changes `Location` in place of the gateway.
    pub fn replaces_location(&self) -> bool {
        self.replaces_location
    }

    /// Returns true if [`Chain::short`] is enough for this request.
    pub fn is_short_for(&self, ex: &Exchange<'_>) -> bool {
        let short = self.short.as_ref();
        short.is_some_and(|(choosing, _)| !choosing.is_for(ex))
    }

    /// Returns the chain without its selective filter, or the chain itself if there is none.
    pub fn short(&self) -> &Self {
        self.short.as_ref().map_or(self, |(_, short)| short)
    }

    /// Returns the initial value of [`super::RequestFacts::lines`] for a response over HTTP/1.
    pub fn ready_lines(&self, ex: &Exchange<'_>) -> ReadyLines {
        let mut in_need = self.in_need.iter();
        if in_need.any(|filter| filter.needs_every_header_now(ex)) {
            ReadyLines::NotTaken
        } else {
            ReadyLines::Taken
        }
    }

    /// Returns the filters in the order in which requests meet them, for `explain` and status.
    pub fn filters(&self) -> &[Named] {
        &self.all
    }

    /// Returns the first extension of type `T` among the route's filters.
    pub fn extension<T: std::any::Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.all
            .iter()
            .find_map(|named| named.filter.extension()?.downcast().ok())
    }

    /// Returns the query parameters that are never sent to a backend.
    pub fn dropped_queries(&self) -> &[Box<str>] {
        &self.dropped_queries
    }

    /// Returns true if no filter has to see the body of this response, whose headers have passed the
    /// response phase.
    pub fn ignores_body(&self, ex: &Exchange<'_>) -> bool {
        let mut steps = self.response_body.iter();
        steps.all(|step| step.filter.ignores_body(ex))
    }

    pub fn has(&self, phase: Phase) -> bool {
        let list = match phase {
            Phase::Request => &self.request,
            Phase::Authorized => &self.authorized,
            Phase::Upstream => &self.upstream,
            Phase::UpstreamResponse => &self.upstream_response,
            Phase::Response => &self.response,
            Phase::Error => &self.error,
            Phase::Route => &self.route,
            Phase::CacheKey => &self.cache_key,
            Phase::RequestBody => &self.request_body,
            Phase::ResponseBody => &self.response_body,
            Phase::Log => &self.log,
        };
        !list.is_empty()
    }

    /// Calls both request hooks. The second round begins once every filter has let the request pass
    /// in the first, so the identity is known. Returns early if a filter wants the body; the caller
    /// calls it again with the same `round` once the body is in [`RequestFacts::body`].
    ///
    /// [`RequestFacts::body`]: super::RequestFacts::body
    pub async fn on_request(&self, ex: &mut Exchange<'_>, round: &mut HookProgress) -> HookOutcome {
        let timed_steps = TimedSteps::of(ex);
        while let Some(step) = self.request.get(round.request) {
            if let Some(most) = wanted(step, ex, Phase::Request) {
                return HookOutcome::Body(most);
            }
            round.request += 1;
            let timed = timed_steps.begin(step, ex);
            let verdict = if step.is_async {
                step.filter.on_request_async(ex).await
            } else {
                step.filter.on_request(ex)
            };
            if let (Some(started), Some(trace)) = (timed, &mut ex.facts.trace) {
                trace.end_filter(step.name, started, &verdict);
            }
            if let Verdict::Reply(_) = verdict {
                return HookOutcome::Over(verdict);
            }
        }
        while let Some(step) = self.authorized.get(round.authorized) {
            if let Some(most) = wanted(step, ex, Phase::Authorized) {
                return HookOutcome::Body(most);
            }
            round.authorized += 1;
            let timed = timed_steps.begin(step, ex);
            let verdict = if step.is_async {
                step.filter.on_authorized_async(ex).await
            } else {
                step.filter.on_authorized(ex)
            };
            if let (Some(started), Some(trace)) = (timed, &mut ex.facts.trace) {
                trace.end_filter(step.name, started, &verdict);
            }
            if let Verdict::Reply(_) = verdict {
                return HookOutcome::Over(verdict);
            }
        }
        HookOutcome::Over(Verdict::Next)
    }

    /// Stops at the first filter that refuses the request after all (`Facts::refused`).
    pub async fn on_upstream(&self, ex: &mut Exchange<'_>, headers: &mut HeaderMap) {
        for step in &self.upstream {
            if step.is_async {
                let timed = TimedSteps::of(ex).begin(step, ex);
                step.filter.on_upstream_async(ex, headers).await;
                end_step(step, ex, timed);
            } else {
                step.filter.on_upstream(ex, headers);
            }
            if ex.facts.refused.is_some() {
                return;
            }
        }
    }

    /// Returns all headers that the filters may change on the way to a backend.
    pub fn request_changes(&self) -> RequestChanges {
        self.upstream
            .iter()
            .map(|step| step.filter.request_changes())
            .fold(RequestChanges::NONE, RequestChanges::and)
    }

    /// Applies to `headers` the changes that [`Chain::on_upstream`] would make; returns `false` if
    /// they cannot be known in advance.
    pub fn foresee_upstream(&self, ex: &mut Exchange<'_>, headers: &mut HeaderMap) -> bool {
        self.upstream.iter().all(|step| {
            let is_known = step.filter.knows_request_changes(ex);
            if is_known {
                step.filter.on_upstream(ex, headers);
            }
            is_known
        })
    }

    pub async fn on_upstream_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        for step in &self.upstream_response {
            if step.is_async {
                let timed = TimedSteps::of(ex).begin(step, ex);
                step.filter.on_upstream_response_async(ex, head).await;
                end_step(step, ex, timed);
            } else {
                step.filter.on_upstream_response(ex, head);
            }
        }
    }

    /// Returns true if a filter sees the responses of backends, or replaces their errors: a reply of
    /// the gateway would be another response.
    pub fn changes_upstream_responses(&self) -> bool {
        self.replaces_errors || self.has(Phase::UpstreamResponse)
    }

    /// Returns the reply that a filter has in place of an error response of a backend.
    pub fn intercept(
        &self,
        ex: &mut Exchange<'_>,
        status: StatusCode,
        headers: &HeaderMap,
        is_bare: bool,
    ) -> Option<Box<Reply>> {
        let mut filters = self.intercepting.iter();
        filters.find_map(|filter| filter.intercept(ex, status, headers, is_bare))
    }

    /// Returns true if routes have pages of errors.
    pub fn has_page_routes(&self) -> bool {
        !self.with_pages.is_empty()
    }

    /// Returns the route that has the page of an error.
    pub fn page_route(
        &self,
        ex: &Exchange<'_>,
        status: StatusCode,
        is_of_backend: bool,
    ) -> Option<RouteRequest> {
        let mut filters = self.with_pages.iter();
        filters.find_map(|filter| filter.page_route(ex, status, is_of_backend))
    }

    pub async fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        for step in &self.response {
            if step.is_async {
                let timed = TimedSteps::of(ex).begin(step, ex);
                step.filter.on_response_async(ex, head).await;
                end_step(step, ex, timed);
            } else {
                step.filter.on_response(ex, head);
            }
        }
    }

    pub async fn on_error(&self, ex: &mut Exchange<'_>, reply: &mut Reply) {
        for step in &self.error {
            if step.is_async {
                let timed = TimedSteps::of(ex).begin(step, ex);
                step.filter.on_error_async(ex, reply).await;
                end_step(step, ex, timed);
            } else {
                step.filter.on_error(ex, reply);
            }
        }
    }

    /// Returns the upstream that a filter chose; the first filter that chooses one wins.
    pub fn on_route(&self, ex: &Exchange<'_>) -> Option<Arc<str>> {
        self.route.iter().find_map(|step| step.filter.on_route(ex))
    }

    pub fn on_cache_key(&self, ex: &Exchange<'_>, key: &mut KeyBuilder) {
        for step in &self.cache_key {
            step.filter.on_cache_key(ex, key);
        }
    }

    /// Adds to a cache key what filters will write into the request for a backend, and returns true if
    /// there is something. `None`: it cannot be known in advance.
    pub fn key_what_is_written(&self, ex: &mut Exchange<'_>, key: &mut KeyBuilder) -> Option<bool> {
        let mut has_written = false;
        for filter in &self.writing {
            if !filter.knows_request_changes(ex) {
                return None;
            }
            // Of an empty request, all that is there afterwards was written.
            let mut written = HeaderMap::new();
            filter.on_upstream(ex, &mut written);
            for (name, value) in &written {
                key.written(name, value.as_bytes());
                has_written = true;
            }
        }
        Some(has_written)
    }

    pub fn on_request_body(
        &self,
        ex: &mut Exchange<'_>,
        chunk: &mut Option<Bytes>,
        end: bool,
    ) -> Verdict {
        for step in &self.request_body {
            let verdict = step.filter.on_request_body(ex, chunk, end);
            if let Verdict::Reply(_) = verdict {
                return verdict;
            }
        }
        Verdict::Next
    }

    pub fn on_response_body(&self, ex: &mut Exchange<'_>, chunk: &mut Option<Bytes>, end: bool) {
        for step in &self.response_body {
            step.filter.on_response_body(ex, chunk, end);
        }
    }

    pub fn on_log(&self, ex: &Exchange<'_>, logged: &LoggedRequest<'_>) {
        let mut late: Option<LateFields> = None;
        for step in &self.log {
            step.filter.on_log(ex, logged, &mut late);
        }
        if let Some(late) = late {
            late.begin();
        }
    }
}
