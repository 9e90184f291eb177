//! Writes one line for each request, to stdout or to a file that rotates. Never blocks a request.
//!
//! The line is formatted on the request's own thread into a buffer of the log's file
//! ([`log_file`](edgeway_net::log_file)); a full buffer drops lines and counts them. Failed writes
//! are retried while requests continue.

mod config;
mod escape;
mod fields;
mod headers;
mod layout;
mod line;
mod redact;
mod sample;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use edgeway_base::clock::Clock;
use edgeway_core::chain::{
    Exchange, Filter, Guard, HeaderUse, LateFields, LoggedRequest, Phases, Traits,
};
use edgeway_net::log_file::{
    LogKind, LogMetrics, RotationPolicy, Target, TimestampCache, WriterHandle,
};
use http::response;

use self::{config::AccessLogConfig, fields::Field, layout::Layout, sample::Sample};
pub use self::{config::redacted_words, redact::Redactor};
pub use self::{escape::put_json as put_json_text, line::Line};

/// Returns the name of everything that a JSON line may have, for documentation and samples.
pub fn field_names() -> Vec<&'static str> {
    let more = [
        "plugins",
        "request_headers",
        "response_headers",
        "sample_rate",
    ];
    let fields = Field::ALL.into_iter().map(Field::name);
    fields.chain(more).collect()
}

/// Counters of the log writer.
const ACCESS_LOG: LogKind = LogKind {
    name: "access log",
    written: (
        "edgeway_access_log_lines_total",
        "Access log lines written.",
    ),
    dropped: (
        "edgeway_access_log_dropped_total",
        "Access log lines lost because the disk or the reader was too slow or failed.",
    ),
    failing: (
        "edgeway_access_log_failing",
        "Access log files that cannot be written at the moment.",
    ),
};

/// The compiled filter; see `docs/filters/access_log.md`.
pub struct AccessLog {
    layout: Layout,
    sample: Option<Sample>,
    redact: Arc<Redactor>,
    clock: Clock,
    target: Target,
    rotation: RotationPolicy,
    counts: LogMetrics,
    /// Created by the first line: `edgeway check`, and a configuration that is refused for another
    /// reason, open no file and change no rotation.
    writer: OnceLock<Arc<WriterHandle>>,
}

filter_kind!(AccessLog: AccessLogConfig = "access_log", on_by_default = true);

impl Filter for AccessLog {
    fn traits(self: Arc<Self>) -> Traits {
        let reads_headers = !self.layout.headers.response.is_empty();
        Traits {
            response_headers: HeaderUse::Sent,
            // For other places that show queries of this route.
            extension: Some(Arc::clone(&self.redact) as _),
            ..Traits::new(
                Phases::LOG | Phases::RESPONSE.when(reads_headers),
                Guard::Nothing,
            )
        }
    }

    fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        let headers = self.layout.headers.of_response(&head.headers, &self.redact);
        ex.facts.put(headers);
    }

    fn on_log(
        &self,
        ex: &Exchange<'_>,
        request: &LoggedRequest<'_>,
        late: &mut Option<LateFields>,
    ) {
        let share = self
            .sample
            .as_ref()
            .and_then(|sample| sample.share_for(&request.fixed));
        if share.is_some_and(|share| !share.draw()) {
            return;
        }
        let line = Line {
            request,
            redact: &self.redact,
        };
        let writer = self.writer.get_or_init(|| {
            Arc::new(WriterHandle::join(
                &self.target,
                self.rotation.clone(),
                &self.clock,
                &self.counts,
            ))
        });
        let Some(late) = late else {
            return writer.push(|out, stamp| self.layout.put(out, stamp, &line, ex, share));
        };
        let mut text = Vec::new();
        self.layout
            .put(&mut text, &mut TimestampCache::default(), &line, ex, share);
        let (writer, format) = (Arc::clone(writer), self.layout.format);
        late.then(move |fields| writer.push(|out, _| format.put_with(out, &text, fields)));
    }
}
