//! Filters of a route, sorted by phase when the route is compiled.

use std::{mem, sync::Arc, time::Instant};

use bytes::Bytes;
use edgeway_base::reserved_headers::written;
use http::{HeaderMap, response};

use super::{
    AnyOf, AsyncFilter, Body, CompiledFilter, Credential, CredentialPlace, Exchange, Filter, Guard,
    HeaderUse, KeyBuilder, LateFields, LoggedRequest, OpenRefusals, Phase, ReadyLines, Reply,
    RequestChanges, Traits, Verdict,
};

/// Name of the filter that gives a request its id.
const REQUEST_ID: &str = "request_id";

/// A filter in one phase.
#[derive(Clone)]
struct ChainStep {
    name: &'static str,
    traits: Arc<Traits>,
    filter: Arc<dyn Filter>,
    /// The filter once more, if it wants its asynchronous hook called.
    waiting: Option<Arc<dyn AsyncFilter>>,
}

impl ChainStep {
    fn new(compiled: &CompiledFilter, phase: Phase) -> Self {
        Self {
            name: compiled.name,
            traits: Arc::clone(&compiled.traits),
            filter: Arc::clone(&compiled.filter),
            waiting: compiled.traits.waiting_in(phase).cloned(),
        }
    }

    /// Applies to `headers` what this step will change on the way to a backend; returns `false` if
    /// that cannot be known in advance.
    fn foresee_upstream(&self, ex: &mut Exchange<'_>, headers: &mut HeaderMap) -> bool {
        let waiting = self.waiting.as_ref();
        let is_known = waiting.is_none_or(|filter| filter.knows_request_changes(ex));
        if is_known {
            self.filter.on_upstream(ex, headers);
        }
        is_known
    }
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

fn wanted_body(step: &ChainStep, ex: &Exchange<'_>, phase: Phase) -> Option<usize> {
    // Synchronous filters are those that cost nothing, and none of them reads a body.
    let filter = step.waiting.as_ref()?;
    let is_read = ex.facts.body != Body::NotRead;
    if is_read {
        None
    } else {
        filter.wants_body(ex, phase)
    }
}

/// Steps that the trace of a request records. Read once for all of them: most requests have neither
/// kind, and most steps are quick.
#[derive(Clone, Copy)]
struct TimedSteps {
    waiting: bool,
    quick: bool,
}

impl TimedSteps {
    fn new(ex: &Exchange<'_>) -> Self {
        let trace = ex.facts.trace.as_ref();
        Self {
            waiting: trace.is_some(),
            quick: trace.is_some_and(|trace| trace.is_sampled),
        }
    }

    /// Returns the time at which `step` begins, if it is recorded.
    fn begin(self, step: &ChainStep, ex: &Exchange<'_>) -> Option<Instant> {
        let is_async = step.waiting.is_some();
        let is_timed = if is_async { self.waiting } else { self.quick };
        if !is_timed {
            return None;
        }
        ex.facts.trace.as_ref()?.begin_step(is_async)
    }
}

/// Records an asynchronous step that began at `started`.
fn end_step(step: &ChainStep, ex: &mut Exchange<'_>, started: Option<Instant>) {
    if let (Some(started), Some(trace)) = (started, &mut ex.facts.trace) {
        trace.end_step(step.name, started, false);
    }
}

/// Calls a request hook of the steps that are left, until one responds or wants the body.
macro_rules! run_round {
    ($chain:ident, $at:expr, $timed_steps:ident, $ex:ident,
     ($phase:ident, $hook:ident, $hook_async:ident)) => {
        while let Some(step) = $chain.steps(Phase::$phase).get($at) {
            if let Some(most) = wanted_body(step, $ex, Phase::$phase) {
                return HookOutcome::Body(most);
            }
            $at += 1;
            let timed = $timed_steps.begin(step, $ex);
            let was_known = !cfg!(debug_assertions) || $ex.facts.identity.is_some();
            let verdict = match &step.waiting {
                None => step.filter.$hook($ex),
                Some(filter) => filter.$hook_async($ex).await,
            };
            debug_assert!(
                was_known || $ex.facts.identity.is_none() || step.traits.guard == Guard::Identity,
                "`{}` does not say that it proves identities",
                step.name
            );
            if let (Some(started), Some(trace)) = (timed, &mut $ex.facts.trace) {
                let is_last = matches!(verdict, Verdict::Reply(_));
                trace.end_step(step.name, started, is_last);
            }
            if let Verdict::Reply(reply) = &verdict {
                // A failure of its own, such as a redirect without a target, protects nothing.
                debug_assert!(
                    reply.status.as_u16() < 400
                        || reply.status == http::StatusCode::INTERNAL_SERVER_ERROR
                        || step.traits.guard != Guard::Nothing,
                    "`{}` says that it refuses nothing",
                    step.name
                );
                return HookOutcome::Over(verdict);
            }
        }
    };
}

/// Calls a hook of all steps, and `$after` behind each; records the asynchronous ones.
macro_rules! run_steps {
    ($steps:expr, $ex:ident, $what:ident, ($hook:ident, $hook_async:ident), $after:block) => {
        for step in $steps {
            match &step.waiting {
                None => step.filter.$hook($ex, $what),
                Some(filter) => {
                    let timed = TimedSteps::new($ex).begin(step, $ex);
                    filter.$hook_async($ex, $what).await;
                    end_step(step, $ex, timed);
                }
            }
            $after
        }
    };
}

/// Replaces the members of `any` by itself.
fn with_any(mut steps: Vec<ChainStep>, any: &Arc<AnyOf>) -> Vec<ChainStep> {
    let members = any.names();
    let is_member = |step: &ChainStep| members.contains(&step.name);
    let last = steps.iter().rposition(is_member);
    let before = |at: usize| steps[..at].iter().filter(|step| !is_member(step)).count();
    let at = last.map_or(0, before);
    steps.retain(|step| !is_member(step));
    let filter = CompiledFilter::new("satisfy", Arc::clone(any) as Arc<dyn Filter>);
    steps.insert(at, ChainStep::new(&filter, Phase::Request));
    steps
}

fn request_changes(
    filters: &[CompiledFilter],
    changes: fn(&Traits) -> RequestChanges,
) -> RequestChanges {
    let all = filters.iter().map(|each| &*each.traits);
    all.filter(|traits| traits.phases.wants(Phase::Upstream))
        .map(changes)
        .fold(RequestChanges::NONE, RequestChanges::and)
}

fn leaves_forwarding(filters: &[CompiledFilter]) -> bool {
    let changes = request_changes(filters, |traits| traits.request_changes.clone());
    changes != RequestChanges::Any && !written().any(|name| changes.names_header(name))
}

/// Filters of one route, one list for each phase.
///
/// The asynchronous runners hold no future for a list without asynchronous filters.
pub struct Chain {
    all: Box<[CompiledFilter]>,
    steps: [Box<[ChainStep]>; Phase::ALL.len()],
    /// Filters that write what a cache key has to hold into requests for a backend.
    writing: Box<[ChainStep]>,
    /// Filters that may need every header of a response.
    in_need: Box<[Arc<dyn Filter>]>,
    credentials: Box<[Credential]>,
    /// Headers that the filters may change on the way to a backend, without those that only have
    /// credentials.
    pub changes_beside_credentials: RequestChanges,
    /// True if a filter changes `Location` in place of the gateway.
    pub replaces_location: bool,
    /// True if no filter changes the headers that report the client to a backend, so that these may
    /// bypass the header map.
    pub leaves_forwarding: bool,
    /// Filters of which one is enough.
    any: Option<Arc<AnyOf>>,
    /// A selective filter, and the chain without it.
    short: Option<(Arc<dyn Filter>, Box<Chain>)>,
}

impl Default for Chain {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Chain {
    /// Sorts `filters`, given in the registry's order, by phase.
    pub fn new(filters: Vec<CompiledFilter>) -> Self {
        Self::sorted(filters, None)
    }

    /// Sorts `filters` as [`Chain::new`] does, with `any` in place of its members in the request
    /// phase: where the last of them is.
    pub fn satisfying_any(filters: Vec<CompiledFilter>, any: &Arc<AnyOf>) -> Self {
        Self::sorted(filters, Some(any))
    }

    fn sorted(filters: Vec<CompiledFilter>, any: Option<&Arc<AnyOf>>) -> Self {
        let mut steps = Phase::ALL.map(|phase| {
            let of_phase = filters
                .iter()
                .filter(|each| each.traits.phases.wants(phase));
            let mut steps: Vec<_> = of_phase.map(|each| ChainStep::new(each, phase)).collect();
            // Responses pass the filters in the reverse order of requests. The access log comes
            // early in the registry, and needs the fields of the other filters.
            if phase as u8 >= Phase::UpstreamResponse as u8 {
                steps.reverse();
            }
            steps
        });
        if let Some(any) = any {
            let request = &mut steps[Phase::Request as usize];
            *request = with_any(mem::take(request), any);
        }
        let response = &mut steps[Phase::Response as usize];
        response.sort_by_key(|step| step.traits.response_headers == HeaderUse::Sent);
        let in_need = response
            .iter()
            .filter(|step| step.traits.response_headers != HeaderUse::OwnOnly)
            .map(|step| Arc::clone(&step.filter))
            .collect();
        let upstream = steps[Phase::Upstream as usize].iter();
        Self {
            writing: upstream
                .filter(|step| step.traits.is_keyed())
                .cloned()
                .collect(),
            steps: steps.map(Into::into),
            in_need,
            credentials: filters
                .iter()
                .flat_map(|each| &each.traits.credentials)
                .cloned()
                .collect(),
            changes_beside_credentials: request_changes(
                &filters,
                Traits::changes_beside_credentials,
            ),
            short: filters
                .iter()
                .position(|each| each.traits.is_selective)
                .map(|at| {
                    let mut others = filters.clone();
                    let choosing = others.remove(at).filter;
                    (choosing, Box::new(Self::sorted(others, any)))
                }),
            replaces_location: filters.iter().any(|each| each.traits.replaces_location),
            leaves_forwarding: leaves_forwarding(&filters),
            any: any.map(Arc::clone),
            all: filters.into(),
        }
    }

    fn steps(&self, phase: Phase) -> &[ChainStep] {
        &self.steps[phase as usize]
    }

    /// Returns the names of the filters of which one is enough; none if all have to let a request
    /// pass.
    pub fn alternatives(&self) -> Vec<&'static str> {
        self.any.as_deref().map(AnyOf::names).unwrap_or_default()
    }

    /// Returns true if one of the filters proves who the client is.
    pub fn proves_identity(&self) -> bool {
        let mut filters = self.all.iter();
        filters.any(|each| each.traits.guard == Guard::Identity)
    }

    /// Returns true if [`Chain::short`] is enough for this request.
    pub fn is_short_for(&self, ex: &Exchange<'_>) -> bool {
        let short = self.short.as_ref();
        short.is_some_and(|(choosing, _)| !choosing.is_for(ex, Phase::Request))
    }

    /// Returns the chain without its selective filter, or the chain itself if there is none.
    pub fn short(&self) -> &Self {
        self.short.as_ref().map_or(self, |(_, short)| short)
    }

    /// Returns the initial value of [`super::RequestFacts::lines`] for a response over HTTP/1.
    pub fn ready_lines(&self, ex: &Exchange<'_>) -> ReadyLines {
        let mut in_need = self.in_need.iter();
        if in_need.any(|filter| filter.is_for(ex, Phase::Response)) {
            ReadyLines::NotTaken
        } else {
            ReadyLines::Taken
        }
    }

    /// Returns the filters in the order in which requests meet them, for `explain` and status.
    pub fn filters(&self) -> &[CompiledFilter] {
        &self.all
    }

    /// Returns the first extension of type `T` among the route's filters.
    pub fn extension<T: std::any::Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.all
            .iter()
            .filter_map(|each| each.traits.extension.clone())
            .find_map(|extension| extension.downcast().ok())
    }

    /// Returns the credentials that no backend gets, except those that filters of the route with the
    /// chain `next`, which took a request over, read themselves.
    pub fn stripped<'c>(
        &'c self,
        next: Option<&'c Self>,
    ) -> impl Iterator<Item = &'c CredentialPlace> {
        let is_read = move |place: &CredentialPlace| {
            let mut read = next.iter().flat_map(|next| &next.credentials);
            read.any(|credential| credential.place == *place)
        };
        let stripped = self.credentials.iter().filter(|each| each.is_stripped);
        let places = stripped.map(|each| &each.place);
        places.filter(move |place| !is_read(place))
    }

    /// Returns true if no filter has to see the body of this response, whose headers have passed the
    /// response phase.
    pub fn ignores_body(&self, ex: &Exchange<'_>) -> bool {
        let steps = self.steps(Phase::ResponseBody).iter();
        let mut slots = steps.map(|step| step.traits.body_slot);
        slots.all(|slot| slot.is_some_and(|slot| !ex.facts.has_slot(slot)))
    }

    pub fn has(&self, phase: Phase) -> bool {
        !self.steps(phase).is_empty()
    }

    /// Calls the request hooks that come before the guards of other routes: those that give the
    /// request its id, and that reply to preflights, which reach no app. They are called once more
    /// with all the others.
    pub fn before_guards(&self, ex: &mut Exchange<'_>) -> Verdict {
        for step in self.steps(Phase::Request) {
            let is_first = step.name == REQUEST_ID
                || step.traits.guard == Guard::Open(OpenRefusals::Preflights);
            if is_first
                && step.waiting.is_none()
                && let Verdict::Reply(reply) = step.filter.on_request(ex)
            {
                return Verdict::Reply(reply);
            }
        }
        Verdict::Next
    }

    /// Calls both request hooks. The second round begins once every filter has let the request pass
    /// in the first, so the identity is known. Returns early if a filter wants the body; the caller
    /// calls it again with the same `round` once the body is in [`RequestFacts::body`].
    ///
    /// [`RequestFacts::body`]: super::RequestFacts::body
    pub async fn on_request(&self, ex: &mut Exchange<'_>, round: &mut HookProgress) -> HookOutcome {
        let mut credentials = self.credentials.iter();
        if credentials.any(|each| each.place.is_shown(&ex.head.headers)) {
            // Who gets the response depends on it, even if nothing is proven.
            ex.facts.identity_mut();
        }
        let timed_steps = TimedSteps::new(ex);
        run_round!(
            self,
            round.request,
            timed_steps,
            ex,
            (Request, on_request, on_request_async)
        );
        run_round!(
            self,
            round.authorized,
            timed_steps,
            ex,
            (Authorized, on_authorized, on_authorized_async)
        );
        HookOutcome::Over(Verdict::Next)
    }

    /// Stops at the first filter that refuses the request after all (`Facts::refused`).
    pub async fn on_upstream(&self, ex: &mut Exchange<'_>, headers: &mut HeaderMap) {
        run_steps!(
            self.steps(Phase::Upstream),
            ex,
            headers,
            (on_upstream, on_upstream_async),
            {
                if ex.facts.refused.is_some() {
                    return;
                }
            }
        );
    }

    /// Returns all headers that the filters may change on the way to a backend.
    pub fn request_changes(&self) -> RequestChanges {
        request_changes(&self.all, |traits| traits.request_changes.clone())
    }

    /// Applies to `headers` the changes that [`Chain::on_upstream`] would make; returns `false` if
    /// they cannot be known in advance.
    pub fn foresee_upstream(&self, ex: &mut Exchange<'_>, headers: &mut HeaderMap) -> bool {
        let mut steps = self.steps(Phase::Upstream).iter();
        steps.all(|step| step.foresee_upstream(ex, headers))
    }

    pub async fn on_upstream_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        run_steps!(
            self.steps(Phase::UpstreamResponse),
            ex,
            head,
            (on_upstream_response, on_upstream_response_async),
            {}
        );
    }

    pub async fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        run_steps!(
            self.steps(Phase::Response),
            ex,
            head,
            (on_response, on_response_async),
            {}
        );
    }

    pub async fn on_error(&self, ex: &mut Exchange<'_>, reply: &mut Reply) {
        let steps = self.steps(Phase::Error);
        run_steps!(steps, ex, reply, (on_error, on_error_async), {});
    }

    /// Returns the upstream that a filter chose; the first filter that chooses one wins.
    pub fn on_route(&self, ex: &Exchange<'_>) -> Option<Arc<str>> {
        let mut steps = self.steps(Phase::Route).iter();
        steps.find_map(|step| step.filter.on_route(ex))
    }

    pub fn on_cache_key(&self, ex: &Exchange<'_>, key: &mut KeyBuilder) {
        for step in self.steps(Phase::CacheKey) {
            step.filter.on_cache_key(ex, key);
        }
    }

    /// Adds to a cache key what filters will write into the request for a backend, and returns true if
    /// there is something. `None`: it cannot be known in advance.
    pub fn key_what_is_written(&self, ex: &mut Exchange<'_>, key: &mut KeyBuilder) -> Option<bool> {
        let mut has_written = false;
        for step in &self.writing {
            // Of an empty request, all that is there afterwards was written.
            let mut written = HeaderMap::new();
            if !step.foresee_upstream(ex, &mut written) {
                return None;
            }
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
        for step in self.steps(Phase::RequestBody) {
            let verdict = step.filter.on_request_body(ex, chunk, end);
            if let Verdict::Reply(_) = verdict {
                return verdict;
            }
        }
        Verdict::Next
    }

    pub fn on_response_body(&self, ex: &mut Exchange<'_>, chunk: &mut Option<Bytes>, end: bool) {
        for step in self.steps(Phase::ResponseBody) {
            step.filter.on_response_body(ex, chunk, end);
        }
    }

    pub fn on_log(&self, ex: &Exchange<'_>, logged: &LoggedRequest<'_>) {
        let mut late: Option<LateFields> = None;
        for step in self.steps(Phase::Log) {
            step.filter.on_log(ex, logged, &mut late);
        }
        if let Some(late) = late {
            late.begin();
        }
    }
}
