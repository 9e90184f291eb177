//! Decision, without JavaScript, whether a plugin handles a request.

use std::mem;

use edgeway_base::{spelling::readings, target::has_spellings};
use edgeway_core::chain::{Exchange, host::public_host};
use edgeway_script::{ClientRequest, matcher::host_name};

use super::{Plugins, RoutePlugin, path_of};

impl Plugins {
    /// Returns the guards before the plugin at `place` that handle the path which it gave to the
    /// request, and did not handle the one `before`.
    pub(super) fn skipped_guards(
        &self,
        place: usize,
        before: Option<Box<[u8]>>,
        ex: &mut Exchange<'_>,
    ) -> Vec<(usize, &RoutePlugin)> {
        let turn = |place: usize| (self.uses[place].after_auth, place);
        let rewritten = mem::replace(&mut ex.facts.rewritten, before);
        let mut guards: Vec<_> = self.uses.iter().enumerate().collect();
        guards.retain(|(at, each)| each.is_guard && turn(*at) < turn(place) && !each.is_for(ex));
        ex.facts.rewritten = rewritten;
        guards.retain(|(_, each)| each.is_for(ex));
        guards
    }
}

impl RoutePlugin {
    /// Returns true if the plugin handles the request; decided without JavaScript. A guard also
    /// handles the path that a plugin gave to the request.
    pub(super) fn is_for(&self, ex: &Exchange<'_>) -> bool {
        let rewritten = ex.facts.rewritten.as_deref().filter(|_| self.is_guard);
        self.is_for_target(ex, ex.head.raw_path())
            || rewritten.is_some_and(|target| self.is_for_target(ex, target))
    }

    fn is_for_target(&self, ex: &Exchange<'_>, target: &[u8]) -> bool {
        let path = &*path_of(target);
        let host = || host_name(public_host(ex.head, &ex.facts.client));
        let request = || ClientRequest {
            headers: &ex.head.headers,
            target,
            host: host(),
        };
        let is_met =
            self.matcher.is_for(&ex.head.method, path, host) && self.plugin.is_for(path, request);
        if is_met || !self.is_guard {
            return is_met;
        }
        // No client gets around a guard with a spelling that the app accepts for one of its paths.
        let has_paths = !self.matcher.paths.is_empty() || self.plugin.has_matcher();
        let raw = path.as_bytes();
        let is_read_so = |reading: &[u8]| {
            let reading = String::from_utf8_lossy(reading);
            let takes_reading = self.matcher.is_for_reading(&ex.head.method, &reading, host);
            takes_reading && self.plugin.is_for_reading(&reading, request)
        };
        has_paths
            && (self.has_odd_paths || has_spellings(raw))
            && readings(raw).into_iter().any(|reading| {
                is_read_so(reading.path()) || is_read_so(reading.with_slash().path())
            })
    }
}
