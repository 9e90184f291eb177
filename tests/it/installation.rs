//! Installations: the version that a build names, completions as bash uses them, manual pages, and
//! the scripts that build and install.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    cli::edgeway,
    support::{gateway::Gateway, namespaces, wait::wait_for},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Commands of a page of help, in its order.
fn commands_of(arguments: &[&str]) -> Vec<String> {
    let ran = edgeway(&[arguments, &["--help"]].concat());
    let lines = ran.stdout.lines();
    let list = lines.skip_while(|line| *line != "Commands:").skip(1);
    list.take_while(|line| !line.is_empty())
        // A line that is indented further continues the text of the one before.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

fn run(program: impl AsRef<OsStr>, arguments: &[&str], folder: &Path) -> Output {
    Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the program runs")
}

/// The build script, compiled, and the variables that cargo would give it.
struct BuildScript {
    program: PathBuf,
    folder: tempfile::TempDir,
}

impl BuildScript {
    /// Compiles the script, changed by `change` as an export of git would.
    fn compile(change: impl FnOnce(String) -> String) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let source = folder.path().join("build.rs");
        let text = fs::read_to_string(root().join("build.rs")).expect("it can be read");
        fs::write(&source, change(text)).expect("the folder takes files");
        let program = folder.path().join("build-script");
        let compiled = Command::new("rustc")
            .args(["--edition", "2024", "-A", "warnings", "-o"])
            .args([&program, &source])
            .status();
        assert!(compiled.expect("it starts").success());
        Self { program, folder }
    }

    /// Returns what it prints for a folder.
    fn output(&self, folder: &Path, profile: &str, variables: &[(&str, &str)]) -> String {
        let output = Command::new(&self.program)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").expect("there is one"))
            .env("CARGO_MANIFEST_DIR", folder)
            .env("CARGO_PKG_VERSION", "1.2.3")
            .env("PROFILE", profile)
            .envs(variables.iter().copied())
            .output()
            .expect("it starts");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("it prints text")
    }

    fn version(&self, folder: &Path, profile: &str, variables: &[(&str, &str)]) -> String {
        let output = self.output(folder, profile, variables);
        let found = output.lines().find_map(|line| {
            let setting = line.strip_prefix("cargo::rustc-env=")?;
            setting.strip_prefix("EDGEWAY_LONG_VERSION=")
        });
        found.expect("it names the version").to_owned()
    }
}

/// Makes a repository with one commit of this time, and returns the commit.
fn repository(folder: &Path, time: &str) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(["-c", "user.name=a", "-c", "user.email=a@b"])
            .args(arguments)
            .current_dir(folder)
            .env("GIT_AUTHOR_DATE", time)
            .env("GIT_COMMITTER_DATE", time)
            .output()
            .expect("it starts");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout)
            .expect("it prints text")
            .trim()
            .to_owned()
    };
    git(&["init", "--quiet", "."]);
    git(&["commit", "--quiet", "--allow-empty", "-m", "one"]);
    git(&["rev-parse", "HEAD"])
}

#[test]
fn a_release_names_its_commit_and_the_date_of_it() {
    let script = BuildScript::compile(|text| text);
    let repo = tempfile::tempdir().unwrap();
    // Half an hour before midnight in UTC, of a leap day.
    let commit = repository(repo.path(), "2024-02-29T23:30:00+00:00");
    let short = &commit[..12];
    let named = format!("1.2.3 ({short} 2024-02-29)");
    assert_eq!(script.version(repo.path(), "release", &[]), named);
    // A debug build would be compiled again after each commit.
    assert_eq!(script.version(repo.path(), "debug", &[]), "1.2.3");
    // What a packager gives counts more.
    let given = [
        ("EDGEWAY_COMMIT", "0123456789abcdef"),
        ("SOURCE_DATE_EPOCH", "1767225600"),
        ("EDGEWAY_VERSION", "2.0.0-rc.1"),
    ];
    assert_eq!(
        script.version(repo.path(), "debug", &given),
        "2.0.0-rc.1 (0123456789ab 2026-01-01)"
    );
    // A link to the repository is the repository; a folder in it is of somebody else.
    let link = script.folder.path().join("link");
    symlink(repo.path(), &link).unwrap();
    assert_eq!(script.version(&link, "release", &[]), named);
    let inner = repo.path().join("vendor");
    fs::create_dir(&inner).unwrap();
    assert_eq!(script.version(&inner, "release", &[]), "1.2.3");
    // Neither git nor an archive: the version alone.
    let plain = tempfile::tempdir().unwrap();
    assert_eq!(script.version(plain.path(), "release", &[]), "1.2.3");
    assert_eq!(
        script.version(plain.path(), "release", &[("SOURCE_DATE_EPOCH", "1")]),
        "1.2.3"
    );
}

#[test]
fn an_archive_of_git_names_the_commit_that_it_was_made_of() {
    let repo = tempfile::tempdir().unwrap();
    for name in ["build.rs", ".gitattributes"] {
        fs::copy(root().join(name), repo.path().join(name)).unwrap();
    }
    let git = |arguments: &[&str]| {
        let all = [
            &["-c", "user.name=a", "-c", "user.email=a@b"][..],
            arguments,
        ];
        let output = run("git", &all.concat(), repo.path());
        assert!(output.status.success(), "{output:?}");
    };
    git(&["init", "--quiet", "."]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "one"]);
    git(&["archive", "--output", "archive.tar", "HEAD"]);
    let out = tempfile::tempdir().unwrap();
    let archive = repo.path().join("archive.tar");
    let archive = archive.to_str().unwrap();
    assert!(run("tar", &["xf", archive], out.path()).status.success());
    let exported = fs::read_to_string(out.path().join("build.rs")).unwrap();
    let script = BuildScript::compile(|_| exported);
    let version = script.version(out.path(), "release", &[]);
    let head = run(
        "git",
        &["log", "-1", "--format=%H %cs", "HEAD"],
        repo.path(),
    );
    let head = String::from_utf8(head.stdout).unwrap();
    let (commit, date) = head.trim().split_once(' ').unwrap();
    assert_eq!(version, format!("1.2.3 ({} {date})", &commit[..12]));
    assert_eq!(script.version(out.path(), "debug", &[]), "1.2.3");
}

#[test]
fn the_build_script_watches_only_files_that_exist() {
    let script = BuildScript::compile(|text| text);
    let repo = tempfile::tempdir().unwrap();
    repository(repo.path(), "2024-01-01T00:00:00Z");
    let tree = script.folder.path().join("tree");
    let worktree = ["worktree", "add", "--quiet", tree.to_str().unwrap()];
    assert!(run("git", &worktree, repo.path()).status.success());
    for folder in [repo.path(), &tree] {
        let watched = |profile: &str| -> Vec<PathBuf> {
            let output = script.output(folder, profile, &[]);
            let lines = output
                .lines()
                .filter_map(|line| line.strip_prefix("cargo::rerun-if-changed="));
            lines.map(|path| folder.join(path)).collect()
        };
        // `build.rs` itself is in the package's folder.
        let release = &watched("release")[1..];
        assert_eq!(release.len(), 2, "{release:?}");
        for path in release {
            assert!(path.exists(), "{}", path.display());
        }
        // One of them changes with a commit.
        let before: Vec<_> = release.iter().map(|p| fs::read(p).unwrap()).collect();
        repository(folder, "2024-01-02T00:00:00Z");
        let after: Vec<_> = release.iter().map(|p| fs::read(p).unwrap()).collect();
        assert_ne!(before, after);
        assert_eq!(watched("debug").len(), 1);
    }
}

#[test]
fn the_program_names_its_version() {
    for flag in ["--version", "-V"] {
        let ran = edgeway(&[flag]);
        assert_eq!(ran.status, 0);
        let rest = ran.stdout.trim().strip_prefix("edgeway ").unwrap();
        let (version, commit) = rest.split_once(" (").unwrap_or((rest, ""));
        assert_eq!(version, edgeway::VERSION);
        let is_commit = commit.ends_with(')') && commit.split(' ').count() == 2;
        assert!(commit.is_empty() || is_commit, "{}", ran.stdout);
        assert_eq!(rest, edgeway::LONG_VERSION);
    }
}

/// Asks bash for the completions of a line, through the script that the program prints.
fn completed(words: &[&str]) -> BTreeSet<String> {
    let script = edgeway(&["completions", "bash"]);
    assert_eq!(script.status, 0);
    let list = words
        .iter()
        .map(|word| format!("'{word}'"))
        .collect::<Vec<_>>()
        .join(" ");
    let last = words.len() - 1;
    let (current, previous) = (words[last], words[last - 1]);
    let line = format!(
        "{}\nCOMP_WORDS=({list}); COMP_CWORD={last}; _edgeway edgeway '{current}' '{previous}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.stdout
    );
    let output = run("bash", &["-c", &line], root());
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("it prints text");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    let all: BTreeSet<String> = commands_of(&[]).into_iter().collect();
    assert!(all.len() > 20, "{all:?}");
    let offered = completed(&["edgeway", ""]);
    assert!(all.is_subset(&offered), "{offered:?}");
    assert_eq!(completed(&["edgeway", "che"]), ["check".to_owned()].into());
    let below = completed(&["edgeway", "plugin", ""]);
    for name in commands_of(&["plugin"]) {
        assert!(below.contains(&name), "{name}: {below:?}");
    }
    assert!(completed(&["edgeway", "run", "--l"]).contains("--last-good"));
    let values = completed(&["edgeway", "check", "--format", ""]);
    assert!(values.contains("json") && values.contains("text"));
    // A value that is a path: files of the folder.
    let files = completed(&["edgeway", "check", "--config", "Cargo.t"]);
    assert!(files.contains("Cargo.toml"), "{files:?}");
}

#[test]
fn each_shell_has_completions_and_others_are_refused() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = edgeway(&["completions", shell]);
        assert_eq!(ran.status, 0, "{shell}");
        for command in commands_of(&[]) {
            assert!(ran.stdout.contains(&command), "{shell}: {command}");
        }
    }
    let refused = edgeway(&["completions", "tcsh"]);
    assert_eq!(refused.status, 2);
    assert!(refused.stderr.contains("bash"), "{}", refused.stderr);
}

#[test]
fn each_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    // Created if it does not exist.
    let pages = folder.path().join("share/man1");
    let ran = edgeway(&["man", pages.to_str().unwrap()]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let mut expected = BTreeSet::from(["edgeway.1".to_owned()]);
    for command in commands_of(&[]) {
        expected.insert(format!("edgeway-{command}.1"));
        for below in commands_of(&[&command]) {
            expected.insert(format!("edgeway-{command}-{below}.1"));
        }
    }
    let entries = fs::read_dir(&pages).unwrap();
    let found: BTreeSet<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, expected);
    let main = fs::read_to_string(pages.join("edgeway.1")).unwrap();
    for heading in ["NAME", "SYNOPSIS", "FILES", "SIGNALS", "\"EXIT STATUS\""] {
        assert!(main.contains(&format!(".SH {heading}\n")), "{heading}");
    }
    let below = fs::read_to_string(pages.join("edgeway-check.1")).unwrap();
    assert!(below.contains(".TH edgeway-check 1"), "{below}");
    let refused = edgeway(&["man", "Cargo.toml"]);
    assert_eq!(refused.status, 1);
    let message = "edgeway: cannot write manual pages to `Cargo.toml`: ";
    assert!(refused.stderr.starts_with(message), "{}", refused.stderr);
}

#[tokio::test]
async fn status_ready_is_a_health_check() {
    let yaml =
        "drain: { announce: 20s }\nroutes: [{ match: { path: /* }, respond: { status: 200 } }]\n";
    let gateway = Gateway::start(yaml).await;
    let ready = ["status", "--ready", "--socket", gateway.admin_socket()];
    let ran = edgeway(&ready);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "ready\n"));
    // Over TCP there is no token, and this needs none.
    let address = gateway.admin().to_string();
    let tcp = edgeway(&["status", "--ready", "--admin", &address]);
    assert_eq!((tcp.status, tcp.stdout.as_str()), (0, "ready\n"));
    assert_eq!(edgeway(&["status", "--admin", &address]).status, 1);
    gateway.signal(Signal::TERM);
    let draining = async || {
        let ran = edgeway(&ready);
        (ran.status == 1).then_some(ran.stderr)
    };
    let message = wait_for("the gateway drains", Duration::from_secs(10), draining).await;
    assert_eq!(message, "edgeway: not ready: draining\n");
    let nowhere = edgeway(&["status", "--ready", "--socket", "/nowhere/admin.sock"]);
    assert_eq!(nowhere.status, 1);
    assert!(nowhere.stderr.contains("cannot reach a gateway"));
}

/// Without a dot in front, `npm publish` takes the path for a repository of GitHub.
#[test]
fn the_release_publishes_files() {
    let path = root().join(".github/workflows/release.yml");
    let workflow = fs::read_to_string(path).unwrap();
    let lines = workflow.lines().filter(|line| line.contains("npm publish"));
    let files: Vec<&str> = lines.filter_map(|line| line.split('"').nth(1)).collect();
    assert_eq!(files.len(), 4, "{files:?}");
    for file in files {
        assert!(file.starts_with("./release/"), "{file}");
    }
    // The registry refuses provenance of a package that names no repository, and a package needs
    // somebody who maintains it.
    for line in ["REPOSITORY: ${{ github.server_url }}", "vars.MAINTAINER"] {
        assert!(workflow.contains(line), "{line}");
    }
    assert!(!workflow.contains(".invalid"), "no one reads mail there");
}

/// Links of the pages in a package lead to what is in it, as does each file that a page names.
#[test]
fn packages_have_what_their_pages_name() {
    let listed = run(root().join("scripts/packaged-files"), &[], root());
    assert!(listed.status.success(), "{listed:?}");
    let folder = tempfile::tempdir().expect("a folder for the test");
    for file in String::from_utf8(listed.stdout).expect("names").lines() {
        let to = folder.path().join(file);
        fs::create_dir_all(to.parent().expect("it has one")).expect("the folder takes folders");
        fs::copy(root().join(file), to).expect("it is there");
    }
    let links = root().join("tests/packages/links.js");
    let arguments = [links.to_str().expect("a path"), "."];
    let checked = run("node", &arguments, folder.path());
    assert!(checked.status.success(), "{checked:?}");
    // The control.
    fs::remove_dir_all(folder.path().join("dashboards")).expect("it was copied");
    let checked = run("node", &arguments, folder.path());
    assert!(!checked.status.success(), "{checked:?}");
}

/// Runs `scripts/setup` on a machine with this `os-release` and these tools alone.
fn setup_on(os_release: &str, tools: &[&str], packages: &[&str]) -> Option<Output> {
    let way = namespaces::unshare(&["--mount"], "true")?;
    let folder = tempfile::tempdir().expect("a folder for the test");
    let release = folder.path().join("os-release");
    fs::write(&release, os_release).expect("the folder takes files");
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).expect("the folder takes folders");
    let basic = [
        "env", "bash", "uname", "sort", "head", "printf", "cut", "tr",
    ];
    for name in basic.iter().chain(tools) {
        let found = run("sh", &["-c", &format!("command -v {name}")], root());
        let path = String::from_utf8(found.stdout).expect("it prints text");
        let path = Path::new(path.trim()).to_owned();
        // `cargo` is a link to rustup, which asks for the name that it was started by.
        if path.is_absolute() {
            let text = format!("#!/bin/bash\nexec {} \"$@\"\n", path.display());
            let stub = bin.join(name);
            fs::write(&stub, text).expect("the folder takes files");
            let executable = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&stub, executable).expect("the folder takes files");
        }
    }
    let line = "mount --bind \"$1\" \"$(readlink -f /etc/os-release)\" && PATH=$2 && shift 2 && exec /bin/bash scripts/setup \"$@\"";
    let output = Command::new("unshare")
        .args(way)
        .args(["bash", "-c", line, "setup"])
        .args([&release, &bin])
        .args(packages)
        .current_dir(root())
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    Some(output)
}

#[test]
fn setup_warns_where_the_tools_are_there_and_refuses_where_they_are_not() {
    let all = ["cargo", "node", "npm", "cmake", "cc", "c++", "git"];
    let apt = ["apt-get", "dpkg-query"];
    let stderr = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    let fedora = "ID=fedora\nVERSION_ID=43\n";
    let Some(warned) = setup_on(fedora, &all, &[]) else {
        return;
    };
    assert!(warned.status.success(), "{}", stderr(&warned));
    assert!(stderr(&warned).contains("warning: 'fedora 43' is not tested"));
    let packages = setup_on(fedora, &all, &["chromium"]).unwrap();
    assert!(packages.status.success());
    assert!(stderr(&packages).contains("install what corresponds to Debian's chromium"));
    // It can have dpkg, which does not make it a Debian.
    let dpkg = setup_on(fedora, &[&all[..], &["dpkg-query"]].concat(), &["chromium"]).unwrap();
    assert!(dpkg.status.success(), "{}", stderr(&dpkg));
    let without: Vec<&str> = all.into_iter().filter(|tool| *tool != "cmake").collect();
    let refused = setup_on(fedora, &without, &[]).unwrap();
    assert!(!refused.status.success());
    assert!(stderr(&refused).contains("missing tools on 'fedora 43'"));
    assert!(stderr(&refused).contains("cmake"));

    // With apt, another Debian or Ubuntu is treated like this one.
    let ubuntu = "ID=ubuntu\nVERSION_ID=\"24.04\"\n";
    let warned = setup_on(ubuntu, &[&all[..], &apt].concat(), &[]).unwrap();
    assert!(warned.status.success(), "{}", stderr(&warned));
    assert!(stderr(&warned).contains("warning: 'ubuntu 24.04' is not tested"));
    let debian = "ID=debian\nVERSION_ID=12\n";
    let silent = setup_on(debian, &[&all[..], &apt].concat(), &[]).unwrap();
    assert!(silent.status.success());
    assert_eq!(stderr(&silent), "");
}

/// A copy of `scripts/build-dist` with a record of load, and a compiler and a cargo that only say what
/// they were asked.
struct DistBuild(tempfile::TempDir);

impl DistBuild {
    const RECORD: &str = "what load does";

    fn new() -> Self {
        let build = Self(tempfile::tempdir().expect("a folder for the test"));
        let folder = build.0.path();
        for place in ["bin", "scripts", "packaging/pgo"] {
            fs::create_dir_all(folder.join(place)).expect("the folder takes folders");
        }
        let script = folder.join("scripts/build-dist");
        fs::copy(root().join("scripts/build-dist"), script).expect("it can be copied");
        for (name, text) in [
            ("rustc", "printf 'host: %s\\nrelease: %s\\n' $HOST $RELEASE"),
            (
                "cargo",
                r#"if [ "$1" = tree ]; then echo "$TREE"; else echo "$RUSTFLAGS|$*"; fi"#,
            ),
        ] {
            let program = folder.join("bin").join(name);
            fs::write(&program, format!("#!/bin/sh\n{text}\n")).expect("it can be written");
            let rights = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&program, rights).expect("it is ours");
        }
        let record = folder.join("packaging/pgo/load.profdata");
        fs::write(&record, Self::RECORD).expect("it can be written");
        run("gzip", &["packaging/pgo/load.profdata"], folder);
        let fits = build.run(&["--fits"], &[]).0;
        fs::write(folder.join("packaging/pgo/fits"), fits).expect("it can be written");
        build
    }

    /// Returns what cargo was asked, and the messages.
    fn run(&self, arguments: &[&str], other: &[(&str, &str)]) -> (String, String) {
        let bin = self.0.path().join("bin");
        let path = format!("{}:/usr/bin:/bin", bin.display());
        let ran = Command::new(self.0.path().join("scripts/build-dist"))
            .args(arguments)
            .env_remove("CARGO")
            .env_remove("RUSTFLAGS")
            .envs([("PATH", &*path), ("HOST", "here"), ("RELEASE", "1.0.0")])
            .env("TREE", "0 edgeway v1 default (/a/path)")
            .envs(other.iter().copied())
            .output()
            .expect("it starts");
        assert!(ran.status.success(), "{ran:?}");
        let text = |bytes| String::from_utf8(bytes).expect("it prints text");
        (text(ran.stdout), text(ran.stderr))
    }
}

/// A build uses the record of load exactly if that is of its compiler, and says when it is none of
/// its own.
#[test]
fn packages_are_built_with_the_record_of_load_that_fits() {
    let build = DistBuild::new();
    for (other, is_used, text) in [
        (&[][..], true, ""),
        (&[("TREE", "0 edgeway v1 default (/b/path)")], true, ""),
        (&[("TREE", "0 edgeway v1 more (/a/path)")], true, "make pgo"),
        (&[("RELEASE", "1.0.1")], false, "rustc 1.0.0 on here"),
        (&[("HOST", "there")], false, "rustc 1.0.0 on here"),
        (&[("PGO", "off")], false, "without"),
        (
            &[("CARGO_PROFILE_DIST_STRIP", "none")],
            false,
            "use RUSTFLAGS",
        ),
        (&[("RUSTFLAGS", "-Cown")], true, ""),
    ] {
        let (asked, messages) = build.run(&["--example", "bare"], other);
        let (flags, arguments) = asked.trim_end().split_once('|').expect("cargo was asked");
        assert!(arguments.starts_with("build --profile dist --locked "));
        assert!(arguments.ends_with(" --example bare"), "{arguments}");
        assert_eq!(
            messages.is_empty(),
            text.is_empty(),
            "{other:?}: {messages}"
        );
        assert!(messages.contains(text), "{other:?}: {messages}");
        let used = flags.split_once("-Cprofile-use=");
        assert_eq!(used.is_some(), is_used, "{other:?}: {flags}");
        if let Some((own, record)) = used {
            assert_eq!(fs::read_to_string(record).unwrap(), DistBuild::RECORD);
            let own_flags = other.iter().find(|(name, _)| *name == "RUSTFLAGS");
            assert_eq!(own.trim(), own_flags.map_or("", |(_, flags)| flags));
        }
    }
}
