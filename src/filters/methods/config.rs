//! Configuration of `methods` as written, and its compilation.

use http::{HeaderValue, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Methods;
use crate::{chain::CompileContext, config::tree::Spanned};

/// Methods that may pass, such as `[GET, POST]`; all others get 405 with `Allow`. `GET` includes
/// `HEAD`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct MethodsConfig(Vec<Spanned<String>>);

impl MethodsConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<Methods> {
        if self.0.is_empty() {
            cx.report(
                "edgeway::methods::empty",
                "`methods` allows no method",
                "list the allowed methods, such as `[GET, POST]`",
            );
            return None;
        }
        let mut allowed: Vec<Method> = Vec::new();
        let mut is_good = true;
        for name in &self.0 {
            match parse(&name.value) {
                Ok(method) => {
                    if !allowed.contains(&method) {
                        allowed.push(method);
                    }
                }
                Err(help) => {
                    is_good = false;
                    cx.report_at(
                        name.place,
                        "edgeway::methods::name",
                        format!("invalid method `{}`", name.value),
                        help,
                    );
                }
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
        is_good.then(|| Methods {
            allowed: allowed.into(),
            allow,
        })
    }
}

/// Parses a method. Methods are case-sensitive (RFC 9110, 9.1), so `get` would never match.
fn parse(name: &str) -> Result<Method, String> {
    let upper = name.to_ascii_uppercase();
    match Method::from_bytes(name.as_bytes()) {
        Ok(method) if name == upper => Ok(method),
        Ok(_) => Err(format!("write it in upper case: `{upper}`")),
        Err(_) => Err("write a method such as `GET` or `POST`".to_owned()),
    }
}
