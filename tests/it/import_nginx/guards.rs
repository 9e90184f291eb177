//! Conditions that keep requests out: what nginx refuses, the imported configuration refuses too,
//! and what that refuses beyond nginx, the report names within the same server.
//!
//! Servers with random conditions, at the server and in locations, behind real nginx and behind
//! the gateway; random requests to each.

use std::{fmt::Write as _, net::Ipv4Addr, path::Path};

use fastrand::Rng;

use super::{
    play::prepare,
    servers::{Edge, Nginx, Shape, Side},
    wire::{Message, send},
};
use crate::support::{certificates::Ca, seed};

/// Servers in a hunt, and in every other run.
const SERVERS: [usize; 2] = [60, 20];
const REQUESTS: usize = 60;

/// Paths that each server has locations for, and some below and beside them.
const PATHS: [&str; 6] = ["/", "/a/x", "/b", "/b/c", "/b/c/d.php", "/other.php"];

fn one<'a>(list: &[&'a str], random: &mut Rng) -> &'a str {
    list[random.usize(..list.len())]
}

/// Returns a condition as nginx writes it.
fn condition(random: &mut Rng) -> String {
    let variable = one(
        &[
            "http_x_a",
            "http_x_b",
            "arg_k",
            "cookie_c",
            "request_method",
        ],
        random,
    );
    let values: &[&str] = if variable == "request_method" {
        &["GET", "POST"]
    } else {
        &["1", "2"]
    };
    let value = one(values, random);
    match random.u8(..10) {
        0 => "$request_uri ~ /zzz".to_owned(),
        1 if variable == "request_method" => format!("${variable} !~ ^(GET|HEAD)$"),
        1 => format!("${variable}"),
        2 if variable != "request_method" => {
            format!(r#"${variable} {} """#, one(&["=", "!="], random))
        }
        2 | 3 => format!("${variable} = {value}"),
        4..=6 => format!("${variable} != {value}"),
        7 if variable == "request_method" => format!("${variable} ~ ^(GET|{value})$"),
        8 if variable == "request_method" => format!("${variable} !~ ^(PUT|{value})$"),
        7 => format!("${variable} ~ ^{value}"),
        8 => format!("${variable} !~ {value}"),
        _ => format!("${variable} !~* [{value}x]"),
    }
}

/// Returns lines that keep some requests out.
fn guards(random: &mut Rng, indent: &str) -> String {
    let mut text = String::new();
    for _ in 0..one(&["0", "0", "1", "1", "2", "3"], random)
        .parse()
        .unwrap_or(0)
    {
        let line = match random.u8(..12) {
            0 => "deny 127.0.0.1;".to_owned(),
            1 => "deny 10.1.2.3;".to_owned(),
            2 => "limit_except GET { deny all; }".to_owned(),
            3 => "auth_basic shop; auth_basic_user_file users.htpasswd;".to_owned(),
            _ => {
                let status = one(&["403", "404", "410", "503"], random);
                format!("if ({}) {{ return {status}; }}", condition(random))
            }
        };
        let is_twice = line.starts_with("limit") && (indent.len() < 8 || text.contains("limit"));
        let is_login_twice = line.starts_with("auth") && text.contains("auth");
        if !is_twice && !is_login_twice {
            writeln!(text, "{indent}{line}").expect("a string takes text");
        }
    }
    text
}

/// Returns a configuration of that many servers: server N starts at line `100 * N + 100`.
fn configuration(random: &mut Rng, count: usize) -> String {
    let mut text = String::from("events {}\nhttp {\n");
    let mut line = 2;
    for number in 0..count {
        let mut server = format!(
            "server {{\n    listen 8080;\n    server_name s{number}.test;\n{}",
            guards(random, "    ")
        );
        for location in ["/", "/a/", "= /b", "/b/c", r"~ \.php$"] {
            if location == "/" || random.bool() {
                let action = one(
                    &["proxy_pass http://127.0.0.1:3000;", "return 200 ok;"],
                    random,
                );
                let own = guards(random, "        ");
                writeln!(
                    server,
                    "    location {location} {{\n{own}        {action}\n    }}"
                )
                .expect("a string takes text");
            }
        }
        server += "}\n";
        let start = 100 * number + 100;
        text += &"\n".repeat(start - 1 - line);
        line = start - 1 + server.lines().count();
        text += &server;
    }
    text + "}\n"
}

/// Returns a request to a server.
fn request(number: usize, random: &mut Rng) -> String {
    let method = one(&["GET", "GET", "HEAD", "POST", "PUT"], random);
    let path = one(&PATHS, random);
    let query = one(&["", "", "?k=1", "?k=2", "?k=&x=1"], random);
    let mut text = format!("{method} {path}{query} HTTP/1.1\r\nHost: s{number}.test\r\n");
    for name in ["X-A", "X-B"] {
        let value = one(&["", "", "1", "2", "12"], random);
        if !value.is_empty() {
            write!(text, "{name}: {value}\r\n").expect("a string takes text");
        }
    }
    let cookie = one(&["", "c=1", "c=2; d=1", "d=1"], random);
    if !cookie.is_empty() {
        write!(text, "Cookie: {cookie}\r\n").expect("a string takes text");
    }
    if random.bool() {
        text += "Authorization: Basic YW5uOnNlY3JldA==\r\n";
    }
    if matches!(method, "POST" | "PUT") {
        text += "Content-Length: 0\r\n";
    }
    text + "\r\n"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nginx_refuses_is_refused_after_the_import() {
    let seed = seed::drawn();
    let mut random = Rng::with_seed(seed);
    let count = seed::cases(SERVERS[1], SERVERS[0]);
    let shape = Shape::of("guards", configuration(&mut random, count));
    let folder = tempfile::tempdir().expect("a folder");
    prepare(folder.path(), &shape.tree(), &Ca::new());
    let side = async |name| Side::new(&shape, Path::new(folder.path()), name).await;
    let nginx = Nginx::start(&shape, side("nginx").await, false).await;
    let edge = Edge::start(&shape, side("edge").await).await;

    let (mut refused, mut served, mut beyond) = (0, 0, 0);
    for number in 0..count {
        let lines = 100 * number + 100..100 * number + 200;
        let mut named = edge.report.not_carried.iter();
        let is_named = named.any(|entry| lines.contains(&entry.line));
        let mut named = edge.report.explaining();
        let is_changed = named.any(|entry| lines.contains(&entry.line));
        for _ in 0..REQUESTS {
            let text = request(number, &mut random);
            let message = Message {
                is_head: text.starts_with("HEAD"),
                bytes: text.clone().into_bytes(),
            };
            let from = Ipv4Addr::LOCALHOST;
            let ask = async |side: &Side| {
                let (_, all) = send(
                    from,
                    side.address(8080),
                    None,
                    std::slice::from_ref(&message),
                )
                .await;
                all.first().map_or(0, |outcome| outcome.status)
            };
            let (theirs, own) = (ask(&nginx.side).await, ask(&edge.side).await);
            let shown = || {
                format!(
                    "nginx {theirs}, own {own}: {text}{}",
                    shape
                        .text()
                        .lines()
                        .skip(lines.start - 1)
                        .take(60)
                        .take_while(|line| *line != "}")
                        .collect::<Vec<_>>()
                        .join("\n")
                )
            };
            assert!(theirs >= 200 && own >= 200, "{}", shown());
            if theirs >= 400 {
                refused += 1;
                assert!(own >= 400, "let in: {}", shown());
                assert!(own == theirs || is_changed, "another status: {}", shown());
            } else if own >= 400 {
                beyond += 1;
                assert!(is_named, "kept out, and not named: {}", shown());
            } else {
                served += 1;
            }
        }
    }
    println!("refused by both {refused}, served by both {served}, refused beyond nginx {beyond}");
    assert!(
        refused > 200 && served > 200,
        "{refused} and {served} say nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_spelling_of_a_guarded_folder_is_led_to_no_app() {
    let text = "events {}\nhttp {\n    server {\n        listen 8080;\n        root /var/www/site;
        location @app { proxy_pass http://127.0.0.1:3000; }
        location = /files/ { limit_except GET { deny all; } try_files $uri @app; }
    }\n}\n";
    let shape = Shape::of("folder", text.to_owned());
    let folder = tempfile::tempdir().expect("a folder");
    prepare(folder.path(), &shape.tree(), &Ca::new());
    let side = async |name| Side::new(&shape, folder.path(), name).await;
    let nginx = Nginx::start(&shape, side("nginx").await, false).await;
    let edge = Edge::start(&shape, side("edge").await).await;
    for (line, expected) in [
        ("GET /files/", [200, 200]),
        ("GET /FILES/", [404, 404]),
        ("POST /files/", [403, 403]),
        ("POST /FILES/", [404, 403]),
    ] {
        let text = format!("{line} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
        let message = [Message {
            is_head: false,
            bytes: text.into_bytes(),
        }];
        let mut statuses = Vec::new();
        for side in [&nginx.side, &edge.side] {
            let (_, all) = send(Ipv4Addr::LOCALHOST, side.address(8080), None, &message).await;
            statuses.push(all.first().map_or(0, |outcome| outcome.status));
        }
        assert_eq!(statuses, expected, "{line}");
    }
}
