//! Directives that need no counterpart, or that have none for a known reason; and what differs
//! without any directive.

use super::{
    parse::Directive,
    report::{Fate, Fates},
};

/// Differences for which no directive stands. A word of each is the name of the difference.
pub(super) const GENERAL: [&str; 14] = [
    "security headers: the same as with nginx; `security_headers: helmet` in `defaults` adds the \
     usual ones, which then need no `add_header` line",
    "dot segments: backends get a path with its dot segments resolved, and segments above the root \
     are dropped; encoded ones (`%2e%2e`) get 400",
    "duplicate slashes: backends get a path with one slash for several; `merge_slashes: false` \
     keeps them",
    "percent-encoding: backends get a path in its normal form, `%61` as `a` and `%2f` as `%2F`; a \
     `?` without a query is passed on, even if `proxy_pass` has the path of the location",
    "strict requests: a request that two programs could read differently gets 400, for example \
     with two hosts, a bare LF, `#` or raw bytes beyond ASCII in the target, `%5c` or `%00`; this \
     400 has only those headers of `add_header` that the default servers of all listeners share \
     and that have no variables; `OPTIONS *` is passed on",
    "ids: backends get `X-Request-Id` and `traceparent`; `request_id: false` in `defaults` removes \
     them",
    "no response has `Server`, neither the gateway's own nor a backend's",
    "forwarding headers: backends get `X-Real-IP`, `X-Forwarded-For`, `X-Forwarded-Proto`, \
     `X-Forwarded-Host` and `X-Forwarded-Port`; a client's headers of these and similar names are \
     removed, unless the client is in `trusted_proxies`",
    "`Cache-Control: no-store` is on the gateway's own errors, which have its own pages",
    "keep-alive: after a response of the gateway itself, or a stored one, the connection is closed \
     if the request's body has not arrived completely and has more than 1 MiB, no length, or \
     `Expect: 100-continue`",
    "405 of files has `Allow`",
    "`Expect: 100-continue` is passed to backends",
    "spelling: rules that protect a path protect its other spellings too (`/ADMIN`, `/admin%2F`); \
     these get the headers of that location if both lead to the same upstream; `spelling: exact` \
     of a route switches that off",
    "an HTTP/1.0 request without `Host` has no host, and redirects to a URL need one; `Location` \
     of a redirect to a path is that path",
];

/// Directives that have a counterpart, and the counterpart.
const HANDLED: &[(&str, &str)] = &[
    (
        "listen",
        "`listeners`: one for each address; `ssl`, `http2`, `proxy_protocol`, `default_server`",
    ),
    (
        "server_name",
        "`match: { host }`: whole names, `*.name`, `.name`, `name.*` and regular expressions",
    ),
    (
        "location",
        "`match: { location }`, in nginx's words and order, and `within` for one inside another",
    ),
    ("return", "a response in `rules`"),
    (
        "rewrite",
        "a rewrite or redirect in `rules`, of a `server` in those of `sites`",
    ),
    (
        "if",
        "conditions of `rules`; for files, `files.try` and `maps` with `exists`",
    ),
    ("limit_except", "`methods`, or a rule"),
    (
        "internal",
        "`match: { internal: true }`, and `files.internal` for `X-Accel-Redirect`",
    ),
    (
        "proxy_pass",
        "`upstream`, and `rewrite` where it has a path",
    ),
    ("upstream", "`upstreams`"),
    ("least_conn", "`balance: least_conn`"),
    ("ip_hash", "`balance: hash:client.ip`"),
    ("hash", "`balance: hash:…`"),
    ("random", "`balance: p2c`"),
    ("keepalive", "always"),
    (
        "proxy_set_header",
        "`host_header`, `headers.request`, `websocket: true`",
    ),
    ("proxy_method", "`upstream_request.method`"),
    ("proxy_set_body", "`upstream_request.body`"),
    (
        "proxy_pass_request_body",
        "`upstream_request.body` without a text, if `off`",
    ),
    ("proxy_hide_header", "`headers.response.remove`"),
    ("proxy_connect_timeout", "`timeouts.connect` of the route"),
    (
        "proxy_read_timeout",
        "`timeouts.first_byte` and `idle` of the route",
    ),
    ("proxy_send_timeout", "`timeouts.idle` of the route"),
    ("proxy_redirect", "`response_rewrite.location`"),
    ("proxy_cookie_domain", "`response_rewrite.cookies.domain`"),
    ("proxy_cookie_path", "`response_rewrite.cookies.path`"),
    ("proxy_cookie_flags", "`response_rewrite.cookies.flags`"),
    ("proxy_ssl_name", "`tls.name` of the upstream"),
    ("proxy_cache", "`cache`"),
    (
        "proxy_cache_valid",
        "`cache.by_status`, and `ttl` for `any`",
    ),
    ("proxy_cache_key", "`cache.key`"),
    (
        "proxy_cache_use_stale",
        "`stale_while_revalidate`, `stale_if_error`",
    ),
    ("proxy_cache_bypass", "`cache.bypass_if`"),
    ("proxy_no_cache", "`cache.no_store_if`"),
    ("proxy_cache_min_uses", "`cache.min_uses`"),
    ("proxy_ignore_headers", "`cache.ignore_headers`"),
    ("proxy_cache_lock", "always"),
    (
        "add_header",
        "`headers.response`, without `always` in `by_status`",
    ),
    ("expires", "`expires` of `headers.response`"),
    ("root", "`files`"),
    ("alias", "`files` and `rewrite`"),
    ("index", "`files.index`"),
    ("try_files", "`files.try` and `files.otherwise`"),
    ("gzip_static", "`files.precompressed`"),
    ("if_modified_since", "`files.if_modified_since`"),
    (
        "error_page",
        "`error_pages`: pages of routes and redirects, with another status too",
    ),
    ("proxy_intercept_errors", "`intercept` of `error_pages`"),
    ("client_max_body_size", "`body_limit`"),
    ("limit_req_zone", "`rate_limits`"),
    ("limit_req", "`rate_limit`"),
    ("limit_req_status", "`status` of the limit"),
    ("limit_conn_zone", "the key of `in_flight`"),
    ("limit_conn", "`in_flight`"),
    ("allow", "`access`"),
    ("deny", "`access`"),
    ("satisfy", "`satisfy`"),
    ("auth_basic", "`basic_auth`"),
    ("auth_request", "`forward_auth`"),
    ("auth_request_set", "`copy` of `forward_auth`"),
    ("gzip", "`compression`"),
    ("gzip_types", "`compression.types`"),
    ("gzip_min_length", "`compression.min_size`"),
    ("gzip_comp_level", "`compression.levels`"),
    ("gzip_proxied", "always"),
    ("ssl_certificate", "`tls.certificates` of the listener"),
    ("ssl_certificate_key", "`tls.certificates` of the listener"),
    ("ssl_protocols", "`tls.min_version` of the listener"),
    ("http2", "`http2` of the listener"),
    ("set_real_ip_from", "`trusted_proxies`"),
    ("real_ip_header", "`X-Forwarded-For`"),
    ("real_ip_recursive", "always"),
    ("merge_slashes", "`merge_slashes`"),
    (
        "client_header_timeout",
        "`limits.header_timeout` of the listener",
    ),
    ("keepalive_timeout", "`limits.idle_timeout` of the listener"),
    (
        "keepalive_requests",
        "`limits.requests_per_connection` of the listener",
    ),
    ("send_timeout", "`limits.send_timeout` of the listener"),
    (
        "large_client_header_buffers",
        "`limits.request_line` and `headers` of the listener",
    ),
    ("client_body_timeout", "`limits.body_grace` of the listener"),
    ("include", "read in its place"),
];

/// Settings that the gateway needs none for.
const NEEDLESS: &[&str] = &[
    "user",
    "worker_processes",
    "worker_rlimit_nofile",
    "worker_connections",
    "worker_priority",
    "worker_cpu_affinity",
    "worker_shutdown_timeout",
    "pid",
    "events",
    "daemon",
    "master_process",
    "multi_accept",
    "use",
    "accept_mutex",
    "thread_pool",
    "pcre_jit",
    "sendfile",
    "sendfile_max_chunk",
    "tcp_nopush",
    "tcp_nodelay",
    "aio",
    "directio",
    "types_hash_max_size",
    "types_hash_bucket_size",
    "server_names_hash_bucket_size",
    "server_names_hash_max_size",
    "variables_hash_max_size",
    "variables_hash_bucket_size",
    "map_hash_bucket_size",
    "map_hash_max_size",
    "proxy_headers_hash_max_size",
    "proxy_headers_hash_bucket_size",
    "reset_timedout_connection",
    "proxy_buffering",
    "proxy_buffer_size",
    "proxy_buffers",
    "proxy_busy_buffers_size",
    "proxy_temp_path",
    "proxy_temp_file_write_size",
    "proxy_max_temp_file_size",
    "proxy_http_version",
    "proxy_socket_keepalive",
    "client_body_buffer_size",
    "client_header_buffer_size",
    "client_body_temp_path",
    "client_body_in_file_only",
    "fastcgi_temp_path",
    "uwsgi_temp_path",
    "scgi_temp_path",
    "connection_pool_size",
    "request_pool_size",
    "output_buffers",
    "postpone_output",
    "send_lowat",
    "open_file_cache",
    "open_file_cache_valid",
    "open_file_cache_min_uses",
    "open_file_cache_errors",
    "log_not_found",
    "log_subrequest",
    "gzip_vary",
    "gzip_disable",
    "gzip_buffers",
    "gzip_http_version",
    "ssl_session_cache",
    "ssl_session_timeout",
    "ssl_session_tickets",
    "ssl_prefer_server_ciphers",
    "ssl_dhparam",
    "ssl_ecdh_curve",
    "ssl_buffer_size",
    "ssl_early_data",
    "server_tokens",
    "default_type",
    "charset",
    "ssi",
    "lingering_close",
    "lingering_time",
    "lingering_timeout",
    "limit_req_log_level",
    "limit_conn_log_level",
    "keepalive_disable",
    "http2_max_concurrent_streams",
    "proxy_cache_path",
    "proxy_ignore_client_abort",
    "etag",
    "max_ranges",
    "absolute_redirect",
    "port_in_redirect",
    "server_name_in_redirect",
    "proxy_ssl_server_name",
];

/// Settings whose meaning changes in a known way.
const CHANGED: &[(&str, &str)] = &[
    (
        "access_log",
        "the access log is JSON on standard output; `access_log: { format: compat }` has nginx's `combined`",
    ),
    (
        "log_format",
        "`format: compat`, or JSON with a choice of fields",
    ),
    ("error_log", "the gateway's log goes to standard error"),
    (
        "ssl_ciphers",
        "ciphers of TLS 1.2 with ECDHE and AEAD, and all of TLS 1.3",
    ),
    (
        "resolver",
        "names are resolved by the system's resolver, again when their TTL ends",
    ),
    (
        "resolver_timeout",
        "names are resolved by the system's resolver",
    ),
    (
        "proxy_next_upstream",
        "`retry` of the upstream: failed connections and resets, of idempotent requests",
    ),
    ("proxy_next_upstream_tries", "`retry: { attempts: 2 }`"),
    (
        "proxy_next_upstream_timeout",
        "`retry` has a budget instead of a time",
    ),
    (
        "proxy_request_buffering",
        "requests are passed on as they arrive",
    ),
    (
        "proxy_pass_header",
        "every header of the backend is passed on",
    ),
    ("types", "media types by file extension are built in"),
    ("ssl_stapling", "`ocsp` of a certificate"),
    ("ssl_stapling_verify", "`ocsp` of a certificate"),
    ("ssl_trusted_certificate", "`ocsp` of a certificate"),
    ("auth_basic_user_file", "used where `auth_basic` applies"),
    ("underscores_in_headers", "`underscores` of the listener"),
    (
        "map",
        "`maps`, if a header, a condition or `proxy_pass` uses its variable",
    ),
    (
        "geo",
        "`maps`, if a header, a condition or `proxy_pass` uses its variable",
    ),
    (
        "split_clients",
        "`maps` with `shares`, if a header, a condition or `proxy_pass` uses its variable",
    ),
];

/// Marks directives that nothing has read.
pub(super) fn mark_rest(all: &[Directive], fates: &mut Fates) {
    for directive in all {
        if !fates.has(directive) {
            rest(directive, fates);
        }
        mark_rest(directive.children(), fates);
    }
}

fn rest(directive: &Directive, fates: &mut Fates) {
    let name = directive.name.as_str();
    if NEEDLESS.contains(&name) {
        fates.carried(directive, "has no counterpart and needs none");
        if name == "events" {
            for inner in directive.children() {
                fates.carried(inner, "has no counterpart and needs none");
            }
        }
        return;
    }
    if let Some((_, note)) = CHANGED.iter().find(|(known, _)| *known == name) {
        // The two variables of every map for WebSockets are not needed.
        let is_upgrade = name == "map" && directive.arg(0) == "$http_upgrade";
        let fate = if is_upgrade {
            Fate::Carried
        } else {
            Fate::Changed
        };
        let fate = if matches!(name, "map" | "geo" | "split_clients") && !is_upgrade {
            Fate::NotCarried
        } else {
            fate
        };
        let note = match fate {
            Fate::Carried => "not needed: `websocket: true` passes upgrades",
            Fate::NotCarried => "the directives that use it were not carried over",
            Fate::Changed => note,
        };
        fates.mark(directive, fate, note);
        if matches!(name, "map" | "geo" | "split_clients" | "types") {
            for entry in directive.children() {
                fates.mark(entry, fate, note);
            }
        }
        return;
    }
    if HANDLED.iter().any(|(known, _)| *known == name) && directive.block.is_none() {
        fates.carried(
            directive,
            "without effect: no carried-over directive uses it",
        );
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, fs, path::Path};

    use super::*;

    /// Writes the page's tables instead of comparing them.
    const WRITE: &str = "WRITE_NGINX_PAGE";
    const BEGIN: &str = "<!-- directives -->\n";
    const END: &str = "<!-- /directives -->\n";

    fn tables() -> String {
        let mut text = String::from("| directive | becomes |\n|---|---|\n");
        for (name, counterpart) in HANDLED {
            let _ = writeln!(text, "| `{name}` | {counterpart} |");
        }
        text.push_str(
            "\nWith a changed meaning, or not at all:\n\n| directive | here |\n|---|---|\n",
        );
        for (name, note) in CHANGED {
            let _ = writeln!(text, "| `{name}` | {note} |");
        }
        let needless: Vec<String> = NEEDLESS.iter().map(|name| format!("`{name}`")).collect();
        let needless = needless.join(", ");
        let _ = writeln!(
            text,
            "\nThese directives have no counterpart and need none: {needless}."
        );
        text
    }

    #[test]
    fn the_page_has_the_tables_of_the_importer() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/from-nginx.md");
        let page = fs::read_to_string(&path).unwrap();
        let (before, rest) = page.split_once(BEGIN).expect("the page marks its tables");
        let (own, after) = rest.split_once(END).expect("the page marks their end");
        if std::env::var_os(WRITE).is_some() {
            fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", tables())).unwrap();
            return;
        }
        assert_eq!(own, tables(), "run the test with {WRITE}=1");
    }

    #[test]
    fn a_directive_is_in_one_table() {
        let handled = HANDLED.iter().map(|(name, _)| *name);
        let changed = CHANGED.iter().map(|(name, _)| *name);
        let mut all: Vec<&str> = handled
            .chain(changed)
            .chain(NEEDLESS.iter().copied())
            .collect();
        all.sort_unstable();
        let twice: Vec<&&str> = all
            .windows(2)
            .filter(|pair| pair[0] == pair[1])
            .map(|pair| &pair[0])
            .collect();
        assert!(twice.is_empty(), "{twice:?}");
    }
}
