//! Fields of a JSON line by name: which ones a log has, and in what order.

use std::sync::LazyLock;

use edgeway_base::trace_context::write_hex;
use edgeway_config::diagnostic;
use edgeway_core::chain::{CacheOutcome, LoggedRequest, Text};
use edgeway_net::log_file::TimestampCache;

use super::{
    escape::{put_address, put_json, put_millis, put_number, put_or_null},
    line::Line,
};

edgeway_base::enum_table! {
    /// A field of a line, in the order of `fields`. Those that a line has unless the configuration
    /// chooses come first.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Field => name {
        Time = "time",
        Id = "id",
        TraceId = "trace_id",
        SpanId = "span_id",
        Client = "client",
        Listener = "listener",
        Method = "method",
        Scheme = "scheme",
        Host = "host",
        Path = "path",
        Query = "query",
        Protocol = "protocol",
        Status = "status",
        BytesIn = "bytes_in",
        BytesOut = "bytes_out",
        Route = "route",
        PageRoute = "page_route",
        Class = "class",
        Upstream = "upstream",
        Backend = "backend",
        FailedBackend = "failed_backend",
        Attempts = "attempts",
        UpstreamStatus = "upstream_status",
        Cache = "cache",
        CacheWhy = "cache_why",
        TotalMs = "total_ms",
        FirstByteMs = "first_byte_ms",
        UpstreamMs = "upstream_ms",
        Reason = "reason",
        Limit = "limit",
        User = "user",
        UserAgent = "user_agent",
        Referer = "referer",
        Retries = "retries",
        Range = "range",
        Release = "release",
        Peer = "peer",
        Port = "port",
        TlsVersion = "tls_version",
        TlsCipher = "tls_cipher",
        TlsAlpn = "tls_alpn",
        ServerName = "server_name",
    }
}

impl Field {
    /// Returns true for a field that the usual line leaves out if it has no value.
    fn is_absent(self, request: &LoggedRequest<'_>) -> bool {
        match self {
            Self::TraceId | Self::SpanId => request.fixed.trace.is_none(),
            Self::PageRoute => request.text(Text::PageRoute).is_none(),
            Self::FailedBackend => request.text(Text::FailedBackend).is_none(),
            _ => false,
        }
    }

    /// Parses a name; the error is help for an unknown one.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        let field = Self::ALL.into_iter().find(|field| field.name() == name);
        field.ok_or_else(|| {
            let names = Self::ALL.into_iter().map(Self::name);
            diagnostic::suggest(name, names, "the fields are")
        })
    }
}

/// The fields of a log's JSON lines.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JsonFields {
    fields: Box<[JsonField]>,
}

/// Length of the longest text before a value.
const KEY: usize = 24;

/// A field, compiled to the text before its value.
#[derive(Debug, PartialEq, Eq)]
struct JsonField {
    /// The text, then spaces: a copy of constant length costs a third of one that varies.
    key: [u8; KEY],
    length: usize,
    field: Field,
    /// True if lines without a value omit it. The configuration lists no such field.
    is_optional: bool,
}

/// The fields of a line whose configuration chooses none.
pub(super) static USUAL: LazyLock<JsonFields> = LazyLock::new(|| JsonFields::without(&[]));

impl JsonFields {
    /// Compiles a list of fields.
    pub(super) fn new(fields: impl IntoIterator<Item = Field>) -> Self {
        let fields = fields.into_iter().map(|field| {
            let quote = if field.is_quoted() { "\"" } else { "" };
            let text = format!(",\"{}\":{quote}", field.name());
            let mut key = [b' '; KEY];
            key[..text.len()].copy_from_slice(text.as_bytes());
            JsonField {
                key,
                length: text.len(),
                field,
                is_optional: false,
            }
        });
        Self {
            fields: fields.collect(),
        }
    }

    /// Compiles the usual fields without some of them.
    pub(super) fn without(omitted: &[Field]) -> Self {
        let usual = &Field::ALL[..=Field::Referer as usize];
        let left = usual.iter().copied();
        let mut json = Self::new(left.filter(|field| !omitted.contains(field)));
        let nothing = LoggedRequest::default();
        for one in &mut json.fields {
            one.is_optional = one.field.is_absent(&nothing);
        }
        json
    }

    /// Returns true if a line may have no field.
    pub(super) fn is_empty(&self) -> bool {
        self.fields.iter().all(|one| one.is_optional)
    }

    /// Adds a line with these fields.
    pub(super) fn put(&self, out: &mut Vec<u8>, stamp: &mut TimestampCache, line: &Line<'_>) {
        out.reserve(1024);
        let start = out.len();
        for one in &self.fields {
            if one.is_optional && one.field.is_absent(line.request) {
                continue;
            }
            let end = out.len() + one.length;
            out.extend_from_slice(&one.key);
            out.truncate(end);
            one.field.put(out, stamp, line);
        }
        out.extend_from_slice(b"}\n");
        // The first key has a comma in front, as all have.
        out[start] = b'{';
    }
}

impl Field {
    /// Returns true if values are in quotes, the first of which is part of the key.
    fn is_quoted(self) -> bool {
        !matches!(
            self,
            Self::Status
                | Self::BytesIn
                | Self::BytesOut
                | Self::Attempts
                | Self::Retries
                | Self::Port
                | Self::UpstreamStatus
                | Self::TotalMs
                | Self::FirstByteMs
                | Self::UpstreamMs
        )
    }

    fn put(self, out: &mut Vec<u8>, stamp: &mut TimestampCache, line: &Line<'_>) {
        let request = line.request;
        let fixed = &request.fixed;
        match self {
            Self::Time => put_value(out, Some(()), |out, ()| stamp.put_rfc3339(out, fixed.ended)),
            Self::Client => put_value(out, Some(fixed.client), put_address),
            Self::Peer => put_value(out, Some(fixed.peer), put_address),
            Self::Query => put_value(out, request.text(Text::Query), |out, query| {
                line.redact.put(out, query, put_json);
            }),
            Self::Id => put_text(out, request, Text::Id),
            Self::Listener => put_text(out, request, Text::Listener),
            Self::Method => put_text(out, request, Text::Method),
            Self::Host => put_text(out, request, Text::Host),
            Self::Path => put_text(out, request, Text::Path),
            Self::Route => put_text(out, request, Text::Route),
            Self::Upstream => put_text(out, request, Text::Upstream),
            Self::Backend => put_text(out, request, Text::Backend),
            Self::Limit => put_text(out, request, Text::Limit),
            Self::User => put_text(out, request, Text::User),
            Self::UserAgent => put_text(out, request, Text::UserAgent),
            Self::Referer => put_text(out, request, Text::Referer),
            Self::Range => put_text(out, request, Text::Range),
            Self::Release => put_text(out, request, Text::Release),
            Self::ServerName => put_text(out, request, Text::ServerName),
            Self::FailedBackend => put_text(out, request, Text::FailedBackend),
            Self::PageRoute => put_text(out, request, Text::PageRoute),
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
            Self::UpstreamStatus => match fixed.upstream_status {
                0 => out.extend_from_slice(b"null"),
                status => put_number(out, status.into()),
            },
            Self::TotalMs => put_millis(out, fixed.total),
            Self::FirstByteMs => put_or_null(out, fixed.first_byte, put_millis),
            Self::UpstreamMs => put_or_null(out, fixed.upstream_first_byte, put_millis),
        }
    }
}

fn put_text(out: &mut Vec<u8>, request: &LoggedRequest<'_>, text: Text) {
    put_value(out, request.text(text), put_json);
}

/// Adds a word of ours, or of a list that needs no quoting.
fn put_word(out: &mut Vec<u8>, word: Option<&str>) {
    put_value(out, word, |out, word| {
        out.extend_from_slice(word.as_bytes());
    });
}

fn put_hex<const N: usize>(out: &mut Vec<u8>, id: Option<[u8; N]>) {
    put_value(out, id, |out, id| {
        let mut digits = [0; 32];
        write_hex(&mut digits, &id);
        out.extend_from_slice(&digits[..2 * N]);
    });
}

/// Adds a value and the quote after it, or `null` in place of the quote before it.
fn put_value<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    if let Some(value) = value {
        put(out, value);
        out.push(b'"');
    } else {
        out.pop();
        out.extend_from_slice(b"null");
    }
}
