//! The `listeners:` section and `acme:` as written.

use std::path::PathBuf;

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::json;
use smart_default::SmartDefault;

use super::{OneOrMany, Spanned, seconds, shorthand::at_least_one};
use crate::{
    base::units::{ByteSize, Span},
    tree::short::{self, Short, short_form},
};

/// An address at which clients connect.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// `127.0.0.1:8080`, `[::1]:8080`, `:8080` (all addresses) or `unix:/run/edgeway/http.sock`.
    pub address: Spanned<String>,
    /// The name in metrics and logs; the address if absent.
    pub name: Option<String>,
    /// Permissions of a unix socket, in octal: `"0660"`.
    pub mode: Option<Spanned<String>>,
    /// Enables TLS: certificates, versions, client certificates.
    pub tls: Option<Spanned<TlsConfig>>,
    /// Redirects clients to HTTPS: `https`, or a mapping.
    pub redirect: Option<Spanned<ToHttpsConfig>>,
    /// Takes the client's address from the PROXY protocol (v1 and v2), which then must begin each
    /// connection: a list of the networks that may send it, or a mapping.
    pub proxy_protocol: Option<Spanned<ProxyProtocolConfig>>,
    /// HTTP/2: over TLS by ALPN, without TLS only where `cleartext` is set.
    #[serde(default)]
    pub http2: Http2Config,
    /// Limits on the clients' use of resources.
    #[serde(default)]
    pub limits: Spanned<LimitsConfig>,
    /// Header names with an underscore, which some apps treat as a hyphen: `drop` removes the
    /// header (as nginx does), `refuse` responds with 400, `allow` passes it on.
    #[serde(default)]
    pub underscores: UnderscoresConfig,
}

/// TLS of a listener. Versions 1.2 and 1.3, ECDHE with AEAD ciphers only.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// `{ cert: site.pem, key: site.key }` or `{ dir: tls/ }`, or a list of them. Its names are
    /// read from the certificate. Files are watched, and reloaded when they change.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub certificates: OneOrMany<Spanned<CertificateConfig>>,
    /// Names to get certificates for by ACME; the account is configured under `acme:`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acme: Vec<Spanned<String>>,
    /// Response to a client that requests a name without a certificate: the `default` certificate
    /// (the first one), or `refuse` ends the handshake.
    #[serde(default)]
    pub unknown_names: UnknownNamesConfig,
    /// Lowest TLS version: `"1.2"` or `"1.3"`.
    #[serde(default)]
    pub min_version: MinVersionConfig,
    /// Requests a client certificate issued by the CA in this PEM file.
    pub client_ca: Option<Spanned<PathBuf>>,
    /// Requirement of a client certificate: `required` or `optional`.
    pub client_certificate: Option<Spanned<ClientCertificateConfig>>,
    /// Time limit of a handshake.
    #[serde(default = "seconds::<5>")]
    pub handshake_timeout: Span,
}

/// Certificates from files.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CertificateConfig {
    /// The chain, leaf first, in PEM.
    pub cert: Option<Spanned<PathBuf>>,
    /// Its private key, in PEM.
    pub key: Option<Spanned<PathBuf>>,
    /// A stapled OCSP response in DER, kept fresh by other means.
    pub ocsp: Option<Spanned<PathBuf>>,
    /// A folder with pairs `NAME.pem` (or `.crt`) and `NAME.key`, and optionally `NAME.ocsp`; or
    /// with folders in certbot's layout (`NAME/fullchain.pem` and `NAME/privkey.pem`).
    pub dir: Option<Spanned<PathBuf>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownNamesConfig {
    #[default]
    Default,
    Refuse,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum MinVersionConfig {
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificateConfig {
    Required,
    Optional,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnderscoresConfig {
    #[default]
    Drop,
    Refuse,
    Allow,
}

/// Redirects clients from HTTP to HTTPS with 308: `https`, or a mapping. ACME challenges, the
/// health paths of upstreams, `/healthz` and `/readyz` are served nevertheless.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = or_https)]
pub struct ToHttpsConfig {
    /// The port in the browser's address bar. If absent: the port of a listener with `tls`; 443 if
    /// one has that port, or if no listener has `tls`.
    pub port: Option<u16>,
    /// Paths that are served without TLS: `/exact` or `/prefix/*`.
    pub except: Vec<Spanned<String>>,
}

/// PROXY protocol: a list of networks, or a mapping.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = or_a_list_of_networks)]
pub struct ProxyProtocolConfig {
    /// The networks that may send it; connections from others are closed. On a unix socket the mode
    /// decides about access, and this may be empty.
    pub from: Vec<Spanned<String>>,
    /// Time limit for receiving its header.
    #[serde(default = "seconds::<3>")]
    pub timeout: Span,
}

/// HTTP/2 to clients.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(deny_unknown_fields, default)]
pub struct Http2Config {
    /// `false` switches HTTP/2 off.
    #[default(true)]
    pub enabled: bool,
    /// Accepts HTTP/2 without TLS from clients with prior knowledge.
    pub cleartext: bool,
    /// Concurrent streams on one connection.
    #[serde(deserialize_with = "at_least_one")]
    #[schemars(range(min = 1))]
    #[default(128)]
    pub concurrent_streams: u32,
    /// Streams that a client may reset within 10 s.
    #[default(200)]
    pub resets: u32,
    /// PING frames that a client may send within 10 s.
    #[default(100)]
    pub pings: u32,
    /// SETTINGS frames that a client may send within 10 s; each connection begins with one.
    #[serde(deserialize_with = "at_least_one")]
    #[schemars(range(min = 1))]
    #[default(50)]
    pub settings: u32,
    /// Total streams on one connection, after which the client must open another one.
    #[serde(deserialize_with = "at_least_one")]
    #[schemars(range(min = 1))]
    // More than a browser ever needs, and few enough that memory is freed eventually.
    #[default(10_000)]
    pub streams: u32,
    /// Maximum age of a connection; streams in flight may finish.
    #[default(Span::secs(3600))]
    pub max_age: Span,
}

/// Resource limits for the clients of a listener, individually and in total.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Concurrent connections. If absent: three eighths of the files that the process may open,
    /// shared by all listeners without this key.
    pub connections: Option<u32>,
    /// Concurrent connections from one address (IPv6: from one /64); no limit if absent.
    pub connections_per_ip: Option<u32>,
    /// Concurrent connections from one network (IPv4 /24, IPv6 /48); no limit if absent.
    pub connections_per_network: Option<u32>,
    /// Requests on one HTTP/1 connection before it is closed (nginx: `keepalive_requests`).
    #[serde(deserialize_with = "at_least_one")]
    #[schemars(range(min = 1))]
    #[default(1000)]
    pub requests_per_connection: u32,
    /// Time from a request's first byte (or the start of the connection) to the end of its header
    /// section.
    #[default(Span::secs(10))]
    pub header_timeout: Span,
    /// Time between two requests.
    #[default(Span::secs(60))]
    pub idle_timeout: Span,
    /// Minimum rate of a request body in bytes per second; 0 for no limit. Only time spent waiting
    /// for the client counts.
    #[default(ByteSize(1024))]
    pub body_rate: ByteSize,
    /// Time for which a body may be slower than `body_rate` before it ends with 408. A body without
    /// a length may be slower, if something of it comes within this time.
    #[default(Span::secs(30))]
    pub body_grace: Span,
    /// Time for which a client may read nothing of a pending response.
    #[default(Span::secs(60))]
    pub send_timeout: Span,
    /// Maximum length of the request line; longer ones get 414. `8KiB` if absent, or all of
    /// `headers` if that is less.
    pub request_line: Option<ByteSize>,
    /// Maximum length of the header section, request line included; longer ones get 431. `32KiB` if
    /// absent, or 24 KiB more than `request_line` if that is more than 8 KiB.
    pub headers: Option<ByteSize>,
    /// Maximum number of headers; a request with more gets 431.
    #[serde(deserialize_with = "at_least_one")]
    #[schemars(range(min = 1, max = 200))]
    #[default(128)]
    pub header_count: u32,
}

impl LimitsConfig {
    const REQUEST_LINE: u64 = 8 << 10;
    const OTHER_HEADERS: u64 = 24 << 10;

    /// Returns the maximum length of the request line: as written, or what fits into the headers.
    pub fn request_line(&self) -> ByteSize {
        let fitting = || ByteSize(Self::REQUEST_LINE.min(self.headers().0));
        self.request_line.unwrap_or_else(fitting)
    }

    /// Returns the maximum length of the header section: as written, or what holds the request
    /// line.
    pub fn headers(&self) -> ByteSize {
        let line = self.request_line.map_or(0, |line| line.0);
        let holding = || {
            ByteSize(
                line.max(Self::REQUEST_LINE)
                    .saturating_add(Self::OTHER_HEADERS),
            )
        };
        self.headers.unwrap_or_else(holding)
    }
}

/// The ACME account used to obtain certificates.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcmeConfig {
    /// Contact address for the CA.
    pub email: Option<Spanned<String>>,
    /// `letsencrypt`, `letsencrypt-staging`, or the URL of an ACME directory.
    pub directory: Option<Spanned<String>>,
    /// A PEM file with the CA that issued the directory's own certificate, for private directories.
    pub ca: Option<Spanned<PathBuf>>,
    /// Folder for account and certificates, readable by this process only.
    pub folder: Spanned<PathBuf>,
    /// If several gateways share the names: the address (`10.0.0.5:80`) of the gateway that
    /// requests certificates. The others forward challenges to it, read the shared or copied
    /// folder, and do not contact the CA. If absent, this gateway requests them.
    pub issuer: Option<Spanned<String>>,
    /// `http-01` or `tls-alpn-01`; if absent the first that a listener can serve, `tls-alpn-01`
    /// before `http-01`.
    pub challenge: Option<Spanned<ChallengeConfig>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ChallengeConfig {
    #[serde(rename = "http-01")]
    Http01,
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

short_form!(ToHttpsConfig, ProxyProtocolConfig);

impl Short for ToHttpsConfig {
    const WHAT: &'static str = "`https`, or a mapping such as `{ port: 8443 }`";

    fn text(text: &str) -> Option<Result<Self, String>> {
        Some(match text {
            "https" => Ok(Self::default()),
            _ => Err(format!(
                "a listener redirects to `https` only, found `{text}`\nhelp: write `redirect: https`; for other redirects write a route with `redirect:`"
            )),
        })
    }
}

impl Short for ProxyProtocolConfig {
    const WHAT: &'static str =
        "a list of networks such as `[10.0.0.0/8]`, or a mapping such as `{ from: [10.0.0.0/8] }`";

    fn text(text: &str) -> Option<Result<Self, String>> {
        Some(Err(format!(
            "expected a list of networks, found `{text}`\nhelp: write `[{text}]`"
        )))
    }

    const TAKES_LIST: bool = true;

    fn list(from: Vec<Spanned<String>>) -> Option<Result<Self, String>> {
        Some(Ok(Self {
            from,
            timeout: seconds::<3>(),
        }))
    }
}

fn or_https(schema: &mut Schema) {
    short::or(schema, json!({ "const": "https" }));
}

fn or_a_list_of_networks(schema: &mut Schema) {
    short::or(
        schema,
        json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 }),
    );
}
