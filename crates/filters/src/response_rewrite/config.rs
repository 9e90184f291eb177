//! Configuration of `response_rewrite` as written, and its compilation.

use edgeway_base::expression::reason_of;
use edgeway_config::tree::Spanned;
use edgeway_core::chain::CompileContext;
use regex::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Pattern, ResponseRewrite, Rule,
    cookie::{CookieRules, FlagRule, NamePattern, SameSite},
};

const CODE: &str = "edgeway::response_rewrite::rule";

/// Changes of a backend's own names in redirects and cookies.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResponseRewriteConfig {
    /// Changes of `Location` and `Refresh`; the first one that matches applies: `from` at the
    /// beginning becomes `to`. `[]` leaves them as the backend sends them. If absent, a URL with
    /// the backend's own address gets the client's host.
    location: Option<Vec<RuleConfig>>,
    /// Changes of `Set-Cookie`.
    cookies: CookiesConfig,
}

/// Changes of a backend's cookies.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct CookiesConfig {
    /// Changes of `Domain`: the whole value must be `from`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    domain: Vec<RuleConfig>,
    /// Changes of `Path`, as those of `location`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    path: Vec<RuleConfig>,
    /// Flags of the cookies with some names; the first rule for a name applies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    flags: Vec<FlagsConfig>,
}

/// A text and its replacement.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RuleConfig {
    /// Text, or `~` and a regular expression, `~*` for one without regard to case.
    from: Spanned<String>,
    /// New text. With a regular expression it replaces the whole value, with `$1` and the like for
    /// groups.
    to: Spanned<String>,
}

/// Flags of cookies.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FlagsConfig {
    /// Name of the cookie, `*` for every one, or `~` and a regular expression.
    name: Spanned<String>,
    /// `Secure`: adds or removes it.
    secure: Option<bool>,
    /// `HttpOnly`: adds or removes it.
    http_only: Option<bool>,
    /// `SameSite`: its value, or `remove`.
    same_site: Option<SameSite>,
}

/// Meaning of a text without `~`.
#[derive(Clone, Copy)]
enum Plain {
    Beginning,
    Name,
}

impl ResponseRewriteConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<ResponseRewrite> {
        let errors = cx.diagnostics.errors();
        let location = self.location.as_ref();
        let location = location.map(|list| rules(list, Plain::Beginning, cx));
        let domain = rules(&self.cookies.domain, Plain::Name, cx);
        let path = rules(&self.cookies.path, Plain::Beginning, cx);
        let written = self.cookies.flags.iter();
        let cookies = CookieRules {
            domain,
            path,
            flags: written.filter_map(|one| flags(one, cx)).collect(),
        };
        let is_empty = location.is_none() && cookies.is_empty();
        if is_empty && cx.diagnostics.errors() == errors {
            return cx.here("edgeway::response_rewrite::nothing").refuse(
                "`response_rewrite` changes nothing",
                "write `location: [{ from: \"http://app.internal/\", to: / }]`, or `cookies`",
            );
        }
        Some(ResponseRewrite { location, cookies })
    }
}

/// Compiles all rules without those that have a problem, each of which is reported.
fn rules(list: &[RuleConfig], plain: Plain, cx: &mut CompileContext<'_>) -> Box<[Rule]> {
    let rules = list.iter().filter_map(|rule| {
        let from = match regex(&rule.from, cx)? {
            Some(regex) => Pattern::Regex(regex),
            None => match plain {
                Plain::Beginning => Pattern::Beginning(rule.from.value.as_str().into()),
                Plain::Name => {
                    Pattern::Name(rule.from.value.trim_start_matches('.').to_owned().into())
                }
            },
        };
        let is_value = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        if !is_value(&rule.to.value) || rule.from.value.is_empty() {
            let message = format!("invalid rule from `{}`", rule.from.value.escape_debug());
            let help = "write texts of visible characters, such as `http://app.internal/` and `/`";
            return cx.at(rule.to.place, CODE).refuse(message, help);
        }
        Some(Rule {
            from,
            to: rule.to.value.as_str().into(),
        })
    });
    rules.collect()
}

/// Returns the expression of a text with `~`; the outer `None` means that a problem was reported.
#[expect(clippy::option_option, reason = "an error, a text, or an expression")]
fn regex(text: &Spanned<String>, cx: &mut CompileContext<'_>) -> Option<Option<Regex>> {
    let Some(regex) = text.value.strip_prefix('~') else {
        return Some(None);
    };
    let folded = regex.strip_prefix('*');
    let (regex, ignores_case) = folded.map_or((regex, false), |regex| (regex, true));
    let built = RegexBuilder::new(regex)
        .case_insensitive(ignores_case)
        .build();
    match built {
        Ok(regex) => Some(Some(regex)),
        Err(error) => {
            let reason = reason_of(&error);
            cx.at(text.place, CODE).refuse(
                format!("invalid regular expression `{regex}`: {reason}"),
                "correct it; look-around and back-references are not supported",
            )
        }
    }
}

fn flags(config: &FlagsConfig, cx: &mut CompileContext<'_>) -> Option<FlagRule> {
    let name = match regex(&config.name, cx)? {
        Some(regex) => NamePattern::Regex(regex),
        None if config.name.value == "*" => NamePattern::Any,
        None => NamePattern::Text(config.name.value.as_str().into()),
    };
    Some(FlagRule {
        name,
        secure: config.secure,
        http_only: config.http_only,
        same_site: config.same_site,
    })
}
