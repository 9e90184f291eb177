//! Configuration of `security_headers` as written, and its compilation.

use std::borrow::Cow;

use edgeway_base::units::Span;
use edgeway_config::tree::{
    Spanned,
    short::{self, Short, reads_short},
};
use edgeway_core::chain::CompileContext;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeMap};
use serde_json::json;
use smart_default::SmartDefault;

use super::{AddedHeaders, Policy, SecurityHeaders};

/// Capacity in the ready-made map for the origin's headers, so that the map need not grow.
const HEADERS_CAPACITY: usize = 24;

/// Forbids things that no page of a real app needs: another base for its links, plugins, and being
/// framed by other sites. Helmet's own default also forbids inline scripts, without which no page
/// of Next.js works, and everything from other origins; only the app can know.
const CSP: &str =
    "base-uri 'self'; frame-ancestors 'self'; object-src 'none'; upgrade-insecure-requests";

/// Security headers of Helmet: `helmet`, or a mapping with the differences. Each header takes a
/// text, or `false` for none. `none` adds no header and removes the origin's `Server` alone.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = or_helmet)]
pub struct SecurityHeadersConfig {
    /// Policy if the origin sends a header too: `set_if_absent` keeps the origin's, `override`
    /// replaces it.
    policy: Policy,
    /// `Content-Security-Policy`. `upgrade-insecure-requests` is left out over plain HTTP.
    csp: Spanned<HeaderChoice>,
    /// `Cross-Origin-Opener-Policy`, `same-origin` if absent.
    opener_policy: Spanned<HeaderChoice>,
    /// `Cross-Origin-Resource-Policy`, `same-origin` if absent.
    resource_policy: Spanned<HeaderChoice>,
    /// `Origin-Agent-Cluster`, `?1` if absent.
    origin_agent_cluster: Spanned<HeaderChoice>,
    /// `Referrer-Policy`, `same-origin` if absent.
    referrer_policy: Spanned<HeaderChoice>,
    /// `Strict-Transport-Security`, only over TLS.
    hsts: Spanned<Hsts>,
    /// `X-Content-Type-Options`, `nosniff` if absent.
    content_type_options: Spanned<HeaderChoice>,
    /// `X-DNS-Prefetch-Control`, `off` if absent.
    dns_prefetch_control: Spanned<HeaderChoice>,
    /// `X-Download-Options`, `noopen` if absent.
    download_options: Spanned<HeaderChoice>,
    /// `X-Frame-Options`, `SAMEORIGIN` if absent.
    frame_options: Spanned<HeaderChoice>,
    /// `X-Permitted-Cross-Domain-Policies`, `none` if absent.
    permitted_cross_domain_policies: Spanned<HeaderChoice>,
    /// `X-XSS-Protection`, `0` if absent: it switches off harmful filters of old browsers.
    xss_protection: Spanned<HeaderChoice>,
    /// `Server`: `remove`, `keep` what the origin sends, or a text of your own.
    #[schemars(with = "String")]
    server: Spanned<Server>,
    /// `X-Powered-By`: `remove`, or `keep` what the origin sends.
    powered_by: PoweredBy,
}

/// Value of a header: the default, a text, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum HeaderChoice {
    #[default]
    Default,
    Off,
    Text(String),
}

/// Scope and duration for which browsers insist on TLS; `false` for no such header.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_flag)]
pub(super) struct Hsts {
    #[serde(skip)]
    is_off: bool,
    /// Time for which browsers remember it.
    #[default(Span::secs(365 * 24 * 3600))]
    max_age: Span,
    /// True to include subdomains.
    #[default(true)]
    include_subdomains: bool,
    /// True to request preloading in browsers; hard to undo.
    preload: bool,
}

/// Handling of `Server`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Server {
    #[default]
    Remove,
    Keep,
    #[serde(untagged)]
    Text(String),
}

/// Handling of `X-Powered-By`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum PoweredBy {
    #[default]
    Remove,
    Keep,
}

/// Key, name, choice and default value of a header.
type HeaderText<'a> = (
    &'static str,
    HeaderName,
    &'a Spanned<HeaderChoice>,
    &'static str,
);

impl SecurityHeadersConfig {
    /// Returns the headers that are a text or absent: key, name, as written, default.
    fn texts(&self) -> [HeaderText<'_>; 11] {
        macro_rules! texts {
            ($($key:ident $name:literal $default:expr,)*) => {
                [$((stringify!($key), HeaderName::from_static($name), &self.$key, $default),)*]
            };
        }
        texts! {
            csp "content-security-policy" CSP,
            opener_policy "cross-origin-opener-policy" "same-origin",
            resource_policy "cross-origin-resource-policy" "same-origin",
            origin_agent_cluster "origin-agent-cluster" "?1",
            referrer_policy "referrer-policy" "same-origin",
            content_type_options "x-content-type-options" "nosniff",
            dns_prefetch_control "x-dns-prefetch-control" "off",
            download_options "x-download-options" "noopen",
            frame_options "x-frame-options" "SAMEORIGIN",
            permitted_cross_domain_policies "x-permitted-cross-domain-policies" "none",
            xss_protection "x-xss-protection" "0",
        }
    }

    /// Returns the set that adds no header.
    fn none() -> Self {
        let off = || Spanned::nowhere(HeaderChoice::Off);
        Self {
            csp: off(),
            opener_policy: off(),
            resource_policy: off(),
            origin_agent_cluster: off(),
            referrer_policy: off(),
            hsts: Spanned::nowhere(Hsts {
                is_off: true,
                ..Hsts::default()
            }),
            content_type_options: off(),
            dns_prefetch_control: off(),
            download_options: off(),
            frame_options: off(),
            permitted_cross_domain_policies: off(),
            xss_protection: off(),
            powered_by: PoweredBy::Keep,
            ..Self::default()
        }
    }

    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> SecurityHeaders {
        let texts = self.texts();
        let mut headers = HeaderMap::with_capacity(texts.len() + 2 + HEADERS_CAPACITY);
        for (_, name, choice, default) in texts {
            match &choice.value {
                // Copied for each response without reference counting.
                HeaderChoice::Default => {
                    drop(headers.insert(name, HeaderValue::from_static(default)));
                }
                HeaderChoice::Off => {}
                HeaderChoice::Text(text) => insert(&mut headers, name, text, choice, cx),
            }
        }
        if let Server::Text(text) = &self.server.value {
            insert(&mut headers, header::SERVER, text, &self.server, cx);
        }
        let mut tls = headers.clone();
        if let Some(value) = hsts(&self.hsts, cx) {
            tls.insert(header::STRICT_TRANSPORT_SECURITY, value);
        }
        SecurityHeaders {
            plain: AddedHeaders::new(without_upgrade(headers)),
            tls: AddedHeaders::new(tls),
            policy: self.policy,
            keep_server: self.server.value == Server::Keep,
            keep_powered_by: self.powered_by == PoweredBy::Keep,
        }
    }
}

fn insert<T>(
    headers: &mut HeaderMap<HeaderValue>,
    name: HeaderName,
    text: &str,
    written: &Spanned<T>,
    cx: &mut CompileContext<'_>,
) {
    if let Ok(value) = HeaderValue::from_str(text)
        && !text.trim().is_empty()
    {
        headers.insert(name, value);
        return;
    }
    cx.at(written.place, "edgeway::security_headers::value")
        .error(
            format!("invalid value `{}` of `{name}`", text.escape_debug()),
            "write plain text on one line, or `false` for no such header",
        );
}

fn hsts(fields: &Hsts, cx: &mut CompileContext<'_>) -> Option<HeaderValue> {
    if fields.is_off {
        return None;
    }
    let seconds = fields.max_age.0.as_secs();
    if fields.preload && (seconds < 31_536_000 || !fields.include_subdomains) {
        cx.here("edgeway::security_headers::preload").warn(
            "browsers do not accept this `hsts` for their built-in lists",
            "with `preload: true` write `max_age: 365d` or more and `include_subdomains: true`",
        );
    }
    let mut text = format!("max-age={seconds}");
    if fields.include_subdomains {
        text.push_str("; includeSubDomains");
    }
    if fields.preload {
        text.push_str("; preload");
    }
    HeaderValue::try_from(text).ok()
}

/// Removes the directive, which over plain HTTP would send browsers to a port without a listener.
fn without_upgrade(mut headers: HeaderMap<HeaderValue>) -> HeaderMap<HeaderValue> {
    let Some(csp) = headers.get(header::CONTENT_SECURITY_POLICY) else {
        return headers;
    };
    let remaining: Vec<&str> = csp
        .to_str()
        .unwrap_or_default()
        .split(';')
        .map(str::trim)
        .filter(|directive| !directive.eq_ignore_ascii_case("upgrade-insecure-requests"))
        .filter(|directive| !directive.is_empty())
        .collect();
    match HeaderValue::try_from(remaining.join("; ")) {
        Ok(value) if !remaining.is_empty() => {
            headers.insert(header::CONTENT_SECURITY_POLICY, value);
        }
        _ => {
            headers.remove(header::CONTENT_SECURITY_POLICY);
        }
    }
    headers
}

fn or_helmet(schema: &mut Schema) {
    short::or(schema, json!({ "enum": ["helmet", "none"] }));
}

impl Short for SecurityHeadersConfig {
    const WHAT: &'static str = "`helmet`, `none`, `false` or a mapping of what differs";

    fn text(text: &str) -> Option<Result<Self, String>> {
        Some(match text {
            "helmet" => Ok(Self::default()),
            "none" => Ok(Self::none()),
            _ => Err(format!(
                "unknown set of security headers `{text}`\nhelp: write `helmet` or `none`"
            )),
        })
    }
}

reads_short!(SecurityHeadersConfig);

impl Serialize for SecurityHeadersConfig {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        map.serialize_entry("policy", &self.policy)?;
        for (key, _, choice, default) in self.texts() {
            match &choice.value {
                HeaderChoice::Default => map.serialize_entry(key, default)?,
                HeaderChoice::Off => map.serialize_entry(key, &false)?,
                HeaderChoice::Text(text) => map.serialize_entry(key, text)?,
            }
        }
        map.serialize_entry("hsts", &self.hsts)?;
        map.serialize_entry("server", &self.server)?;
        map.serialize_entry("powered_by", &self.powered_by)?;
        map.end()
    }
}

impl Short for Hsts {
    const WHAT: &'static str = "`false`, or a mapping such as `{ max_age: 365d }`";

    fn flag(flag: bool) -> Option<Result<Self, String>> {
        Some(Ok(Self {
            is_off: !flag,
            ..Self::default()
        }))
    }
}

reads_short!(Hsts);

impl Serialize for Hsts {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.is_off {
            s.serialize_bool(false)
        } else {
            Self::serialize(self, s)
        }
    }
}

impl Short for HeaderChoice {
    const WHAT: &'static str = "a text, or `false` for no such header";

    fn flag(flag: bool) -> Option<Result<Self, String>> {
        Some(Ok(if flag { Self::Default } else { Self::Off }))
    }

    fn number(number: u64) -> Option<Result<Self, String>> {
        Some(Ok(Self::Text(number.to_string())))
    }

    fn text(text: &str) -> Option<Result<Self, String>> {
        Some(Ok(Self::Text(text.to_owned())))
    }
}

reads_short!(scalar: HeaderChoice);

impl<'de> Deserialize<'de> for Server {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Ok(match text.as_str() {
            "remove" => Self::Remove,
            "keep" => Self::Keep,
            _ => Self::Text(text),
        })
    }
}

impl JsonSchema for HeaderChoice {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "HeaderChoice".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer", "boolean"] })
    }
}
