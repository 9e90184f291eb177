//! Requests that nginx refuses, and targets that it sends: the same here, or named in the report.

use super::*;

/// Returns the route of a location, and the report.
fn route_of(location: &str, text: &str) -> (String, String) {
    let (yaml, report) = imported(text);
    let (_, routes) = yaml.split_once("\nroutes:").unwrap();
    let text = format!("location: {location}");
    let mut routes = routes.split("\n  - ");
    let route = routes.find(|route| {
        let first = route.lines().next().unwrap_or_default();
        first.contains(&format!("{text} }}")) || first.contains(&format!("{text},"))
    });
    (route.unwrap_or_else(|| panic!("{yaml}")).to_owned(), report)
}

#[test]
fn the_directive_ssl_makes_all_addresses_of_a_server_tls() {
    let certificate = "ssl_certificate /c.pem; ssl_certificate_key /k.pem;";
    let of = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nginx.conf");
        fs::write(&path, format!("http {{ {text} }}")).unwrap();
        import(&path, &Wishes::default()).unwrap().0
    };
    for text in [
        format!("server {{ listen 8080; listen 8443; ssl on; {certificate} return 200 a; }}"),
        format!("{certificate} ssl on; server {{ listen 8080; listen 8443; return 200 a; }}"),
        // Another server of the address has the certificate, and comes first.
        format!(
            "server {{ listen 8080; listen 8443; server_name b; {certificate} return 200 b; }}
             server {{ listen 8080 default; listen 8443 default; ssl on; return 200 a; }}"
        ),
    ] {
        let yaml = of(&text);
        assert!(yaml.contains("cert: /c.pem"), "{yaml}");
        assert_eq!(yaml.matches("tls: ").count(), 2, "{yaml}");
    }
    for text in [
        "server { listen 8080; ssl off; return 200 a; }",
        // nginx looks at the default server of an address alone.
        "server { listen 8080; return 200 a; }
         server { listen 8080; server_name b; ssl on; return 200 b; }",
    ] {
        assert!(!of(text).contains("tls:"), "{}", of(text));
    }
}

#[test]
fn a_query_of_a_destination_is_that_of_nginx_or_closes_the_location() {
    let of = |location: &str, to: &str| {
        let text = format!(
            "http {{ map $http_accept $kind {{ default ''; ~webp .webp; }}
             map $http_x $chosen {{ default ''; ~^(?<part>.+)$ $part; }}
             server {{ listen 8080; location {location} {{ proxy_pass http://127.0.0.1:3000{to}; }} }} }}"
        );
        imported(&text)
    };
    for (to, with) in [
        ("/path?x=1", "/path?x=1{group.1}{query_mark}{query|raw}?"),
        ("/path?x=$arg_y", "/path?x={arg.y}?"),
        ("?x=$arg_y", "/?x={arg.y}?"),
        ("/path?x=1&$args", "/path?x=1&{query|raw}?"),
        (
            "/path?x=1$is_args$args",
            "/path?x=1{query_mark}{query|raw}?",
        ),
        ("/path?u=$request_uri", "/path?u={uri|raw}?"),
        ("/path?$args", "/path"),
        ("$uri$kind", "{path.decoded}{map.kind}?"),
    ] {
        let (yaml, _) = of("/a/", to);
        let with = [format!("with: \"{with}\""), format!("with: {with},")];
        assert!(with.iter().any(|with| yaml.contains(with)), "{to}: {yaml}");
    }
    for to in [
        "?x=1",
        "/path/$arg_y",
        "/$http_x/b",
        "/$cookie_a",
        "/path$chosen",
    ] {
        let (yaml, report) = of("/a/", to);
        assert!(
            yaml.contains("location: /a/ }, respond: 503"),
            "{to}: {yaml}"
        );
        assert!(
            report.contains("proxy_pass: a destination"),
            "{to}: {report}"
        );
    }
}

#[test]
fn an_app_whose_x_accel_redirect_nginx_ignores_sends_no_files() {
    let text = |ignores: &str| {
        format!(
            "http {{ upstream app {{ server 127.0.0.1:3000; }} server {{ listen 8080;
             location / {{ {ignores} proxy_pass http://app; }}
             location /own/ {{ proxy_pass http://app; }}
             location /files/ {{ internal; root /srv; }} }} }}"
        )
    };
    let (route, _) = route_of("/files/", &text("proxy_ignore_headers X-Accel-Redirect;"));
    assert!(route.contains("internal: [app-b]"), "{route}");
    let (route, _) = route_of("/files/", &text(""));
    assert!(route.contains("internal: [app]"), "{route}");
    let (yaml, _) = imported(
        "http { server { listen 8080; location / { proxy_ignore_headers X-Accel-Redirect;
         proxy_pass http://127.0.0.1:3000; } location /files/ { internal; root /srv; } } }",
    );
    assert!(!yaml.contains("internal: ["), "{yaml}");
}

#[test]
fn files_that_nginx_guards_once_more_are_sent_to_nobody() {
    let of = |server: &str, app: &str, files: &str| {
        route_of(
            "/files/",
            &format!(
                "http {{ server {{ listen 8080; {server}
                 location / {{ {app} proxy_pass http://127.0.0.1:3000; }}
                 location /files/ {{ internal; {files} alias /srv/; }} }} }}"
            ),
        )
    };
    let named = "internal: `X-Accel-Redirect` gets 404 here";
    for (server, app, files) in [
        ("", "", "deny 10.0.0.0/8;"),
        ("", "deny 10.0.0.0/8;", "deny 10.0.0.0/8;"),
        ("deny 10.0.0.0/8;", "allow all;", ""),
        ("", "", "if ($http_x) { return 403; }"),
    ] {
        let (route, report) = of(server, app, files);
        assert!(
            !route.contains("internal: ["),
            "{server} {app} {files} {route}"
        );
        let security = report.split_once("Security").unwrap().1;
        assert!(security.contains(named), "{report}");
    }
    for (server, app) in [("", ""), ("deny 10.0.0.0/8;", ""), ("", "deny 10.0.0.0/8;")] {
        let (route, report) = of(server, app, "");
        assert!(route.contains("internal: ["), "{server} {app} {route}");
        assert!(!report.contains(named), "{report}");
    }
}

#[test]
fn a_realm_by_a_variable_guards_and_is_no_variable() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    fs::write(&users, "a:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n").unwrap();
    let of = |realm: &str| {
        let text = format!(
            "http {{ map $remote_addr $by_client {{ default Staff; 10.0.0.1 off; }}
             server {{ listen 8080; server_name a.test; auth_basic_user_file {};
             location / {{ set $fixed Own; set $none off; auth_basic {realm};
             proxy_pass http://127.0.0.1:3000; }} }} }}",
            users.display()
        );
        imported(&text)
    };
    for (realm, sent) in [
        ("\"for $server_name\"", "realm: \"for a.test\""),
        ("$fixed", "realm: Own"),
        ("$by_client", "realm: Restricted"),
        ("\"of $host\"", "realm: Restricted"),
        ("$no_such", "realm: Restricted"),
    ] {
        let (yaml, report) = of(realm);
        assert!(yaml.contains(sent), "{realm}: {yaml}");
        let is_named = report.contains("auth_basic: the realm is `Restricted`")
            || report.contains("; the realm is `Restricted`");
        assert_eq!(is_named, sent.ends_with("Restricted"), "{realm}: {report}");
    }
    assert!(!of("$none").0.contains("basic_auth"), "{}", of("$none").0);
}

#[test]
fn a_limit_whose_key_is_always_another_one_is_named_and_closes_nothing() {
    for key in ["$request_id", "$msec", "$binary_remote_addr$request_id"] {
        let (yaml, report) = imported(&format!(
            "http {{ limit_req_zone {key} zone=a:1m rate=1r/s; limit_conn_zone {key} zone=b:1m;
             server {{ listen 8080; location / {{ limit_req zone=a; limit_conn b 1;
             proxy_pass http://127.0.0.1:3000; }} }} }}"
        ));
        assert!(!yaml.contains("respond: 503"), "{key}: {yaml}");
        assert!(
            !yaml.contains("rate_limit") && !yaml.contains("in_flight"),
            "{key}: {yaml}"
        );
        for name in [
            "limit_req",
            "limit_conn",
            "limit_req_zone",
            "limit_conn_zone",
        ] {
            let named = format!("{name}: its key is another one for each request");
            assert!(report.contains(&named), "{key}: {report}");
        }
    }
}

#[test]
fn a_template_of_an_image_is_named_as_one() {
    let (_, report) = imported(
        "http { map $uri $LARGE { default 1; } server { listen 8080; add_header X-A $LARGE;
         location / { proxy_pass http://${BACKEND}; } } }",
    );
    let named =
        "proxy_pass: `${BACKEND}` is filled in by `envsubst`: import the file that it makes";
    assert_eq!(report.matches("envsubst").count(), 1, "{report}");
    assert!(report.contains(named), "{report}");
}

#[test]
fn a_redirect_expires_as_html_does() {
    let of = |response: &str| {
        let text = format!(
            "http {{ map $sent_http_content_type $time {{ default off; ~*text/html epoch; ~image 1M; }}
             expires $time; server {{ listen 8080; {response} }} }}"
        );
        imported(&text).0
    };
    for response in [
        "return 301 https://a.test$request_uri;",
        "location / { if ($arg_a) { return 302 /a; } return 301 /b; }",
    ] {
        let yaml = of(response);
        assert!(yaml.contains("expires: epoch"), "{yaml}");
    }
    let yaml = of("location / { if ($arg_a) { return 302 /a; } return 200 a; }");
    assert!(yaml.contains("expires: \"{map."), "{yaml}");
}

#[test]
fn a_text_keeps_what_has_a_counterpart_and_closes_nothing() {
    let (yaml, report) = imported(
        "http { server { listen 8080; location / { return 200 '$hostname: $host'; }
         location /refused/ { return 403 $time_local; } } }",
    );
    assert!(yaml.contains("body: \": {host.name}\""), "{yaml}");
    assert!(
        !yaml.contains("503") && yaml.contains("status: 403"),
        "{yaml}"
    );
    let named = "return: `$hostname` has no counterpart: the text is sent without it";
    assert!(report.contains(named), "{report}");
}

#[test]
fn a_script_that_is_not_there_closes_no_more_than_its_protocol() {
    let (yaml, _) = imported(
        "http { server { listen 8080; root /srv; location ~ \\.php$ {
         if (!-f $document_root$fastcgi_script_name) { return 404; }
         fastcgi_pass 127.0.0.1:9000; } } }",
    );
    assert!(
        yaml.contains("respond: 502") && !yaml.contains("respond: 503"),
        "{yaml}"
    );
}

#[test]
fn rules_behind_a_block_for_existing_files_are_for_the_others() {
    let of = |rules: &str| {
        let text = format!(
            "http {{ server {{ listen 8080; root /srv; location /a/ {{\n{rules}\n}}
             location /app {{ proxy_pass http://127.0.0.1:3000; }} }} }}"
        );
        let (yaml, _) = imported(&text);
        let (route, _) = route_of("/a/", &text);
        let (_, named) = yaml.split_once("name: if-").unwrap();
        let (named, _) = named.split_once("\n  - ").unwrap();
        (route, named.to_owned())
    };
    let (on, gone) = ("then: reroute", "status: 410");
    for (rules, own, behind) in [
        (
            "if (-f $request_filename) { break; } rewrite ^ /app last;",
            [false, false],
            [true, false],
        ),
        (
            "if (-f $request_filename) { break; } return 410;",
            [false, false],
            [false, true],
        ),
        (
            "if (-e $request_filename) { expires 1h; break; } if ($arg_a) { return 410; } rewrite ^ /app last;",
            [false, false],
            [true, true],
        ),
        (
            "if ($arg_a) { return 410; } if (-f $request_filename) { break; } rewrite ^ /app last;",
            [false, true],
            [true, false],
        ),
        (
            "if (-f $request_filename) { break; } if ($arg_a) { return 410; }
             if (!-f $request_filename) { rewrite ^ /app last; }",
            [false, false],
            [true, true],
        ),
        (
            "if (!-f $request_filename) { rewrite ^ /app last; } if (-f $request_filename) { break; }
             if ($arg_a) { return 410; }",
            [false, false],
            [true, true],
        ),
        // Without `break`, nginx goes on.
        (
            "if (-f $request_filename) { expires 1h; } rewrite ^ /app last;",
            [true, false],
            [false, false],
        ),
    ] {
        let (route, named) = of(rules);
        let has = |text: &str| [text.contains(on), text.contains(gone)];
        assert_eq!(
            (has(&route), has(&named)),
            (own, behind),
            "{rules}\n{route}\n{named}"
        );
    }
}

#[test]
fn a_rule_for_existing_files_closes_its_location() {
    for rules in [
        "if (-f $request_filename) { return 403; }",
        "if (-d $request_filename) { break; } if (-f $request_filename) { return 403; }",
        "if (!-e $request_filename) { return 404; } if (-f $document_root$uri) { rewrite ^ /b redirect; }",
    ] {
        let text =
            format!("http {{ server {{ listen 8080; root /srv; location /a/ {{ {rules} }} }} }}");
        let (route, report) = route_of("/a/", &text);
        assert!(route.contains("respond: 503"), "{rules} {route}");
        let (_, lost) = report.split_once("Security").unwrap();
        assert!(lost.contains("existing files"), "{rules} {report}");
    }
}

#[test]
fn a_query_that_nginx_sets_is_sent_or_named_in_the_report() {
    let of = |set: &str| {
        let text = format!(
            "http {{ server {{ listen 8080; location /a/ {{ {set} proxy_pass http://127.0.0.1:3000; }} }} }}"
        );
        route_of("/a/", &text)
    };
    for (set, rule) in [
        (
            "set $args \"\";",
            "{ regex: \"^\", with: \"{path.decoded}?\" }",
        ),
        (
            "set $args x=1;",
            "{ regex: \"^\", with: \"{path.decoded}?x=1?\" }",
        ),
        (
            "if ($arg_utm) { set $args x=1; }",
            "{ if: \"{arg.utm}\", regex: \"^\", with: \"{path.decoded}?x=1?\" }",
        ),
    ] {
        let (route, report) = of(set);
        assert!(route.contains(rule), "{set} {route}");
        assert!(!report.contains("the query stays"), "{set} {report}");
    }
    let (route, report) = of("set $args $args&page=1;");
    assert!(!route.contains("regex"), "{route}");
    assert!(
        report.contains("set: the query stays that of the client"),
        "{report}"
    );
}

#[test]
fn a_condition_on_folders_alone_is_named_in_the_report() {
    for (condition, is_named) in [("!-d", true), ("!-e", false), ("!-f", false)] {
        let (_, report) = imported(&format!(
            "http {{ server {{ listen 8080; location / {{ root /srv;
             if ({condition} $request_filename) {{ proxy_pass http://127.0.0.1:3000; }} }} }} }}"
        ));
        let named = report.contains("if: a file counts as well, not only a folder");
        assert_eq!(named, is_named, "{condition} {report}");
    }
}

#[test]
fn a_host_for_the_backend_is_no_word_of_ours_and_no_pattern() {
    for (host, expected) in [
        ("backend", "host_header: \"{map.host.backend}\""),
        ("name", "host_header: \"{map.host.name}\""),
        ("app.test", "host_header: app.test"),
        ("$proxy_host", "host_header: \"{map.host.sent}\""),
        ("$server_name", ""),
        ("\"a b\"", ""),
    ] {
        let (yaml, report) = imported(&format!(
            "http {{ upstream sent {{ server 127.0.0.1:3000; }} server {{ listen 8080;
             server_name *.example.com; location / {{ proxy_pass http://sent;
             proxy_set_header Host {host}; }} }} }}"
        ));
        assert!(yaml.contains(expected), "{host}: {yaml}");
        let is_lost = report.contains("gets `Host` as the client sent it");
        assert_eq!(is_lost, expected.is_empty(), "{host}: {report}");
    }
}

#[test]
fn a_block_that_goes_on_has_no_try_files_and_keeps_its_headers() {
    let of = |block: &str, rest: &str| {
        let location = format!("location / {{ if ($arg_k) {{ {block} }} {rest} }}");
        let (yaml, _) = imported(&format!(
            "http {{ server {{ listen 8080; root /srv; {location} }} }}"
        ));
        let route = yaml.split_once("location: / }").expect("a route").1;
        (
            yaml.contains("name: if-1"),
            route.matches("route: if-1").count(),
        )
    };
    let tries = "try_files $uri /index.php;";
    assert_eq!(of("set $v 1;", tries), (true, 1));
    assert_eq!(of("rewrite ^/a/(.*)$ /b/$1 break;", tries), (true, 1));
    assert_eq!(of("rewrite ^/a/(.*)$ /b/$1 last;", tries), (true, 1));
    for leaves in [
        "return 403;",
        "rewrite ^ /b last;",
        "rewrite ^/(.*)$ /b/$1 redirect;",
    ] {
        assert_eq!(of(leaves, tries), (false, 0), "{leaves}");
    }
    assert_eq!(
        of("set $v 1;", "proxy_pass http://127.0.0.1:3000;"),
        (false, 0)
    );
    // The redirect has the header of the block, and so has what is no redirect.
    let added = "add_header X-If yes; rewrite ^/a/(.*)$ /b/$1 permanent;";
    assert_eq!(of(added, "proxy_pass http://127.0.0.1:3000;"), (true, 2));
}

#[test]
fn rules_behind_a_condition_on_files_are_named() {
    for (rest, expected) in [
        ("return 200 ok;", "what stands behind it has no counterpart"),
        (
            "try_files /a$uri =403;",
            "what stands behind it has no counterpart",
        ),
        ("try_files $uri =404;", "file counts as well"),
        ("rewrite ^/a /b last;", "rules behind it come first"),
        ("", "file counts as well"),
    ] {
        let (_, report) = imported(&format!(
            "http {{ server {{ listen 8080; root /srv; location / {{
             if (!-d $request_filename) {{ rewrite ^ /index.php last; }} {rest} }} }} }}"
        ));
        assert!(report.contains(expected), "{rest}: {report}");
    }
}

#[test]
fn values_that_are_encoded_here_are_named() {
    for (directive, note) in [
        (
            "return 301 https://a.test$uri;",
            "`$uri` is percent-encoded in `Location`",
        ),
        (
            "try_files $uri /index.php?q=$uri&$args;",
            "percent-encoded where a character has",
        ),
        ("try_files $uri /index.php?$args;", ""),
        (
            "add_header X-S $status;",
            "`$status` of a range is 206 or 416; nginx has 200",
        ),
        (
            "rewrite ^/a/(.*)$ /b/$1 break; proxy_pass http://127.0.0.1:3000/x/;
             proxy_set_header X-P $uri;",
            "`$uri` in headers for the backend is the path that it gets",
        ),
    ] {
        let (_, report) = imported(&format!(
            "http {{ server {{ listen 8080; root /srv; location / {{ {directive} }} }} }}"
        ));
        let is_named = if note.is_empty() {
            "try_files: as it is"
        } else {
            note
        };
        assert!(report.contains(is_named), "{directive}: {report}");
    }
}

#[test]
fn a_page_that_redirects_has_the_status_of_its_redirect() {
    for (page, location, expected) in [
        (
            "404 /login",
            "= /login { return 302 https://a.test/; }",
            true,
        ),
        (
            "404 =302 /login",
            "= /login { return 302 https://a.test/; }",
            true,
        ),
        ("404 /login", "/login { return $scheme://a.test/; }", true),
        ("404 /login", "= /login { return 200 ok; }", false),
        (
            "404 /login",
            "= /other { return 302 https://a.test/; }",
            false,
        ),
    ] {
        let (yaml, _) = imported(&format!(
            "http {{ server {{ listen 8080; root /srv; location / {{ error_page {page}; }}
             location {location} }} }}"
        ));
        assert_eq!(
            yaml.contains("own_status: true"),
            expected,
            "{page} {location}: {yaml}"
        );
    }
}
