//! An explanation as text, for the terminal and the status page.

use std::fmt::Write as _;

use edgeway_base::{out::counted, units::ByteSize};

use super::explain::{ConsideredRoute, ExplainedCache, Explanation, StoredEntry};

/// Formats an explanation, one fact per line.
pub fn text(explanation: &Explanation) -> String {
    let mut out = String::new();
    let mut line = |key: &str, value: &str| {
        // Writing to a string cannot fail.
        let _infallible = writeln!(out, "{key:<12}{value}");
    };
    line("host", &explanation.host);
    match &explanation.rewritten_from {
        Some(from) => line(
            "target",
            &format!("{} (asked as {from})", explanation.target),
        ),
        None => line("target", &explanation.target),
    }
    line("class", &explanation.class);
    line(
        "route",
        match (&explanation.route, explanation.without_route) {
            (Some(route), _) => route,
            (None, Some(421)) => "none: 421, no route is for this host",
            (None, _) => "none: 404",
        },
    );
    if let Some(spelling) = &explanation.spelling {
        line("", &format!("by folded spelling: it guards {spelling}"));
    }
    for other in &explanation.also_guarded_by {
        line("", &format!("and what {other} asks of who may pass"));
    }
    for (key, value) in [
        ("action", &explanation.action),
        ("forwarded", &explanation.upstream_target),
        ("host", &explanation.upstream_host),
        ("sent as", &explanation.upstream_request),
        ("release", &explanation.release),
        ("image", &explanation.image),
    ] {
        if let Some(value) = value {
            line(key, value);
        }
    }
    for (name, value) in &explanation.parameters {
        line("parameter", &format!("{{{name}}} = {value}"));
    }
    for (index, filter) in explanation.filters.iter().enumerate() {
        let key = if index == 0 { "filters" } else { "" };
        line(
            key,
            &format!("{} ({})", filter.name, filter.phases.join(", ")),
        );
        for note in &filter.notes {
            line("", &format!("  {note}"));
        }
    }
    if let Some(cache) = &explanation.cache {
        put_cache(&mut line, cache);
    }
    for (index, ConsideredRoute { route, why }) in explanation.considered.iter().enumerate() {
        let key = if index == 0 { "considered" } else { "" };
        line(key, &format!("{route}: {why}"));
    }
    out
}

fn put_cache(line: &mut impl FnMut(&str, &str), cache: &ExplainedCache) {
    for (index, text) in cache.policy.iter().enumerate() {
        line(if index == 0 { "cache" } else { "" }, text);
    }
    if !cache.tags.is_empty() {
        line("tags", &cache.tags.join(", "));
    }
    if let Some(why) = &cache.past {
        line("bypassed", why);
    }
    if let Some(key) = &cache.key {
        line("key", &key.url);
        for and in &key.and {
            line("", and);
        }
    }
    if let Some(why) = &cache.not_kept {
        line("not stored", why);
    }
    let Some(now) = &cache.now else {
        return;
    };
    let why = now.why.iter().map(|why| format!(", {why}"));
    line("now", &(now.outcome.clone() + &why.collect::<String>()));
    if let Some(entry) = &now.entry {
        line("entry", &entry_line(entry, now.variants));
        if !entry.vary.is_empty() {
            line("", &format!("varies by {}", entry.vary.join(", ")));
        }
        if !entry.tags.is_empty() {
            line("", &format!("tags {}", entry.tags.join(", ")));
        }
    }
}

fn entry_line(entry: &StoredEntry, variants: usize) -> String {
    let fresh = match entry.ttl {
        ttl @ 0.. => format!("fresh for {ttl} s"),
        ttl => format!("stale for {} s", ttl.unsigned_abs()),
    };
    let mut text = format!(
        "{}, {} s old, {fresh}, {}, {}",
        entry.status,
        entry.age,
        ByteSize(entry.bytes),
        counted(entry.hits, "hit")
    );
    if entry.under_way {
        text.push_str(", still being filled");
    }
    if let Some(ago) = entry.purged {
        // Writing to a string cannot fail.
        let _infallible = write!(text, ", purged {ago} s ago");
    }
    if variants > 1 {
        let _infallible = write!(text, ", one of {variants} variants");
    }
    text
}
