//! Configuration of `headers` as written, and its compilation.

use std::collections::BTreeMap;

use edgeway_base::secret;
use edgeway_config::{
    model::{OneOrMany, StatusSet},
    tree::Spanned,
};
use edgeway_core::chain::CompileContext;
use edgeway_routes::values::{Destination, Template};
use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::{Changes, Headers, expires::Expires};

/// Values of headers to add, by name.
type Additions = BTreeMap<String, OneOrMany<Spanned<String>>>;

/// Changes of headers, towards the origin and towards the client.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeadersConfig {
    /// Changes of the request, as the origin gets it.
    request: ChangesConfig,
    /// Changes of the response, as the client gets it; also of the gateway's own replies.
    response: ResponseConfig,
}

/// Changes of all responses, then of responses with certain statuses.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ResponseConfig {
    /// Names of headers to remove; `X-Internal-*` for all names with this prefix.
    remove: Vec<Spanned<String>>,
    /// Name and value of headers to set, replacing any existing values.
    #[serde(serialize_with = "secret::by_name")]
    set: BTreeMap<String, Spanned<String>>,
    /// Name and value of headers to add to any existing values; a list of values adds a line each.
    #[serde(serialize_with = "additions")]
    add: Additions,
    /// Time at which a response expires, as `Expires` and `Cache-Control`, if its status is 200, 201,
    /// 204, 206, 301 to 304, 307 or 308: `30d` from the response on, `modified 30d` from its
    /// `Last-Modified` on, `@15h` at that time of the day (UTC), `epoch`, `max`, `-1s`, `off`, or a
    /// value with placeholders that is one of these.
    expires: Option<Spanned<String>>,
    /// Changes of responses with certain statuses, after the changes of all responses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    by_status: Vec<StatusChangesConfig>,
}

/// Changes of responses with certain statuses.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusChangesConfig {
    /// Statuses: `404`, `200-299`, or a list of both.
    status: StatusSet,
    /// Names of headers to remove; `X-Internal-*` for all names with this prefix.
    #[serde(default)]
    remove: Vec<Spanned<String>>,
    /// Name and value of headers to set, replacing any existing values.
    #[serde(default, serialize_with = "secret::by_name")]
    set: BTreeMap<String, Spanned<String>>,
    /// Name and value of headers to add to any existing values; a list of values adds a line each.
    #[serde(default, serialize_with = "additions")]
    add: Additions,
}

/// Changes of one header section: first `remove`, then `set`, then `add`. Values may hold
/// placeholders, such as `{client.ip}`, `{header.NAME}`, `{cookie.NAME}` and `{map.NAME}`.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ChangesConfig {
    /// Names of headers to remove; `X-Internal-*` for all names with this prefix.
    remove: Vec<Spanned<String>>,
    /// Name and value of headers to set, replacing any existing values.
    #[serde(serialize_with = "secret::by_name")]
    set: BTreeMap<String, Spanned<String>>,
    /// Name and value of headers to add to any existing values; a list of values adds a line each.
    #[serde(serialize_with = "additions")]
    add: Additions,
}

impl HeadersConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<Headers> {
        let errors = cx.diagnostics.errors();
        let request = self.request.compile(HeaderSide::Request, cx);
        let written = self.response;
        let (remove, set, add) = (written.remove, written.set, written.add);
        let expires = written
            .expires
            .and_then(|written| compile_expires(&written, cx));
        let response = ChangesConfig { remove, set, add }.compile(HeaderSide::Response, cx);
        let mut statuses = Vec::with_capacity(written.by_status.len());
        for one in written.by_status {
            let (remove, set, add) = (one.remove, one.set, one.add);
            let changes = ChangesConfig { remove, set, add }.compile(HeaderSide::Response, cx);
            statuses.push((one.status, changes));
        }
        let headers = Headers {
            request: request.into(),
            response,
            expires,
            by_status: statuses.into(),
        };
        let is_empty = headers.request.is_empty() && !headers.changes_responses();
        if is_empty && cx.diagnostics.errors() == errors {
            return cx.here("edgeway::headers::nothing").refuse(
                "`headers` changes nothing",
                "write `request:` or `response:` with `set`, `add` or `remove`",
            );
        }
        Some(headers)
    }
}

/// Compiles the time at which responses expire; `None` if a problem was reported.
fn compile_expires(written: &Spanned<String>, cx: &mut CompileContext<'_>) -> Option<Expires> {
    const HELP: &str =
        "write a time such as `30d`, `modified 30d`, `@15h`, `epoch`, `max` or `off`";
    let Spanned { value: text, place } = written;
    let clock = cx.clock.clone();
    let (destination, code) = (Destination::Comparison, "edgeway::headers::expires");
    let template = Template::compile_of_response(text, *place, destination, code, cx)?;
    let expires = Expires::new(text, template, clock);
    cx.at(*place, code)
        .reported(expires.map_err(|message| (message, HELP.to_owned())))
}

/// Serializes values to add, redacted as those of other headers are.
fn additions<S: Serializer>(values: &Additions, s: S) -> Result<S::Ok, S::Error> {
    s.collect_map(values.iter().map(|(name, values)| {
        let values = values
            .0
            .iter()
            .map(|value| secret::shown(name, &value.value));
        (name, values.collect::<Vec<_>>())
    }))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HeaderSide {
    Request,
    Response,
}

impl ChangesConfig {
    /// Compiles the changes without those that have a problem; reports all problems.
    fn compile(self, side: HeaderSide, cx: &mut CompileContext<'_>) -> Changes {
        let (mut remove, mut remove_prefixes) = (Vec::new(), Vec::new());
        for pattern in self.remove {
            match removal(&pattern.value, side) {
                Ok(Removal::Name(name)) => remove.push(name),
                Ok(Removal::Prefix(prefix)) => remove_prefixes.push(prefix),
                Err(problem) => problem.report(&pattern, cx),
            }
        }
        let mut compile_values = |values: Vec<(String, Spanned<String>)>, is_set: bool| {
            let mut compiled = Vec::<(HeaderName, Template)>::with_capacity(values.len());
            for (name, value) in values {
                match header_name(&name, side) {
                    Ok(name) if is_set && compiled.iter().any(|(own, _)| *own == name) => {
                        let message = format!("`{name}` is set twice, in two spellings");
                        let help = "remove one of the two; `add` sends two values";
                        cx.at(value.place, "edgeway::headers::twice")
                            .error(message, help);
                    }
                    Ok(name) => {
                        let template = template(&value, &name, side, cx);
                        compiled.extend(template.map(|template| (name, template)));
                    }
                    Err(problem) => problem.report(&value, cx),
                }
            }
            compiled.into_boxed_slice()
        };
        let set = compile_values(self.set.into_iter().collect(), true);
        let add = self.add.into_iter();
        let add = add.flat_map(|(name, values)| {
            let values = values.0.into_iter();
            values.map(move |value| (name.clone(), value))
        });
        let add = compile_values(add.collect(), false);
        Changes {
            remove: remove.into(),
            remove_prefixes: remove_prefixes.into(),
            set,
            add,
        }
    }
}

/// Code, message and help of a problem.
struct Problem(&'static str, String, String);

impl Problem {
    fn report(self, name: &Spanned<String>, cx: &mut CompileContext<'_>) {
        cx.at(name.place, self.0).error(self.1, self.2);
    }
}

enum Removal {
    Name(HeaderName),
    Prefix(Box<str>),
}

fn removal(pattern: &str, side: HeaderSide) -> Result<Removal, Problem> {
    let Some(prefix) = pattern.strip_suffix('*') else {
        return header_name(pattern, side).map(Removal::Name);
    };
    // The same spelling rules apply; framing headers are excluded when the prefix matches.
    match HeaderName::try_from(prefix) {
        Ok(prefix) => Ok(Removal::Prefix(prefix.as_str().into())),
        Err(_) => Err(Problem(
            "edgeway::headers::pattern",
            format!("invalid header name pattern `{pattern}`"),
            "write the start of a name and `*`, such as `X-Internal-*`".to_owned(),
        )),
    }
}

fn header_name(text: &str, side: HeaderSide) -> Result<HeaderName, Problem> {
    let Ok(name) = HeaderName::try_from(text) else {
        return Err(Problem(
            "edgeway::headers::name",
            format!("invalid header name `{text}`"),
            "write a name such as `X-Powered-By`".to_owned(),
        ));
    };
    let help = match name.as_str() {
        "host" if side == HeaderSide::Request => {
            "write `host_header` beside `upstream` for another `Host`"
        }
        "upgrade" | "connection" => "WebSockets need `websocket: true` at the route",
        _ if is_framing(&name) => "it is a connection header, which the gateway sets itself",
        _ => return Ok(name),
    };
    Err(Problem(
        "edgeway::headers::reserved",
        format!("`{text}` cannot be changed"),
        help.to_owned(),
    ))
}

fn template(
    text: &Spanned<String>,
    name: &HeaderName,
    side: HeaderSide,
    cx: &mut CompileContext<'_>,
) -> Option<Template> {
    let Spanned { value: text, place } = text;
    let (destination, code) = (Destination::Header(name), "edgeway::headers::value");
    match side {
        HeaderSide::Request => Template::compile(text, *place, destination, code, cx),
        HeaderSide::Response => Template::compile_of_response(text, *place, destination, code, cx),
    }
}

/// Returns true for headers by which the two ends of one connection understand each other (RFC
/// 9110, 7.6.1): a wrong one would make one message look like two.
pub(super) fn is_framing(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "host"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}
