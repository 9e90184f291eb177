//! Tests of scripts that are followed to their programs.

use serde_json::json;

use super::*;

fn of(scripts: &serde_json::Value) -> Option<Started> {
    let package = Package::from_value(json!({ "scripts": scripts }));
    started(&package)
}

/// Returns program, port and the script with the port, briefly.
fn brief(scripts: &serde_json::Value) -> String {
    let Some(found) = of(scripts) else {
        return "nothing".to_owned();
    };
    let program = match found.program {
        Program::Module(file) => file.unwrap_or_else(|| "?".to_owned()),
        other => format!("{other:?}"),
    };
    match found.argument.or(found.variable) {
        Some((port, script)) => format!("{}: {program} on {port} of {script}", found.name),
        None => format!("{}: {program}", found.name),
    }
}

#[test]
fn a_script_is_followed_to_its_program() {
    for (scripts, expected) in [
        (json!({ "start": "node server.js" }), "start: server.js"),
        (
            json!({ "start": "npm run dev", "dev": "next start -p 3100" }),
            "start: Next on 3100 of dev",
        ),
        (
            json!({ "start": "PORT=1000 npm run a", "a": "PORT=2000 node b.js" }),
            "start: b.js on 2000 of a",
        ),
        (
            json!({ "start": "PORT=1000 npm run a", "a": "node b.js" }),
            "start: b.js on 1000 of start",
        ),
        (
            json!({ "start": "npm run a -- -p 3200", "a": "next start -p 3100" }),
            "start: Next on 3200 of start",
        ),
        (
            json!({ "start": "PORT=4000 next start -p 3100" }),
            "start: Next on 3100 of start",
        ),
        (
            json!({ "dev": "cross-env NODE_ENV=x PORT=3100 tsx watch src/server.ts" }),
            "dev: src/server.ts on 3100 of dev",
        ),
        (
            json!({ "dev": "nodemon --watch src -e ts --exec 'tsx' ./src/a.ts --port=3100" }),
            "dev: ./src/a.ts on 3100 of dev",
        ),
        (
            json!({ "dev": "nodemon -x 'node --loader ts-node/esm src/a.ts' -w src" }),
            "dev: src/a.ts",
        ),
        (
            json!({ "start": "verdaccio -l 127.0.0.1:4873" }),
            "start: Other on 4873 of start",
        ),
        (
            json!({ "start": "next start -p ${PORT:-3100}" }),
            "start: Next on 3100 of start",
        ),
        (
            json!({ "start": "node node_modules/next/dist/bin/next start -p 3001" }),
            "start: Next on 3001 of start",
        ),
        (
            json!({ "start": "tsc && node --watch -r dotenv/config dist/main" }),
            "start: dist/main",
        ),
        (
            json!({ "start": "node --watch server.js|pino-pretty" }),
            "start: server.js",
        ),
        (
            json!({ "start": "yarn serve", "serve": "yarn exec next start" }),
            "start: Next",
        ),
        (json!({ "start": "pnpm next start" }), "start: Next"),
        (json!({ "start": "npx --yes next start" }), "start: Next"),
        (
            json!({ "start": "dotenv -e .env -- node a.mjs" }),
            "start: a.mjs",
        ),
        (
            json!({ "start": "bun run src/index.ts" }),
            "start: src/index.ts",
        ),
        (
            json!({ "start": "node --run b", "b": "node c.js" }),
            "start: c.js",
        ),
        (
            json!({ "start": "serve -p 5000 out" }),
            "start: Other on 5000 of start",
        ),
        (json!({ "start": "node -p 3000" }), "nothing"),
        (json!({ "start": "next build" }), "nothing"),
        (json!({ "start": "npm run start" }), "nothing"),
        (json!({ "start": "npm run a", "a": "npm start" }), "nothing"),
        (json!({ "start": "npm --prefix web start" }), "nothing"),
        (json!({ "start": "'" }), "nothing"),
        (
            json!({ "dev": "next dev", "start": "next start" }),
            "start: Next",
        ),
        (
            json!({ "start": "nest start", "start:prod": "node dist/main" }),
            "start:prod: dist/main",
        ),
    ] {
        assert_eq!(brief(&scripts), expected, "{scripts}");
    }
}

#[test]
fn node_starts_what_other_programs_start() {
    for (script, expected) in [
        ("node -r a --watch b.js --c", Some("-r a b.js --c")),
        ("nodemon --watch src b.js", Some("b.js")),
        ("tsx watch src/b.ts", Some("--import tsx src/b.ts")),
        ("ts-node src/b.ts", None),
    ] {
        let found = of(&json!({ "dev": script })).and_then(|found| found.node);
        let found = found.map(|words| words.join(" "));
        assert_eq!(found.as_deref(), expected, "{script}");
    }
}

#[test]
fn a_server_without_a_script_is_what_npm_runs() {
    let package = Package::from_value(json!({}));
    let found = follow(&package, "start").and_then(|found| found.node);
    assert_eq!(found, Some(vec!["server.js".to_owned()]));
}

/// Invariant: no text of a script makes the search fail or go on for ever.
#[test]
fn any_scripts_end() {
    let parts = [
        "npm", " ", "run", " ", "a", "b", "&&", "'", "\"", "-p", "3000", "PORT=1", "node", "--",
        "next", "start", "yarn", "\\", "\n", "é", "=", "-", "|", "env", "--run", "exec",
    ];
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..5000 {
        let mut line = || -> String {
            let count = random.usize(..12);
            (0..count)
                .map(|_| parts[random.usize(..parts.len())])
                .collect()
        };
        let scripts = json!({ "start": line(), "a": line(), "b": line(), "dev": line() });
        drop(of(&scripts));
    }
}
