//! Limits of a route for a request that another route takes: they count the request, and do not
//! change the rate limit headers of that route.

use std::{ops::Range, sync::Arc};

use edgeway_core::chain::{
    AsyncFilter, BoxFuture, Exchange, Filter, Guard, Phases, Traits, Verdict,
};

use super::{Charge, RateLimit};

/// All limits of a route, applied at once when the client's identity is known.
pub(super) struct GuardLimits(pub(super) Arc<RateLimit>);

impl GuardLimits {
    fn all(&self) -> Range<usize> {
        0..self.0.charges.len()
    }
}

impl Filter for GuardLimits {
    fn traits(self: Arc<Self>) -> Traits {
        let waits = self.0.charges.iter().any(Charge::waits);
        Traits::new(Phases::AUTHORIZED, Guard::Limit).waiting(Phases::AUTHORIZED.when(waits), self)
    }

    fn on_authorized(&self, ex: &mut Exchange<'_>) -> Verdict {
        self.0.apply_at_once(self.all(), ex).into()
    }
}

impl AsyncFilter for GuardLimits {
    fn on_authorized_async<'a>(&'a self, ex: &'a mut Exchange<'_>) -> BoxFuture<'a, Verdict> {
        Box::pin(self.0.apply_waiting(self.all(), ex))
    }
}
