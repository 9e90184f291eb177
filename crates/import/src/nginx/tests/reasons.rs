//! Reports: what holds for less than with nginx comes first, and reasons are true.

use super::*;

#[test]
fn what_refuses_less_than_with_nginx_is_named_first() {
    let (_, report) = imported(
        r#"http { map $request_uri $bad { default 0; "~//" 1; } server { listen 8080; server_name _;
         if ($request_uri ~ "//") { return 403; } if ($bad) { return 444; }
         location / { disable_symlinks if_not_owner; root /srv; }
         location ~ \.php$ { try_files $uri =404; proxy_pass http://127.0.0.1:3000; } }
         server { listen 8080; server_name ""; if ($arg_a) { return 404; } return 403; } }"#,
    );
    let (_, security) = report.split_once("Security").unwrap();
    let (security, _) = security.split_once("\n\n\n").unwrap_or((security, ""));
    let (security, _) = security.split_once("Behaviour").unwrap();
    for line in [
        "if: `$request_uri` has the path in its normal form",
        "disable_symlinks: links of the same owner are refused too",
        "server_name: requests without `Host`",
        "try_files: the backend gets requests without a file too",
    ] {
        assert!(security.contains(line), "{line}: {report}");
    }
}

#[test]
fn what_a_backend_or_a_client_gets_beyond_nginx_is_named_first() {
    let (yaml, report) = imported(
        "http { server { listen 8080; proxy_intercept_errors on;
         location / { error_page 302 404 = @app; proxy_pass http://127.0.0.1:3000; }
         location /a/ { set $prefix $arg_p; rewrite ^/a/(.*)$ /b/$1 last; }
         location /b/ { proxy_pass http://127.0.0.1:3000/b?p=$prefix; }
         location /c/ { set $host_of a; rewrite ^ /d/ last; }
         location /d/ { set $host_of b; return 200 $host_of; }
         location /e/ { if ($arg_x) { break; } set $late 1; return 200 $late; }
         location @app { proxy_pass http://127.0.0.1:3001; } } }",
    );
    assert!(
        yaml.contains("pages: { \"404\": { route: \"@app\""),
        "{yaml}"
    );
    let (_, security) = report.split_once("Security").unwrap();
    let (security, rest) = security
        .split_once("\n\n")
        .unwrap()
        .1
        .split_once("\n\n")
        .unwrap();
    for line in [
        "error_page: a status below 400 has no counterpart",
        ":3 set: where the request goes on to another location",
        ":7 set: the variable has this value too where a rule before has ended the rules",
    ] {
        assert!(security.contains(line), "{line}: {report}");
    }
    assert!(
        !security.contains(":5 set") && !rest.contains("below 400"),
        "{report}"
    );
}

#[test]
fn a_path_of_a_backend_that_would_be_another_one_is_closed() {
    let (yaml, report) = imported(
        "http { server { listen 8080; location / { limit_except GET { deny 10.0.0.0/8; }
         proxy_pass http://127.0.0.1:3000/api$uri; } } }",
    );
    assert!(yaml.contains("respond: 503"), "{yaml}");
    let named = "proxy_pass: its path within `limit_except` has no counterpart";
    assert!(report.contains(named), "{report}");
}

#[test]
fn links_are_refused_where_nginx_refuses_them() {
    let (yaml, report) = imported(
        "http { server { listen 8080; root /srv; location / { disable_symlinks on; }
         location /all/ { disable_symlinks off; } } }",
    );
    assert_eq!(yaml.matches("symlinks: refuse").count(), 1, "{yaml}");
    assert_eq!(yaml.matches("symlinks: follow").count(), 1, "{yaml}");
    assert!(!report.contains("has no counterpart"), "{report}");
}

#[test]
fn a_folder_by_a_variable_is_named() {
    let (yaml, report) =
        imported("http { server { listen 8080; root /srv/$host; location / { index a.html; } } }");
    assert!(yaml.contains("respond: 404"), "{yaml}");
    assert!(
        report.contains("root: a folder by `$host` has no counterpart"),
        "{report}"
    );
    assert!(!report.contains("it has no `root`"), "{report}");
}

#[test]
fn handshakes_that_nginx_refuses_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nginx.conf");
    fs::write(
        &path,
        "http { server { listen 8443 ssl default_server; ssl_reject_handshake on; }
         server { listen 8443 ssl; server_name a.test; ssl_certificate /c; ssl_certificate_key /k;
         location / { return 200 ok; } } }",
    )
    .unwrap();
    let (yaml, report) = import(&path, &Wishes::default()).unwrap();
    let report = report.text(false);
    assert!(yaml.contains("unknown_names: refuse"), "{yaml}");
    let security = report.split_once("Security").unwrap().1;
    assert!(
        security.contains("ssl_reject_handshake: `unknown_names: refuse`"),
        "{report}"
    );
}

#[test]
fn refused_requests_have_the_headers_of_their_scheme() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nginx.conf");
    fs::write(
        &path,
        "http { server { listen 8080; add_header X-Both b always; return 301 https://a.test; }
         server { listen 8443 ssl; server_name a.test; ssl_certificate /c; ssl_certificate_key /k;
         add_header X-Both b always; add_header X-Tls t always; return 200 ok; } }",
    )
    .unwrap();
    let (yaml, _) = import(&path, &Wishes::default()).unwrap();
    let added = "add: { X-Both: b, X-Tls: \"{map.refused.x-tls}\" }";
    assert!(yaml.contains(added), "{yaml}");
    let table = "{ from: \"{scheme}\", values: { https: t } }";
    assert!(yaml.contains(table), "{yaml}");
}

#[test]
fn no_client_gets_an_old_response_where_nginx_asks_for_a_new_one() {
    let of = |more: &str| {
        imported(&format!(
            "http {{ proxy_cache_path /c keys_zone=c:1m; server {{ listen 8080; location / {{
             proxy_cache c; proxy_cache_use_stale updating; {more}
             proxy_pass http://127.0.0.1:3000; }} }} }}"
        ))
    };
    let (yaml, report) = of("");
    assert!(!yaml.contains("stale_while_revalidate"), "{yaml}");
    assert!(
        report.contains("other requests for it wait for the new one"),
        "{report}"
    );
    let (yaml, _) = of("proxy_cache_background_update on;");
    assert!(yaml.contains("stale_while_revalidate: 1h"), "{yaml}");
}

#[test]
fn all_types_are_a_list_that_the_gateway_takes() {
    let (yaml, report) = imported(
        "http { gzip on; gzip_types *; server { listen 8080; location / { root /srv; } } }",
    );
    assert!(
        yaml.contains("text/*") && yaml.contains("image/*"),
        "{yaml}"
    );
    assert!(
        report.contains("gzip_types: all types that IANA knows"),
        "{report}"
    );
}

#[test]
fn reasons_are_those_of_the_file() {
    let (yaml, report) = imported(
        "http { map $uri $unused { a b; }
         upstream u { server 127.0.0.1:1 max_fails=3; server 127.0.0.1:2; }
         server { listen 8080; root /srv;
         location / { try_files maint.html $uri @app; } location /r { return 307; } location /c { return 499; }
         location /v { return 200 $ssl_client_s_dn; }
         location /n { try_files $uri =204; max_ranges 0; } location /u { proxy_pass http://u; }
         location @app { proxy_pass http://127.0.0.1:3000; proxy_ignore_client_abort on; } } }",
    );
    assert!(yaml.contains(r#"try: ["{path.decoded}"]"#), "{yaml}");
    assert!(yaml.contains("otherwise: { route: \"@app\" }"), "{yaml}");
    assert!(yaml.contains("otherwise: { status: 404 }"), "{yaml}");
    assert!(yaml.contains("444") && !yaml.contains("499"), "{yaml}");
    for line in [
        "try_files: `maint.html` does not begin with a slash: left out",
        "try_files: `=204` is no status of an error: 404",
        "max_ranges: files have one range",
        "proxy_ignore_client_abort: a request whose client has left ends",
        "return: a redirect without a target has no counterpart; its requests get 503",
        "return: `$ssl_client_s_dn` has no counterpart: the text is sent without it",
        "map: not needed: nothing uses its variable",
        "server: `max_fails=1`, as of another server",
    ] {
        assert!(report.contains(line), "{line}: {report}");
    }
}
