//! Tests of `edgeway init`: whatever the project is, the file has no findings, and an existing one
//! is left alone.

use std::{collections::BTreeSet, fs};

use edgeway_config::model::BackendTarget;

use super::*;

mod servers;

/// Runs `init` on a folder with these files; returns the text that it wrote.
fn made(files: &[(&str, &str)]) -> (String, Vec<String>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let options = InitOptions {
        folder: folder.path().to_owned(),
        app: None,
        force: false,
    };
    edgeway_filters::register();
    run(&options).unwrap();
    let path = folder.path().join(FILE);
    let checked = check::load(&path);
    // A new app has no build yet.
    let findings = checked.report().replace("cannot read the build of", "");
    assert!(!findings.contains("error"), "{findings}");
    assert_eq!(
        findings.matches(": warning: ").count(),
        checked.report().matches("cannot read the build of").count(),
        "{findings}"
    );
    let file = edgeway_gateway::load(&path).file.unwrap();
    let backends = file
        .upstreams
        .iter()
        .flat_map(|(_, upstream)| &upstream.value.backends);
    let backends = backends.map(|backend| match &backend.value.target {
        BackendTarget::Address(text) | BackendTarget::Dns(text) => text.clone(),
    });
    let backends = backends.collect();
    (fs::read_to_string(&path).unwrap(), backends, folder)
}

/// Invariant: for any mixture of files, `init` writes a file without findings whose backends are
/// ports of the project.
#[test]
fn any_mixture_of_project_files_gives_a_file_without_findings() {
    let packages = [
        None,
        Some(
            "{ \"dependencies\": { \"next\": \"16\" }, \"scripts\": { \"dev\": \"next dev\", \"start\": \"next start -p 3001\" } }",
        ),
        Some(
            "{ \"dependencies\": { \"express\": \"5\", \"socket.io\": \"4\" }, \"main\": \"app.js\" }",
        ),
        Some("{ \"dependencies\": { \"fastify\": \"5\", \"ws\": \"8\" } }"),
        Some("{ \"devDependencies\": { \"vite\": \"7\" } }"),
        Some("not JSON"),
    ];
    let ecosystems = [
        None,
        Some(
            "module.exports = { apps: [{ name: 'Shop Web', instances: 3, increment_var: 'PORT', env: { PORT: 4000 } }, { name: 'api', env: { PORT: 5000 } }, { name: 'jobs', env: { PORT: 6000 } }, { name: 'worker' }] }",
        ),
        Some("module.exports = {"),
    ];
    let composes = [
        None,
        Some(
            "services:\n  web: { build: ., ports: [\"7000:3000\"] }\n  redis: { image: redis, ports: [\"6379:6379\"] }\n",
        ),
        Some("services: ["),
    ];
    for package in packages {
        for ecosystem in ecosystems {
            for compose in composes {
                let files = [
                    ("package.json", package),
                    ("ecosystem.config.js", ecosystem),
                    ("compose.yaml", compose),
                    ("app.js", Some("app.listen(process.env.PORT || 4567)")),
                    (
                        "next.config.js",
                        Some("export default { output: 'standalone' }"),
                    ),
                    (
                        ".next/BUILD_ID",
                        package.filter(|text| text.contains("3001")),
                    ),
                ];
                let files: Vec<_> = files
                    .iter()
                    .filter_map(|(name, text)| Some((*name, (*text)?)))
                    .collect();
                let (text, backends, _folder) = made(&files);
                let expected: &[&str] = if ecosystem.is_some_and(|text| text.len() > 30) {
                    &[
                        "127.0.0.1:4000",
                        "127.0.0.1:4001",
                        "127.0.0.1:4002",
                        "127.0.0.1:5000",
                    ]
                } else if compose.is_some_and(|text| text.len() > 20) {
                    &["127.0.0.1:7000"]
                } else {
                    match package {
                        Some(text) if text.contains("next") => &["127.0.0.1:3001"],
                        Some(text) if text.contains("vite") => &["127.0.0.1:4173"],
                        _ => &["127.0.0.1:4567"],
                    }
                };
                assert_eq!(backends, expected, "{text}");
            }
        }
    }
}

#[test]
fn an_existing_file_is_replaced_only_by_force() {
    edgeway_filters::register();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    fs::write(&path, "mine").unwrap();
    let mut options = InitOptions {
        folder: folder.path().to_owned(),
        app: None,
        force: false,
    };
    let Err(Failure::Message(refused)) = run(&options) else {
        panic!("the file is there");
    };
    assert!(refused.contains("--force"), "{refused}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    options.force = true;
    run(&options).unwrap();
    assert_ne!(fs::read_to_string(&path).unwrap(), "mine");
}

/// Invariant: a Next.js app is cached from its first build on, and before that nothing is stored;
/// where its build is elsewhere, `init` leaves the choice.
#[test]
fn a_new_app_is_cached_from_its_first_build_on() {
    let package = |scripts: &str| {
        format!("{{ \"dependencies\": {{ \"next\": \"16\" }}, \"scripts\": {{ {scripts} }} }}")
    };
    let generated = package("\"build\": \"next build\", \"start\": \"next start\"");
    let standalone = ("next.config.ts", "export default { output: 'standalone' };");
    let compose = (
        "compose.yaml",
        "services: { web: { build: ., ports: ['3000:3000'] } }",
    );
    for (files, is_cached) in [
        (vec![("package.json", &*generated)], true),
        (vec![("package.json", &*generated), standalone], true),
        (vec![("package.json", &*package(""))], false),
        (vec![("package.json", &*generated), compose], false),
    ] {
        let (text, _, folder) = made(&files);
        assert_eq!(text.contains("\n    cache: {}\n"), is_cached, "{text}");
        assert_eq!(
            text.contains("\n    folder: \".next\"\n"),
            is_cached,
            "{text}"
        );
        let mut project = Project::read(folder.path());
        let apps = project.apps();
        let printed = next_commands(Path::new("."), &project, &apps, 8080);
        assert_eq!(printed.contains("npm run build"), is_cached, "{printed}");
        let start = if files.contains(&standalone) {
            "PORT=3000 HOSTNAME=localhost NODE_OPTIONS=--dns-result-order=ipv4first node \
             .next/standalone/server.js"
        } else if files.contains(&compose) {
            "docker compose"
        } else if is_cached {
            "npm run start"
        } else {
            "start your app"
        };
        assert!(printed.contains(start), "{printed}");
        let copy = "  cp -r .next/static .next/standalone/.next/ ";
        assert_eq!(
            printed.contains(copy),
            files.contains(&standalone),
            "{printed}"
        );
    }
}

#[test]
fn websockets_pass_where_the_app_has_them() {
    let package = |text: &str| made(&[("package.json", text)]).0;
    let next = package(
        "{ \"dependencies\": { \"next\": \"16\" }, \"scripts\": { \"dev\": \"next dev --turbopack\" } }",
    );
    assert!(
        next.contains("/_next/webpack-hmr] }\n    upstream: web\n    websocket: true"),
        "{next}"
    );
    let io = package("{ \"dependencies\": { \"express\": \"5\", \"socket.io\": \"4\" } }");
    assert!(
        io.contains("/socket.io/* }\n    upstream: web\n    websocket: true"),
        "{io}"
    );
    let ws = package("{ \"dependencies\": { \"express\": \"5\", \"ws\": \"8\" } }");
    assert!(
        ws.contains("upstream: web\n    # ws is among the dependencies.\n    websocket: true"),
        "{ws}"
    );
    // Beside Socket.IO, another package has a path of its own.
    for (io, other) in [
        ("socket.io", "ws"),
        ("@nestjs/platform-socket.io", "@nestjs/websockets"),
    ] {
        let both = package(&format!(
            "{{ \"dependencies\": {{ \"{io}\": \"4\", \"{other}\": \"8\" }}, \"main\": \"app.js\" }}"
        ));
        assert!(both.contains("path: /* }\n    upstream: web\n"), "{both}");
        let line = format!("    # {io} is among the dependencies.\n    websocket: true");
        assert!(both.contains(&line), "{both}");
    }
    // Controls: a package of the build or the tests is no part of the app.
    for text in [
        "{ \"dependencies\": { \"express\": \"5\" }, \"devDependencies\": { \"ws\": \"8\", \"socket.io\": \"4\" } }",
        "{ \"dependencies\": { \"next\": \"16\" }, \"scripts\": { \"dev\": \"vite\" } }",
    ] {
        let none = package(text);
        assert!(!none.contains("websocket"), "{none}");
    }
}

/// Invariant: whatever the names and folders of apps are, `init` writes a file without findings,
/// with one upstream for each app that has a use.
#[test]
fn any_names_and_folders_of_apps_give_a_file_without_findings() {
    let names = [
        "true", "null", "7", "shop api", "shop/api", "shop-api", "", "%i", "a\nb: c", "\u{e9}",
        "api",
    ];
    let folders = [
        "",
        ".",
        "./web",
        "../web",
        "@shop/web",
        "a: b",
        "web #1",
        "{x}",
        "a\nb: c",
        "/srv/no such",
    ];
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..60 {
        let apps: Vec<_> = (0..random.u16(1..5))
            .map(|number| {
                serde_json::json!({
                    "name": names[random.usize(..names.len())],
                    "cwd": folders[random.usize(..folders.len())],
                    "script": "npm", "args": "start",
                    "env": { "PORT": 4000 + number },
                })
            })
            .collect();
        let ecosystem = serde_json::json!({ "apps": apps }).to_string();
        let package =
            "{ \"dependencies\": { \"next\": \"16\" }, \"scripts\": { \"dev\": \"next dev\" } }";
        let (text, _, _folder) = made(&[
            ("ecosystem.config.json", &ecosystem),
            ("package.json", package),
            (".next/BUILD_ID", "x"),
            ("@shop/web/package.json", package),
            ("@shop/web/.next/BUILD_ID", "x"),
            ("{x}/package.json", package),
            ("{x}/.next/BUILD_ID", "x"),
            ("next.config.js", "export default { basePath: '/docs' }"),
        ]);
        assert!(text.contains("/_next/webpack-hmr]"), "{text}");
        for number in 0..apps.len() {
            let backend = format!("backends: [127.0.0.1:{}]", 4000 + number);
            assert_eq!(text.matches(&backend).count(), 1, "{text}");
        }
    }
}

#[test]
fn the_apps_of_a_workspace_are_found_and_share_no_port_with_the_gateway() {
    let web =
        "{ \"dependencies\": { \"next\": \"16\" }, \"scripts\": { \"start\": \"next start\" } }";
    let api = "{ \"dependencies\": { \"express\": \"5\" }, \"scripts\": { \"start\": \"PORT=8080 node index.js\" } }";
    let files = [
        (
            "package.json",
            "{ \"workspaces\": [\"apps/*\"], \"scripts\": { \"start\": \"turbo run start\" } }",
        ),
        ("apps/api/package.json", api),
        (
            "apps/ui/package.json",
            "{ \"scripts\": { \"dev\": \"storybook dev -p 6006\" } }",
        ),
        ("apps/web/package.json", web),
        ("apps/web/.next/BUILD_ID", "x"),
    ];
    let (text, backends, _folder) = made(&files);
    assert_eq!(backends, ["127.0.0.1:3000", "127.0.0.1:8080"], "{text}");
    assert!(text.contains("  - address: 127.0.0.1:8081\n"), "{text}");
    assert!(text.contains("    folder: apps/web/.next\n"), "{text}");
    assert!(
        text.contains("path: /api/* }\n    upstream: api\n"),
        "{text}"
    );

    // Control: a server at the root is the project's app.
    let (text, backends, _folder) = made(&[&files[..], &[("server.js", "")]].concat());
    assert_eq!(backends, ["127.0.0.1:3000"], "{text}");
    assert!(!text.contains("api"), "{text}");
}

/// Invariant: a site without a server is a route with its files, below its own path, and names
/// nothing to start; `--app`, a container and a server of the project's own leave it to a server.
#[test]
fn a_site_without_a_server_is_served_from_its_files() {
    let page = ("index.html", "");
    let vite = r#"{ "scripts": { "build": "vite build", "preview": "vite preview" }, "devDependencies": { "vite": "7" } }"#;
    let html = "      try: [\"{path.decoded}\", \"{path.decoded}.html\", \"{path.decoded}/\"]\n";
    let next = html.replace("{path.decoded}/", "{path.decoded}/index.html");
    let next = format!(
        "  - match: {{ path: \"/docs/*\" }}\n    files:\n      root: out\n{next}      not_found: /404.html\n      \
         immutable: /_next/static/*\n    rewrite: {{ prefix: /docs, with: / }}\n"
    );
    let svelte = format!(
        "      root: web\n{html}      fallback: /200.html\n      immutable: /_app/immutable/*\n"
    );
    for (files, route) in [
        (
            vec![("package.json", vite), page],
            "      root: dist\n      fallback: /index.html\n      immutable: /assets/*\n",
        ),
        (
            vec![
                (
                    "package.json",
                    r#"{ "scripts": { "build": "next build", "start": "next start" }, "dependencies": { "next": "16" } }"#,
                ),
                (
                    "next.config.ts",
                    "export default { output: 'export', basePath: '/docs' }",
                ),
            ],
            &next,
        ),
        (
            vec![
                (
                    "package.json",
                    r#"{ "scripts": { "build": "vite build", "preview": "vite preview" }, "devDependencies": { "vite": "8", "@sveltejs/adapter-static": "3" } }"#,
                ),
                (
                    "vite.config.ts",
                    "sveltekit({ adapter: adapter({ pages: 'web', fallback: '200.html' }) })",
                ),
            ],
            &svelte,
        ),
        (
            vec![(
                "package.json",
                r#"{ "scripts": { "build": "astro build" }, "dependencies": { "astro": "5" } }"#,
            )],
            "      root: dist\n      not_found: /404.html\n      immutable: /_astro/*\n",
        ),
        (
            vec![(
                "package.json",
                r#"{ "scripts": { "build": "vitepress build ./docs" }, "devDependencies": { "vitepress": "1" } }"#,
            )],
            &format!("      root: docs/.vitepress/dist\n{html}      not_found: /404.html\n"),
        ),
        (
            vec![
                (
                    "package.json",
                    r#"{ "scripts": { "build": "docusaurus build", "serve": "docusaurus serve" }, "dependencies": { "@docusaurus/core": "3" } }"#,
                ),
                (
                    "docusaurus.config.ts",
                    "const config = { baseUrl: '/guide/' }",
                ),
            ],
            "  - match: { path: \"/guide/*\" }\n    files:\n      root: build\n",
        ),
        (
            vec![(
                "package.json",
                r#"{ "scripts": { "build": "react-scripts build", "start": "react-scripts start" }, "homepage": "https://www.example.com/shop/", "dependencies": { "react-scripts": "5" } }"#,
            )],
            "  - match: { path: \"/shop/*\" }\n    files:\n      root: build\n      fallback: /index.html\n      immutable: /static/*\n",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in &files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let mut options = InitOptions {
            folder: folder.path().to_owned(),
            app: None,
            force: false,
        };
        edgeway_filters::register();
        run(&options).unwrap();
        let path = folder.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(route) && !text.contains("upstream"), "{text}");
        let checked = check::load(&path);
        assert_eq!(checked.problems(), (0, 1), "{}", checked.report());
        let mut project = Project::read(folder.path());
        let apps = project.apps();
        let commands = next_commands(Path::new("."), &project, &apps, 8080);
        assert_eq!(commands.matches("npm run").count(), 1, "{commands}");
        assert_eq!(service::drop_ins(folder.path(), &project, &apps), "");

        options.force = true;
        options.app = Some(App::Node);
        run(&options).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("backends: [127.0.0.1:"), "{text}");
    }
    // Controls.
    let beside = r#"{ "scripts": { "build": "vite build", "docs": "vitepress build docs" }, "devDependencies": { "vite": "8", "vitepress": "1" } }"#;
    let (text, ..) = made(&[("package.json", beside), page, ("dist/index.html", "")]);
    assert!(text.contains("root: dist\n"), "{text}");
    let compose = (
        "compose.yaml",
        "services: { web: { build: ., ports: ['7000:80'] } }",
    );
    let (text, backends, _folder) = made(&[("package.json", vite), page, compose]);
    assert_eq!(backends, ["127.0.0.1:7000"], "{text}");
    let server = vite.replace("\"build\"", "\"start\": \"node server.js\", \"build\"");
    let code = ("server.js", "app.listen(4000)");
    let (text, backends, _folder) = made(&[("package.json", &server), page, code]);
    assert_eq!(backends, ["127.0.0.1:4000"], "{text}");
}

/// The site of a workspace comes first, and its server has the API.
#[test]
fn a_site_in_a_workspace_is_beside_its_api() {
    let (text, backends, _folder) = made(&[
        ("package.json", r#"{ "workspaces": ["apps/*"] }"#),
        (
            "apps/api/package.json",
            r#"{ "dependencies": { "express": "5" }, "scripts": { "start": "PORT=4173 node index.js" } }"#,
        ),
        (
            "apps/web/package.json",
            r#"{ "devDependencies": { "vite": "7" }, "scripts": { "preview": "vite preview" } }"#,
        ),
        ("apps/web/index.html", ""),
        ("apps/web/dist/index.html", ""),
    ]);
    assert_eq!(backends, ["127.0.0.1:4173"], "{text}");
    assert!(text.contains("      root: apps/web/dist\n"), "{text}");
    assert!(
        text.contains("path: /api/* }\n    upstream: api\n"),
        "{text}"
    );
}

#[test]
fn a_build_folder_with_another_name_is_that_of_the_configuration() {
    let (text, _, folder) = made(&[
        (
            "package.json",
            "{ \"dependencies\": { \"next\": \"16\" }, \"scripts\": { \"build\": \"next build\" } }",
        ),
        (
            "next.config.js",
            "module.exports = { distDir: 'built', output: 'standalone' }",
        ),
        ("built/BUILD_ID", "x"),
    ]);
    assert!(text.contains("    folder: built\n"), "{text}");
    assert!(text.contains("`built/standalone` needs copies"), "{text}");
    let mut project = Project::read(folder.path());
    let apps = project.apps();
    assert!(!needs_build(&apps[0]));
    fs::create_dir(folder.path().join("public")).unwrap();
    let place = folder.path().display();
    assert_eq!(
        copies(folder.path(), &apps[0]),
        [
            format!("cp -r {place}/built/static {place}/built/standalone/built/"),
            format!("cp -r {place}/public {place}/built/standalone/"),
        ]
    );
    let started = starts(Path::new("."), &project, &apps);
    assert!(
        started[0].ends_with(" node built/standalone/server.js"),
        "{started:?}"
    );
}

#[test]
fn a_server_action_may_send_as_much_as_its_app_takes() {
    let package = "{ \"dependencies\": { \"next\": \"16\" } }";
    for (limit, line) in [("'3mb'", Some("    body_limit: 3MiB\n")), ("'1mb'", None)] {
        let config = format!("export default {{ serverActions: {{ bodySizeLimit: {limit} }} }}");
        let files = [("package.json", package), ("next.config.js", &*config)];
        let (text, ..) = made(&files);
        assert_eq!(text.contains("body_limit"), line.is_some(), "{text}");
        assert!(text.contains(line.unwrap_or_default()), "{text}");
    }
}

#[test]
fn a_server_with_tls_is_asked_with_tls() {
    let (text, backends, _folder) = made(&[
        (
            "package.json",
            "{ \"scripts\": { \"start\": \"node server.js\" } }",
        ),
        (
            "server.js",
            "require('https').createServer({}); https.createServer(options, app).listen(8443)",
        ),
    ]);
    assert_eq!(backends, ["127.0.0.1:8443"], "{text}");
    assert!(text.contains("    tls: { name: localhost }\n"), "{text}");
}

/// Invariant: comments of commands are side by side, and a long command moves only its own.
#[test]
fn a_long_command_does_not_move_the_comments_of_others() {
    let package =
        "{ \"dependencies\": { \"next\": \"16\" }, \"scripts\": { \"build\": \"next build\" } }";
    let config = "module.exports = { output: 'standalone' }";
    let (.., folder) = made(&[("package.json", package), ("next.config.js", config)]);
    let mut project = Project::read(folder.path());
    let apps = project.apps();
    let text = next_commands(Path::new("."), &project, &apps, 8080);
    let columns: Vec<usize> = text.lines().filter_map(|line| line.find(" # ")).collect();
    assert!(
        columns.iter().any(|column| *column > 60),
        "the control: {text}"
    );
    let short: BTreeSet<&usize> = columns.iter().filter(|column| **column < 60).collect();
    assert_eq!(short.len(), 1, "{text}");
}

#[test]
fn settings_of_vercel_are_not_passed_over_in_silence() {
    let package = "{ \"dependencies\": { \"next\": \"16\" } }";
    let (.., folder) = made(&[("package.json", package)]);
    let found = || unread(folder.path(), &Project::read(folder.path()).apps());
    assert_eq!(found(), BTreeSet::new());
    fs::write(folder.path().join("vercel.json"), "{}").unwrap();
    let warnings: Vec<String> = found().into_iter().collect();
    assert!(
        warnings[0].contains("docs/guides/from-vercel.md"),
        "{warnings:?}"
    );
    assert_eq!(warnings.len(), 1);
}
