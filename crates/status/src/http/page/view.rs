//! The templates of the page and of the login, in `templates/`.

use askama::Template;
use chrono::{DateTime, Utc};
use edgeway_base::out;

use super::{
    figures,
    tail::{self, Tail},
    tiles::{self, Tile},
};
use crate::{
    Snapshot,
    latencies::Latencies,
    problems::{self, Problem, Severity},
    snapshot::{BackendStatus, BanStatus, CertificateExpiry, PurgeLinkStatus, RouteStatus, State},
    table,
};

/// Name of the field by which a form shows that a page of ours sent it.
pub(super) const CSRF_FIELD: &str = "csrf";
/// Number of routes without requests that are shown as the others are.
const QUIET_SHOWN: usize = 5;

/// Returns the hidden field of a form; empty without a value. Values are ours, and need no escapes.
pub(super) fn hidden_csrf(csrf: Option<&str>) -> String {
    csrf.map_or_else(String::new, |csrf| {
        format!("<input type=\"hidden\" name=\"{CSRF_FIELD}\" value=\"{csrf}\">")
    })
}

pub(super) fn rendered(template: &impl Template) -> String {
    template.to_string().trim().to_owned()
}

/// The sections that are kept up to date.
#[derive(Template)]
#[template(
    path = "sections.html",
    whitespace = "minimize",
    blocks = [
        "summary", "traffic", "routes", "upstreams", "cache", "limits", "plugins", "certificates",
        "reloads", "shared", "listeners",
    ]
)]
struct Sections<'a> {
    status: &'a Snapshot,
    bans: Vec<BanStatus>,
    /// The hidden field of the forms.
    csrf: String,
    at: DateTime<Utc>,
    problems: Vec<Problem>,
}

/// Renders the sections by their ids, in the order of the page. A section without anything to show
/// is empty.
pub(super) fn sections(
    status: &Snapshot,
    bans: Vec<BanStatus>,
    csrf: Option<&str>,
) -> Vec<(&'static str, String)> {
    let time = problems::time_of(status).unwrap_or_default();
    let sections = Sections {
        status,
        bans,
        csrf: hidden_csrf(csrf),
        at: time,
        problems: problems::find(status, time),
    };
    vec![
        ("summary", rendered(&sections.as_summary())),
        ("traffic", rendered(&sections.as_traffic())),
        ("routes", rendered(&sections.as_routes())),
        ("upstreams", rendered(&sections.as_upstreams())),
        ("cache", rendered(&sections.as_cache())),
        ("limits", rendered(&sections.as_limits())),
        ("plugins", rendered(&sections.as_plugins())),
        ("certificates", rendered(&sections.as_certificates())),
        ("reloads", rendered(&sections.as_reloads())),
        ("shared", rendered(&sections.as_shared())),
        ("listeners", rendered(&sections.as_listeners())),
    ]
}

impl Sections<'_> {
    fn count(&self, severity: Severity) -> usize {
        let problems = self.problems.iter();
        problems.filter(|it| it.severity == severity).count()
    }

    fn tiles(&self) -> [Tile; 4] {
        tiles::tiles(&self.status.traffic)
    }

    /// Returns the routes, those first that fail, then the busiest; and many that had no requests,
    /// which are folded.
    fn routes(&self) -> (Vec<&RouteStatus>, Vec<&RouteStatus>) {
        let is_quiet =
            |route: &RouteStatus| route.traffic.p50_ms.is_none() && route.traffic.rate == 0.0;
        let mut order: Vec<&RouteStatus> = self.status.routes.iter().collect();
        order.sort_by(|a, b| {
            let (a, b) = (&a.traffic, &b.traffic);
            let failing = problems::is_failing(b).cmp(&problems::is_failing(a));
            failing.then(b.rate.total_cmp(&a.rate))
        });
        let quiet = order.iter().filter(|route| is_quiet(route)).count();
        order
            .into_iter()
            .partition(|route| quiet <= QUIET_SHOWN || !is_quiet(route))
    }

    fn shared_link(&self) -> Option<&PurgeLinkStatus> {
        self.status.purges.as_ref().filter(|link| link.shared)
    }

    /// Returns true if a certificate is valid for long, and the time for which it is.
    fn remaining(&self, expiry: &CertificateExpiry) -> (bool, String) {
        let left = problems::time_left(expiry, self.at);
        let is_good = !left.is_some_and(problems::is_soon);
        let text = match left.map(|left| (left.num_seconds(), left.num_days())) {
            None => String::new(),
            Some((..=0, _)) => "expired".to_owned(),
            Some((_, days)) => format!("{} left", out::counted(days, "day")),
        };
        (is_good, text)
    }
}

fn failed_probe(backend: &BackendStatus) -> Option<&str> {
    let probe = backend.probe.as_ref()?;
    (!probe.passed).then_some(&probe.text)
}

/// Returns the action of a backend's button.
fn drain_or_undrain(backend: &BackendStatus) -> &'static str {
    let is_drained = problems::is_drained(backend);
    if is_drained { "undrain" } else { "drain" }
}

/// The page as a whole.
#[derive(Template)]
#[template(path = "status.html", whitespace = "minimize")]
pub(super) struct Page<'a> {
    pub(super) status: &'a Snapshot,
    pub(super) sections: Vec<(&'static str, String)>,
    pub(super) tail: Tail,
    /// The hidden field of the forms.
    pub(super) csrf: String,
    /// True if there is a session to leave.
    pub(super) may_leave: bool,
    /// The result of a form.
    pub(super) result: Option<&'a str>,
    pub(super) is_refreshed: bool,
}

/// A page with a message alone, which script shows in its place on the page.
#[derive(Template)]
#[template(path = "message.html", whitespace = "minimize")]
pub(super) struct Message<'a> {
    pub(super) notice: &'a str,
}

#[derive(Template)]
#[template(path = "login.html", whitespace = "minimize")]
pub(super) struct Login<'a> {
    /// Key of a link for one use.
    pub(super) link: Option<&'a str>,
    /// Reason of a failed login.
    pub(super) why: Option<&'a str>,
    pub(super) has_token: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_without_anything_to_show_is_empty() {
        let sections = sections(&Snapshot::default(), Vec::new(), None);
        let empty = sections.iter().filter(|(_, html)| html.is_empty());
        let empty: Vec<&str> = empty.map(|(id, _)| *id).collect();
        assert_eq!(
            empty,
            ["cache", "plugins", "certificates", "reloads", "shared"]
        );
    }
}
