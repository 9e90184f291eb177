//! The page as a whole, the login, and the forms that are not replaced.

use edgeway_base::out;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    ICON_PATH, LOGIN, LOGOUT, SCRIPT_PATH, STATUS, STREAM, STYLE_PATH, plugins, routes, tables,
    tail::Tail, tiles,
};
use crate::{Snapshot, snapshot::BanStatus};

/// Name of the field by which a form shows that a page of ours sent it.
pub(super) const CSRF_FIELD: &str = "csrf";

/// Input of the page.
pub(super) struct PageView<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) bans: Vec<BanStatus>,
    pub(super) csrf: Option<String>,
    /// True if there is a session to leave.
    pub(super) may_leave: bool,
}

/// Renders the sections that are kept up to date, by their ids, in the order of the page.
pub(super) fn sections(view: &PageView<'_>) -> Vec<(&'static str, Markup)> {
    let status = view.snapshot;
    vec![
        ("summary", tables::summary(view)),
        ("traffic", tiles::tiles(&status.traffic)),
        ("routes", routes::routes(&status.routes)),
        ("upstreams", tables::upstreams(view)),
        ("cache", tables::cache(status)),
        ("limits", tables::limits(view)),
        ("plugins", plugins::plugins(&status.plugins)),
        ("certificates", tables::certificates(status)),
        ("reloads", tables::reloads(&status.reloads)),
        ("shared", tables::shared(status)),
        ("listeners", tables::listeners(&status.listeners)),
    ]
}

/// Renders the page. `result` is the result of a form.
pub(super) fn page(
    view: &PageView<'_>,
    tail: &Tail,
    result: Option<&str>,
    is_refreshed: bool,
) -> Markup {
    let status = view.snapshot;
    let csrf = view.csrf.as_deref();
    let head = html! {
        // With script, the page is kept up to date without loading it again.
        @if is_refreshed { noscript { meta http-equiv="refresh" content="10"; } }
        script src=(SCRIPT_PATH) defer {}
    };
    let body = html! {
        header {
            a class="brand" href=(STATUS) { img src=(ICON_PATH) alt="" width="24" height="24"; "Edgeway" }
            span id="live" class="soft" role="status" {}
            noscript {
                @if is_refreshed {
                    a href={ (STATUS) "?refresh=off" } { "Stop loading the page again every 10 s" }
                } @else {
                    a href=(STATUS) { "Load the page again every 10 s" }
                }
            }
            @if view.may_leave {
                form method="post" action=(LOGOUT) class="inline" data-plain {
                    (hidden_csrf(csrf))
                    button { "Log out" }
                }
            }
        }
        main data-stream=(STREAM) {
            div id="notice" role="status" hidden[result.is_none()] {
                // Escaped when it was made.
                @if let Some(result) = result { (PreEscaped(result)) }
            }
            @for (id, section) in sections(view) {
                @let html = section.into_string();
                section id=(id) data-live hidden[html.is_empty()] { (PreEscaped(&html)) }
                @if id == "traffic" { (tail.section()) }
                @if id == "cache" && status.cache.is_some() { (cache_forms(csrf)) }
            }
            (explain_form(csrf))
        }
    };
    let title = format!("edgeway · {}", status.state.name());
    document(&title, &head, &body)
}

fn document(title: &str, head: &Markup, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="icon" href=(ICON_PATH) type="image/svg+xml";
                link rel="stylesheet" href=(STYLE_PATH);
                (head)
            }
            body { (body) }
        }
    }
}

/// The hidden field of a form.
pub(super) fn hidden_csrf(csrf: Option<&str>) -> Markup {
    html! { @if let Some(csrf) = csrf { input type="hidden" name=(CSRF_FIELD) value=(csrf); } }
}

fn cache_forms(csrf: Option<&str>) -> Markup {
    html! {
        section class="forms" {
            form method="post" action="/status/act/lookup" {
                (hidden_csrf(csrf))
                label { "Is it cached? " input name="url" required placeholder="https://shop.example.com/" size="36"; }
                button { "Look up" }
            }
            form method="post" action="/status/act/purge" {
                (hidden_csrf(csrf))
                label { "Purge "
                    select name="kind" {
                        option value="url" { "URL" }
                        option value="prefix" { "prefix" }
                        option value="tag" { "tag" }
                        option value="all" { "everything" }
                    }
                }
                label { span class="soft" { "of" } input name="value" placeholder="/blog/" size="24" aria-label="URL, prefix or tag"; }
                label { input type="checkbox" name="soft" value="true"; " soft" }
                button class="danger" { "Purge" }
            }
        }
    }
}

fn explain_form(csrf: Option<&str>) -> Markup {
    html! {
        section id="explain" class="forms" {
            h2 { "Explain a request" }
            form method="post" action="/status/act/explain" {
                (hidden_csrf(csrf))
                label { "Method " input name="method" value="GET" size="7"; }
                label { "URL " input name="url" required placeholder="https://shop.example.com/api" size="36"; }
                label { "Client " input name="client" placeholder="127.0.0.1" size="16"; }
                label class="wide-field" { "Headers, one per line "
                    textarea name="headers" rows="2" placeholder="Accept: text/html" {}
                }
                button { "Explain" }
            }
        }
    }
}

/// Renders a page with a message alone, which script shows in its place on the page.
pub(super) fn message(message: &Markup) -> Markup {
    let body = html! {
        main {
            div id="notice" role="status" { (message) }
            p { a href=(STATUS) { "To the page" } }
        }
    };
    document("edgeway", &html! {}, &body)
}

/// Renders the login. `link` is the key of a link for one use, `why` the reason of a failed login.
pub(super) fn login(link: Option<&str>, why: Option<&str>, has_token: bool) -> Markup {
    let head = html! { script src=(SCRIPT_PATH) defer {} };
    let body = html! {
        main class="login" {
            h1 class="brand" { img src=(ICON_PATH) alt="" width="32" height="32"; "Edgeway" }
            @if let Some(why) = why { p id="why" class="bad" role="alert" { (why) } }
            @if let Some(link) = link {
                // A form, so that the link is not used up by programs that look at links.
                form method="post" action=(LOGIN) data-plain data-auto {
                    input type="hidden" name="link" value=(link);
                    button { "Open the status page" }
                }
            } @else {
                @if has_token {
                    form method="post" action=(LOGIN) data-plain {
                        label { "Admin token "
                            input type="password" name="token" required autofocus
                                autocomplete="current-password";
                        }
                        button { "Log in" }
                    }
                }
                p class="soft" {
                    @if has_token { "Or run " } @else { "Run " }
                    code { (out::program()) " page" }
                    " on the gateway's machine: it prints a link that opens this page."
                }
            }
        }
    };
    document("edgeway · log in", &head, &body)
}
