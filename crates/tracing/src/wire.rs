//! Spans in the form in which they are sent: the protobuf messages of OTLP, written field by field.
//!
//! A sampled request costs a few thousand instructions this way. As structs of the SDK, which are
//! converted to structs of the protocol, each with its own texts and lists, it was over 80,000.
//! The field numbers are those of `opentelemetry/proto/trace/v1/trace.proto` and
//! `common/v1/common.proto`; a test compares the bytes with those of OpenTelemetry's own exporter.

/// Wire types of protobuf.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;
const FIXED32: u32 = 5;

/// Fields of `KeyValue` and of `AnyValue`.
const KEY: u32 = 1;
const VALUE: u32 = 2;
const STRING: u32 = 1;
const BOOL: u32 = 2;
const INT: u32 = 3;
const DOUBLE: u32 = 4;

/// Fields of a protobuf message, in the order of their numbers.
#[derive(Debug, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    fn tag(&mut self, field: u32, wire: u32) {
        self.varint((field << 3 | wire).into());
    }

    /// Writes a field of bytes or text, unless it is empty.
    pub(crate) fn bytes(&mut self, field: u32, value: &[u8]) {
        if !value.is_empty() {
            self.message(field, value);
        }
    }

    /// Writes a text of several parts, unless it is empty.
    pub(crate) fn text(&mut self, field: u32, parts: &[&str]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length == 0 {
            return;
        }
        self.tag(field, LENGTH);
        self.varint(length as u64);
        for part in parts {
            self.0.extend_from_slice(part.as_bytes());
        }
    }

    /// Writes a message, also an empty one.
    pub(crate) fn message(&mut self, field: u32, value: &[u8]) {
        self.tag(field, LENGTH);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// Writes a number that is not 0.
    pub(crate) fn number(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.tag(field, VARINT);
            self.varint(value);
        }
    }

    pub(crate) fn fixed64(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.tag(field, FIXED64);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    pub(crate) fn fixed32(&mut self, field: u32, value: u32) {
        if value != 0 {
            self.tag(field, FIXED32);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// Writes a `KeyValue` up to its value, which has `length` bytes.
    fn key(&mut self, field: u32, key: &str, length: usize) {
        let size = 1 + varint_length(key.len()) + key.len() + 1 + varint_length(length) + length;
        self.tag(field, LENGTH);
        self.varint(size as u64);
        self.bytes(KEY, key.as_bytes());
        self.tag(VALUE, LENGTH);
        self.varint(length as u64);
    }

    pub(crate) fn text_attribute(&mut self, field: u32, key: &str, value: &str) {
        let length = 1 + varint_length(value.len()) + value.len();
        self.key(field, key, length);
        self.message(STRING, value.as_bytes());
    }

    pub(crate) fn int_attribute(&mut self, field: u32, key: &str, value: i64) {
        let value = value.cast_unsigned();
        self.key(field, key, 1 + varint_length_of(value));
        self.tag(INT, VARINT);
        self.varint(value);
    }

    pub(crate) fn bool_attribute(&mut self, field: u32, key: &str, value: bool) {
        self.key(field, key, 2);
        self.tag(BOOL, VARINT);
        self.varint(value.into());
    }

    pub(crate) fn double_attribute(&mut self, field: u32, key: &str, value: f64) {
        self.key(field, key, 9);
        self.tag(DOUBLE, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }
}

fn varint_length(value: usize) -> usize {
    varint_length_of(value as u64)
}

fn varint_length_of(value: u64) -> usize {
    let bits = u64::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Spans of finished requests, each as a field of `ScopeSpans`.
#[derive(Debug, Default)]
pub(crate) struct EncodedSpans {
    pub(crate) count: usize,
    pub(crate) bytes: Vec<u8>,
}

impl EncodedSpans {
    pub(crate) fn append(&mut self, more: &Self) {
        self.count += more.count;
        self.bytes.extend_from_slice(&more.bytes);
    }
}

/// Parts of a request to a collector that are the same for each batch.
#[derive(Debug)]
pub(crate) struct Envelope {
    /// `ResourceSpans.resource`.
    resource: Vec<u8>,
    /// `ScopeSpans.scope`.
    scope: Vec<u8>,
}

impl Envelope {
    /// Creates the envelope of a resource with these attributes.
    pub(crate) fn new<'a>(attributes: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut resource = Message::default();
        for (key, value) in attributes {
            resource.text_attribute(1, key, value);
        }
        let mut named = Message::default();
        named.bytes(1, b"edgeway");
        let framed = |inner: &Message| {
            let mut outer = Message::default();
            outer.message(1, inner.as_bytes());
            outer.into_bytes()
        };
        Self {
            resource: framed(&resource),
            scope: framed(&named),
        }
    }

    /// Returns the `ExportTraceServiceRequest` for these spans.
    pub(crate) fn around(&self, spans: &[u8]) -> Vec<u8> {
        let scope_spans = self.scope.len() + spans.len();
        let field = 1 + varint_length(scope_spans) + scope_spans;
        let resource_spans = self.resource.len() + field;
        let mut request = Message::with_capacity(resource_spans + 16);
        request.tag(1, LENGTH);
        request.varint(resource_spans as u64);
        request.0.extend_from_slice(&self.resource);
        request.tag(2, LENGTH);
        request.varint(scope_spans as u64);
        request.0.extend_from_slice(&self.scope);
        request.0.extend_from_slice(spans);
        request.into_bytes()
    }
}
