//! The command line: its output, the stream that it goes to, and its exit status.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::support::gateway::Gateway;

/// Exit status of commands for refused configurations (`EX_CONFIG` of sysexits.h).
pub(crate) const EX_CONFIG: i32 = 78;

pub(crate) const ROUTES: &str = "conf/examples/routes.yaml";
pub(crate) const BROKEN: &str = "tests/it/config/bad/three_mistakes.yaml";

/// Outcome of a run of the program.
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the program in the repository's folder, with none of Edgeway's variables in the
/// environment.
pub(crate) fn edgeway(arguments: &[&str]) -> Ran {
    edgeway_fed(arguments, "")
}

/// Runs a command against a gateway, over its admin socket.
pub(crate) fn over_socket(gateway: &Gateway, command: &[&str]) -> Ran {
    edgeway(&[command, &["--socket", gateway.admin_socket()]].concat())
}

/// Runs the program as [`edgeway`] does, with input on stdin.
pub(crate) fn edgeway_fed(arguments: &[&str], input: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("EDGEWAY_CONFIG")
        .env_remove("EDGEWAY_THREADS")
        .env_remove("EDGEWAY_ADMIN")
        .env_remove("EDGEWAY_ADMIN_SOCKET")
        .env_remove("EDGEWAY_ADMIN_TOKEN_FILE")
        .env_remove("EDGEWAY_LOG")
        .env_remove("RUST_LOG")
        .env_remove("COLUMNS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut stdin = child.stdin.take().expect("it has an input");
    // A program that does not read its input may have exited by now.
    drop(stdin.write_all(input.as_bytes()));
    drop(stdin);
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().expect("it ends");
    Ran {
        status: status.code().expect("it was not killed"),
        stdout: String::from_utf8(stdout).expect("it prints UTF-8"),
        stderr: String::from_utf8(stderr).expect("it prints UTF-8"),
    }
}

macro_rules! snapshot {
    ($name:expr, $text:expr) => {
        insta::with_settings!({
            snapshot_path => "snapshots",
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!($name, $text);
        });
    };
}

pub(crate) use snapshot;

/// Returns the commands that a page of help lists.
fn listed(help: &str) -> impl Iterator<Item = &str> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    lines.filter_map(|line| {
        line.split_whitespace()
            .next()
            .filter(|name| *name != "help")
    })
}

#[test]
fn every_command_has_help() {
    let mut pages = Vec::new();
    let mut commands = vec![Vec::<String>::new()];
    while let Some(command) = commands.pop() {
        let words = command.iter().map(String::as_str);
        let arguments: Vec<&str> = words.chain(["--help"]).collect();
        let ran = edgeway(&arguments);
        assert_eq!(ran.status, 0, "{command:?}: {}", ran.stderr);
        let below = listed(&ran.stdout).map(|name| [&command[..], &[name.to_owned()]].concat());
        commands.extend(below);
        pages.push(format!(
            "$ edgeway {}\n{}\n",
            arguments.join(" "),
            ran.stdout
        ));
    }
    pages.sort_unstable();
    assert!(pages.len() > 40, "the control: {} commands", pages.len());
    snapshot!("help", pages.concat());
}

#[test]
fn a_command_that_does_not_exist_is_refused_on_stderr() {
    let ran = edgeway(&["chekc"]);
    assert_eq!(ran.status, 2);
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains("'check'"), "{}", ran.stderr);
    // Words of other programs lead to the command that does it, not to one that looks alike.
    for (word, command) in [
        ("start", "'edgeway run'"),
        ("stop", "'systemctl stop edgeway'"),
        ("restart", "'edgeway reload'"),
        ("validate", "'edgeway check'"),
        ("version", "'edgeway --version'"),
    ] {
        let stderr = edgeway(&[word]).stderr;
        assert!(stderr.contains(command), "{word}: {stderr}");
        assert!(!stderr.contains("similar"), "{word}: {stderr}");
        // Below another command they mean something else.
        let stderr = edgeway(&["plugin", word]).stderr;
        assert!(!stderr.contains(command), "plugin {word}: {stderr}");
    }
    for command in ["check", "run", "reload"] {
        let ran = edgeway(&[command, "site.yaml"]);
        assert_eq!(ran.status, 2);
        assert!(ran.stderr.contains("'-c site.yaml'"), "{}", ran.stderr);
    }
}

/// Invariant: data that cannot be written make a command fail, and a reader that wants no more does
/// not.
#[test]
fn output_that_is_lost_makes_a_command_fail() {
    for arguments in [
        &["schema"][..],
        &["check", "-c", ROUTES, "--print"],
        &["completions", "bash"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgeway"));
        command
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        let full = fs::File::create("/dev/full").expect("Linux has it");
        let ran = command.stdout(full).output().expect("it runs");
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(1), "{arguments:?}: {errors}");
        assert!(
            errors.contains("cannot write the output: No space left"),
            "{errors}"
        );
        let (reader, closed) = std::io::pipe().expect("it can be made");
        drop(reader);
        let ran = command.stdout(closed).output().expect("it runs");
        assert_eq!(ran.status.code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn check_succeeds_for_valid_files_and_fails_for_others() {
    let right = edgeway(&["check", "-c", ROUTES]);
    assert_eq!((right.status, right.stdout.as_str()), (0, ""));
    assert_eq!(
        right.stderr,
        format!("{ROUTES}: the configuration is well formed\n")
    );
    let wrong = edgeway(&["check", "-c", BROKEN]);
    assert_eq!((wrong.status, wrong.stdout.as_str()), (EX_CONFIG, ""));
    assert!(
        wrong.stderr.contains("three_mistakes.yaml:3:5: "),
        "{}",
        wrong.stderr
    );
    assert!(wrong.stderr.contains("3 errors"), "{}", wrong.stderr);
    let absent = edgeway(&["check", "-c", "no/such/file.yaml"]);
    assert_eq!(absent.status, EX_CONFIG);
    assert!(
        absent.stderr.contains("no/such/file.yaml"),
        "{}",
        absent.stderr
    );
}

#[test]
fn a_warning_is_reported_and_fails_nothing() {
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let file = folder.path().join("edgeway.yaml");
    let yaml = "listeners: [{ address: 127.0.0.1:8080 }]\n\
                upstreams: { web: { backends: [127.0.0.1:3000] } }\n\
                routes: [{ match: { path: /* }, respond: ok }]\n";
    fs::write(&file, yaml).expect("the folder takes files");
    let ran = edgeway(&["check", "-c", &file.to_string_lossy()]);
    assert_eq!(ran.status, 0);
    assert!(
        ran.stderr
            .contains("warning: no route uses the upstream `web`"),
        "{}",
        ran.stderr
    );
}

#[test]
fn tools_get_problems_as_a_json_list_on_stdout() {
    let ran = edgeway(&["check", "-c", BROKEN, "--format", "json"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (EX_CONFIG, ""));
    let problems: Value = serde_json::from_str(&ran.stdout).expect("it is JSON");
    let problems = problems.as_array().expect("it is a list");
    assert_eq!(problems.len(), 3);
    snapshot!(
        "check_json",
        serde_json::to_string_pretty(&problems[0]).expect("plain data")
    );
    for problem in problems {
        for key in ["severity", "code", "message", "file", "line", "column"] {
            assert!(!problem[key].is_null(), "{key}: {problem}");
        }
    }
    let right = edgeway(&["check", "-c", ROUTES, "--format", "json"]);
    assert_eq!((right.status, right.stdout.as_str()), (0, "[]\n"));
}

#[test]
fn the_printed_configuration_is_equivalent() {
    let printed = edgeway(&["check", "-c", ROUTES, "--print"]);
    assert_eq!((printed.status, printed.stderr.as_str()), (0, ""));
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let file = folder.path().join("edgeway.yaml");
    fs::write(&file, &printed.stdout).expect("the folder takes files");
    let again = edgeway(&["check", "-c", &file.to_string_lossy(), "--print"]);
    assert_eq!(again.stdout, printed.stdout);
    let both = edgeway(&["check", "-c", ROUTES, "--print", "--format", "json"]);
    assert_eq!(both.status, 2, "they both want stdout");
}

#[test]
fn a_broken_configuration_is_not_printed() {
    let ran = edgeway(&["check", "-c", BROKEN, "--print"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (EX_CONFIG, ""));
    assert!(ran.stderr.contains("3 errors"), "{}", ran.stderr);
}

#[test]
fn run_refuses_a_broken_file_with_a_status_that_ends_restarts() {
    // Errors of syntax and of meaning: the second kind is found when the gateway is compiled.
    let ran = edgeway(&["run", "-c", BROKEN]);
    assert_eq!((ran.status, ran.stdout.as_str()), (EX_CONFIG, ""));
    assert!(
        ran.stderr.contains("three_mistakes.yaml:3:5: "),
        "{}",
        ran.stderr
    );
    let ran = edgeway(&["run", "-c", "tests/it/config/bad/unknown_upstream.yaml"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (EX_CONFIG, ""));
    assert!(ran.stderr.contains("unknown upstream"), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("unknown_upstream.yaml:"),
        "{}",
        ran.stderr
    );
}

#[test]
fn run_refuses_a_number_of_threads_that_no_machine_has_cores_for() {
    for number in ["0", "100000"] {
        let ran = edgeway(&["run", "--threads", number]);
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains("--threads <N>"), "{}", ran.stderr);
    }
}

#[test]
fn the_schema_that_is_printed_is_the_one_in_the_repository() {
    let ran = edgeway(&["schema"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/schema.json");
    let stored = fs::read_to_string(path).expect("conf/schema.json is there");
    let read = |text: &str| serde_json::from_str::<Value>(text).expect("it is JSON");
    assert!(
        read(&ran.stdout) == read(&stored),
        "conf/schema.json is stale: run `make config-page`"
    );
}

#[tokio::test]
async fn warnings_are_logged_at_start() {
    let yaml = |used: &str| {
        format!(
            "upstreams: {{ spare: {{ backends: [127.0.0.1:1] }} }}
routes: [{{ match: {{ path: /* }}, {used} }}]
"
        )
    };
    let gateway = Gateway::start(&yaml("respond: 204")).await;
    assert!(
        gateway.stderr().contains("edgeway::upstream::unused"),
        "{}",
        gateway.stderr()
    );
    // The control.
    let quiet = Gateway::start(&yaml("upstream: spare")).await;
    let log = quiet.stderr();
    assert!(!log.contains("edgeway::upstream::unused"), "{log}");
}
