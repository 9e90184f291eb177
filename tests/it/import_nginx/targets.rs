//! Paths of nginx: files below an `alias` around a location, and what a backend gets after `rewrite`
//! and `break`.

use std::net::Ipv4Addr;

use super::{
    play::prepare,
    servers::{Edge, Nginx, Shape, Side},
    wire::{Message, send},
};
use crate::support::certificates::Ca;

const LOCATIONS: &str = r"
    location /al/ { alias /var/www/media/;
        location ~ \.svg$ { expires 1d; } location ~* \.(txt|html)$ { try_files $uri =404; } }
    location /no-slash { alias /var/www/media; location ~ \.svg$ { expires 1d; } }
    location /b/ { rewrite ^/b/(.*)$ /w/$1 break; proxy_pass http://127.0.0.1:3000/api/echo$uri; }
    location /c/ { if ($arg_v = 2) { rewrite ^/c/(.*)$ /v2/$1?x=1 break; }
        proxy_pass http://127.0.0.1:3000/api$uri$is_args$args; }
    location /d/ { rewrite ^/d/(.*)$ /w/$1 break; proxy_pass http://127.0.0.1:3000$request_uri; }
    location /e/ { rewrite ^/e/(.*)$ /w/$1 break; proxy_pass http://127.0.0.1:3000/in$request_uri; }
    location /f/ { if ($arg_v = 2) { break; } rewrite ^/f/x/(.*)$ /w/$1 break;
        proxy_pass http://127.0.0.1:3000/base/; }
    location /g/ { rewrite ^/g/(.*)$ /w/$1 break;
        proxy_pass http://127.0.0.1:3000/api$uri; }
    location /h/ { proxy_pass http://127.0.0.1:3000$request_uri; }
    location /whole/ { proxy_pass http://127.0.0.1:3000/x$request_uri; }";

/// Locations with a path in `proxy_pass` after a `rewrite` that is not, or not always, its end, and files
/// beside them.
const REWRITTEN: &str = r"
    location /i/ { rewrite ^/i/x/(.*)$ /docs/$1 last; proxy_pass http://127.0.0.1:3000/w/;
        location /i/guarded { limit_except GET { deny all; } proxy_pass http://127.0.0.1:3000; } }
    location /j/ { rewrite ^/j/x/(.*)$ /j/y/$1; proxy_pass http://127.0.0.1:3000/w/; }
    location /k/ { rewrite ^/k/y/(.*)$ /z/$1 break; rewrite ^/k/x/(.*)$ /docs/$1;
        proxy_pass http://127.0.0.1:3000/w/; }
    location /l/ { if ($arg_v = 2) { rewrite ^/l/(.*)$ /l/v2/$1 break; }
        proxy_pass http://127.0.0.1:3000/w/; }
    location /m/ { rewrite ^/m/(.*)$ /docs/$1; proxy_pass http://127.0.0.1:3000/api$uri; }
    location /n/ { rewrite ^/n/x/(.*)$ /w/$1 break; proxy_pass http://127.0.0.1:3000/n/; }
    location /docs/ { proxy_pass http://127.0.0.1:3000;
        location = /docs/ { try_files $uri $uri/ =404; } }";

/// Requests, each with the status, and the target that the backend gets.
const EXPECTED: [(&str, u16, &str); 19] = [
    ("/al/img/logo.svg", 200, ""),
    ("/al/docs/guide.html", 200, ""),
    ("/al/docs/none.html", 404, ""),
    ("/no-slash/img/logo.svg", 200, ""),
    ("/b/x", 200, "/api/echo/w/x"),
    ("/b/x?q=1", 200, "/api/echo/w/x"),
    ("/c/x?q=1", 200, "/api/c/x?q=1"),
    ("/c/x?v=2", 200, "/api/v2/x?x=1&v=2"),
    ("/d/x?q=1", 200, "/d/x?q=1"),
    ("/e/x?q=1", 200, "/in/e/x?q=1"),
    ("/e/x", 200, "/in/e/x"),
    ("/f/x/y", 200, "/w/y"),
    ("/f/x/y?v=2", 200, "/base/x/y?v=2"),
    ("/f/z?v=2", 200, "/base/z?v=2"),
    ("/f/z", 200, "/base/z"),
    ("/g/x", 200, "/api/w/x"),
    ("/g/", 200, "/api/w/"),
    ("/h/a%2Fb?q=1", 200, "/h/a%2Fb?q=1"),
    ("/whole/a%2Fb?q=1", 200, "/x/whole/a%2Fb?q=1"),
];

const REWRITTEN_EXPECTED: [(&str, u16, &str); 19] = [
    ("/i/x/a", 200, "/docs/a"),
    ("/i/y", 200, "/w/y"),
    ("/i/GUARDED", 200, "/w/GUARDED"),
    ("/j/x/a", 200, "/w/y/a"),
    ("/j/a", 200, "/w/a"),
    ("/k/x/a", 200, "/docs/a"),
    ("/k/y/a", 200, "/z/a"),
    ("/k/a", 200, "/w/a"),
    ("/l/a", 200, "/w/a"),
    ("/l/a?v=2", 200, "/l/v2/a?v=2"),
    ("/m/a", 200, "/docs/a"),
    ("/n/x/a", 200, "/w/a"),
    ("/n/a%2Fb?", 200, "/n/a/b"),
    ("/docs/", 200, "/docs/index.html"),
    ("POST /docs/", 200, "/docs/index.html"),
    ("OPTIONS /docs/", 405, ""),
    ("POST /img", 301, ""),
    ("POST /img/", 403, ""),
    ("POST /img/logo.svg", 405, ""),
];

/// Sends requests to nginx and to the gateway, of which each has a status and a target.
async fn check(name: &str, locations: &str, expected: &[(&str, u16, &str)]) {
    let text = format!(
        "events {{}}\nhttp {{\n    server {{\n        listen 8080;\n        root /var/www/site;\n\
         {locations}\n    }}\n}}\n"
    );
    let shape = Shape::of(name, text);
    let folder = tempfile::tempdir().expect("a folder");
    prepare(folder.path(), &shape.tree(), &Ca::new());
    let side = async |name| Side::new(&shape, folder.path(), name).await;
    let nginx = Nginx::start(&shape, side("nginx").await, false).await;
    let edge = Edge::start(&shape, side("edge").await).await;
    for &(path, status, target) in expected {
        let method = if path.starts_with('/') { "GET " } else { "" };
        let text = format!("{method}{path} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let message = [Message {
            is_head: false,
            bytes: text.into_bytes(),
        }];
        for (name, side) in [("nginx", &nginx.side), ("own", &edge.side)] {
            let (_, all) = send(Ipv4Addr::LOCALHOST, side.address(8080), None, &message).await;
            let found = all.first().map_or(0, |outcome| outcome.status);
            let seen = side.origins.take();
            let seen = seen.first().map_or("", |seen| seen.target.as_str());
            assert_eq!((found, seen), (status, target), "{name}: {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_and_backends_get_the_path_that_nginx_has() {
    check("targets", LOCATIONS, &EXPECTED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_a_rewrite_changes_is_replaced_as_nginx_replaces_it() {
    check("rewritten", REWRITTEN, &REWRITTEN_EXPECTED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_a_host_is_refused_by_the_server_for_it() {
    let text = "events {}\nhttp {\n    server { listen 8080; return 200 ok; }
    server { listen 8080; server_name a.test; return 201 own; }
    server { listen 8081; server_name _; return 200 ok; }
    server { listen 8081; server_name \"\"; return 403; }\n}\n";
    let shape = Shape::of("nameless", text.to_owned());
    let folder = tempfile::tempdir().expect("a folder");
    prepare(folder.path(), &shape.tree(), &Ca::new());
    let side = async |name| Side::new(&shape, folder.path(), name).await;
    let nginx = Nginx::start(&shape, side("nginx").await, false).await;
    let edge = Edge::start(&shape, side("edge").await).await;
    for (port, host, status) in [
        (8080, "", 200),
        (8081, "", 403),
        (8081, "Host: a.test\r\n", 200),
        (8080, "Host: a.test\r\n", 201),
    ] {
        let message = [Message {
            is_head: false,
            bytes: format!("GET / HTTP/1.0\r\n{host}\r\n").into_bytes(),
        }];
        for (name, side) in [("nginx", &nginx.side), ("own", &edge.side)] {
            let (_, all) = send(Ipv4Addr::LOCALHOST, side.address(port), None, &message).await;
            let status_here = all.first().map_or(0, |outcome| outcome.status);
            assert_eq!(status_here, status, "{name}: {port} {host}");
        }
    }
}
