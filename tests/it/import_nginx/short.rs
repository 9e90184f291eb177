//! Short configurations beside nginx: each is a form that real ones have, with requests to which both
//! must respond alike, and of which backends must get the same.

use std::net::Ipv4Addr;

use super::{
    play::prepare,
    servers::{Edge, Nginx, Shape, Side},
    wire::{Message, Outcome, send},
};
use crate::support::certificates::Ca;

/// Headers of responses that are compared, and headers that backends get.
const RECEIVED: [&str; 7] = [
    "cache-control",
    "content-encoding",
    "content-type",
    "last-modified",
    "strict-transport-security",
    "vary",
    "x-a",
];
const SENT: [&str; 5] = ["host", "x-h", "x-p", "x-u", "cookie"];

const REDIRECTS: (&str, &[&str]) = (
    r"server { listen 8080;
        location /a { return 301 https://$host$uri$is_args$args; }
        location /b { rewrite ^(.+)/$ $1 permanent; return 200 b; }
        location /c { rewrite ^(.*)$ https://$host$1 permanent; }
        location /d { rewrite ^(.*)$ $scheme://shop.test$1?e=f redirect; } }",
    &[
        "GET /a/x?q=1",
        "GET /a/x",
        "GET /a/x?q=%20",
        "GET /b/?v=1",
        "GET /b/x/100%2525/",
        "GET /b/x?v=1",
        "GET /c/x?y=1&z",
        "GET /c/x%2520y/%252F",
        "GET /d/x?y=1",
        "GET /d/x",
    ],
);

const HEADERS: (&str, &[&str]) = (
    r#"server { listen 8080; server_name www.a.test a.test;
        add_header Strict-Transport-Security max-age=9 always; error_page 410 /gone.html;
        if ($host = www.a.test) { return 301 https://a.test$request_uri; }
        if ($arg_gone) { return 410; }
        location / { add_header Cache-Control "public, max-age=9"; return 200 hi; }
        location = /gone.html { add_header X-A gone always; return 200 gone; }
        location /errors/ { error_page 410 = /other; return 200 e; } }
    server { listen 8080; server_name b.test; add_header X-A b always;
        rewrite ^/old$ https://b.test/new permanent;
        location / { add_header Cache-Control no-cache; return 200 b; } }"#,
    &[
        "GET / www.a.test",
        "GET /",
        "GET / b.test",
        "GET /old b.test",
        "GET /?gone=1",
        "GET /errors/?gone=1",
    ],
);

/// The same pair of long rules twice, as of two sites.
const REPEATED: (&str, &[&str]) = (
    r#"server { listen 8080; server_name a.test;
        if ($request_method !~ ^(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS)$) { return 405; }
        if ($http_user_agent ~* "(masscan|nikto|sqlmap|nmap|zgrab|dirbuster|gobuster)") { return 403; }
        location / { return 200 a; } }
    server { listen 8080; server_name b.test;
        if ($request_method !~ ^(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS)$) { return 405; }
        if ($http_user_agent ~* "(masscan|nikto|sqlmap|nmap|zgrab|dirbuster|gobuster)") { return 403; }
        location / { return 200 b; } }"#,
    &[
        "GET /",
        "GET / b.test",
        "PURGE /",
        "PURGE / b.test",
        "GET / b.test User-Agent:nikto",
    ],
);

const HOSTS: (&str, &[&str]) = (
    r#"map $request_method $to { default "http://127.0.0.1:3000"; POST "http://127.0.0.1:3001"; }
    map $arg_u $name { default backend; 2 other; }
    upstream backend { server 127.0.0.1:3002; }
    upstream other { server 127.0.0.1:3003; }
    server { listen 8080;
        location / { proxy_pass $to; }
        location /named/ { proxy_pass http://$name; }
        location /fixed/ { proxy_pass http://backend; }
        location /written/ { proxy_set_header Host $proxy_host; proxy_pass http://$name; } }"#,
    &[
        "GET /",
        "POST /",
        "GET /named/",
        "GET /named/?u=2",
        "GET /fixed/",
        "GET /written/",
        "GET /written/?u=2",
    ],
);

const FORWARDED: (&str, &[&str]) = (
    r#"map $http_x_forwarded_host $h { default $http_x_forwarded_host; "" $host; }
    map $http_x_forwarded_port $p { default $http_x_forwarded_port; "" 80; }
    server { listen 8080;
        location / { proxy_pass http://127.0.0.1:3000;
            proxy_set_header X-H $h; proxy_set_header X-P $http_x_forwarded_for; }
        location /r/ { return 302 http://$h:$p/x; }
        location /a/ { add_header X-A $proxy_add_x_forwarded_for; return 200 a; }
        location /i/ { if ($http_x_forwarded_proto = http) { return 403; } return 200 i; } }"#,
    &["GET /", "GET /r/", "GET /i/", "GET /a/"],
);

const IFS: (&str, &[&str]) = (
    r"server { listen 8080; root /var/www/site;
        location /s/ { if ($request_method = GET) { add_header X-A 1; }
            rewrite ^/s/(.*)$ /$1 break; try_files $uri @api; }
        location @api { proxy_pass http://127.0.0.1:3000; }
        location /led/ { if ($arg_x) { add_header X-A led; } return 200 led; }
        location /set/ { if ($arg_x) { break; set $y 1; }
            proxy_set_header X-U a$y; proxy_pass http://127.0.0.1:3000; } }",
    &[
        "GET /led/",
        "GET /led/?x=1",
        "GET /set/",
        "GET /set/?x=1",
        "GET /s/none",
        "GET /s/app.js",
        "HEAD /s/none",
        "HEAD /s/app.js",
    ],
);

const JUMPS: (&str, &[&str]) = (
    r"server { listen 8080;
        location /g/ { client_max_body_size 0; error_page 418 = @w; return 418; }
        location /if/ { error_page 418 = @w; if ($arg_x) { return 418; } return 200 if; }
        location /no/ { error_page 403 = @w; if ($arg_x) { return 403; } return 200 no; }
        location /own/ { error_page 418 = @rules; return 418; }
        location /kept/ { error_page 404 @w; return 404; }
        location @w { client_max_body_size 0; add_header X-A w; proxy_pass http://127.0.0.1:3000; }
        location @rules { if ($arg_x) { return 403; } proxy_pass http://127.0.0.1:3001; }
        location /php/ { deny 10.0.0.9; fastcgi_pass 127.0.0.1:9; }
        location /fpm/ { error_page 502 =200 @w; fastcgi_pass 127.0.0.1:9; }
        location /status/ { stub_status; deny all; }
        location = /php/own/ { internal; return 200 own; }
        location /php/own/ { proxy_pass http://127.0.0.1:3000; } }",
    &[
        "GET /g/x",
        "POST /g/x?a=b",
        "PUT /if/?x=1",
        "PUT /if/",
        "GET /no/",
        "GET /no/?x=1",
        "GET /own/",
        "GET /own/?x=1",
        "GET /kept/",
        "GET /php/a",
        "GET /fpm/a",
        "GET /status/",
        "GET /php/own",
        "GET /php/own/a",
    ],
);

const CHECKED: (&str, &[&str]) = (
    r#"map $http_x $c { default abc; }
    server { listen 8080; add_header X-A $c;
        location = /v { internal; set $u 127.0.0.1:3001; proxy_pass http://$u/auth-check;
            proxy_pass_request_body off; proxy_set_header Content-Length ""; }
        location / { auth_request /v; proxy_set_header X-U $c; proxy_pass http://127.0.0.1:3000; } }"#,
    &[
        "GET /",
        "GET / a.test Cookie:sid=good",
        "GET / a.test Cookie:sid=bad",
    ],
);

/// Login services before an app, as their guides write them: with the URL of the login in a header,
/// with a page for clients without a login, and with a location that redirects.
const LOGINS: (&str, &[&str]) = (
    r#"server { listen 8080; server_name s.test;
        set $service http://127.0.0.1:3001/auth-check;
        location /internal/authz { internal; proxy_pass $service;
            proxy_set_header X-Original-Method $request_method;
            proxy_set_header X-Original-URL $scheme://$http_host$request_uri;
            proxy_set_header Content-Length ""; proxy_pass_request_body off; }
        location / { auth_request /internal/authz; proxy_pass http://127.0.0.1:3000;
            auth_request_set $user $upstream_http_x_user; proxy_set_header X-U $user;
            auth_request_set $redirection_url $upstream_http_location;
            error_page 401 =302 $redirection_url; } }
    server { listen 8080; server_name o.test;
        location /oauth2/ { proxy_pass http://127.0.0.1:3001; proxy_set_header Host $host;
            proxy_set_header X-H $request_uri; }
        location = /oauth2/auth-check { proxy_pass http://127.0.0.1:3001;
            proxy_set_header Content-Length ""; proxy_pass_request_body off; }
        location / { auth_request /oauth2/auth-check; error_page 401 =403 /oauth2/sign_in;
            auth_request_set $user $upstream_http_x_user; proxy_set_header X-U $user;
            proxy_pass http://127.0.0.1:3000/; }
        location /own/ { auth_request /oauth2/auth-check; error_page 401 = /oauth2/sign_in;
            proxy_pass http://127.0.0.1:3000; } }
    server { listen 8080; server_name a.test;
        location / { proxy_pass http://127.0.0.1:3000; proxy_set_header Host $host;
            auth_request /outpost/auth-check; error_page 401 = @sign_in;
            auth_request_set $cookie $upstream_http_set_cookie; add_header Set-Cookie $cookie;
            auth_request_set $user $upstream_http_x_user; proxy_set_header X-U $user; }
        location /outpost { proxy_pass http://127.0.0.1:3001/base; proxy_set_header Host $host;
            proxy_set_header X-Original-URL $scheme://$http_host$request_uri;
            proxy_pass_request_body off; proxy_set_header Content-Length ""; }
        location @sign_in { internal; add_header Set-Cookie $cookie;
            return 302 /outpost/start?rd=$scheme://$http_host$request_uri; } }"#,
    &[
        "GET /x?y=%20 s.test",
        "POST /x s.test",
        "GET /x s.test Cookie:sid=good",
        "POST /x s.test Cookie:sid=good",
        "GET /internal/authz s.test",
        "GET /x?y=1 o.test",
        "GET /own/ o.test",
        "GET /x o.test Cookie:sid=good",
        "GET /oauth2/start?rd=/ o.test",
        "GET /oauth2/auth-check o.test",
        "GET /x a.test",
        "POST /x a.test",
        "GET /x a.test Cookie:sid=good",
        "GET /outpost/start?rd=/ a.test",
    ],
);

/// Ranges of stored responses whose backend announces none.
const RANGES: (&str, &[&str]) = (
    r"proxy_cache_path /var/cache/nginx keys_zone=ranges:1m;
    server { listen 8080; proxy_cache ranges; proxy_cache_valid 1m;
        location / { proxy_pass http://127.0.0.1:3000; }
        location /f/ { proxy_force_ranges on; proxy_pass http://127.0.0.1:3000; } }",
    &[
        "GET /x a.test Range:bytes=0-1",
        "GET /x a.test Range:bytes=2-3",
        "GET /f/x a.test Range:bytes=0-1",
        "GET /f/x a.test Range:bytes=2-3",
        "GET /f/x",
    ],
);

const ALIASES: (&str, &[&str]) = (
    r"server { listen 8080;
        location /files/ { root /var/www/site; }
        location ~ ^/st/(.*)$ { alias /var/www/site/$1; }
        location ~* ^/img/(?<name>[a-z]+)\.jpg { alias /var/www/site/img/$name.jpg; } }",
    &[
        "GET /st/app.js",
        "GET /st/img/b%20c.png",
        "GET /st/none",
        "GET /st/docs/",
        "GET /st/docs",
        "GET /img/a.jpg",
        "GET /IMG/a.jpg",
    ],
);

/// Forms of which real files showed that the gateway did something else.
const ODD: (&str, &[&str]) = (
    r#"server { listen 8080; charset utf-8; gzip on; gzip_vary on; gzip_min_length 1;
        gzip_types text/css text/plain; root /var/www/site;
        error_page 404 /404.html;
        location /r/ { location ~ ^/r/[^/]+/(.*)$ { return 301 " /404"; } }
        location /ok/ { return 200; }
        location /h/ { proxy_pass http://127.0.0.1:3000; proxy_hide_header Content-Type;
            add_header Content-Type text/plain; }
        location /q/ { proxy_pass http://127.0.0.1:3000/css?a=1&$args; }
        location /al { alias /var/www/site/docs/; }
        location /t/ { types { text/css css; } default_type text/x-own; alias /var/www/site/; }
        location /n/ { proxy_next_upstream error http_502; proxy_pass http://127.0.0.1:3002; }
        location /d/ { add_header Last-Modified $date_gmt; }
        location /b/ { client_max_body_size 1m; try_files /none @small; }
        location @small { client_max_body_size 3; proxy_pass http://127.0.0.1:3001; } }"#,
    &[
        "GET /r/",
        "GET /r/a/b",
        "GET /app.js",
        "GET /none.txt",
        "GET /ok/",
        "GET /h/x a.test Accept-Encoding:gzip",
        "GET /app.js a.test Range:bytes=0-1",
        "GET /q/?x=y",
        "GET /q/",
        "GET /al",
        "OPTIONS /al",
        "POST /b/",
        "GET /t/app.js",
        "GET /t/none.css",
        "GET /n/",
    ],
);

/// Returns the bytes of a request written as `METHOD TARGET [HOST [NAME:VALUE]...]`.
fn message(text: &str) -> Message {
    let mut words = text.split(' ');
    let mut next = |usual| words.next().unwrap_or(usual);
    let (method, target, host) = (next("GET"), next("/"), next("a.test"));
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n");
    for header in words {
        head += &header.replacen(':', ": ", 1);
        head += "\r\n";
    }
    let body = if matches!(method, "POST" | "PUT") {
        "12345"
    } else {
        ""
    };
    if !body.is_empty() {
        head += "Content-Length: 5\r\n";
    }
    Message {
        is_head: method == "HEAD",
        bytes: format!("{head}\r\n{body}").into_bytes(),
    }
}

/// Errors: their pages, and what they lose of the headers that other responses lose.
const REFUSED: (&str, &[&str]) = (
    r#"server { listen 8080; client_max_body_size 2; error_page 413 /big;
        location = /big { add_header X-A big always; return 200 big; }
        location /own { error_page 413 =200 /big; proxy_pass http://127.0.0.1:3000; }
        location /dated { proxy_pass http://127.0.0.1:3000; add_header Last-Modified ""; }
        location /kept { proxy_pass http://127.0.0.1:3000; add_header Last-Modified "" always; } }"#,
    &[
        "POST /",
        "POST /big",
        "POST /own",
        "GET /big",
        "GET /dated?do=dated",
        "GET /dated?do=lost",
        "GET /kept?do=dated",
        "GET /kept?do=lost",
    ],
);

/// Names, spellings and variables of which the gateway had other ones.
const OTHERS: (&str, &[&str]) = (
    r"server { listen 8080; server_name Www.Other.Test; root /var/www/site;
        location ~ \.js$ { add_header X-A js; }
        location ~ \.php$ { fastcgi_pass 127.0.0.1:9; }
        location ~ /\. { deny all; }
        location = /name { return 301 https://$server_name/; }
        location ~ ^/(.+)/(.*)$ { rewrite ^/.+/(.*)$ /$1; } }
    server { listen 8080; server_name c.test; charset utf-8; root /var/www/site; }
    server { listen 8080; server_name n.test;
        location / { try_files $uri /far; }
        location /far { try_files $uri $uri/ @app; }
        location @app { proxy_pass http://127.0.0.1:3000; } }
    server { listen 8080; server_name s.test;
        location /a/ { if ($uri ~ ^/a/(.*)$) { set $q $1; rewrite ^/a/(..).*$ /p/$1?q=$q last; } }
        location /b/ { if ($uri ~ ^/b/(.*)$) { set $q $1; rewrite ^ /p/x?q=$q last; } }
        location /d/ { if ($arg_x ~ (.*)) { set $q $1; rewrite ^/d/(.*)$ https://b.test/$1/$q redirect; }
            return 200 d; }
        location /p/ { proxy_pass http://127.0.0.1:3001; } }",
    &[
        "GET /app.js",
        "GET /img/app.js",
        "GET /.php/",
        "GET /a.php",
        "GET /name",
        "GET /img/a.jpg c.test",
        "GET / c.test",
        "GET /x?y=1 n.test",
        "GET /index.html n.test",
        "POST /far/x n.test",
        "GET /a/bcd s.test",
        "GET /b/bcd s.test",
        "GET /d/bcd?x=1 s.test",
        "GET /d/bcd s.test",
    ],
);

/// Returns what a client and the backends of a side saw of a request.
async fn record(side: &Side, text: &str) -> String {
    let message = [message(text)];
    let (_, all) = send(Ipv4Addr::LOCALHOST, side.address(8080), None, &message).await;
    let outcome = all.into_iter().next().unwrap_or_default();
    let mut lines = vec![format!("{} {}", outcome.status, location(side, &outcome))];
    if outcome.status < 300 {
        lines.push(String::from_utf8_lossy(&outcome.body).into_owned());
    }
    for name in RECEIVED {
        // Pages of errors have the type of their server.
        if let Some(value) = outcome.header(name)
            && (outcome.status < 300 || name != "content-type")
            && value != "no-store"
        {
            lines.push(format!("{name}: {value}"));
        }
    }
    for seen in side.origins.take() {
        let backend = seen.backend;
        lines.push(format!(
            "{backend}: {} {} {}",
            seen.method, seen.target, seen.body
        ));
        let all = SENT
            .iter()
            .filter_map(|name| Some((name, seen.header(name)?)));
        // What asks for permission has headers of its own.
        let all = all.filter(|_| !seen.is_check());
        lines.extend(all.map(|(name, value)| format!("  {name}: {}", side.neutral(value))));
    }
    lines.join("\n")
}

/// Returns where a response leads: a URL of the requested host as its path.
fn location(side: &Side, outcome: &Outcome) -> String {
    let to = side.neutral(outcome.header("location").unwrap_or_default());
    to.strip_prefix("http://a.test:@8080")
        .unwrap_or(&to)
        .to_owned()
}

/// Returns the requests of a configuration in which the gateway differs from nginx.
async fn differing(name: &str, (http, requests): (&str, &[&str])) -> Vec<String> {
    let shape = Shape::of(name, format!("events {{}}\nhttp {{\n    {http}\n}}\n"));
    let folder = tempfile::tempdir().expect("a folder");
    prepare(folder.path(), &shape.tree(), &Ca::new());
    let side = async |name| Side::new(&shape, folder.path(), name).await;
    let nginx = Nginx::start(&shape, side("nginx").await, false).await;
    let edge = Edge::start(&shape, side("edge").await).await;
    let mut differing = Vec::new();
    for request in requests {
        let (theirs, own) = (
            record(&nginx.side, request).await,
            record(&edge.side, request).await,
        );
        if theirs != own {
            differing.push(format!("{name}: {request}\nnginx: {theirs}\nown: {own}"));
        }
    }
    differing
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_configurations_do_what_they_do_with_nginx() {
    let mut all = Vec::new();
    for (name, case) in [
        ("redirects", REDIRECTS),
        ("headers", HEADERS),
        ("repeated", REPEATED),
        ("hosts", HOSTS),
        ("forwarded", FORWARDED),
        ("ifs", IFS),
        ("jumps", JUMPS),
        ("checked", CHECKED),
        ("logins", LOGINS),
        ("ranges", RANGES),
        ("aliases", ALIASES),
        ("odd", ODD),
        ("refused", REFUSED),
        ("others", OTHERS),
    ] {
        all.extend(differing(name, case).await);
    }
    assert!(all.is_empty(), "{}", all.join("\n\n"));
}
