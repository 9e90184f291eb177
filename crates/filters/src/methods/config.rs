//! Configuration of `methods` as written, and its compilation.

use edgeway_config::tree::{
    Spanned,
    short::{self, Short, short_form},
};
use edgeway_core::chain::CompileContext;
use http::{HeaderValue, Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Methods;

/// Methods that may pass, such as `[GET, POST]`, or a mapping.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = short::or_list)]
pub struct MethodsConfig {
    /// Methods that may pass; `GET` includes `HEAD`.
    allow: Vec<Spanned<String>>,
    /// Status of refusals, such as 403 as with `limit_except` of nginx: from 400 to 599.
    #[serde(default = "not_allowed")]
    #[schemars(range(min = 400, max = 599))]
    status: Spanned<u16>,
}

fn not_allowed() -> Spanned<u16> {
    Spanned::nowhere(StatusCode::METHOD_NOT_ALLOWED.as_u16())
}

impl Short for MethodsConfig {
    const WHAT: &'static str = "a list such as `[GET, POST]`, or a mapping";
    const TAKES_LIST: bool = true;

    fn list(allow: Vec<Spanned<String>>) -> Option<Result<Self, String>> {
        let status = not_allowed();
        Some(Ok(Self { allow, status }))
    }
}

short_form!(MethodsConfig);

impl MethodsConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<Methods> {
        if self.allow.is_empty() {
            return cx.here("edgeway::methods::empty").refuse(
                "`methods` allows no method",
                "list the allowed methods, such as `[GET, POST]`",
            );
        }
        let mut allowed: Vec<Method> = Vec::new();
        for name in &self.allow {
            match parse(&name.value) {
                Ok(method) if allowed.contains(&method) => {}
                Ok(method) => allowed.push(method),
                Err(help) => cx
                    .at(name.place, "edgeway::methods::name")
                    .error(format!("invalid method `{}`", name.value), help),
            }
        }
        // RFC 9110, 9.1: a resource that supports GET supports HEAD.
        if let Some(get) = allowed.iter().position(|method| *method == Method::GET)
            && !allowed.contains(&Method::HEAD)
        {
            allowed.insert(get + 1, Method::HEAD);
        }
        let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
        let allow = HeaderValue::try_from(names.join(", ")).ok()?;
        let Spanned { value, place } = self.status;
        let status = StatusCode::from_u16(value).ok();
        let status = status.filter(|status| (400..600).contains(&status.as_u16()));
        if status.is_none() {
            let message = format!("a refusal cannot have the status {value}");
            let help = "write one from 400 to 599, or leave `status` out for 405";
            cx.at(place, "edgeway::methods::status")
                .error(message, help);
        }
        Some(Methods {
            allowed: allowed.into(),
            allow,
            status: status?,
        })
    }
}

/// Parses a method. Methods are case-sensitive (RFC 9110, 9.1), so `get` would never match.
fn parse(name: &str) -> Result<Method, String> {
    let upper = name.to_ascii_uppercase();
    match Method::from_bytes(name.as_bytes()) {
        Ok(_) if name == "*" => Err("leave `methods` out to allow all of them".to_owned()),
        Ok(method) if name == upper => Ok(method),
        Ok(_) => Err(format!("write it in upper case: `{upper}`")),
        Err(_) => Err("write a method such as `GET` or `POST`".to_owned()),
    }
}
