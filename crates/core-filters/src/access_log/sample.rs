//! Sampling of lines: the share that is written, by the status of the request.

use std::collections::BTreeMap;

use edgeway_base::{statuses::Statuses, units::Percent};
use edgeway_config::tree::Spanned;
use edgeway_core::chain::CompileContext;
use edgeway_core::chain::FixedFields;

/// Key of the share of all statuses that are not listed.
const DEFAULT: &str = "default";

/// Shares by status.
#[derive(Debug)]
pub(super) struct Sample {
    default: Option<Share>,
    /// Single statuses come before classes.
    listed: Box<[(Statuses, Share)]>,
}

/// Share of lines that are written.
#[derive(Debug)]
pub(super) struct Share {
    below: f64,
    /// Text of the share as a fraction; empty for all lines.
    pub(super) rate: Box<str>,
}

impl Share {
    fn new(percent: Percent) -> Self {
        let below = percent.0 / 100.0;
        Self {
            below,
            rate: if below < 1.0 {
                below.to_string().into()
            } else {
                Box::default()
            },
        }
    }

    /// Decides about one line.
    pub(super) fn draw(&self) -> bool {
        fastrand::f64() < self.below
    }
}

impl Sample {
    /// Compiles the shares as written; reports those whose key is no status.
    pub(super) fn compile(
        written: &BTreeMap<String, Spanned<Percent>>,
        cx: &mut CompileContext<'_>,
    ) -> Self {
        let mut listed = Vec::new();
        for (key, share) in written.iter().filter(|(key, _)| *key != DEFAULT) {
            match key.parse::<Statuses>() {
                Ok(statuses) => {
                    let is_class = key.to_ascii_lowercase().contains("xx");
                    listed.push((is_class, statuses, Share::new(share.value)));
                }
                Err(error) => cx.at(share.place, "edgeway::access_log::sample").error(
                    error.to_string(),
                    "write `default`, or a status or class with its share: `2xx: 10%`",
                ),
            }
        }
        listed.sort_by_key(|(is_class, ..)| *is_class);
        let listed = listed
            .into_iter()
            .map(|(_, statuses, share)| (statuses, share));
        Self {
            default: written.get(DEFAULT).map(|share| Share::new(share.value)),
            listed: listed.collect(),
        }
    }

    /// Returns the share that applies to a request; `None` if each such request has a line. Errors
    /// and refusals have one unless their status is listed.
    pub(super) fn share_for(&self, request: &FixedFields) -> Option<&Share> {
        let mut listed = self.listed.iter();
        let entry = listed.find(|(statuses, _)| statuses.contains(request.status));
        if let Some((_, share)) = entry {
            return Some(share);
        }
        let is_error = request.status >= 500 || request.status == 0 || request.reason.is_some();
        self.default.as_ref().filter(|_| !is_error)
    }
}
