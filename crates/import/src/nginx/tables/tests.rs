//! Lookup tables as `maps`, and what of them is in the report.

use std::fs;

use super::*;
use crate::nginx::{http_of, parse};

/// Returns the `maps` for a header with the variable `$v`, and the report.
fn imported(tables: &str) -> (Vec<(String, Value)>, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nginx.conf");
    fs::write(&path, format!("http {{ {tables} }}")).unwrap();
    let source = parse::read(&path).unwrap();
    let http = http_of(&source);
    let uses = value("<$v>", At::request(&http).lenient()).unwrap_or_default();
    let parts = parts(&http, uses);
    let parts = parts.into_iter().map(|(name, part)| (name, part.value));
    (parts.collect(), source.report().text(true))
}

#[test]
fn tables_that_are_used_become_maps() {
    for (tables, expected) in [
        (
            "map $http_a $v { x 1; ~*y $host; default d; } map $http_b $unused { x 1; }",
            json!({ "v": {
                "from": "{header.a}", "values": { "x": "1", "~*y": "{host.name}" },
                "default": "d",
            } }),
        ),
        (
            "map $w $v { \\\\default 1; \\~a 2; } map $cookie_c $w { a b; volatile; }",
            json!({
                "v": { "from": "{map.w}", "values": { "default": "1", "\\~a": "2" } },
                "w": { "from": "{cookie.c}", "values": { "a": "b" } },
            }),
        ),
        (
            "map $http_a $v { ~^(?<x>.)(.)$ $x-$2; }",
            json!({ "v": {
                "from": "{header.a}", "values": { "~^(?<x>.)(.)$": "{group.x}-{group.2}" },
            } }),
        ),
        (
            "geo $v { ranges; default 0; 10.0.0.3-10.0.0.9 a; }",
            json!({ "v": {
                "networks": { "10.0.0.3/32": "a", "10.0.0.4/30": "a", "10.0.0.8/31": "a" },
                "default": "0",
            } }),
        ),
        (
            "map $http_a $v { default c; }",
            json!({ "v": { "from": "{header.a}", "values": { "": "c" }, "default": "c" } }),
        ),
        (
            "map $http_x_forwarded_host $v { '' $http_x_real_ip; }",
            json!({ "v": {
                "from": "{proxy.x-forwarded-host}", "values": { "": "{proxy.x-real-ip}" },
            } }),
        ),
        (
            "map $http_a $v { x $nothing; ~y$ 2; }",
            json!({ "v": { "from": "{header.a}", "values": { "x": "", "~y$": "2" } } }),
        ),
        (
            "geo $http_x $v { default 0; 10.0.0.0/8 $1; }",
            json!({ "v": {
                "from": "{header.x}", "networks": { "10.0.0.0/8": "$1" }, "default": "0",
            } }),
        ),
    ] {
        let (maps, report) = imported(tables);
        let maps: Map<String, Value> = maps.into_iter().collect();
        assert_eq!(Value::Object(maps), expected, "{tables}");
        assert!(report.contains("map") || report.contains("geo"), "{report}");
    }
}

#[test]
fn headers_that_depend_on_the_host_have_another_meaning() {
    for (table, value, expected) in [
        ("", "a$host", true),
        ("", "$http_host", false),
        ("map $host $v { a b; }", "$v", true),
        ("map $w $v { a b; } map $http_a $w { a $host; }", "$v", true),
        ("map $http_a $v { a b; }", "$v", false),
    ] {
        let text = format!(
            "http {{ {table} server {{ listen 8080; add_header X {value};
             location / {{ return 200 ok; }} }} }}"
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nginx.conf");
        fs::write(&path, text).unwrap();
        let (_, report) = crate::nginx::import(&path, &crate::nginx::Wishes::default()).unwrap();
        let note = "add_header: `$host` is empty";
        assert_eq!(
            report.text(true).contains(note),
            expected,
            "{table} {value}"
        );
    }
}

#[test]
fn groups_of_a_servers_name_become_maps() {
    let text = "http { server { listen 8080; server_name ~^(?<sub>[a-z]+)\\.example\\.com$;
                location / { proxy_pass http://127.0.0.1:1; proxy_set_header X-Sub <$sub>; } } }";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nginx.conf");
    fs::write(&path, text).unwrap();
    let (yaml, report) = crate::nginx::import(&path, &crate::nginx::Wishes::default()).unwrap();
    let report = report.text(false);
    assert!(yaml.contains("{group.sub}"), "{yaml}");
    assert!(yaml.contains(".sub}>"), "{yaml}");
    assert!(!report.contains("proxy_set_header: a variable"), "{report}");
}

#[test]
fn a_number_is_the_group_of_the_last_expression_that_matched() {
    // What the location has besides, what stands before the servers, and what `$1` is.
    for (location, before, group) in [
        ("location /a/ {", "", "<{map.host1.1}>"),
        ("location = /a {", "", "<{map.host1.1}>"),
        ("location ~ ^/(b) {", "", "<{map.path2.1}>"),
        ("location /a/ { if ($http_a ~ (c)) { return 403; }", "", ""),
        ("location /a/ { rewrite ^/a/(d) /$1 break;", "", ""),
        ("location /a/ {", "map $http_a $b { ~(e) f; }", ""),
        ("location @named {", "", ""),
    ] {
        let text = format!(
            "http {{ {before} server {{ listen 8080; server_name ~^(.+)\\.example\\.com$;
             {location} proxy_pass http://127.0.0.1:1; proxy_set_header X-Sub <$1>; }} }} }}"
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nginx.conf");
        fs::write(&path, text).unwrap();
        let (yaml, _) = crate::nginx::import(&path, &crate::nginx::Wishes::default()).unwrap();
        let has = |text: &str| yaml.contains(text);
        match group {
            "" => assert!(has("remove: [X-Sub]"), "{location}{before}: {yaml}"),
            group => assert!(has(group), "{location}{before}: {yaml}"),
        }
    }
}

#[test]
fn tables_without_a_counterpart_are_in_the_report() {
    for (tables, why) in [
        ("map $nothing $v { a b; }", "a variable of it"),
        ("map $v $v { a b; }", "a variable of it"),
        ("map $http_a $v { ~(?=a)(b c; }", "regular expressions"),
        ("geo $v { ranges; 10.0.0.9-10.0.0.0 a; }", "ranges"),
        ("geo $v { 10.0.0.1/8 a; }", "bits beyond"),
        ("geo $v { proxy 10.0.0.0/8; 10.0.0.0/8 a; }", "`proxy`"),
    ] {
        let (maps, report) = imported(tables);
        assert!(maps.is_empty(), "{tables} {maps:?}");
        let lost = report.split_once("Not carried over").unwrap().1;
        assert!(lost.contains(why), "{tables}: {report}");
    }
}
