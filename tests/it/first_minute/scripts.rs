//! Scripts of package.json: `edgeway init` finds the port and the file that `npm start` ends at.

use std::{fmt::Write as _, fs, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::{Map, Value, json};

use super::{Home, output};
use crate::support::seed;

/// Prints the file and the port of a server in place of listening.
const HOOK: &str = "
require('node:net').Server.prototype.listen = function (port) {
  const at = typeof port === 'object' ? port.port : port;
  const file = require('node:path').relative(process.cwd(), process.argv[1]);
  console.log(`LISTENS ${file} ${at}`);
  process.exit(0);
};
";

/// Programs that others have written, as far as scripts need them.
const PROGRAMS: [(&str, &str); 4] = [
    ("cross-env", "#!/bin/sh\nexec env \"$@\"\n"),
    (
        "tsx",
        "#!/bin/sh\n[ \"$1\" = watch ] && shift\nexec node \"$@\"\n",
    ),
    (
        "nodemon",
        "#!/bin/sh\n[ \"$1\" = --watch ] && shift 2\nexec node \"$@\"\n",
    ),
    (
        "next",
        "#!/usr/bin/env node\n\
         const { port } = require('node:util').parseArgs({ allowPositionals: true, options: \
         { port: { type: 'string', short: 'p' } } }).values;\n\
         process.argv[1] = 'next';\n\
         require('node:http').createServer().listen(Number(port ?? process.env.PORT ?? 3000));\n",
    ),
];

const FILES: [&str; 4] = ["server.js", "src/main.js", "app.js", "lib/start.mjs"];

/// Number of ways in which a chain ends; the first three are those of Next.js.
const PROGRAMS_OF_A_CHAIN: usize = 7;

struct Draw(fastrand::Rng);

impl Draw {
    fn one<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.0.usize(..all.len())]
    }

    fn port(&mut self) -> u16 {
        self.0.u16(3000..9000)
    }

    /// Returns the code of a server.
    fn code(&mut self) -> String {
        let port = self.port();
        let listen = match self.0.usize(..6) {
            0 => format!("server.listen(process.env.PORT || {port});"),
            1 => format!("server.listen({port});"),
            2 => format!("const port = process.env.PORT ?? {port};\nserver.listen(port);"),
            3 => format!("server.listen(parseInt(process.env['PORT'], 10) || {port});"),
            4 => format!("server.listen({{ host: '127.0.0.1', port: {port} }});"),
            _ => format!("const {{ PORT = {port} }} = process.env;\nserver.listen(Number(PORT));"),
        };
        let other = self.port();
        format!("// listen({other})\nconst server = createServer();\n{listen}\n")
    }

    /// Returns the command at the end of the chain. The case decides about the program, so that each
    /// has its turn.
    fn server(&mut self, case: usize) -> String {
        let env = match case % 4 {
            0 => format!("PORT={} ", self.port()),
            1 => format!("cross-env NODE_ENV=test PORT={} ", self.port()),
            _ => String::new(),
        };
        let before = self.one(&["", "", "true && ", "true; "]);
        let file = self.one(&FILES);
        let command = match case % PROGRAMS_OF_A_CHAIN {
            0 => format!("next start -p {}", self.port()),
            1 => format!("next start --port={}", self.port()),
            2 => "next start".to_owned(),
            3 => format!("nodemon --watch src {file}"),
            4 => format!("tsx watch {file}"),
            5 => format!("node --no-warnings ./{file}"),
            _ => format!("node {}", file.trim_end_matches(".js")),
        };
        format!("{before}{env}{command}")
    }

    /// Returns scripts of which `start` ends at a server.
    fn scripts(&mut self, case: usize) -> Value {
        let mut scripts = Map::new();
        let names = ["start", "dev", "serve:http", "run-it"];
        let is_next = case % PROGRAMS_OF_A_CHAIN < 3;
        let last = self.0.usize(usize::from(is_next)..names.len());
        for pair in names[..=last].windows(2) {
            let env = match self.0.usize(..3) {
                0 => format!("PORT={} ", self.port()),
                _ => String::new(),
            };
            let silent = self.one(&["", "--silent "]);
            let line = format!("{env}npm run {silent}{}", pair[1]);
            scripts.insert(pair[0].to_owned(), line.into());
        }
        scripts.insert(names[last].to_owned(), self.server(case).into());
        if is_next && case < PROGRAMS_OF_A_CHAIN {
            // What is passed on counts.
            let line = scripts[names[last - 1]].as_str().unwrap_or_default();
            let passed = format!("{line} -- -p {}", self.port());
            scripts.insert(names[last - 1].to_owned(), passed.into());
        }
        Value::Object(scripts)
    }
}

/// Writes a project with these scripts.
fn project(home: &Home, draw: &mut Draw, scripts: &Value) {
    let folder = home.project();
    for file in FILES {
        let import = if Path::new(file)
            .extension()
            .is_some_and(|kind| kind == "mjs")
        {
            "import { createServer } from 'node:http';\n"
        } else {
            "const { createServer } = require('node:http');\n"
        };
        super::write(&folder, &[(file, &format!("{import}{}", draw.code()))]);
    }
    let package = json!({ "name": "drawn", "version": "1.0.0", "scripts": scripts }).to_string();
    super::write(&folder, &[("package.json", &package), ("hook.cjs", HOOK)]);
    for (name, program) in PROGRAMS {
        let path = format!("node_modules/.bin/{name}");
        super::write(&folder, &[(&path, program)]);
        fs::set_permissions(folder.join(path), fs::Permissions::from_mode(0o755))
            .expect("it is ours");
    }
}

/// Invariant: port and kind are those of what `npm start` runs.
#[test]
fn init_finds_what_npm_start_runs() {
    let mut draw = Draw(fastrand::Rng::with_seed(31));
    let mut seen = String::new();
    // Each program once, and more often in a hunt.
    for case in 0..seed::cases(1, 4) * PROGRAMS_OF_A_CHAIN {
        let home = Home::new();
        let scripts = draw.scripts(case);
        project(&home, &mut draw, &scripts);
        let hook = format!("--require={}", home.project().join("hook.cjs").display());
        let mut npm = home.command("npm");
        npm.args(["start", "--offline"])
            .env("NODE_OPTIONS", hook)
            .env_remove("PORT");
        let (status, stdout, stderr) = output(&mut npm);
        let listens = stdout
            .lines()
            .find_map(|line| line.strip_prefix("LISTENS "));
        let listens = listens.unwrap_or_else(|| panic!("{status} {scripts}: {stdout}\n{stderr}"));
        let (file, port) = listens.split_once(' ').expect("file and port");

        let (status, _, printed) = home.run(&["init"]);
        assert_eq!(status, 0, "{printed}");
        let yaml = fs::read_to_string(home.project().join("edgeway.yaml")).expect("it is written");
        let backends = format!("backends: [127.0.0.1:{port}]");
        assert!(yaml.contains(&backends), "{scripts}: {listens}\n{yaml}");
        let kind = if file.ends_with("next") {
            "nextjs"
        } else {
            "node"
        };
        assert!(yaml.contains(&format!("app: {kind}")), "{scripts}\n{yaml}");
        assert!(printed.contains("npm run start"), "{printed}");
        let _infallible = writeln!(seen, "{scripts} {listens}");
    }
    for words in ["next ", "nodemon ", "tsx ", "cross-env ", "-- -p "] {
        assert!(seen.contains(words), "never drawn: {words}\n{seen}");
    }
}

/// Invariant: the commands that `init` prints are those of the project's own package manager.
#[test]
fn init_writes_the_package_manager_of_the_lock_file() {
    for (lock, command) in [
        ("package-lock.json", "npm run start"),
        ("pnpm-lock.yaml", "pnpm run start"),
        ("yarn.lock", "yarn run start"),
        ("bun.lock", "bun run start"),
    ] {
        let home = Home::new();
        let package = json!({ "scripts": { "start": "node server.js" } }).to_string();
        let files = [("package.json", &*package), (lock, "")];
        super::write(&home.project(), &files);
        let (status, _, printed) = home.run(&["init"]);
        assert_eq!(status, 0, "{printed}");
        assert!(
            printed.contains(&format!("  {command} ")),
            "{lock}: {printed}"
        );
    }
}
