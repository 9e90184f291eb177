//! Active health checks: their schedule, their method, and their effect.

mod probe;
mod state;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use http::uri::PathAndQuery;

use self::probe::{HttpPlan, ProbeMethod};
pub(super) use self::{
    probe::{FoundReport, NO_SOCKET, ProbeLog, ProbePlan, ProbeReport, Prober, REFUSED},
    state::{Health, HealthChange, HealthExport, HealthRules, jittered},
};
use super::compile::report_zero;
use crate::{
    chain::CompileContext,
    config::{
        diagnostic::Place,
        model::{HealthConfig, StatusSet, UpstreamConfig},
    },
};

/// Selection of the backends that are checked, and the method.
#[derive(Clone, Debug)]
pub(super) enum Probing {
    /// `health: false`: only drained backends, by a TCP connect each second, since the operator who
    /// drained them waits for them to come back. An ejection ends with its time.
    Drained { plan: ProbePlan },
    /// No `health`: ejected backends too, so that an app that was restarted is back within seconds.
    Out { plan: ProbePlan },
    /// `health: { … }`: all of them.
    Active {
        rules: HealthRules,
        plan: ProbePlan,
        starts_up: bool,
    },
}

/// Interval of checks of a backend that is out, if none is configured.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

impl Probing {
    /// Compiles the checks; `None` if a problem was reported.
    pub(super) fn compile(config: &UpstreamConfig, cx: &mut CompileContext<'_>) -> Option<Self> {
        let look = ProbePlan {
            how: ProbeMethod::Tcp,
            timeout: LOOK_TIMEOUT,
        };
        let Some(written) = &config.health else {
            return Some(Self::Out { plan: look });
        };
        let health = &written.value;
        if !health.enabled {
            return Some(Self::Drained { plan: look });
        }
        let zero = [
            ("health.interval", health.interval.0.is_zero()),
            ("health.interval_down", health.interval_down.0.is_zero()),
            ("health.timeout", health.timeout.0.is_zero()),
        ];
        for (name, _) in zero.iter().filter(|(_, is_zero)| *is_zero) {
            let help = "write a time, such as `2s`; for no checks at all write `health: false`";
            report_zero(written.place, name, help, cx);
        }
        let how = ProbeMethod::compile(health, written.place, cx)?;
        Some(Self::Active {
            rules: HealthRules::from(health),
            plan: ProbePlan {
                how,
                timeout: health.timeout.0,
            },
            starts_up: !health.start_down,
        })
    }

    pub(super) fn starts_up(&self) -> bool {
        match self {
            Self::Drained { .. } | Self::Out { .. } => true,
            Self::Active { starts_up, .. } => *starts_up,
        }
    }

    /// Returns the method of checks.
    pub(super) fn plan(&self) -> &ProbePlan {
        match self {
            Self::Drained { plan } | Self::Out { plan } | Self::Active { plan, .. } => plan,
        }
    }

    /// Interval between two checks of a backend that is out.
    pub(super) fn interval_down(&self) -> Duration {
        match self {
            Self::Drained { .. } | Self::Out { .. } => RECHECK_INTERVAL,
            Self::Active { rules, .. } => rules.interval_down,
        }
    }
}

impl ProbeMethod {
    fn compile(health: &HealthConfig, place: Place, cx: &mut CompileContext<'_>) -> Option<Self> {
        const CODE: &str = "edgeway::upstream::bad_health";
        let Some(path) = &health.path else {
            let for_http = [
                ("json", health.json),
                ("expect", health.expect.is_some()),
                ("host", health.host.is_some()),
            ];
            for (name, _) in for_http.iter().filter(|(_, is_set)| *is_set) {
                cx.at(place, CODE).error(
                    format!("`health.{name}` needs an HTTP check, and this is a TCP one"),
                    "add `path`, such as `path: /api/health`",
                );
            }
            return for_http
                .iter()
                .all(|(_, is_set)| !is_set)
                .then_some(Self::Tcp);
        };
        let expect = match &health.expect {
            None => StatusSet::default(),
            Some(written) => {
                let is_status = |(from, to): &(u16, u16)| (100..=*to).contains(from) && *to < 600;
                if written.value.0.is_empty() || !written.value.0.iter().all(is_status) {
                    return cx.at(written.place, CODE).refuse(
                        "invalid `health.expect`",
                        "write statuses from 100 to 599, such as `200` or `[200-299, 401]`",
                    );
                }
                written.value.clone()
            }
        };
        let written = path;
        let Some(path) = parse_path(&written.value) else {
            return cx.at(written.place, CODE).refuse(
                format!("invalid path `{}`", written.value),
                "write a path that starts with `/`, percent-encoded: `/api/health`",
            );
        };
        if let Some(host) = &health.host
            && http::uri::Authority::try_from(host.as_str()).is_err()
        {
            return cx.at(place, CODE).refuse(
                format!("invalid host `{host}`"),
                "write a name, with a port if it needs one: `shop.example.com`",
            );
        }
        Some(Self::Http(Arc::new(HttpPlan {
            path,
            host: health.host.clone(),
            expect,
            json: health.json,
        })))
    }
}

/// Parses the path of a check; `None` if it is not one.
fn parse_path(path: &str) -> Option<PathAndQuery> {
    let is_target = |byte: u8| byte.is_ascii_graphic() && byte != b'#' && byte != b'"';
    if !path.starts_with('/') || !path.bytes().all(is_target) {
        return None;
    }
    path.parse().ok()
}
