//! Hooks that see the headers of a response.

use edgeway_core::chain::Exchange;
use edgeway_script::{
    Hook,
    header_changes::{apply, may_become},
};
use http::response;

use super::Plugins;

/// Fact of a request whose response a hook did not handle, or not wholly. What the hook would have
/// done is unknown, such as keeping the response private.
pub struct FailedResponseHook;

impl Plugins {
    pub(super) async fn run_on_response(
        &self,
        ex: &mut Exchange<'_>,
        head: &mut response::Parts,
        hook: Hook,
    ) {
        // Responses pass the plugins in the reverse order of requests.
        for each in self.with(hook, ex).into_iter().rev() {
            let response = Some((head.status, head.headers.clone()));
            let headers = ex.head.headers.clone();
            let input = each.input(ex, headers, response);
            let Some(output) = each.run(ex, hook, input).await else {
                ex.facts.put(FailedResponseHook);
                continue;
            };
            apply(&output.response, &mut head.headers);
            if let Some(status) = output.status {
                match may_become(head.status, status) {
                    Ok(()) => head.status = status,
                    Err(failure) => {
                        each.report_failure(ex, hook, &failure);
                        ex.facts.put(FailedResponseHook);
                    }
                }
            }
        }
    }
}
