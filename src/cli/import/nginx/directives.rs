//! Directives that need no counterpart, or that have none for a known reason; and what differs
//! without any directive.

use super::{
    parse::Directive,
    report::{Fate, Fates},
};

/// Differences for which no directive stands. A word of each is the name of the difference.
pub(super) const GENERAL: [&str; 15] = [
    "dot segments: backends get a path with its dot segments resolved; encoded ones (`%2e%2e`) get \
     400",
    "duplicate slashes: backends get a path with one slash for several; `merge_slashes: false` \
     keeps them",
    "percent-encoding: backends get a path in its normal form, `%61` as `a` and `%2f` as `%2F`",
    "strict requests: what two programs could read in two ways gets 400, without headers of `add_header`, such as two hosts, a bare \
     LF, `#` and raw bytes beyond ASCII in the target, `%5c` and `%00`; `OPTIONS *` is passed on",
    "security headers: all responses get those of `security_headers`; `security_headers: false` in \
     `defaults` takes them away",
    "ids: responses and requests to backends get `X-Request-Id`, and backends `traceparent`; \
     `request_id: false` in `defaults` takes them away",
    "forwarding headers: backends get `X-Real-IP`, `X-Forwarded-For`, `X-Forwarded-Proto`, \
     `X-Forwarded-Host` and `X-Forwarded-Port`; what a client sends under these and similar names \
     is removed unless it is in `trusted_proxies`",
    "`Cache-Control: no-store` is on the gateway's own errors, which have its own pages",
    "keep-alive: the connection is closed after a response of the gateway itself to a request \
     with a body",
    "upgrades: `Upgrade` gets 400, except on routes with `websocket: true`",
    "media types: text has `charset=utf-8`, scripts are `text/javascript`; 405 of files has `Allow`",
    "the size of a body is checked after addresses and passwords",
    "`Expect: 100-continue` is passed to backends",
    "spelling: what protects a path protects its other spellings as well (`/ADMIN`, `/admin%2F`); \
     `spelling: exact` of a route switches that off",
    "a request of HTTP/1.0 without `Host` has no host; redirects need one, and `Location` of a \
     redirect to a path is that path; a `Location` with the backend's own address is repaired",
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
    "proxy_cache_min_uses",
    "proxy_ignore_client_abort",
    "etag",
    "if_modified_since",
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
        "ciphers of TLS 1.2 with ECDHE and AEAD, and those of 1.3",
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
        "proxy_redirect",
        "a `Location` with the backend's own address is repaired",
    ),
    (
        "proxy_request_buffering",
        "requests are passed on as they arrive",
    ),
    ("proxy_ignore_headers", "the headers of the backend count"),
    (
        "proxy_intercept_errors",
        "error pages of a backend are passed on",
    ),
    (
        "proxy_pass_header",
        "every header of the backend is passed on",
    ),
    ("types", "media types by the end of a name are built in"),
    ("ssl_stapling", "`ocsp` of a certificate"),
    ("ssl_stapling_verify", "`ocsp` of a certificate"),
    ("ssl_trusted_certificate", "`ocsp` of a certificate"),
    (
        "error_page",
        "the gateway's own pages for errors; a backend's are passed on",
    ),
    ("auth_basic_user_file", "used where `auth_basic` applies"),
    ("underscores_in_headers", "`underscores` of the listener"),
    (
        "map",
        "used where a directive that was carried over names its variable",
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
        let fate = if name == "map" && !is_upgrade {
            Fate::NotCarried
        } else {
            fate
        };
        let note = match fate {
            Fate::Carried => "not needed: `websocket: true` passes upgrades",
            Fate::NotCarried => "a lookup table has no counterpart",
            Fate::Changed => note,
        };
        fates.mark(directive, fate, note);
        if matches!(name, "map" | "types") {
            for entry in directive.children() {
                fates.mark(entry, fate, note);
            }
        }
        return;
    }
    match name {
        "gzip_types" | "gzip_min_length" | "gzip_comp_level" | "gzip_proxied" => {
            fates.carried(directive, "without effect: `gzip` is off here");
        }
        "index"
        | "root"
        | "client_max_body_size"
        | "proxy_set_header"
        | "proxy_connect_timeout"
        | "proxy_read_timeout"
        | "proxy_send_timeout"
        | "add_header"
        | "limit_req_zone"
        | "limit_conn_zone"
        | "ssl_certificate"
        | "ssl_certificate_key"
        | "ssl_protocols"
        | "proxy_hide_header"
        | "expires" => {
            fates.carried(
                directive,
                "without effect: no location that was carried over uses it",
            );
        }
        "server" if directive.block.is_some() => {}
        _ => {}
    }
}
