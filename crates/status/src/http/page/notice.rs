//! Results of forms, as they are shown on the page.

use edgeway_base::out::hints;
use edgeway_cache::purge::Receipt;
use edgeway_gateway::{
    explain::{ExplainRequest, Explanation, StoredEntry},
    explain_text,
};
use maud::{Markup, html};

use super::{tables::mark, view::hidden_csrf};
use crate::{
    actions::{ActionError, BackendName, BackendResult},
    receipt::receipt_text,
    snapshot::BanStatus,
};

pub(super) fn failed(refused: &ActionError) -> Markup {
    html! { p class="bad" { (hints(&refused.message)) } p class="soft" { code { (refused.reason) } } }
}

/// The refusal to drain the last backend, with the form that does it all the same.
pub(super) fn last_backend(
    refused: &ActionError,
    backend: &BackendName,
    csrf: Option<&str>,
) -> Markup {
    html! {
        (failed(refused))
        form method="post" action="/status/act/drain" {
            (hidden_csrf(csrf))
            input type="hidden" name="upstream" value=(backend.upstream);
            input type="hidden" name="address" value=(backend.address);
            input type="hidden" name="force" value="true";
            button class="danger" { "Drain it anyway" }
        }
    }
}

pub(super) fn backend(done: &BackendResult) -> Markup {
    html! {
        p {
            "Backend " code { (done.backend.address) } " of " (done.upstream) " is now "
            (mark(done.backend.state == "healthy", &done.backend.state)) "."
        }
    }
}

pub(super) fn unbanned(ban: &BanStatus) -> Markup {
    html! { p { "The client " code { (ban.address) } " may pass again." } }
}

pub(super) fn receipt(receipt: &Receipt) -> Markup {
    html! {
        p {
            @if receipt.is_over() { (mark(true, "Purged.")) }
            @else { (mark(false, "Purged here, but not everywhere.")) }
        }
        pre tabindex="0" { (receipt_text(receipt)) }
    }
}

/// The result of a lookup in the cache, in one sentence, and its details.
pub(super) fn lookup(question: &ExplainRequest, explanation: &Explanation) -> Markup {
    let now = explanation
        .cache
        .as_ref()
        .and_then(|cache| cache.now.as_ref());
    let entry = now.and_then(|now| now.entry.as_ref());
    html! {
        p {
            code { (question.method) " " (question.url) } ": "
            @if explanation.route.is_none() {
                (mark(false, "no route takes this request"))
            } @else if explanation.cache.is_none() {
                (mark(false, "not cached")) ", its route has no cache"
            } @else if let Some(now) = now {
                @match entry {
                    Some(entry) => { (mark(entry.ttl >= 0, "cached")) ", " (freshness(entry)) }
                    None => { (mark(false, "not cached")) }
                }
                "; a request gets " code { (now.outcome) }
                @if let Some(why) = &now.why { ", " (why) }
            }
            "."
        }
        (details(explanation))
    }
}

fn freshness(entry: &StoredEntry) -> String {
    match entry.ttl {
        ttl @ 0.. => format!("{} s old, fresh for {ttl} s", entry.age),
        ttl => format!("{} s old, stale for {} s", entry.age, ttl.unsigned_abs()),
    }
}

pub(super) fn explanation(question: &ExplainRequest, explanation: &Explanation) -> Markup {
    html! {
        p { code { (question.method) " " (question.url) } }
        (details(explanation))
    }
}

fn details(explanation: &Explanation) -> Markup {
    html! { pre tabindex="0" { (explain_text::text(explanation)) } }
}
