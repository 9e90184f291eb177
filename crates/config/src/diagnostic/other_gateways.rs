//! Words of nginx, Caddy, Traefik and `HAProxy`, with the form to write here.

edgeway_base::enum_table! {
    /// Sections of the file in which keys are written.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Level => name {
        Top = "at the top level",
        Listener = "at a listener",
        ListenerLimits = "in a listener's `limits`",
        Tls = "in a listener's `tls`",
        Upstream = "at an upstream",
        Eject = "in an upstream's `eject`",
        Health = "in an upstream's `health`",
        Timeouts = "in an upstream's `timeouts`",
        Route = "at a route",
        Match = "in a route's `match`",
        RouteCache = "in a route's `cache`",
    }
}

/// A form to write in place of words of other gateways.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    /// In lower case, with `_`, separated by spaces.
    pub words: &'static str,
    pub level: Level,
    /// Entries of the level.
    pub write: &'static str,
}

impl Level {
    /// Returns a key that no other level has.
    fn mark(self) -> &'static str {
        match self {
            Self::Top => "routes",
            Self::Listener => "proxy_protocol",
            Self::ListenerLimits => "header_timeout",
            Self::Tls => "certificates",
            Self::Upstream => "backends",
            Self::Eject => "errors",
            Self::Health => "interval_down",
            Self::Timeouts => "first_byte",
            // A filter: `defaults` has them too.
            Self::Route => "compression",
            Self::Match => "path_regex",
            Self::RouteCache => "by_status",
        }
    }
}

/// Help for a word of another gateway.
pub(crate) struct Translated {
    pub(crate) help: String,
    /// Key that was meant, if it belongs to the same level.
    pub(crate) key: Option<&'static str>,
}

impl Translation {
    /// Returns the first key to write.
    fn key(&self) -> &'static str {
        self.write.split(':').next().unwrap_or_default()
    }
}

/// Translates a word of another gateway at a level that has keys.
pub(crate) fn translate(word: &str, has: impl Fn(&str) -> bool) -> Option<Translated> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    let is_here = |entry: &&Translation| has(entry.level.mark()) && has(entry.key());
    let is_meant = |entry: &&Translation| entry.words.split(' ').any(|own| own == word);
    let mut here = TRANSLATIONS.iter().filter(is_meant).filter(is_here);
    if let Some(entry) = here.next() {
        return Some(Translated {
            help: format!("write `{}`", entry.write),
            key: Some(entry.key()),
        });
    }
    let entry = TRANSLATIONS.iter().find(is_meant)?;
    Some(Translated {
        help: format!("write `{}` {}", entry.write, entry.level.name()),
        key: None,
    })
}

const fn at(level: Level, words: &'static str, write: &'static str) -> Translation {
    Translation {
        words,
        level,
        write,
    }
}

/// Every translation. Of several for one word, the one for the level at hand counts, else the first.
pub const TRANSLATIONS: &[Translation] = {
    use Level::{
        Eject, Health, Listener, ListenerLimits, Match, Route, RouteCache, Timeouts, Tls, Top,
        Upstream,
    };
    &[
        at(
            Upstream,
            "timeout proxy_read_timeout proxy_connect_timeout proxy_send_timeout read_timeout connect_timeout",
            "timeouts: { connect: 1s, first_byte: 60s, idle: 60s }",
        ),
        // Where clients connect.
        at(
            Top,
            "listen listener bind port ports server http https frontend frontends entrypoints entry_points address",
            "listeners: [{ address: \"127.0.0.1:8080\" }]",
        ),
        at(
            Listener,
            "listen bind port addr ip",
            "address: 127.0.0.1:8080",
        ),
        at(
            Listener,
            "ssl_certificate ssl_certificate_key ssl cert crt certificate",
            "tls: { certificates: [{ cert: site.pem, key: site.key }] }",
        ),
        at(
            Tls,
            "ssl_certificate ssl_certificate_key cert cert_file certfile key key_file keyfile crt certificate pem",
            "certificates: [{ cert: site.pem, key: site.key }]",
        ),
        at(
            Tls,
            "ssl_protocols protocols minversion versions",
            "min_version: \"1.2\"",
        ),
        at(Tls, "domains hosts server_name", "acme: [shop.example.com]"),
        at(
            Listener,
            "server_name hosts domains",
            "tls: { acme: [shop.example.com] }",
        ),
        at(
            Listener,
            "client_header_timeout keepalive_timeout keepalive_requests idle_timeout read_timeout send_timeout timeout timeouts worker_connections maxconn",
            "limits: { header_timeout: 10s, idle_timeout: 60s, requests_per_connection: 1000, \
             connections: 10000 }",
        ),
        at(
            ListenerLimits,
            "client_header_timeout read_header_timeout keepalive_timeout keepalive_requests read_timeout timeout maxconn",
            "header_timeout: 10s, idle_timeout: 60s, requests_per_connection: 1000, \
             connections: 10000",
        ),
        // Where requests go.
        at(
            Upstream,
            "servers server targets target backend endpoints hosts nodes addresses address url urls to loadbalancer",
            "backends: [127.0.0.1:3000, 127.0.0.1:3001]",
        ),
        at(
            Top,
            "servers upstream backend backends service services cluster clusters targets proxies proxy",
            "upstreams: { web: { backends: [127.0.0.1:3000] } }",
        ),
        at(
            Route,
            "proxy_pass reverse_proxy service backend backends use_backend default_backend cluster proxy target forward to fastcgi_pass grpc_pass uwsgi_pass",
            "upstream: web",
        ),
        at(
            Top,
            "proxy_pass reverse_proxy location locations handle handle_path router routers route rules ingress paths default_backend",
            "routes: [{ match: { path: /* }, upstream: web }]",
        ),
        at(
            Upstream,
            "algorithm strategy lb lb_policy load_balancing loadbalancing method policy ip_hash",
            "balance: least_conn",
        ),
        at(
            Timeouts,
            "read read_timeout proxy_read_timeout response response_header server send write connect_timeout request",
            "connect: 1s, first_byte: 60s, idle: 60s",
        ),
        at(
            Upstream,
            "keepalive keepalive_timeout keep_alive idle_timeout",
            "pool: { idle: 4s }",
        ),
        at(
            Upstream,
            "maxconn max_conns max_connections max_requests limit",
            "max_in_flight: { per_backend: 100, queue: 100 }",
        ),
        at(
            Upstream,
            "max_fails fail_timeout passive outlier_detection circuit_breaker max_failures fail_duration",
            "eject: { errors: 3, for: 10s }",
        ),
        at(
            Eject,
            "max_fails fail_timeout failures threshold",
            "errors: 3, for: 10s",
        ),
        at(
            Upstream,
            "health_check healthcheck health_checks check health_uri option",
            "health: { path: /health, interval: 5s }",
        ),
        at(Health, "uri url endpoint health_uri", "path: /health"),
        at(
            Health,
            "status status_codes expect_status codes",
            "expect: 200-299",
        ),
        at(
            Health,
            "passes fails retries unhealthy_threshold healthy_threshold unhealthy healthy",
            "rise: 2, fall: 3",
        ),
        at(
            Upstream,
            "retries proxy_next_upstream try_duration redispatch",
            "retry: { attempts: 2 }",
        ),
        at(
            Upstream,
            "sticky_session session_affinity cookie affinity",
            "sticky: { cookie: edgeway_backend }",
        ),
        // Which requests.
        at(
            Match,
            "uri url prefix path_prefix pathprefix path_beg paths",
            "path: /api/*",
        ),
        at(
            Route,
            "path paths location uri prefix path_prefix pathprefix handle rule matcher matches",
            "match: { path: /api/* }",
        ),
        at(
            Route,
            "host hosts server_name domain domains",
            "match: { host: shop.example.com }",
        ),
        at(
            Match,
            "server_name hosts domain domains",
            "host: shop.example.com",
        ),
        at(Match, "methods verb verbs", "method: [GET, POST]"),
        at(Route, "method verbs", "match: { method: [GET, POST] }"),
        at(Match, "headers", "header: { x-beta: \"1\" }"),
        at(
            Match,
            "regex path_regexp pathregexp path_reg",
            "path_regex: \"^/old/[0-9]+$\"",
        ),
        // What is done with them.
        at(
            Route,
            "root alias try_files file_server static autoindex",
            "files: /srv/www",
        ),
        at(
            Route,
            "return http_redirect redir redirectregex redirectscheme",
            "redirect: /new",
        ),
        at(
            Listener,
            "force_https https_redirect redirect_https redirectscheme",
            "redirect: https",
        ),
        at(
            Route,
            "strip_prefix stripprefix uri_strip_prefix",
            "rewrite: { prefix: /api, with: / }",
        ),
        at(
            Route,
            "static_response http_request error_page",
            "respond: 404",
        ),
        at(
            Route,
            "add_header proxy_set_header header response_headers request_headers set_header header_up header_down",
            "headers: { request: { set: { x-tenant: shop } }, response: { set: { x-frame-options: DENY } } }",
        ),
        at(
            Route,
            "client_max_body_size max_body max_body_size request_body buffering",
            "body_limit: 10MiB",
        ),
        at(
            Route,
            "limit_conn inflightreq max_connections maxconn",
            "in_flight: { max: 100 }",
        ),
        at(Route, "gzip brotli encode compress zstd", "compression: {}"),
        at(
            Route,
            "auth_basic basicauth auth_basic_user_file",
            "basic_auth: { file: users.htpasswd }",
        ),
        at(
            Route,
            "auth_request forwardauth",
            "forward_auth: { url: \"http://127.0.0.1:4000/check\" }",
        ),
        at(
            Route,
            "allow deny ipallowlist ipwhitelist whitelist",
            "access: { allow: [10.0.0.0/8] }",
        ),
        at(
            Route,
            "proxy_cache proxy_cache_valid expires caching",
            "cache: { ttl: 5min, browser_ttl: 1min }",
        ),
        at(
            RouteCache,
            "proxy_cache_valid valid max_age expires duration time",
            "ttl: 5min",
        ),
        at(
            RouteCache,
            "status statuses codes",
            "by_status: { 404: 10s }",
        ),
        at(
            Route,
            "proxy_http_version upgrade websockets ws proxy_upgrade",
            "websocket: true",
        ),
        at(
            Route,
            "middlewares middleware filters plugin",
            "plugins: [{ file: plugins/ab-split/plugin.js, on_error: continue }]",
        ),
        at(Route, "limit_except", "methods: [GET, HEAD, POST]"),
        // For the whole gateway.
        at(
            Top,
            "set_real_ip_from real_ip_header real_ip forwardedheaders forwarded_headers trustedips",
            "trusted_proxies: [10.0.0.0/8]",
        ),
        at(
            Top,
            "proxy_cache_path proxy_cache caching",
            "cache: { memory: 256MiB }",
        ),
        at(
            Top,
            "limit_req_zone limit_req ratelimit rate_limit throttle",
            "rate_limits: { api: { rate: 100/min } }",
        ),
        at(
            Top,
            "certificatesresolvers certificates_resolvers letsencrypt certbot email",
            "acme: { email: ops@example.com, folder: /var/lib/edgeway/acme }",
        ),
        at(
            Top,
            "api dashboard stats stub_status metrics prometheus",
            "admin: { address: \"127.0.0.1:9900\" }",
        ),
        at(
            Top,
            "log logs logging log_format error_log accesslog",
            "access_log: { file: /var/log/edgeway/access.log }",
        ),
        at(
            Top,
            "global events worker_processes middlewares middleware filters",
            "defaults: { compression: {} }",
        ),
        at(
            Top,
            "gzip encode compression brotli",
            "defaults: { compression: {} }",
        ),
        at(
            Top,
            "client_max_body_size body_limit max_body_size",
            "defaults: { body_limit: 10MiB }",
        ),
        at(
            Top,
            "add_header headers security_headers header",
            "defaults: { security_headers: helmet }",
        ),
        at(
            Top,
            "tls ssl ssl_certificate certificates",
            "listeners: [{ address: \"0.0.0.0:443\", tls: { certificates: [{ cert: site.pem, key: site.key }] } }]",
        ),
        at(
            Top,
            "timeout timeouts proxy_read_timeout proxy_connect_timeout",
            "upstreams: { web: { backends: [127.0.0.1:3000], timeouts: { first_byte: 60s } } }",
        ),
        at(
            Top,
            "keepalive_timeout client_header_timeout worker_connections limits",
            "listeners: [{ address: \"127.0.0.1:8080\", limits: { idle_timeout: 60s } }]",
        ),
    ]
};
