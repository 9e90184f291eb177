//! Announces when an API will be gone (RFC 8594), and responds with 410 from then on.

use std::{sync::Arc, time::SystemTime};

use chrono::DateTime;
use edgeway::filter::{
    Clock, CompileContext, Exchange, Filter, FilterKind, Guard, Phases, Reply, Spanned, Traits,
    Verdict,
};
use http::{HeaderName, HeaderValue, StatusCode, header, response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// When what this route serves will be gone.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SunsetConfig {
    /// The moment, such as `2030-01-31T00:00:00Z`; from then on requests get 410.
    at: Spanned<String>,
    /// The replacement: a URL for the header `Link`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    successor: Option<Spanned<String>>,
}

/// The compiled filter.
#[derive(Debug)]
pub(crate) struct Sunset {
    at: SystemTime,
    /// The same time, formatted for the header.
    date: HeaderValue,
    link: Option<HeaderValue>,
    clock: Clock,
}

impl FilterKind for Sunset {
    const NAME: &'static str = "sunset";
    type Config = SunsetConfig;

    fn compile(config: SunsetConfig, cx: &mut CompileContext<'_>) -> Option<Self> {
        let at = DateTime::parse_from_rfc3339(&config.at.value).map_err(|error| {
            cx.at(config.at.place, "sunset::at").error(
                format!("`{}` is no moment: {error}", config.at.value),
                "write one such as `2030-01-31T00:00:00Z`",
            );
        });
        let link = match &config.successor {
            None => Ok(None),
            Some(url) => {
                HeaderValue::try_from(format!("<{}>; rel=\"successor-version\"", url.value))
                    .map(Some)
                    .map_err(|_| {
                        cx.at(url.place, "sunset::successor").error(
                            format!("`{}` cannot stand in a header", url.value),
                            "write a URL such as `https://api.example.com/v2`",
                        );
                    })
            }
        };
        let at = at.ok()?.to_utc();
        let date = at.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        Some(Self {
            at: at.into(),
            date: HeaderValue::try_from(date).ok()?,
            link: link.ok()?,
            clock: cx.clock.clone(),
        })
    }
}

impl Filter for Sunset {
    fn traits(self: Arc<Self>) -> Traits {
        Traits::new(Phases::REQUEST | Phases::RESPONSE, Guard::Access)
    }

    fn on_request(&self, _ex: &mut Exchange<'_>) -> Verdict {
        if self.clock.wall() < self.at {
            return Verdict::Next;
        }
        Reply::refuse(StatusCode::GONE, "sunset")
            .detail("This address is no longer served.")
            .into()
    }

    /// The gateway's own replies pass here too, so that a 410 names the replacement.
    fn on_response(&self, _ex: &mut Exchange<'_>, parts: &mut response::Parts) {
        parts.headers.insert(SUNSET, self.date.clone());
        if let Some(link) = &self.link {
            parts.headers.append(header::LINK, link.clone());
        }
    }

    fn explain(&self, _ex: &Exchange<'_>) -> Vec<String> {
        let at = self.date.to_str().unwrap_or_default();
        vec![format!("410 from {at} on")]
    }
}
