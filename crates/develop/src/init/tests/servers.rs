//! Servers for production that `edgeway init` names.

use super::*;

#[test]
fn servers_of_react_router_and_remix_are_no_preview_of_vite() {
    for (start, package, command) in [
        (
            "react-router-serve ./build/server/index.js",
            "@react-router/serve",
            "node_modules/@react-router/serve/bin.js ./build/server/index.js",
        ),
        (
            "cross-env NODE_ENV=production remix-serve build/server/index.js",
            "@remix-run/serve",
            "node_modules/@remix-run/serve/dist/cli.js build/server/index.js",
        ),
    ] {
        let package = serde_json::json!({
            "scripts": { "start": start, "dev": "vite" },
            "dependencies": { package: "1" },
            "devDependencies": { "vite": "7" },
        });
        let (text, backends, folder) = made(&[("package.json", &package.to_string())]);
        assert_eq!(backends, ["127.0.0.1:3000"], "{text}");
        let mut project = Project::read(folder.path());
        let apps = project.apps();
        let units = service::drop_ins(folder.path(), &project, &apps);
        assert!(
            units.contains(&format!(
                "APP_COMMAND={command}\"\n  Environment=HOST=127.0.0.1\n"
            )),
            "{units}"
        );
        let started = starts(Path::new("."), &project, &apps);
        assert_eq!(started, ["HOST=127.0.0.1 npm run start"]);
    }
}

/// Invariant: of Angular the server for production is started, and no file that a bundler reads is.
#[test]
fn a_program_of_a_bundler_is_no_server() {
    let angular = r#"{ "scripts": { "start": "ng serve", "serve:ssr:shop": "node dist/shop/server/server.mjs" }, "dependencies": { "@angular/ssr": "22", "express": "5" } }"#;
    let server = "const port = process.env['PORT'] || 4000;";
    let rsbuild =
        r#"{ "scripts": { "dev": "rsbuild dev" }, "devDependencies": { "@rsbuild/core": "2" } }"#;
    for (files, port, start, unit) in [
        (
            [("package.json", angular), ("src/server.ts", server)],
            4000,
            "npm run serve:ssr:shop",
            "APP_COMMAND=dist/shop/server/server.mjs\"",
        ),
        (
            [("package.json", rsbuild), ("src/index.js", "")],
            3000,
            "start your app",
            "",
        ),
    ] {
        let (text, backends, folder) = made(&files);
        assert_eq!(backends, [format!("127.0.0.1:{port}")], "{text}");
        assert_eq!(text.contains("allowedHosts"), port == 4000, "{text}");
        let mut project = Project::read(folder.path());
        let apps = project.apps();
        assert_eq!(starts(Path::new("."), &project, &apps), [start]);
        let units = service::drop_ins(folder.path(), &project, &apps);
        assert!(units.contains(unit), "{units}");
        assert_eq!(units.is_empty(), unit.is_empty(), "{units}");
    }
}

/// Invariant: where an adapter makes the server for production, `init` names that one, with the
/// variables that it needs behind a gateway, and not the server of the scripts.
#[test]
fn an_adapter_makes_the_server_for_production() {
    let svelte = r#""@sveltejs/adapter-node": "5", "vite": "7""#;
    let headers = "HOST=127.0.0.1 PROTOCOL_HEADER=x-forwarded-proto HOST_HEADER=x-forwarded-host ADDRESS_HEADER=x-real-ip";
    for (packages, config, text, port, command) in [
        (
            svelte,
            "svelte.config.js",
            "adapter: adapter()",
            3000,
            "build",
        ),
        (
            svelte,
            "vite.config.ts",
            "adapter: adapter({ out: './dist' })",
            3000,
            "dist",
        ),
        (
            r#""nuxt": "4""#,
            "nuxt.config.ts",
            "",
            3000,
            ".output/server/index.mjs",
        ),
        (
            r#""astro": "5", "@astrojs/node": "9""#,
            "astro.config.mjs",
            "outDir: './web'",
            4321,
            "web/server/entry.mjs",
        ),
    ] {
        let package = format!(
            r#"{{ "scripts": {{ "preview": "vite preview" }}, "devDependencies": {{ {packages} }} }}"#
        );
        let package = package.replace(
            "vite preview",
            if packages == svelte {
                "vite preview"
            } else {
                "astro preview"
            },
        );
        let (text, backends, folder) = made(&[("package.json", &package), (config, text)]);
        assert_eq!(backends, [format!("127.0.0.1:{port}")], "{text}");
        let mut project = Project::read(folder.path());
        let apps = project.apps();
        let variables = match packages {
            packages if packages == svelte => headers,
            packages if packages.contains("nuxt") => "HOST=127.0.0.1",
            _ => "",
        };
        let started = starts(Path::new("."), &project, &apps);
        let expected = format!("{variables} node {command}");
        assert_eq!(started, [expected.trim_start()], "{text}");
        let units = service::drop_ins(folder.path(), &project, &apps);
        assert!(
            units.contains(&format!("APP_COMMAND={command}\"\n")),
            "{units}"
        );
        let environment = format!("  Environment={variables}\n");
        assert_eq!(
            units.contains(&environment),
            !variables.is_empty(),
            "{units}"
        );
    }
}
