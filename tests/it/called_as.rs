//! Commands that the program proposes: they begin as its user types them, `npx edgeway` or
//! `docker exec CONTAINER edgeway`.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use regex::Regex;
use tempfile::TempDir;

use crate::{
    cli::edgeway,
    support::{client::get, gateway::Gateway},
};

const VARIABLE: &str = "EDGEWAY_CALLED_AS";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs the program in a folder as it is called there; returns all that it prints.
fn printed(folder: &Path, called_as: &str, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("EDGEWAY_CONFIG")
        .env(VARIABLE, called_as)
        .env("HOME", folder)
        .env("XDG_DATA_HOME", folder)
        .env("RUNTIME_DIRECTORY", folder)
        .output()
        .expect("the program runs");
    let [stdout, stderr] = [output.stdout, output.stderr];
    String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()
}

/// Returns the value that the container image sets.
fn of_the_image() -> String {
    let text = fs::read_to_string(root().join("Dockerfile")).expect("it is there");
    let (_, value) = text.split_once("EDGEWAY_CALLED_AS=\"").expect("it is set");
    value.split('"').next().expect("it ends").to_owned()
}

/// Proposals of a command that is not the user's own.
fn foreign(text: &str, called_as: &str) -> Vec<String> {
    let command = Regex::new(r"(?:^|[^\w/.-])edgeway [a-z]{2,}").expect("it is valid");
    let text = text.replace(called_as, "");
    let commands = command.find_iter(&text);
    commands.map(|it| it.as_str().to_owned()).collect()
}

/// Invariant: whatever the program is called as, every command that it proposes begins so.
#[tokio::test]
async fn proposed_commands_begin_as_their_user_types_them() {
    let mut seen = 0;
    for called_as in ["npx edgeway".to_owned(), of_the_image()] {
        let folder = TempDir::new().expect("a folder for the test");
        let app = folder.path().join("app");
        fs::create_dir(&app).expect("it can be made");
        let package =
            r#"{ "dependencies": { "next": "16" }, "scripts": { "start": "next start" } }"#;
        fs::write(app.join("package.json"), package).expect("the folder takes files");
        fs::write(app.join("bad.yaml"), "lisen: 1\n").expect("the folder takes files");
        let ecosystem =
            "module.exports = { apps: [{ name: 'api', script: 'a.js', env: { PORT: 4001 } }] }";
        fs::write(app.join("ecosystem.config.js"), ecosystem).expect("the folder takes files");
        fs::create_dir(app.join("plugins")).expect("it can be made");
        for arguments in [
            &["preset"][..],
            &["init"],
            &["init"],
            &["status"],
            &["doctor", "-c", "bad.yaml"],
            &["ca"],
            &["ca", "list"],
            &["dev", "--script", "none"],
            &["plugin", "new", "plugins/mine"],
            &["import", "pm2", "ecosystem.config.js", "--out", "made"],
            &["run", "--nonsense"],
        ] {
            let text = printed(&app, &called_as, arguments);
            assert_eq!(foreign(&text, &called_as), [""; 0], "{arguments:?}: {text}");
            seen += text.matches(&called_as).count();
        }
        // Problems name it on the page of the gateway, and in what a command prints.
        let yaml = "admin: { address: 127.0.0.1:0, socket: admin.sock }\n\
                    routes: [{ match: {}, respond: ok }]\n";
        let gateway = Gateway::start_with(yaml, &[(VARIABLE, called_as.as_str())]).await;
        assert!(!gateway.reload("lisen: 1").await);
        let check = format!("`{called_as} check`");
        let page = get("/status").header("accept", "text/html");
        let page = gateway.send_admin(&page).await.text();
        assert!(page.contains(&check), "{page}");
        let status = ["status", "--socket", gateway.admin_socket()];
        let status = printed(&app, "pnpm exec edgeway", &status);
        assert!(
            status.contains("look at `pnpm exec edgeway check`"),
            "{status}"
        );
        let login = gateway.send_admin_tcp(&get("/login")).await.text();
        assert!(login.contains(&format!("{called_as} page")), "{login}");
        // The control: nobody calls it otherwise.
        let plain = printed(&app, "", &status_of(&gateway));
        assert!(plain.contains("look at `edgeway check`"), "{plain}");
        assert!(!foreign(&plain, &called_as).is_empty(), "{plain}");
    }
    assert!(seen > 20, "only {seen} commands were proposed");
}

fn status_of(gateway: &Gateway) -> [&str; 3] {
    ["status", "--socket", gateway.admin_socket()]
}

/// Lines that name a command to the compiler or to readers of the sources.
fn is_exempt(line: &str) -> bool {
    let is_name = line.contains("const NAME: &str") || line.contains("name: \"edgeway ");
    is_name || line.trim_start().starts_with("//")
}

/// Invariant: a proposal in the sources is in backticks, which `out::note` and `out::hints` read, or
/// begins with `out::program()`.
#[test]
fn no_proposal_in_the_sources_has_a_name_of_its_own() {
    let help = edgeway(&["--help"]).stdout;
    let (_, commands) = help.split_once("Commands:\n").expect("a list");
    let commands = commands.lines().take_while(|line| !line.is_empty());
    let names: Vec<&str> = commands
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty())
        .collect();
    assert!(names.len() > 30, "{names:?}");
    let proposal = Regex::new(&format!(r"[^`\w/.-]edgeway ({})\b", names.join("|")));
    let proposal = proposal.expect("it is valid");
    let proposals = |text: &str| {
        let product = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        let lines = product.lines().filter(|line| !is_exempt(line));
        let lines = lines.filter(|line| proposal.is_match(line));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let mut wrong = Vec::new();
    // Manual pages are made once for all users.
    let is_shown = |file: &PathBuf| !file.ends_with("cli/src/man.rs");
    for file in sources(&root().join("crates")).into_iter().filter(is_shown) {
        let text = fs::read_to_string(&file).expect("a source is UTF-8");
        wrong.extend(
            proposals(&text)
                .into_iter()
                .map(|line| format!("{}: {line}", file.display())),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The control.
    assert_eq!(
        proposals("note(\"then: edgeway reload\");\n// edgeway run\n\"`edgeway run`\"").len(),
        1
    );
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("it is there").flatten();
    let paths = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !name.starts_with("test") && name != "target"
    });
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
    files
}

/// Invariant: the launcher of npm names the command by which it was started.
#[test]
fn the_launcher_of_npm_names_the_command_of_its_package_manager() {
    let folder = TempDir::new().expect("a folder for the test");
    let program = folder.path().join("program");
    fs::write(&program, format!("#!/bin/sh\nprintf %s \"${VARIABLE}\"\n")).expect("it takes files");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let launcher = root().join("packaging/npm/edgeway/bin/edgeway.js");
    let bin = folder.path().join("node_modules/.bin");
    fs::create_dir_all(&bin).expect("it can be made");
    for place in [folder.path(), &bin] {
        symlink(&launcher, place.join("edgeway")).expect("the folder takes links");
    }
    let called = |place: &Path, agent: &str, own: Option<&str>| {
        let mut node = Command::new("node");
        node.arg(place.join("edgeway"))
            .env_remove(VARIABLE)
            .env("EDGEWAY_BINARY", &program)
            .env("npm_config_user_agent", agent);
        node.envs(own.map(|own| (VARIABLE, own)));
        let output = node.output().expect("node runs");
        String::from_utf8(output.stdout).expect("it prints text")
    };
    for (agent, expected) in [
        ("npm/11.4.2 node/v24.4.1 linux x64", "npx edgeway"),
        (
            "pnpm/10.4.1 npm/? node/v24.4.1 linux x64",
            "pnpm exec edgeway",
        ),
        ("yarn/4.9.1 npm/? node/v24.4.1 linux x64", "yarn edgeway"),
        ("bun/1.2.0", "bunx edgeway"),
        ("", "npx edgeway"),
    ] {
        assert_eq!(called(&bin, agent, None), expected, "{agent}");
    }
    // Installed for all folders it is a command of the shell.
    assert_eq!(called(folder.path(), "", None), "edgeway");
    assert_eq!(called(&bin, "", Some("make gateway")), "make gateway");
}
