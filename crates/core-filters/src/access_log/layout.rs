//! Layout of a log's lines: the format, and what the configuration chose to be in them.

use edgeway_core::chain::Exchange;
use edgeway_net::log_file::TimestampCache;

use super::{
    fields::JsonFields,
    headers::LoggedHeaders,
    line::{Line, LineFormat},
    sample::Share,
};

/// Layout of lines, compiled.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) format: LineFormat,
    pub(super) fields: JsonFields,
    pub(super) headers: LoggedHeaders,
}

impl Layout {
    pub(super) fn put(
        &self,
        out: &mut Vec<u8>,
        stamp: &mut TimestampCache,
        line: &Line<'_>,
        ex: &Exchange<'_>,
        share: Option<&Share>,
    ) {
        match self.format {
            LineFormat::Json => self.fields.put(out, stamp, line),
            LineFormat::Compat => line.put_compat(out, stamp),
            LineFormat::Short => line.put_short(out, stamp),
        }
        let rate = share.map_or("", |share| &*share.rate);
        if self.headers.is_empty() && rate.is_empty() {
            return;
        }
        let end = self.format.end();
        out.truncate(out.len() - end.len());
        let name: &[u8] = match self.format {
            LineFormat::Json => {
                self.headers.put_json(out, ex, line.redact);
                b",\"sample_rate\":"
            }
            LineFormat::Compat | LineFormat::Short => {
                self.headers.put_compat(out, ex, line.redact);
                b" sample_rate="
            }
        };
        if !rate.is_empty() {
            out.extend_from_slice(name);
            out.extend_from_slice(rate.as_bytes());
        }
        out.extend_from_slice(end);
    }
}
