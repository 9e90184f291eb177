//! Decision, without JavaScript, whether a plugin handles a request.

use edgeway_base::{spelling::readings, target::has_spellings};
use edgeway_core::chain::{Exchange, host::public_host};
use edgeway_script::{ClientRequest, matcher::host_name};

use super::{RoutePlugin, path_of};

impl RoutePlugin {
    /// Returns true if the plugin handles the request; decided without JavaScript.
    pub(super) fn is_for(&self, ex: &Exchange<'_>) -> bool {
        let target = ex.head.raw_path();
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
            let own = self.matcher.is_for_reading(&ex.head.method, &reading, host);
            own && self.plugin.is_for_reading(&reading, request)
        };
        has_paths
            && (self.has_odd_paths || has_spellings(raw))
            && readings(raw).into_iter().any(|reading| {
                is_read_so(reading.path()) || is_read_so(reading.with_slash().path())
            })
    }
}
