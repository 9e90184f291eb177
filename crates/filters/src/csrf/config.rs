//! Configuration of `csrf` as written, and its compilation.

use edgeway_base::origin::OriginPattern;
use edgeway_config::tree::{
    Spanned,
    short::{self, Short, short_form},
};
use edgeway_core::chain::CompileContext;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Csrf;

/// Refuses requests that pages of other sites make browsers send: `true`, or a mapping that lists
/// exceptions.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_flag)]
pub struct CsrfConfig {
    /// Other origins whose pages may send such requests: `https://shop.example.com`, or
    /// `https://*.example.com` for all subdomains of a domain.
    origins: Vec<Spanned<String>>,
    /// True to let pages of the same site pass too: other subdomains, other ports.
    allow_same_site: bool,
}

impl Short for CsrfConfig {
    const WHAT: &'static str = "`true`, or a mapping such as `{ origins: [https://example.com] }`";

    fn flag(flag: bool) -> Option<Result<Self, String>> {
        flag.then(|| Ok(Self::default()))
    }
}

short_form!(CsrfConfig);

impl CsrfConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Csrf {
        let mut pattern = |origin: &Spanned<String>| {
            let parsed = OriginPattern::parse(&origin.value);
            cx.at(origin.place, "edgeway::csrf::origin")
                .reported(parsed)
        };
        Csrf {
            origins: self.origins.iter().filter_map(&mut pattern).collect(),
            allow_same_site: self.allow_same_site,
        }
    }
}
