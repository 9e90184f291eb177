//! Whole configurations: what becomes of them, and what the report says.

use super::*;

mod as_nginx;
mod reasons;

#[track_caller]
fn assert_valid(yaml: &str) {
    edgeway_filters::register();
    assert_eq!(problems(yaml, None), None, "{yaml}");
}

/// Returns the configuration, and the report as text.
fn imported(text: &str) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nginx.conf");
    fs::write(&path, text).unwrap();
    let (yaml, report) = import(&path, &Wishes::default()).unwrap();
    assert_valid(&yaml);
    (yaml, report.text(true))
}

#[test]
fn a_file_that_was_edited_is_replaced_only_by_force() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edgeway.yaml");
    for text in ["a", "a"] {
        write(&path, text, false).unwrap();
    }
    let why = write(&path, "b", false).unwrap_err();
    assert!(why.contains("exists") && why.contains("`--force`"), "{why}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "a");
    write(&path, "b", true).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "b");
}

#[test]
fn what_kept_requests_out_never_leaves_a_route_open() {
    for guard in [
        "ssl_verify_client on;",
        "auth_jwt site;",
        "access_by_lua_block { ngx.exit(403) }",
        "allow 10.0.0.1; deny 10.0.0.0/8; allow all;",
        "limit_req zone=none;",
        "limit_conn none 5;",
        "auth_basic x; auth_basic_user_file /nowhere;",
        "auth_request /nowhere;",
        "proxy_pass_request_headers off;",
        "set_real_ip_from 10.0.0.1; real_ip_header X-Real-IP; allow 10.0.0.5; deny all;",
        "set_real_ip_from 10.0.0.1; allow 10.0.0.5; deny all;",
        "if ($bad_bot) { return 403; }",
        "if ($ssl_client_verify != SUCCESS) { return 444; }",
    ] {
        for level in ["http", "server", "location"] {
            if guard.starts_with("if") && level == "http" {
                continue;
            }
            let level_of = |own: &str| if own == level { guard } else { "" };
            let (http, server, location) =
                (level_of("http"), level_of("server"), level_of("location"));
            let (yaml, report) = imported(&format!(
                "http {{ {http} server {{ listen 8080; {server}
                 location / {{ {location} proxy_pass http://127.0.0.1:3000; }} }} }}"
            ));
            let routes = yaml.split_once("routes:").unwrap().1;
            let route = routes.split_once("location: / }").expect("a route").1;
            let mut first = route.lines().take(2);
            assert!(
                first.any(|line| line.contains("respond: 503")) && !route.contains("upstream"),
                "{guard} {level} {yaml}"
            );
            let lost = report.split_once("Security").unwrap().1;
            assert!(lost.contains("get 503"), "{guard} {level} {report}");
        }
    }
}

#[test]
fn a_header_that_nginx_set_comes_from_no_client() {
    let (yaml, report) = imported(
        "http { server { listen 8080; location / { proxy_pass http://127.0.0.1:3000;
         proxy_set_header X-Client-Name $ssl_client_s_dn; proxy_set_header X-Env live; } } }",
    );
    assert!(yaml.contains("remove: [X-Client-Name]"), "{yaml}");
    assert!(yaml.contains("set: { X-Env: live }"), "{yaml}");
    let lost = report.split_once("Security").unwrap().1;
    assert!(lost.contains("proxy_set_header: a variable"), "{report}");
}

#[test]
fn headers_that_all_servers_add_are_on_refusals_too() {
    let server = "server { listen 8080; location / { return 200 ok; }
         location /own/ { add_header X-Own 1; return 200 ok; }
         location /lost/ { add_header X-Own $no_such; return 200 ok; } }";
    let of = |http: &str, server: &str| {
        imported(&format!(
            "http {{ add_header X-Site main always; {http} {server} }}"
        ))
        .0
    };
    let yaml = of("add_header X-Page 1;", server);
    let (defaults, routes) = yaml.split_once("\nroutes:").unwrap();
    let added = "headers: { response: { add: { X-Site: main } } }";
    assert!(defaults.contains(added), "{yaml}");
    assert!(!defaults.contains("X-Page"), "{yaml}");
    let lost = routes.rsplit_once("location: /lost/ }").unwrap().1;
    assert!(lost.contains("headers: false"), "{yaml}");
    // Nobody knows which of several servers a refused request was meant for.
    let other = server.replace("8080;", "8081; add_header X-Other 1 always;");
    let yaml = of("", &format!("{server} {other}"));
    let defaults = yaml.split_once("\nroutes:").unwrap().0;
    assert!(!defaults.contains("\n  headers:"), "{yaml}");
}

#[test]
fn a_file_has_names_of_its_own_and_lines_that_fit_a_screen() {
    let server = |port: u16| {
        format!(
            "server {{ listen {port}; gzip on; gzip_types text/css text/xml application/json;
             location / {{ proxy_pass http://127.0.0.1:3000; }}
             location /b/ {{ proxy_pass http://127.0.0.1:3000; }} }}"
        )
    };
    let (yaml, _) = imported(&format!("http {{ {}{} }}", server(8080), server(8081)));
    let names = yaml.matches("location: / }").count();
    assert_eq!(names, 2, "{yaml}");
    let (defaults, routes) = yaml.split_once("\nroutes:").unwrap();
    assert!(!routes.contains(" name: "), "{yaml}");
    assert!(defaults.contains("compression:"), "{yaml}");
    assert!(!routes.contains("compression: {"), "{yaml}");
    assert!(!routes.contains("response_rewrite"), "{yaml}");
    let long = yaml
        .lines()
        .find(|line| line.len() > 112 && !line.contains('#'));
    assert_eq!(long, None, "{yaml}");
}

#[test]
fn the_report_is_sorted_by_meaning_and_says_the_same_once() {
    let location = |number| format!("location /{number} {{ gzip on; perl x; return 200 ok; }}\n");
    let locations = (0..30).map(location).collect::<Vec<String>>().concat();
    let text = format!("http {{ server {{ listen 8080; limit_req zone=none;\n{locations} }} }}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nginx.conf");
    fs::write(&path, text).unwrap();
    let report = import(&path, &Wishes::default()).unwrap().1;
    let short = report.text(false);
    assert!(short.starts_with("Security\n"), "{short}");
    assert_eq!(
        short.matches("perl: has no counterpart").count(),
        1,
        "{short}"
    );
    assert!(short.contains("and 26 more perl"), "{short}");
    assert!(short.lines().count() <= 40, "{short}");
    assert!(!short.contains("as it is"), "{short}");
    let whole = report.text(true);
    assert!(
        whole.contains("Carried over") && whole.contains("strict requests"),
        "{whole}"
    );
}

#[test]
fn what_is_asked_of_backends_is_that_of_nginx() {
    for (directives, has, lacks) in [
        // A URI is not added to what `rewrite` with `break` has changed.
        (
            "location /a/ { rewrite ^/a/x$ /y break; proxy_pass http://127.0.0.1:3000/b/; }",
            "{ regex: \"(?s)^/a/(.*)$\", with: \"/b/{group.1}\" }",
            "    rewrite: {",
        ),
        (
            "location /a { alias /srv/docs; }",
            "rewrite: { regex: \"^/a\", with: /docs }",
            "root: /srv/docs",
        ),
        (
            "location ~ ^/u/(.*)$ { proxy_set_header X-User $1;
             proxy_pass http://127.0.0.1:3000/users/$1; }",
            "from: \"{path.sent}\"",
            "remove: [X-User]",
        ),
        (
            "location /a { proxy_pass http://0.0.0.0:3000; proxy_set_header Early-Data \
             $ssl_early_data; }",
            "backends: [\"127.0.0.1:3000\"]",
            "set: {",
        ),
        (
            "more_set_headers 'X-A : b' 'X-B: ' 'X-C d'; location /a { return 200 ok; }",
            "response: { remove: [X-B], set: { X-A: b } }",
            "Server",
        ),
        (
            "large_client_header_buffers 8 256k; location / { allow 10.0.0.0/8; return 200 ok; }",
            "headers: 976KiB",
            "respond: 503",
        ),
        (
            "location / { set $s ''; if ($uri = /a) { set $s ?$args; }
             proxy_pass http://127.0.0.1:3000$s; }",
            "rules: [{ if: \"{map.s.1}\", regex: \"^\", with: /, then: stop }]",
            "respond: 503",
        ),
        (
            "location /a/ { proxy_cache z; slice 1m; proxy_cache_key $uri$slice_range;
             proxy_set_header Range $slice_range; proxy_pass http://127.0.0.1:3000; }",
            "mode: strict",
            "Range]",
        ),
        (
            "location / { add_header X-Forwarded-For $proxy_add_x_forwarded_for; return 200 a; }",
            "X-Forwarded-For: \"{header.x-forwarded-for}\"",
            "nothing of these",
        ),
        // Without the server that it passes to, nginx responds so.
        (
            "location ~ \\.php$ { deny 10.0.0.9; fastcgi_pass 127.0.0.1:9000; }",
            "respond: 502",
            "respond: 503",
        ),
        (
            "root /srv; location /status { stub_status; allow 127.0.0.1; deny all; }
             location /dot.gif { empty_gif; }",
            "{ match: { location: /dot.gif }, respond: 404",
            "location: /status }\n    files",
        ),
        (
            "location /a/ { proxy_pass http://127.0.0.1:3000; }
             location = /a/ { internal; return 200 a; }",
            "location: \"= /a\", internal: true",
            "name: \"= /a\"",
        ),
    ] {
        let text = directives.replace("\\\n", "");
        let (yaml, _) = imported(&format!("http {{ server {{ listen 8080; {text} }} }}"));
        assert!(yaml.contains(has), "{directives}: {yaml}");
        assert!(!yaml.contains(lacks), "{directives}: {yaml}");
    }
}

fn count(all: &[Directive]) -> usize {
    all.iter().map(|one| 1 + count(one.children())).sum()
}

#[test]
fn every_directive_is_in_the_report_once() {
    let text = "user x; worker_processes 2; load_module a.so;
events { worker_connections 5; }
http {
  map $http_x $y { default 1; a 2; }
  geo $z { default 0; 10.0.0.0/8 1; }
  split_clients $remote_addr $v { 10% a; * b; }
  types { text/html html; }
  upstream unused { server 127.0.0.1:1; zone a 1m; }
  server {
listen 8080; server_name a.test; sub_filter a b; perl x;
location / { return 200 ok; mirror /m; }
location @named { proxy_pass http://127.0.0.1:9; }
  }
}
";
    let source = {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nginx.conf");
        fs::write(&path, text).unwrap();
        parse::read(&path).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nginx.conf");
    fs::write(&path, text).unwrap();
    let report = import(&path, &Wishes::default()).unwrap().1.json();
    let lists: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&report).unwrap();
    let lists = lists.values().filter_map(serde_json::Value::as_array);
    let lines: usize = lists.map(Vec::len).sum();
    let general = directives::general().count();
    assert_eq!(lines, count(&source.directives) + general, "{report}");
}

#[test]
fn an_address_beside_all_addresses_of_its_port_opens_nothing() {
    let (yaml, report) = imported(
        "http { server { listen 127.0.0.1:8080; server_name inner.test a.test;
           location / { return 200 inner; } }
         server { listen 8080; listen 127.0.0.1:8080; server_name a.test;
           location / { return 200 outer; } } }",
    );
    assert_eq!(yaml.matches("address:").count(), 1, "{yaml}");
    assert!(!yaml.contains("body: inner"), "{yaml}");
    let closed = "{ match: { host: inner.test, location: / }, respond: 503 }";
    assert!(yaml.contains(closed), "{yaml}");
    assert!(yaml.contains("body: outer"), "{yaml}");
    let security = report.split_once("Security").unwrap().1;
    assert!(security.contains("which has all"), "{report}");
}

#[test]
fn ports_are_shifted_for_a_trial_beside_nginx() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nginx.conf");
    let text = "http { server { listen 8080; listen [::]:8080; listen 65000; return 204; } }";
    fs::write(&path, text).unwrap();
    let by = |ports| {
        let wishes = Wishes {
            ports,
            ..Wishes::default()
        };
        import(&path, &wishes)
    };
    let (yaml, _) = by(500).unwrap();
    assert!(yaml.contains("address: \":8580\""), "{yaml}");
    assert!(yaml.contains("address: \"0.0.0.0:65500\""), "{yaml}");
    assert!(by(1000).unwrap_err().contains("65000 + 1000"));
    assert_eq!(added("+1000"), Ok(1000));
    assert!(added("+x").is_err());
}

#[test]
fn a_value_that_many_routes_have_is_written_once() {
    let location = |number| {
        format!("location /{number} {{ add_header X-Own 1; proxy_pass http://127.0.0.1:3000; }}\n")
    };
    let locations = (0..9).map(location).collect::<Vec<String>>().concat();
    let (yaml, _) = imported(&format!("http {{ server {{ listen 8080; {locations} }} }}"));
    assert_eq!(yaml.matches("X-Own").count(), 1, "{yaml}");
    assert_eq!(yaml.matches("headers: *headers").count(), 8, "{yaml}");
}

#[test]
fn several_servers_are_checked_and_leave_rotation() {
    let of = |servers: &str, next: &str| {
        let text = format!(
            "http {{ upstream app {{ {servers} }} server {{ listen 8080;
             location / {{ {next} proxy_pass http://app; }} }} }}"
        );
        let (yaml, _) = imported(&text);
        let rest = yaml.split_once("upstreams:").unwrap().1;
        rest.split_once("defaults:").unwrap().0.to_owned()
    };
    let two = "server 127.0.0.1:3000 max_fails=0; server 127.0.0.1:3001 max_fails=0;";
    let upstream = of(two, "");
    assert!(upstream.contains("health: true"), "{upstream}");
    assert!(!upstream.contains("errors: 0"), "{upstream}");
    let upstream = of(two, "proxy_next_upstream error http_500 http_404;");
    assert!(
        upstream.contains("retry: { \"on\": [connect, reset, \"500\"] }"),
        "{upstream}"
    );
    assert!(of(two, "proxy_next_upstream off;").contains("attempts: 1"));
    let three = "server 127.0.0.1:3000 max_fails=3; server 127.0.0.1:3001";
    assert!(of(&format!("{three} backup;"), "").contains("errors: 3"));
    let alone = of("server 127.0.0.1:3000;", "");
    assert!(
        alone.contains("errors: 0") && !alone.contains("health"),
        "{alone}"
    );
}

#[test]
fn apps_of_pm2_are_the_upstreams_at_their_ports() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nginx.conf");
    let text =
        "http { upstream shop { server 127.0.0.1:3000; } upstream both { server 127.0.0.1:3000;
         server 127.0.0.1:9000; } server { listen 8080;
         location / { proxy_pass http://shop; } location /both/ { proxy_pass http://both; }
         location /api/ { proxy_pass http://127.0.0.1:5000; } } }";
    fs::write(&path, text).unwrap();
    let file = folder.path().join("ecosystem.json");
    let apps = r#"{ "apps": [
        { "name": "web", "script": "a.js", "instances": 2, "env": { "PORT": 3000 } },
        { "name": "api", "script": "b.js", "env": { "PORT": 5000 } }] }"#;
    fs::write(&file, apps).unwrap();
    let wishes = Wishes {
        apps: pm2::processes(&file, "production").unwrap(),
        ..Wishes::default()
    };
    let (yaml, _) = import(&path, &wishes).unwrap();
    assert_valid(&yaml);
    let upstreams = yaml.split_once("upstreams:").unwrap().1;
    let of = |name: &str| {
        let rest = upstreams.split_once(&format!("\n  {name}:")).unwrap().1;
        rest.split("\n  at-")
            .next()
            .unwrap()
            .split("\n  both")
            .next()
            .unwrap()
            .to_owned()
    };
    let shop = of("shop");
    assert!(
        shop.contains(r#"backends: ["127.0.0.1:3000", "127.0.0.1:3001"]"#),
        "{yaml}"
    );
    assert!(
        shop.contains("health: true") && !shop.contains("errors: 0"),
        "{yaml}"
    );
    assert!(shop.contains("web@{port}.service"), "{yaml}");
    assert!(
        of("at-127-0-0-1-5000").contains("api@{port}.service"),
        "{yaml}"
    );
    // A server that is no process of the app stays what it is.
    assert!(of("both").contains("127.0.0.1:9000"), "{yaml}");
}

#[test]
fn an_app_of_pm2_whose_port_moves_keeps_its_requests() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nginx.conf");
    let text =
        "http { upstream api { server 127.0.0.1:3000; } upstream chat { server 127.0.0.1:3001; }
         upstream mixed { server 127.0.0.1:3001 weight=2; server 127.0.0.1:9000; }
         server { listen 8080; location / { proxy_pass http://api; }
         location /chat/ { proxy_pass http://chat; } location /mixed/ { proxy_pass http://mixed; } } }";
    fs::write(&path, text).unwrap();
    let file = folder.path().join("ec.json");
    let apps = r#"{ "apps": [
        { "name": "api", "script": "api.js", "instances": 4, "exec_mode": "cluster", "env": { "PORT": 3000 } },
        { "name": "chat", "script": "chat.js", "env": { "PORT": 3001 } }] }"#;
    fs::write(&file, apps).unwrap();
    let wishes = Wishes {
        apps: pm2::processes(&file, "production").unwrap(),
        ..Wishes::default()
    };
    let (yaml, report) = import(&path, &wishes).unwrap();
    assert_valid(&yaml);
    let of = |name: &str| {
        let rest = yaml.split_once(&format!("\n  {name}: #")).unwrap().1;
        rest.split("timeouts:").next().unwrap().to_owned()
    };
    assert!(of("api").contains("127.0.0.1:3003"), "{yaml}");
    assert!(
        of("chat").contains(r#"backends: ["127.0.0.1:3004"]"#),
        "{yaml}"
    );
    assert!(yaml.contains("chat@{port}.service"), "{yaml}");
    let mixed = r#"{ address: "127.0.0.1:3004", weight: 2 }, "127.0.0.1:9000""#;
    assert!(of("mixed").contains(mixed), "{yaml}");
    let differs = report.text(false);
    let moved = "`chat` of PM2 moves from port 3001 to 3004, since `api` has 3001";
    assert!(differs.contains(&format!("upstream: {moved}")), "{differs}");
}

#[test]
fn a_backend_whose_certificate_has_no_known_name_is_closed() {
    let upstream = |more: &str, to: &str| {
        let (yaml, report) = imported(&format!(
            "http {{ {more} server {{ listen 8080; location / {{ proxy_pass https://{to}; }} }} }}"
        ));
        let of_tls = yaml.lines().find(|line| line.contains("tls: {"));
        assert_eq!(
            of_tls.is_none(),
            report.contains("`proxy_ssl_name`"),
            "{report}"
        );
        assert_eq!(of_tls.is_none(), yaml.contains("respond: 503"), "{yaml}");
        of_tls.map(|line| line.trim().to_owned())
    };
    assert_eq!(upstream("", "10.0.0.1:8443"), None);
    assert_eq!(upstream("", "[::1]:8443"), None);
    let name = Some("tls: { name: app.test }".to_owned());
    assert_eq!(upstream("", "app.test"), name);
    assert_eq!(upstream("proxy_ssl_name app.test;", "10.0.0.1:8443"), name);
    let block = "upstream my_app { server app.test:8443; }";
    assert_eq!(upstream(block, "my_app"), name);
    let block = "upstream my_app { server 10.0.0.1:8443; }";
    assert_eq!(upstream(block, "my_app"), None);
}

#[test]
fn a_destination_by_a_variable_takes_the_path_after_it() {
    let (yaml, _) = imported(
        "http { server { listen 8080; set $bucket http://files.test:9000;
         location / { proxy_pass $bucket$uri; } } }",
    );
    assert!(yaml.contains(r#"dns: "files.test:9000""#), "{yaml}");
}

#[test]
fn a_folder_by_alias_may_have_the_only_slash() {
    let (yaml, report) = imported(
        "http { server { listen 8080; location /static { alias /srv/x/; }
         location = /docs { alias /srv/docs/; } location /bad/ { alias /srv/bad; } } }",
    );
    assert!(yaml.contains("regex: \"^/static/\", with: / }"), "{yaml}");
    assert!(
        yaml.contains("to: \"/static/{query_mark}{query}\""),
        "{yaml}"
    );
    assert!(yaml.contains("to: \"/docs/{query_mark}{query}\""), "{yaml}");
    // nginx refuses a body that is too large before it redirects.
    let rules = yaml.split_once("rules: ").unwrap().1;
    assert!(
        rules.find("body_over") < rules.find("regex: \"^/static$\""),
        "{yaml}"
    );
    assert_eq!(yaml.matches("respond: 503").count(), 1, "{yaml}");
    assert_eq!(
        report.matches("this `alias` has no counterpart").count(),
        1,
        "{report}"
    );
}

#[test]
fn what_is_always_so_is_not_called_lost() {
    let (_, report) = imported(
        "http { autoindex off; server { listen 8080; ssl_verify_client off; recursive_error_pages off;
         location / { proxy_pass http://127.0.0.1:3000; chunked_transfer_encoding on; } } }",
    );
    assert!(!report.contains("has no counterpart\n"), "{report}");
    let (_, report) = imported(
        "http { server { listen 8080; location / { recursive_error_pages on; ssi on;
         proxy_pass http://127.0.0.1:3000; } } }",
    );
    assert!(report.contains("ssi: has no counterpart\n"), "{report}");
    assert!(
        report.contains("recursive_error_pages: has no counterpart\n"),
        "{report}"
    );
}

#[test]
fn files_without_etag_have_none() {
    let (yaml, _) = imported(
        "http { etag off; server { listen 8080; location / { root /srv; }
         location /on/ { etag on; root /srv; } } }",
    );
    assert_eq!(yaml.matches("remove: [ETag]").count(), 1, "{yaml}");
}

#[test]
fn a_text_has_the_type_of_its_path() {
    let (yaml, report) = imported(
        "http { default_type application/octet-stream; types { text/plain txt; }
         server { listen 8080; location = /robots.TXT { return 200 a; }
         location = /txt { return 200 b; } location /any/ { return 200 c; }
         location /of/client { return 200 $arg_d; }
         location /own/ { default_type text/html; return 200 e; } } }",
    );
    for (text, kind) in [
        ("a", "text/plain"),
        ("b", "application/octet-stream"),
        ("c", "\"*\""),
        ("\"{arg.d}\"", "application/octet-stream"),
        ("e", "text/html"),
    ] {
        let rule = format!("body: {text}, content_type: {kind}");
        assert!(yaml.contains(&rule), "{rule}: {yaml}");
    }
    assert!(yaml.contains("media_types"), "{yaml}");
    assert_eq!(
        report.matches("depend on the extension").count(),
        1,
        "{report}"
    );
}
