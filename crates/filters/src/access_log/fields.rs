//! Fields of a JSON line by name: which ones a log has, and in what order.

use edgeway_base::trace_context::write_hex;
use edgeway_config::diagnostic;
use edgeway_core::chain::{CacheOutcome, LoggedRequest, Text};
use edgeway_net::log_file::TimestampCache;

use super::{
    escape::{
        put_address, put_json, put_millis, put_number, put_or_null, put_quoted, put_text_or_null,
    },
    line::Line,
};

/// Declares the fields with their names, in the order of a line, and the text that is the value.
macro_rules! fields {
    ($($field:ident $name:literal $(($text:ident))?,)*) => {
        /// A field of a line.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Field {
            $($field,)*
        }

        impl Field {
            /// Every field. Those that a line has unless the configuration chooses come first.
            pub(super) const ALL: &[Self] = &[$(Self::$field,)*];

            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$field => $name,)*
                }
            }

            /// Returns what stands before the value.
            fn key(self) -> &'static str {
                match self {
                    $(Self::$field => concat!(",\"", $name, "\":"),)*
                }
            }

            fn text(self) -> Option<Text> {
                match self {
                    $($(Self::$field => Some(Text::$text),)?)*
                    _ => None,
                }
            }
        }
    };
}

fields! {
    Time "time",
    Id "id" (Id),
    TraceId "trace_id",
    SpanId "span_id",
    Client "client",
    Listener "listener" (Listener),
    Method "method" (Method),
    Scheme "scheme",
    Host "host" (Host),
    Path "path" (Path),
    Query "query",
    Protocol "protocol",
    Status "status",
    BytesIn "bytes_in",
    BytesOut "bytes_out",
    Route "route" (Route),
    Class "class",
    Upstream "upstream" (Upstream),
    Backend "backend" (Backend),
    Attempts "attempts",
    UpstreamStatus "upstream_status",
    Cache "cache",
    CacheWhy "cache_why",
    TotalMs "total_ms",
    FirstByteMs "first_byte_ms",
    UpstreamMs "upstream_ms",
    Reason "reason",
    Limit "limit" (Limit),
    User "user" (User),
    UserAgent "user_agent" (UserAgent),
    Referer "referer" (Referer),
    Retries "retries",
    Range "range" (Range),
    Release "release" (Release),
    Peer "peer",
    Port "port",
    TlsVersion "tls_version",
    TlsCipher "tls_cipher",
    TlsAlpn "tls_alpn",
    ServerName "server_name" (ServerName),
    FailedBackend "failed_backend" (FailedBackend),
    PageRoute "page_route" (PageRoute),
}

impl Field {
    /// Returns the fields of a line whose configuration chooses none.
    pub(super) fn usual() -> &'static [Self] {
        let last = Self::ALL.iter().position(|field| *field == Self::Referer);
        &Self::ALL[..=last.unwrap_or(0)]
    }

    /// Returns the field that follows this one in a usual line, if the request has it.
    fn addition(self) -> Option<Self> {
        match self {
            Self::Route => Some(Self::PageRoute),
            Self::Backend => Some(Self::FailedBackend),
            _ => None,
        }
    }

    fn is_of_trace(self) -> bool {
        matches!(self, Self::TraceId | Self::SpanId)
    }

    /// Returns false for a field that a usual line of such a request lacks.
    fn is_there(self, request: &LoggedRequest<'_>) -> bool {
        match self {
            Self::TraceId | Self::SpanId => request.fixed.trace.is_some(),
            Self::PageRoute => request.text(Text::PageRoute).is_some(),
            Self::FailedBackend => request.text(Text::FailedBackend).is_some(),
            _ => true,
        }
    }

    /// Parses a name; the error is help for an unknown one.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|field| field.name() == name);
        found.copied().ok_or_else(|| {
            let names = Self::ALL.iter().map(|field| field.name());
            diagnostic::suggest(name, names, "the fields are")
        })
    }
}

/// Fields of a log's lines.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fields {
    /// The usual fields of the format.
    Usual,
    /// Usual fields that are left; as in the usual line, there are no ids of a trace where no traces
    /// are exported.
    Left(Box<[Field]>),
    Chosen(Box<[Field]>),
}

impl Fields {
    /// Returns the usual fields without some of them.
    pub(super) fn without(omitted: &[Field]) -> Self {
        let left = Field::usual().iter().copied();
        Self::Left(left.filter(|field| !omitted.contains(field)).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Usual => false,
            Self::Left(fields) => fields.iter().all(|field| field.is_of_trace()),
            Self::Chosen(fields) => fields.is_empty(),
        }
    }

    /// Adds a JSON line with these fields.
    pub(super) fn put(&self, out: &mut Vec<u8>, stamp: &mut TimestampCache, line: &Line<'_>) {
        out.reserve(1024);
        let start = out.len();
        let put = |field: Field| {
            out.extend_from_slice(field.key().as_bytes());
            field.put(out, stamp, line);
        };
        let is_there = |field: &Field| field.is_there(line.request);
        match self {
            Self::Usual => {
                let fields = Field::usual().iter();
                let fields = fields.flat_map(|field| [Some(*field), field.addition()]);
                fields.flatten().filter(is_there).for_each(put);
            }
            Self::Left(fields) => fields.iter().copied().filter(is_there).for_each(put),
            Self::Chosen(fields) => fields.iter().copied().for_each(put),
        }
        if let Some(comma) = out.get_mut(start) {
            *comma = b'{';
        }
        out.extend_from_slice(b"}\n");
    }
}

impl Field {
    fn put(self, out: &mut Vec<u8>, stamp: &mut TimestampCache, line: &Line<'_>) {
        let request = line.request;
        let fixed = &request.fixed;
        if let Some(text) = self.text() {
            return put_text_or_null(out, request.text(text));
        }
        match self {
            Self::Time => put_quoted(out, |out| stamp.put_rfc3339(out, fixed.ended)),
            Self::Client => put_quoted(out, |out| put_address(out, fixed.client)),
            Self::Peer => put_quoted(out, |out| put_address(out, fixed.peer)),
            Self::Query => put_or_null(out, request.text(Text::Query), |out, query| {
                put_quoted(out, |out| line.redact.put(out, query, put_json));
            }),
            Self::Scheme => put_word(out, Some(fixed.scheme.as_str())),
            Self::Protocol => put_word(out, Some(fixed.protocol.as_str())),
            Self::Class => put_word(out, Some(fixed.class.name())),
            Self::Cache => put_word(out, fixed.cache.map(CacheOutcome::name)),
            Self::CacheWhy => put_word(out, fixed.cache_why),
            Self::Reason => put_word(out, fixed.reason),
            Self::TlsVersion => put_word(out, fixed.tls.map(|tls| tls.version)),
            Self::TlsCipher => put_word(out, fixed.tls.map(|tls| tls.cipher)),
            Self::TlsAlpn => put_word(out, fixed.tls.and_then(|tls| tls.alpn)),
            Self::TraceId => put_hex(out, fixed.trace.map(|ids| ids.trace.to_be_bytes())),
            Self::SpanId => put_hex(out, fixed.trace.map(|ids| ids.span.to_be_bytes())),
            Self::Status => put_number(out, fixed.status.into()),
            Self::BytesIn => put_number(out, fixed.bytes_in),
            Self::BytesOut => put_number(out, fixed.bytes_out),
            Self::Attempts => put_number(out, fixed.attempts.into()),
            Self::Retries => put_number(out, fixed.attempts.saturating_sub(1).into()),
            Self::Port => put_number(out, fixed.port.into()),
            Self::UpstreamStatus => {
                let status = Some(fixed.upstream_status).filter(|status| *status != 0);
                put_or_null(out, status, |out, status| put_number(out, status.into()));
            }
            Self::TotalMs => put_millis(out, fixed.total),
            Self::FirstByteMs => put_or_null(out, fixed.first_byte, put_millis),
            Self::UpstreamMs => put_or_null(out, fixed.upstream_first_byte, put_millis),
            _ => {}
        }
    }
}

/// Adds a word of ours, or of a list that needs no quoting.
fn put_word(out: &mut Vec<u8>, word: Option<&str>) {
    put_text_or_null(out, word.map(str::as_bytes));
}

fn put_hex<const N: usize>(out: &mut Vec<u8>, id: Option<[u8; N]>) {
    put_or_null(out, id, |out, id| {
        let mut digits = [0; 32];
        write_hex(&mut digits, &id);
        put_quoted(out, |out| out.extend_from_slice(&digits[..2 * N]));
    });
}
