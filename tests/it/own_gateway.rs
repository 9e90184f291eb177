//! The program of `examples/own_gateway`: Edgeway with a filter of its own compiled in, which
//! behaves like any other filter.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::gateway::Gateway;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/own_gateway")
}

/// Path of the program, built with the same profile as the tests.
fn program() -> PathBuf {
    let edgeway = Path::new(env!("CARGO_BIN_EXE_edgeway"));
    let built = edgeway.parent().expect("it is in a folder");
    let mut build = Command::new(env!("CARGO"));
    // With the features of all crates, as the tests are built.
    build.args(["build", "--quiet", "--locked", "--workspace"]);
    build.args(["--example", "own_gateway"]);
    if built.ends_with("release") {
        build.arg("--release");
    }
    let target = built.parent().expect("profiles are in the target folder");
    // Cargo sets these variables for tests; with them, build scripts that watch them would run
    // again, and so would those of the next build without them.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_of_test = text == "RUSTC_BOOTSTRAP"
            // Set for each package with a build script.
            || text == "OUT_DIR"
            || text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_");
        if is_of_test {
            build.env_remove(&name);
        }
    }
    let built_now = build
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built_now.expect("cargo is there").success());
    built.join("examples/own_gateway")
}

struct Ran {
    status: i32,
    stdout: String,
    stderr: String,
}

fn run(program: &Path, arguments: &[&str]) -> Ran {
    let ran = Command::new(program)
        .args(arguments)
        .env_remove("EDGEWAY_CONFIG")
        .output()
        .expect("the program runs");
    Ran {
        status: ran.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&ran.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&ran.stderr).into_owned(),
    }
}

/// The example's routes, on a free port.
fn routes() -> String {
    let text = fs::read_to_string(folder().join("edgeway.yaml")).expect("it is there");
    let lines = text.lines().filter(|line| !line.starts_with("listeners:"));
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

#[tokio::test]
async fn a_filter_of_ones_own_is_one_like_any_other() {
    let program = program();
    let gateway = Gateway::start_in(&routes(), |folder| {
        symlink(&program, folder.join("edgeway")).expect("the folder takes links");
    })
    .await;
    let link = "<https://api.example.com/v2>; rel=\"successor-version\"";
    let current = gateway.get("/v1/items").await;
    assert_eq!(current.status(), 200);
    assert_eq!(
        current.header("sunset"),
        Some("Thu, 31 Dec 2099 00:00:00 GMT")
    );
    assert_eq!(current.header("link"), Some(link));
    let response = gateway.get("/v0/items").await;
    assert_eq!(
        (response.status(), response.header("link")),
        (410, Some(link))
    );
    let other = gateway.get("/v2/items").await;
    assert_eq!((other.status(), other.header("sunset")), (200, None));
    // The access log, the status and a reload know the filter.
    let lines = gateway.log_lines(3).await;
    let line = lines.iter().find(|line| line["path"] == "/v0/items");
    assert_eq!(line.expect("it is logged")["reason"], "sunset");
    let status = gateway.status().await;
    assert!(
        status["routes"][0]["filters"]
            .as_array()
            .expect("a list")
            .contains(&"sunset".into()),
        "{status}"
    );
    assert!(
        !gateway
            .reload(&routes().replace("2020-01-01", "2020-13-01"))
            .await
    );
    let why = "`2020-13-01T00:00:00Z` is no moment";
    assert!(gateway.stderr().contains(why), "{}", gateway.stderr());
    assert!(
        gateway
            .reload(&routes().replace("2020-01-01", "2098-01-01"))
            .await
    );
    assert_eq!(gateway.get("/v0/items").await.status(), 200);

    let config = folder().join("edgeway.yaml").display().to_string();
    let checked = run(&program, &["check", "-c", &config]);
    assert_eq!(checked.status, 0, "{}", checked.stderr);
    let schema = run(&program, &["schema"]).stdout;
    assert!(schema.contains("When what this route serves will be gone."));
    let explained = run(
        &program,
        &[
            "explain",
            "-c",
            &config,
            "GET",
            "http://127.0.0.1:8080/v1/x",
        ],
    );
    let both = format!("{}{}", explained.stdout, explained.stderr);
    assert!(both.contains("410 from Thu, 31 Dec 2099"), "{both}");
    // The program without the filter does not know the key.
    let plain = run(
        Path::new(env!("CARGO_BIN_EXE_edgeway")),
        &["check", "-c", &config],
    );
    assert_eq!(plain.status, 78, "{}", plain.stderr);
    assert!(
        plain.stderr.contains("unknown key `sunset`"),
        "{}",
        plain.stderr
    );
}

#[test]
fn a_program_of_ones_own_can_name_every_type_of_the_contract() {
    /// Types of the runner, which no filter meets.
    const RUNNER: [&str; 7] = [
        "ALTERNATIVES",
        "AnyOf",
        "Chain",
        "CompiledFilter",
        "HookOutcome",
        "HookProgress",
        "KeptApart",
    ];
    let read = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        fs::read_to_string(path).expect("it is there")
    };
    let types = |text: &str, from: &str, to: &str| -> BTreeSet<String> {
        let (_, text) = text.split_once(from).expect("it begins");
        let (text, _) = text.split_once(to).expect("it ends");
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        let types = words.filter(|word| word.starts_with(char::is_uppercase));
        types.map(str::to_owned).collect()
    };
    let contract = types(
        &read("crates/core/src/chain/mod.rs"),
        "pub use self::{",
        "};",
    );
    let public = types(&read("src/lib.rs"), "pub mod filter {", "\n}");
    assert!(contract.contains("KeyBuilder"), "{contract:?}");
    let missing: Vec<_> = contract
        .difference(&public)
        .filter(|name| !RUNNER.contains(&name.as_str()))
        .collect();
    assert!(missing.is_empty(), "not in `edgeway::filter`: {missing:?}");
}

#[test]
fn the_page_shows_the_code_of_the_example() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/adding-a-filter.md");
    let page = fs::read_to_string(page).expect("it is there");
    let code: String = ["main.rs", "sunset.rs", "edgeway.yaml"]
        .map(|name| fs::read_to_string(folder().join(name)).expect("it is there"))
        .concat();
    let mut blocks = 0;
    for block in page.split("```").skip(1).step_by(2) {
        let (language, text) = block.split_once('\n').expect("a block has lines");
        if ["rust", "yaml"].contains(&language) {
            assert!(code.contains(text.trim_end()), "{text}");
            blocks += 1;
        }
    }
    assert_eq!(blocks, 5);
}
