//! Collector of traces: receives `ExportTraceServiceRequest` over gRPC or HTTP.
//!
//! Only headers of the configuration are sent, beside those of the content: variables such as
//! `OTEL_EXPORTER_OTLP_HEADERS` are meant for another collector.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::{Buf as _, BufMut as _, Bytes};
use edgeway_net::fetch::Fetch;
use http::{HeaderMap, HeaderValue, Method, Response, Uri, header, uri::PathAndQuery};
use tonic::{
    Code, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    transport::Channel,
};

use super::exporter::{ExportSettings, Transport};
use crate::base::error::chain;

/// Longest response that is read. A collector sends a few bytes.
const LONGEST: usize = 64 * 1024;

/// Repetitions of a request that the collector could not take, within the timeout of the whole.
const REPEATS: usize = 3;
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_millis(1600);

const EXPORT: PathAndQuery =
    PathAndQuery::from_static("/opentelemetry.proto.collector.trace.v1.TraceService/Export");
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// Client of a collector.
pub(super) enum Collector {
    Grpc {
        client: Box<Grpc<Channel>>,
        metadata: MetadataMap,
        timeout: Duration,
    },
    Http {
        client: Box<Fetch>,
        endpoint: Uri,
        headers: HeaderMap,
        timeout: Duration,
    },
}

impl Collector {
    /// Creates the client. Must run on the runtime that serves it.
    pub(super) fn new(settings: &ExportSettings) -> Result<Self, String> {
        let timeout = settings.timeout;
        Ok(match settings.transport {
            Transport::Grpc => Self::Grpc {
                client: Box::new(Grpc::new(settings.grpc_endpoint()?.connect_lazy())),
                metadata: MetadataMap::from_headers(settings.headers.clone()),
                timeout,
            },
            Transport::Http => {
                let mut headers = settings.headers.clone();
                headers.insert(header::CONTENT_TYPE, PROTOBUF);
                Self::Http {
                    client: Box::new(settings.fetch()?),
                    endpoint: settings
                        .endpoint
                        .parse()
                        .map_err(|error: http::uri::InvalidUri| error.to_string())?,
                    headers,
                    timeout,
                }
            }
        })
    }

    /// Sends a request, and again if the collector asks for that.
    pub(super) async fn send(&mut self, message: Bytes) -> Result<(), String> {
        let mut delays = ExponentialBuilder::default()
            .with_min_delay(FIRST_DELAY)
            .with_max_delay(LONGEST_DELAY)
            .with_max_times(REPEATS)
            .with_jitter()
            .build();
        loop {
            let refusal = match self.attempt(message.clone()).await {
                Ok(()) => return Ok(()),
                Err(refusal) => refusal,
            };
            let delay = delays.next().filter(|_| refusal.may_be_repeated);
            let Some(delay) = delay else {
                return Err(refusal.why);
            };
            tokio::time::sleep(delay.max(refusal.not_before)).await;
        }
    }

    async fn attempt(&mut self, message: Bytes) -> Result<(), Refusal> {
        match self {
            Self::Grpc {
                client,
                metadata,
                timeout,
            } => {
                client.ready().await.map_err(|error| Refusal {
                    // The collector is not there now.
                    may_be_repeated: true,
                    not_before: Duration::ZERO,
                    why: chain(&error),
                })?;
                let mut request = tonic::Request::new(message);
                *request.metadata_mut() = metadata.clone();
                request.set_timeout(*timeout);
                let sent = client.unary(request, EXPORT, Raw).await;
                sent.map(drop).map_err(|status| Refusal::of_status(&status))
            }
            Self::Http {
                client,
                endpoint,
                headers,
                timeout,
            } => {
                let mut request = http::Request::new(message);
                *request.method_mut() = Method::POST;
                *request.uri_mut() = endpoint.clone();
                *request.headers_mut() = headers.clone();
                match client.send_with_body(request, *timeout, LONGEST).await {
                    Ok(response) if response.status().is_success() => Ok(()),
                    Ok(response) => Err(Refusal::of_response(&response)),
                    Err(error) => Err(Refusal {
                        may_be_repeated: true,
                        not_before: Duration::ZERO,
                        why: error.to_string(),
                    }),
                }
            }
        }
    }
}

/// Refusal of a request.
struct Refusal {
    may_be_repeated: bool,
    /// Time that the collector asked for.
    not_before: Duration,
    why: String,
}

impl Refusal {
    /// OTLP, "Failures" of OTLP/gRPC.
    fn of_status(status: &Status) -> Self {
        let may_be_repeated = match status.code() {
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss => true,
            // Only if the collector says when.
            Code::ResourceExhausted => {
                let details = status.details();
                memchr::memmem::find(details, b"google.rpc.RetryInfo").is_some()
            }
            _ => false,
        };
        Self {
            may_be_repeated,
            not_before: Duration::ZERO,
            why: chain(status),
        }
    }

    /// OTLP, "Failures" of OTLP/HTTP.
    fn of_response(response: &Response<Bytes>) -> Self {
        let status = response.status().as_u16();
        let after = response.headers().get(header::RETRY_AFTER);
        let seconds = after.and_then(|value| value.to_str().ok()?.parse().ok());
        Self {
            may_be_repeated: matches!(status, 429 | 502 | 503 | 504),
            not_before: Duration::from_secs(seconds.unwrap_or_default()),
            why: format!("response with status {}", response.status()),
        }
    }
}

/// Codec of messages that are encoded already. What a collector responds with is not used.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        buffer.advance(buffer.remaining());
        Ok(Some(()))
    }
}
