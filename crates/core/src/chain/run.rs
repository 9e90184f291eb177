//! Filters of a route, sorted by phase when the route is compiled.

use std::{any::TypeId, sync::Arc, time::Instant};

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

/// A hook to call: the filter, with the variant that it wants called.
struct Step {
    name: &'static str,
    guard: Guard,
    hooks: Hooks,
}

enum Hooks {
    Sync(Arc<dyn Filter>),
    Async(Arc<dyn AsyncFilter>),
}

impl Step {
    fn new(compiled: &CompiledFilter, phase: Phase) -> Self {
        Self {
            name: compiled.name,
            guard: compiled.traits.guard,
            hooks: match compiled.traits.waiting_in(phase) {
                Some(filter) => Hooks::Async(Arc::clone(filter)),
                None => Hooks::Sync(Arc::clone(&compiled.filter)),
            },
        }
    }

    fn is_async(&self) -> bool {
        matches!(self.hooks, Hooks::Async(_))
    }

    /// Applies to `headers` what this step will change on the way to a backend; returns `false` if
    /// that cannot be known in advance.
    fn foresee_upstream(&self, ex: &mut Exchange<'_>, headers: &mut HeaderMap) -> bool {
        match &self.hooks {
            Hooks::Sync(filter) => filter.on_upstream(ex, headers),
            Hooks::Async(filter) if filter.knows_request_changes(ex) => {
                filter.on_upstream(ex, headers);
            }
            Hooks::Async(_) => return false,
        }
        true
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

fn wanted_body(step: &Step, ex: &Exchange<'_>, phase: Phase) -> Option<usize> {
    match &step.hooks {
        // Synchronous filters are those that cost nothing, and none of them reads a body.
        Hooks::Async(filter) if ex.facts.body == Body::NotRead => filter.wants_body(ex, phase),
        _ => None,
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
    fn of(ex: &Exchange<'_>) -> Self {
        let trace = ex.facts.trace.as_ref();
        Self {
            waiting: trace.is_some(),
            quick: trace.is_some_and(|trace| trace.is_sampled),
        }
    }

    /// Returns the time at which `step` begins, if it is recorded.
    fn begin(self, step: &Step, ex: &Exchange<'_>) -> Option<Instant> {
        let is_async = step.is_async();
        let is_timed = if is_async { self.waiting } else { self.quick };
        if !is_timed {
            return None;
        }
        ex.facts.trace.as_ref()?.begin_step(is_async)
    }
}

/// Records an asynchronous step that began at `started`.
fn end_step(step: &Step, ex: &mut Exchange<'_>, started: Option<Instant>) {
    if let (Some(started), Some(trace)) = (started, &mut ex.facts.trace) {
        trace.end_step(step.name, started, false);
    }
}

/// Calls a request hook of the steps that are left, until one responds or wants the body.
macro_rules! run_round {
    ($steps:expr, $at:expr, $timed_steps:ident, $ex:ident,
     ($phase:ident, $hook:ident, $hook_async:ident)) => {
        while let Some(step) = $steps.get($at) {
            if let Some(most) = wanted_body(step, $ex, Phase::$phase) {
                return HookOutcome::Body(most);
            }
            $at += 1;
            let timed = $timed_steps.begin(step, $ex);
            let was_known = !cfg!(debug_assertions) || $ex.facts.identity.is_some();
            let verdict = match &step.hooks {
                Hooks::Sync(filter) => filter.$hook($ex),
                Hooks::Async(filter) => filter.$hook_async($ex).await,
            };
            debug_assert!(
                was_known || $ex.facts.identity.is_none() || step.guard == Guard::Identity,
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
                        || step.guard != Guard::Nothing,
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
        for step in &$steps {
            match &step.hooks {
                Hooks::Sync(filter) => filter.$hook($ex, $what),
                Hooks::Async(filter) => {
                    let timed = TimedSteps::of($ex).begin(step, $ex);
                    filter.$hook_async($ex, $what).await;
                    end_step(step, $ex, timed);
                }
            }
            $after
        }
    };
}

/// Replaces the members of `any` by itself.
fn with_any(mut steps: Vec<Step>, any: &Arc<AnyOf>) -> Vec<Step> {
    let members = any.names();
    let is_member = |step: &Step| members.contains(&step.name);
    let last = steps.iter().rposition(is_member);
    let before = |at: usize| steps[..at].iter().filter(|step| !is_member(step)).count();
    let at = last.map_or(0, before);
    steps.retain(|step| !is_member(step));
    let step = Step {
        name: "satisfy",
        guard: Guard::Identity,
        hooks: Hooks::Async(Arc::clone(any) as Arc<dyn AsyncFilter>),
    };
    steps.insert(at, step);
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

/// A filter of response bodies, with the slot without which it leaves them as they are.
struct BodyFilter {
    filter: Arc<dyn Filter>,
    slot: Option<TypeId>,
}

/// Filters of one route, one list for each phase.
///
/// The asynchronous runners hold no future for a list without asynchronous filters.
pub struct Chain {
    all: Box<[CompiledFilter]>,
    request: Box<[Step]>,
    authorized: Box<[Step]>,
    upstream: Box<[Step]>,
    upstream_response: Box<[Step]>,
    response: Box<[Step]>,
    error: Box<[Step]>,
    route: Box<[Arc<dyn Filter>]>,
    cache_key: Box<[Arc<dyn Filter>]>,
    /// Filters that write what a cache key has to hold into requests for a backend.
    writing: Box<[Step]>,
    request_body: Box<[Arc<dyn Filter>]>,
    response_body: Box<[BodyFilter]>,
    log: Box<[Arc<dyn Filter>]>,
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
        let in_phase = |phase| move |each: &&CompiledFilter| each.traits.phases.wants(phase);
        // Responses pass the filters in the reverse order of requests. The access log comes early in
        // the registry, and needs the fields of the other filters.
        let requests = |phase| filters.iter().filter(in_phase(phase));
        let responses = |phase| filters.iter().rev().filter(in_phase(phase));
        let step = |phase| move |each: &CompiledFilter| Step::new(each, phase);
        let filter = |each: &CompiledFilter| Arc::clone(&each.filter);
        let mut request: Vec<_> = requests(Phase::Request).map(step(Phase::Request)).collect();
        if let Some(any) = any {
            request = with_any(request, any);
        }
        let mut response: Vec<&CompiledFilter> = responses(Phase::Response).collect();
        response.sort_by_key(|each| each.traits.response_headers == HeaderUse::Sent);
        let in_need = response
            .iter()
            .filter(|each| each.traits.response_headers != HeaderUse::OwnOnly)
            .map(|each| filter(each))
            .collect();
        Self {
            request: request.into(),
            authorized: requests(Phase::Authorized)
                .map(step(Phase::Authorized))
                .collect(),
            upstream: requests(Phase::Upstream)
                .map(step(Phase::Upstream))
                .collect(),
            upstream_response: responses(Phase::UpstreamResponse)
                .map(step(Phase::UpstreamResponse))
                .collect(),
            response: response.into_iter().map(step(Phase::Response)).collect(),
            error: responses(Phase::Error).map(step(Phase::Error)).collect(),
            route: requests(Phase::Route).map(filter).collect(),
            cache_key: requests(Phase::CacheKey).map(filter).collect(),
            writing: requests(Phase::Upstream)
                .filter(|each| each.traits.is_keyed())
                .map(step(Phase::Upstream))
                .collect(),
            request_body: requests(Phase::RequestBody).map(filter).collect(),
            response_body: responses(Phase::ResponseBody)
                .map(|each| BodyFilter {
                    filter: filter(each),
                    slot: each.traits.body_slot,
                })
                .collect(),
            log: responses(Phase::Log).map(filter).collect(),
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
        let mut slots = self.response_body.iter().map(|each| each.slot);
        slots.all(|slot| slot.is_some_and(|slot| !ex.facts.has_slot(slot)))
    }

    pub fn has(&self, phase: Phase) -> bool {
        let count = match phase {
            Phase::Request => self.request.len(),
            Phase::Authorized => self.authorized.len(),
            Phase::Upstream => self.upstream.len(),
            Phase::UpstreamResponse => self.upstream_response.len(),
            Phase::Response => self.response.len(),
            Phase::Error => self.error.len(),
            Phase::Route => self.route.len(),
            Phase::CacheKey => self.cache_key.len(),
            Phase::RequestBody => self.request_body.len(),
            Phase::ResponseBody => self.response_body.len(),
            Phase::Log => self.log.len(),
        };
        count > 0
    }

    /// Calls the request hooks that come before the guards of other routes: those that give the
    /// request its id, and that reply to preflights, which reach no app. They are called once more
    /// with all the others.
    pub fn before_guards(&self, ex: &mut Exchange<'_>) -> Verdict {
        for step in &self.request {
            let is_first =
                step.name == REQUEST_ID || step.guard == Guard::Open(OpenRefusals::Preflights);
            if is_first
                && let Hooks::Sync(filter) = &step.hooks
                && let Verdict::Reply(reply) = filter.on_request(ex)
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
        let timed_steps = TimedSteps::of(ex);
        run_round!(
            self.request,
            round.request,
            timed_steps,
            ex,
            (Request, on_request, on_request_async)
        );
        run_round!(
            self.authorized,
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
            self.upstream,
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
        let mut steps = self.upstream.iter();
        steps.all(|step| step.foresee_upstream(ex, headers))
    }

    pub async fn on_upstream_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        run_steps!(
            self.upstream_response,
            ex,
            head,
            (on_upstream_response, on_upstream_response_async),
            {}
        );
    }

    pub async fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        run_steps!(self.response, ex, head, (on_response, on_response_async), {
        });
    }

    pub async fn on_error(&self, ex: &mut Exchange<'_>, reply: &mut Reply) {
        run_steps!(self.error, ex, reply, (on_error, on_error_async), {});
    }

    /// Returns the upstream that a filter chose; the first filter that chooses one wins.
    pub fn on_route(&self, ex: &Exchange<'_>) -> Option<Arc<str>> {
        self.route.iter().find_map(|filter| filter.on_route(ex))
    }

    pub fn on_cache_key(&self, ex: &Exchange<'_>, key: &mut KeyBuilder) {
        for filter in &self.cache_key {
            filter.on_cache_key(ex, key);
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
        for filter in &self.request_body {
            let verdict = filter.on_request_body(ex, chunk, end);
            if let Verdict::Reply(_) = verdict {
                return verdict;
            }
        }
        Verdict::Next
    }

    pub fn on_response_body(&self, ex: &mut Exchange<'_>, chunk: &mut Option<Bytes>, end: bool) {
        for BodyFilter { filter, .. } in &self.response_body {
            filter.on_response_body(ex, chunk, end);
        }
    }

    pub fn on_log(&self, ex: &Exchange<'_>, logged: &LoggedRequest<'_>) {
        let mut late: Option<LateFields> = None;
        for filter in &self.log {
            filter.on_log(ex, logged, &mut late);
        }
        if let Some(late) = late {
            late.begin();
        }
    }
}
