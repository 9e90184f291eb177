//! Configuration of a route's `cache` as written, and its compilation.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use edgeway_base::units::{ByteSize, Percent, Rate, Span};
use edgeway_cache::{
    Cache,
    name_set::{self, NameSet},
    nextjs::{self, PageCache},
    policy::{CacheRules, IgnoredHeaders},
    route::{
        CHANGED_COOKIE, ClientDirectives, KeyRules, MinUses, Mode, Query, Ranges, RouteCachePolicy,
        TagTemplate, UseCounts,
    },
};
use edgeway_config::tree::{
    Spanned,
    short::{self, FromMapping, Short, reads_short, short_form, writes_mapping},
};
use edgeway_core::{
    chain::CompileContext,
    limits::{gcra::Quota, key::KeyItem, memory::BucketTable},
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use smart_default::SmartDefault;

/// Maximum number of addresses counted at once.
const MAX_KEYS: usize = 100_000;

/// Stored responses that one address may have validated in a minute, after it has changed something.
const AFTER_CHANGES: u32 = 120;

/// Caching of a route's responses: `{}` or `true` to store whatever the origin allows, or a
/// mapping.
#[derive(Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_flag)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct RouteCacheConfig {
    /// `app`: the rules of the upstream's `app` apply in addition to RFC 9111. `strict`: RFC 9111
    /// only.
    mode: ModeConfig,
    /// Pages of a Next.js app that are shared: `off`, `anonymous` (those requested without cookies)
    /// or `all`.
    pages: PagesConfig,
    /// Freshness lifetime of a response if the origin sends none; with `force`, also if the origin
    /// sends one.
    ttl: Option<Spanned<Span>>,
    /// Applies `ttl` whatever the origin sends, `no-store` and `private` included.
    force: bool,
    /// Freshness lifetime as `ttl`, for single statuses: `{ 404: 10s }`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    by_status: BTreeMap<String, Spanned<Span>>,
    /// Share of the time since `Last-Modified` for which a response without explicit freshness is
    /// fresh (RFC 9111, 4.2.2); `10%` is usual. Never if absent.
    heuristic: Option<Percent>,
    /// Parts of the cache key in addition to scheme, host, path and query.
    pub(super) key: KeyConfig,
    /// Requests with one of these bypass the cache: `cookie:NAME`, `header:NAME`, `query:NAME`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bypass: Vec<Spanned<KeyItem>>,
    /// Values with the placeholders of `headers`, such as `{cookie.preview}`: if one of them is
    /// neither empty nor `0`, the request goes to the origin, and the new response replaces the
    /// stored one, unless `no_store_if` forbids that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) bypass_if: Vec<Spanned<String>>,
    /// Values as in `bypass_if`: if one of them is neither empty nor `0`, the response to the
    /// request is not stored. A stored one may still be used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) no_store_if: Vec<Spanned<String>>,
    /// Response headers of the origin that the cache does not read when it decides what to store
    /// and for how long. Clients still get them, but `set-cookie` goes only to the client that made
    /// the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ignore_headers: Vec<IgnoredHeader>,
    /// Number of requests, within ten minutes of each other, after which a response is stored.
    #[schemars(range(min = 1))]
    min_uses: Option<Spanned<u32>>,
    /// Cookies that do not identify the client, such as `theme`; `*` for all of them. The response
    /// to a request with any other cookie is stored only if the origin marks it as shared
    /// (`public`, `s-maxage`), and never if it is a page of a Next.js app. The cookies of analytics
    /// (`_ga`, `_fbp` and similar) if absent.
    anonymous_cookies: Option<Vec<String>>,
    /// Time for which a stale response is served while it is revalidated, if the origin sends none.
    stale_while_revalidate: Option<Span>,
    /// Time for which a stale response is served when the origin fails, if the origin sends none.
    stale_if_error: Option<Span>,
    /// Maximum size of a stored response; `cache.max_object` if absent.
    max_object: Option<Spanned<ByteSize>>,
    /// Tags of every response, to purge by: `products`, or with parameters of the path,
    /// `product:{id}`. Added to the tags of `Cache-Tag` and `Surrogate-Key`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<Spanned<String>>,
    /// Purges a path and its parent path on every gateway after a successful `POST`, `PUT`, `PATCH`
    /// or `DELETE` to it.
    purge_on_write: bool,
    /// `max-age` sent to browsers in place of the origin's, unless the request bypasses the cache.
    browser_ttl: Option<Span>,
    /// Honors `Cache-Control` request directives that send a request to the origin although a fresh
    /// response is stored: `no-cache`, `max-age`, `min-fresh`, `Pragma`. Browsers reload with them.
    /// `true`, or a rate per address.
    client_directives: ClientDirectivesConfig,
    /// Time for which a collapsed request waits for the response to another request with the same
    /// key before it goes to the origin itself.
    #[default(Span(Duration::from_secs(5)))]
    wait: Span,
    /// Bytes of `cache.memory` that responses of this route may use.
    quota: Option<Spanned<ByteSize>>,
    /// On a miss, a `HEAD` or a request with `Range` fetches and stores the whole response, as with
    /// nginx. Otherwise such a request goes to the origin unchanged, and its response is not
    /// stored.
    whole: bool,
    /// Stored responses that support `Range`: `any`, or `announced`: only those with
    /// `Accept-Ranges` from the origin, as with nginx. The others are sent whole.
    #[default(RangesConfig::Any)]
    ranges: RangesConfig,
    /// Keeps stored responses when a `POST`, `PUT`, `PATCH` or `DELETE` of the same URL succeeds, as
    /// nginx does. Otherwise they are removed (RFC 9111, 4.4).
    keep_on_write: bool,
}

/// Limits on requests that clients force to the origin.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_flag)]
struct ClientDirectivesConfig {
    /// False to ignore the directives.
    enabled: bool,
    /// Rate per address. Beyond it, the stored response is sent.
    per_address: Spanned<Rate>,
}

edgeway_base::enum_table! {
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    enum RangesConfig => ranges: Ranges {
        #[default]
        Any = Ranges::Any,
        Announced = Ranges::Announced,
    }
}

edgeway_base::enum_table! {
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    enum ModeConfig => mode: Mode {
        #[default]
        App = Mode::App,
        Strict = Mode::Strict,
    }
}

edgeway_base::enum_table! {
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    enum PagesConfig => pages: PageCache {
        Off = PageCache::Off,
        #[default]
        Anonymous = PageCache::Anonymous,
        All = PageCache::All,
    }
}

/// Response header of an origin that decides whether a response is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum IgnoredHeader {
    CacheControl,
    Expires,
    SetCookie,
    Vary,
}

/// Cache key of a route's responses.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct KeyConfig {
    /// Query parameters that are part of the key; all if absent.
    query: Option<Spanned<Vec<String>>>,
    /// Query parameters that are not part of the key, such as `utm_*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ignore_query: Vec<String>,
    /// Sends query parameters that are not part of the key to the origin. Otherwise they are
    /// removed from the request, so that no client can choose their values for all clients.
    pass_unkeyed: bool,
    /// Parts of the request that are added to the key: `header:NAME`, `cookie:NAME`, `jwt.sub`,
    /// `api_key`, `user`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    by: Vec<Spanned<KeyItem>>,
    /// Values that are added to the key, with the placeholders of `headers`, such as
    /// `{map.device}`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) values: Vec<Spanned<String>>,
}

impl ClientDirectivesConfig {
    fn new(enabled: bool) -> Self {
        let per_address = Rate {
            count: 10,
            per: Duration::from_mins(1),
        };
        Self {
            enabled,
            per_address: Spanned::nowhere(per_address),
        }
    }

    /// Compiles the limit, and that of clients whose server action has changed something.
    fn compile(&self, cx: &mut CompileContext<'_>) -> Option<CompiledLimits> {
        let Spanned { value: rate, place } = self.per_address;
        let Some(quota) = Quota::new(rate.count, rate.per, rate.count) else {
            return cx.at(place, "edgeway::cache::client_directives").refuse(
                format!("no client could ever send one at `per_address: {rate}`"),
                "write a rate such as `10/min`, or `client_directives: false`",
            );
        };
        let counts = cx.zones.get_or_create("cache client_directives", || {
            BucketTable::new(MAX_KEYS, cx.clock)
        });
        let on = || ClientDirectives::new(quota, Arc::clone(&counts), cx.route);
        let after = Quota::new(AFTER_CHANGES, Duration::from_mins(1), AFTER_CHANGES)?;
        Some(CompiledLimits {
            directives: self.enabled.then(on),
            after_changes: ClientDirectives::new(after, counts, &format!("{} changes", cx.route)),
        })
    }
}

/// Limits on requests that clients send to the origin past stored responses.
struct CompiledLimits {
    directives: Option<ClientDirectives>,
    after_changes: ClientDirectives,
}

impl Default for ClientDirectivesConfig {
    fn default() -> Self {
        Self::new(false)
    }
}

impl FromMapping for ClientDirectivesConfig {
    fn full<'de, D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        /// The mapping form; it is enabled if `enabled` is absent, since a written rate is meant to
        /// apply.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct CacheMapping {
            enabled: Option<bool>,
            per_address: Option<Spanned<Rate>>,
        }
        let written = CacheMapping::deserialize(d)?;
        let mut config = Self::new(written.enabled.unwrap_or(true));
        if let Some(rate) = written.per_address {
            config.per_address = rate;
        }
        Ok(config)
    }
}

impl Short for ClientDirectivesConfig {
    const WHAT: &'static str = "`true`, `false` or a mapping such as `{ per_address: 10/min }`";

    const FLAG: Option<&'static str> = Some("enabled");
}

reads_short!(by_hand: ClientDirectivesConfig);
writes_mapping!(ClientDirectivesConfig);

impl Short for RouteCacheConfig {
    const WHAT: &'static str = "`true`, `false` or a mapping";

    fn flag(flag: bool) -> Option<Result<Self, String>> {
        flag.then(|| Ok(Self::default()))
    }
}

short_form!(RouteCacheConfig);

impl RouteCacheConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<RouteCachePolicy> {
        // Without a cache, the `cache` section was refused, which is reported already.
        let cache = cx.shared.get::<Cache>();
        let memory = cache
            .as_ref()
            .map_or(u64::MAX, |cache| cache.settings.memory);
        let by_status = cx.checked(|cx| self.by_status(cx))?;
        let tags = cx.checked(|cx| self.tags(cx))?;
        let key = self.key(cx)?;
        let limits = cx.checked(|cx| self.client_directives.compile(cx))??;
        if self.force {
            self.warn_of_force(cx)?;
        }
        let ignored = self.ignored(cx);
        let min_uses = cx.checked(|cx| self.min_uses(cx))?;
        if self.keep_on_write && self.purge_on_write {
            return cx.here("edgeway::cache::keep_on_write").refuse(
                "`keep_on_write` keeps what `purge_on_write` removes",
                "write one of the two",
            );
        }
        if let Some(max) = &self.max_object
            && max.value.0 > memory / 4
        {
            return cx.at(max.place, "edgeway::cache::max_object").refuse(
                format!(
                    "a `max_object` of {} is more than a quarter of the cache's memory",
                    max.value
                ),
                "write a smaller `max_object`, or a larger `cache.memory`",
            );
        }
        let plain = CacheRules {
            ttl: self.ttl.as_ref().map(|ttl| ttl.value.0),
            force: self.force,
            by_status,
            heuristic: self.heuristic.map(|share| share.0 / 100.0),
            stale_while_revalidate: self.stale_while_revalidate.map(|span| span.0),
            stale_if_error: self.stale_if_error.map(|span| span.0),
            stale_despite_s_maxage: self.mode == ModeConfig::App,
            ignored,
            ..CacheRules::default()
        };
        let preset = nextjs::rules_for_next();
        let nextjs = CacheRules {
            stale_if_error: plain.stale_if_error.or(preset.stale_if_error),
            stale_while_revalidate: plain
                .stale_while_revalidate
                .or(preset.stale_while_revalidate),
            max_stale_while_revalidate: plain
                .stale_while_revalidate
                .or(preset.max_stale_while_revalidate),
            explicit_only: preset.explicit_only && plain.ttl.is_none(),
            stale_despite_s_maxage: preset.stale_despite_s_maxage,
            ..plain.clone()
        };
        for Spanned { value, place } in &self.bypass {
            let value = value.to_string();
            if matches!(&*value, "client.ip" | "client.network" | "host" | "route") {
                let message = format!("every request has `{value}`: none would use the cache");
                let help = "write one such as `cookie:session`, or leave `cache` out";
                cx.at(*place, "edgeway::cache::bypass").error(message, help);
            }
        }
        let own_cookie = [CHANGED_COOKIE];
        Some(RouteCachePolicy {
            mode: self.mode.mode(),
            pages: self.pages.pages(),
            plain,
            nextjs,
            key,
            bypass: self.bypass.into_iter().map(|item| item.value).collect(),
            anonymous: match &self.anonymous_cookies {
                Some(names) => NameSet::new(names.iter().map(String::as_str).chain(own_cookie)),
                None => NameSet::new(name_set::ANALYTICS.iter().copied().chain(own_cookie)),
            },
            max_object: self
                .max_object
                .map(|max| max.value.0)
                .or_else(|| cache.map(|cache| cache.settings.max_object))
                .unwrap_or_default(),
            tags,
            purge_on_write: self.purge_on_write,
            browser_ttl: self.browser_ttl.map(|span| span.0),
            client_directives: limits.directives,
            after_changes: limits.after_changes,
            wait: self.wait.0,
            quota: self.quota.map(|quota| quota.value.0),
            fetches_whole: self.whole,
            ranges: self.ranges.ranges(),
            keeps_on_write: self.keep_on_write,
            min_uses,
        })
    }

    fn by_status(&self, cx: &mut CompileContext<'_>) -> Vec<(u16, Duration)> {
        let mut by_status = Vec::new();
        for (status, span) in &self.by_status {
            match status.parse() {
                Ok(code @ 200..=599) if code != 206 && code != 304 => {
                    by_status.push((code, span.value.0));
                }
                _ => cx.at(span.place, "edgeway::cache::status").error(
                    format!("responses of status `{status}` are not stored"),
                    "write a status such as `404`; 206 and 304 are incomplete responses",
                ),
            }
        }
        by_status
    }

    fn tags(&self, cx: &mut CompileContext<'_>) -> Box<[TagTemplate]> {
        const HELP: &str =
            "write a tag such as `products`, or `product:{id}` with a path parameter";
        let tags = self.tags.iter().filter_map(|tag| {
            let parsed = TagTemplate::parse(&tag.value);
            let parsed = parsed.map_err(|problem| (problem.to_string(), HELP.to_owned()));
            cx.at(tag.place, "edgeway::cache::tag").reported(parsed)
        });
        tags.collect()
    }

    fn key(&self, cx: &mut CompileContext<'_>) -> Option<KeyRules> {
        let (key, ignore_query) = (&self.key, &self.key.ignore_query);
        let ignored = || NameSet::new(ignore_query.iter().map(String::as_str));
        let query = match &key.query {
            Some(only) if !ignore_query.is_empty() => {
                return cx.at(only.place, "edgeway::cache::query").refuse(
                    "`query` lists the parameters of the cache key, and `ignore_query` those left \
                     out",
                    "write one of the two",
                );
            }
            Some(only) => Query::Only(NameSet::new(only.value.iter().map(String::as_str))),
            None if ignore_query.is_empty() => Query::All,
            None => Query::Without(ignored()),
        };
        if key.pass_unkeyed && query.is_all() {
            return cx.here("edgeway::cache::query").refuse(
                "`pass_unkeyed` has no effect: all parameters are in the cache key",
                "write `ignore_query: [utm_*]` beside it, or remove it",
            );
        }
        Some(KeyRules {
            query,
            passes_unkeyed: key.pass_unkeyed,
            by: key.by.iter().map(|item| item.value.clone()).collect(),
        })
    }

    fn ignored(&self, cx: &mut CompileContext<'_>) -> IgnoredHeaders {
        let is = |header| self.ignore_headers.contains(&header);
        let ignored = IgnoredHeaders {
            cache_control: is(IgnoredHeader::CacheControl),
            expires: is(IgnoredHeader::Expires),
            set_cookie: is(IgnoredHeader::SetCookie),
            vary: is(IgnoredHeader::Vary),
        };
        if ignored.cache_control || ignored.set_cookie || ignored.vary {
            cx.here("edgeway::cache::ignore_headers").warn(
                "`ignore_headers` may store responses for all clients that the origin made for one \
                 client",
                "make sure that no response of this route is personal; cookies themselves are \
                 never stored: only the client that made the request gets them",
            );
        }
        ignored
    }

    fn min_uses(&self, cx: &mut CompileContext<'_>) -> Option<MinUses> {
        let written = self.min_uses.as_ref()?;
        let (number, place) = (written.value, written.place);
        if number == 0 {
            return cx.at(place, "edgeway::cache::min_uses").refuse(
                "`min_uses: 0` has no meaning: a response is stored after a request at the \
                 earliest",
                "write `1` or more; `cache: false` stores nothing",
            );
        }
        let counts = || cx.zones.get_or_create("cache min_uses", UseCounts::default);
        (number > 1).then(|| MinUses::new(number, counts()))
    }

    fn warn_of_force(&self, cx: &mut CompileContext<'_>) -> Option<()> {
        if self.ttl.is_none() && self.by_status.is_empty() {
            return cx.here("edgeway::cache::force").refuse(
                "`force` makes `ttl` override the origin, and there is no `ttl`",
                "write `ttl: 1min`, or remove `force`",
            );
        }
        cx.here("edgeway::cache::force").warn(
            "`force` stores responses that the origin forbids to store",
            "make sure that no response of this route is private; those with `Set-Cookie` or to \
             requests with `Authorization` are still not stored",
        );
        Some(())
    }
}
