//! Choice of a backend with a free place, and what is allowed when no backend in rotation has one.

use std::{sync::Arc, time::Duration};

use super::{
    LeaseRequest, Upstream,
    backend::{Backend, BackendId},
    balance::{Balance, BalanceInput, Members},
    lease::Lease,
};

/// Reason why no place is free right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    Full,
    Streams,
    Empty,
}

impl Upstream {
    pub(super) fn try_acquire(&self, ask: &LeaseRequest<'_>, now: u64) -> Result<Lease, Blocked> {
        let members = self.members.load();
        if members.list.is_empty() {
            return Err(Blocked::Empty);
        }
        let asked = ask.release.or(members.current.as_deref());
        let in_rotation = |release| {
            let is_allowed = !self.shared.live.in_panic();
            is_allowed.then(|| self.offer_in_rotation(&members, ask, release, now))?
        };
        if let Some(lease) = in_rotation(asked) {
            return Ok(lease);
        }
        let release = members.serving(asked, now);
        if release != asked
            && let Some(lease) = in_rotation(release)
        {
            return Ok(lease);
        }
        self.look_again(&members, ask, release, now)
    }

    fn offer_in_rotation(
        &self,
        members: &Members,
        ask: &LeaseRequest<'_>,
        release: Option<&str>,
        now: u64,
    ) -> Option<Lease> {
        let terms = SelectionTerms {
            release,
            tried: ask.tried,
            in_panic: false,
            by_share: true,
            skips_backups: members.has_backups,
        };
        self.offer(members, ask, now, terms).or_else(|| {
            let has_backups = members.has_backups;
            has_backups.then(|| self.offer_backups(members, ask, now, terms))?
        })
    }

    /// Takes a place on a backup, if no other backend in rotation can take the request.
    #[cold]
    fn offer_backups(
        &self,
        members: &Members,
        ask: &LeaseRequest<'_>,
        now: u64,
        strict: SelectionTerms<'_>,
    ) -> Option<Lease> {
        [true, false].into_iter().find_map(|skips_backups| {
            let terms = SelectionTerms {
                by_share: false,
                skips_backups,
                ..strict
            };
            self.offer(members, ask, now, terms)
        })
    }

    /// Finds out why the strict terms admit no backend, and relaxes them where allowed.
    #[cold]
    fn look_again(
        &self,
        members: &Members,
        ask: &LeaseRequest<'_>,
        release: Option<&str>,
        now: u64,
    ) -> Result<Lease, Blocked> {
        let is_offered = |b: &&Arc<Backend>| !b.is_drained() && b.is_of(release);
        let offered = || members.list.iter().filter(is_offered);
        // A release of which no backend is in rotation gets a request only if no other one may. Where
        // all in rotation refused to connect for this request, one that is out may listen again.
        let has_refused = |backend: &Backend| {
            ask.tried.contains(&backend.id()) && backend.state.ejection.lock().refused > 0
        };
        let in_panic = self.judge_panic(members, now)
            || !offered().any(|b| b.state.is_up(now) && !has_refused(b));
        if offered().next().is_none() {
            return Err(Blocked::Empty);
        }
        let is_usable = |b: &&Arc<Backend>| in_panic || b.state.is_up(now);
        let usable = || offered().filter(is_usable);
        let some_untried = usable().any(|b| !ask.tried.contains(&b.id()));
        let mut terms = SelectionTerms {
            release,
            tried: if some_untried { ask.tried } else { &[] },
            in_panic,
            by_share: false,
            // The panic may have ended just now.
            skips_backups: members.has_backups && !in_panic,
        };
        let mut lease = self.offer(members, ask, now, terms);
        if lease.is_none() && terms.skips_backups {
            terms.skips_backups = false;
            lease = self.offer(members, ask, now, terms);
        }
        lease.ok_or_else(|| {
            let max_streams = self.shared.max_streams;
            let mut usable = usable().peekable();
            let is_full = usable.peek().is_some()
                && usable.all(|backend| !backend.state.has_room_for_stream(max_streams));
            if is_full && ask.is_for_stream() {
                Blocked::Streams
            } else {
                Blocked::Full
            }
        })
    }

    /// Determines whether all backends are out, so that all are used: except drained ones, which
    /// are out on purpose.
    pub(super) fn judge_panic(&self, members: &Members, now: u64) -> bool {
        let mut offered = members.list.iter().filter(|b| !b.is_drained()).peekable();
        let in_panic = offered.peek().is_some() && !offered.any(|backend| backend.state.is_up(now));
        if self.shared.live.set_panic(in_panic) {
            self.shared.metrics.panic.set(in_panic.into());
            let upstream = &*self.name;
            if in_panic {
                log::error!(upstream; "all backends out of rotation, using all of them");
            } else {
                log::warn!(upstream; "backend returned to rotation, using only those in rotation");
            }
        }
        in_panic
    }

    fn offer(
        &self,
        members: &Members,
        ask: &LeaseRequest<'_>,
        now: u64,
        terms: SelectionTerms<'_>,
    ) -> Option<Lease> {
        let max = self.shared.max_in_flight;
        let max_streams = self.shared.max_streams;
        let slow_start = self.shared.slow_start;
        let admits = |backend: &Backend| {
            backend.is_of(terms.release)
                && !(terms.skips_backups && backend.is_backup)
                && (terms.in_panic || backend.state.is_up(now))
                && backend.state.has_place(max)
                && (backend.state.has_room_for_stream(max_streams) || !ask.is_for_stream())
                && !terms.tried.contains(&backend.id())
                && (!terms.by_share || takes_its_share(backend, slow_start, now))
        };
        if let Some(backend) = self.by_cookie(members, ask, &admits)
            && self.reserve(backend, max, now)
        {
            return Some(Lease::new(backend.clone(), now, true));
        }
        let choice = BalanceInput {
            head: ask.head,
            client: ask.client,
            now,
        };
        // Other requests may take the last place between the choice and the reservation. As many
        // rounds as that can fail in, without spending long here.
        for _ in 0..=members.list.len().min(8) {
            let backend =
                members.choose(&self.balance, &self.shared.live.cursor, &choice, admits)?;
            if self.reserve(backend, max, now) {
                return Some(Lease::new(backend.clone(), now, false));
            }
        }
        None
    }

    /// Takes a place on `backend` if there is one.
    fn reserve(&self, backend: &Backend, max: u32, now: u64) -> bool {
        let is_reserved = backend.state.reserve(max);
        if is_reserved && self.balance == Balance::Node && backend.state.requests() == 1 {
            backend.state.node.began_to_wait(now);
        }
        is_reserved
    }

    /// Returns the backend of the client's cookie, if it may be chosen.
    fn by_cookie<'m>(
        &self,
        members: &'m Members,
        ask: &LeaseRequest<'_>,
        admits: &impl Fn(&Backend) -> bool,
    ) -> Option<&'m Arc<Backend>> {
        self.sticky.as_ref()?.sent(ask.head).find_map(|sent| {
            members.list.iter().find(|backend| {
                backend.cookie.as_ref().is_some_and(|own| own.value == sent) && admits(backend)
            })
        })
    }
}

/// Terms for choosing a backend.
#[derive(Clone, Copy)]
struct SelectionTerms<'a> {
    /// The release to choose from; `None` for backends without one.
    release: Option<&'a str>,
    /// Backends to exclude.
    tried: &'a [BackendId],
    /// Include backends that are out of rotation.
    in_panic: bool,
    /// Admit backends in slow start only for their share.
    by_share: bool,
    /// Exclude backups.
    skips_backups: bool,
}

/// Returns true for a part of the requests offered to a backend in slow start.
fn takes_its_share(backend: &Backend, slow_start: Duration, now: u64) -> bool {
    let share = backend.state.share(slow_start, now);
    share >= 1.0 || fastrand::f64() < share
}
