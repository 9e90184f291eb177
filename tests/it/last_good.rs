//! The last good configuration: it is saved, and the gateway starts from it although the files are
//! broken.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use crate::{
    cli::EX_CONFIG,
    support::{gateway::Gateway, wait::wait_for},
};

const WITHIN: Duration = Duration::from_secs(10);

const MAIN: &str = "include: 'routes.d/*.yaml'
routes: [{ match: { path: /main }, respond: { file: answer.txt } }]
";

fn write_all(folder: &Path) {
    fs::create_dir(folder.join("routes.d")).expect("the folder takes files");
    fs::write(folder.join("answer.txt"), "from the folder").expect("the folder takes files");
    let secret = "routes: [{ match: { path: /more }, respond: \"${GREETING}\" }]\n";
    fs::write(folder.join("routes.d/more.yaml"), secret).expect("the folder takes files");
}

fn bundles(folder: &Path) -> Vec<PathBuf> {
    let pattern = folder.join("state/edgeway/*/last-good/*.json");
    let found =
        glob::glob(pattern.to_str().expect("folders of tests are UTF-8")).expect("a pattern");
    found
        .map(|path| path.expect("the folder can be read"))
        .collect()
}

/// Runs `edgeway run`, which exits by itself, with the state folder in `folder`.
fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edgeway"))
        .arg("run")
        .args(arguments)
        .current_dir(folder)
        .env_remove("STATE_DIRECTORY")
        .env("XDG_STATE_HOME", folder.join("state"))
        .env("GREETING", "hello")
        .stdin(Stdio::null())
        .output()
        .expect("the program runs")
}

#[tokio::test]
async fn a_start_from_the_last_good_serves_what_its_files_no_longer_say() {
    let environment = [("GREETING", "secret-greeting")];
    let mut gateway = Gateway::start_prepared(MAIN, &environment, write_all).await;
    let bundle = wait_for("the configuration is kept", WITHIN, async || {
        bundles(gateway.folder()).into_iter().next()
    })
    .await;
    let mode = fs::metadata(&bundle).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept = fs::read_to_string(&bundle).unwrap();
    assert!(kept.contains("${GREETING}"), "{kept}");
    assert!(!kept.contains("secret-greeting"), "{kept}");

    gateway.terminate(WITHIN).await;
    for broken in ["edgeway.yaml", "routes.d/more.yaml"] {
        fs::write(gateway.folder().join(broken), "routes: [{ mach: {} }]\n").unwrap();
    }
    let refused = run(gateway.folder(), &["-c", "edgeway.yaml"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(EX_CONFIG), "{said}");
    assert!(said.contains("unknown key `mach`"), "{said}");
    assert!(
        said.contains("`edgeway run --config edgeway.yaml --last-good`"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(&bundle).unwrap(), kept);

    let environment = [("GREETING", "another greeting")];
    gateway.start_again(&["--last-good"], &environment).await;
    assert_eq!(gateway.get("/main").await.text(), "from the folder");
    assert_eq!(gateway.get("/more").await.text(), "another greeting");
    let said = gateway.stderr();
    assert!(
        said.contains("this is the last good configuration of"),
        "{said}"
    );
    assert!(said.contains("began to serve at 20"), "{said}");
    // The bundle is still from the moment when it began to serve.
    assert_eq!(fs::read_to_string(&bundle).unwrap(), kept);
}

#[tokio::test]
async fn a_plugin_that_was_broken_on_the_disk_is_told_and_no_start_is_promised() {
    let yaml = "routes: [{ match: { path: /* }, plugins: [{ file: x/plugin.js, on_error: continue }], respond: ok }]\n";
    let plugin = "export const onRequest = () => new Response('from the plugin');\n";
    let mut gateway = Gateway::start_prepared(yaml, &[], |folder| {
        fs::create_dir(folder.join("x")).expect("the folder takes files");
        fs::write(folder.join("x/plugin.js"), plugin).expect("the folder takes files");
    })
    .await;
    wait_for("the configuration is kept", WITHIN, async || {
        bundles(gateway.folder()).into_iter().next()
    })
    .await;
    gateway.terminate(WITHIN).await;
    let file = gateway.folder().join("x/plugin.js");
    fs::write(&file, "export const onRequest = ( => {\n").unwrap();

    let refused = |arguments: &[&str]| {
        let refused = run(gateway.folder(), arguments);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(EX_CONFIG), "{said}");
        assert!(said.contains("x/plugin.js:1:"), "{said}");
        said
    };
    let said = refused(&[]);
    assert!(said.contains("what they name has changed"), "{said}");
    assert!(!said.contains("edgeway.yaml --last-good"), "{said}");
    let said = refused(&["--last-good"]);
    assert!(said.contains("put back the file"), "{said}");

    // The saved configuration uses the plugin file as it is now.
    fs::write(&file, plugin).unwrap();
    fs::write(gateway.folder().join("edgeway.yaml"), "routes: [{}]\n").unwrap();
    gateway.start_again(&["--last-good"], &[]).await;
    assert_eq!(gateway.get("/").await.text(), "from the plugin");
}

#[test]
fn where_nothing_was_kept_there_is_nothing_to_start_from() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("edgeway.yaml"), "routes: [").unwrap();
    let refused = run(folder.path(), &[]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(EX_CONFIG), "{said}");
    assert!(!said.contains("--last-good"), "{said}");
    let none = run(folder.path(), &["--last-good"]);
    let said = String::from_utf8(none.stderr).unwrap();
    assert_eq!(none.status.code(), Some(EX_CONFIG), "{said}");
    assert!(
        said.contains("no last good configuration of `edgeway.yaml`"),
        "{said}"
    );
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_written_is_one_warning() {
    let yaml = "routes: [{ match: { path: /* }, respond: ok }]\n";
    let environment = [("STATE_DIRECTORY", "/dev/null/state")];
    let gateway = Gateway::start_with(yaml, &environment).await;
    let what = "cannot store the configuration for `--last-good`";
    wait_for("it is told", WITHIN, async || {
        gateway.stderr().contains(what).then_some(())
    })
    .await;
    assert_eq!(gateway.get("/").await.text(), "ok");
    assert_eq!(gateway.stderr().matches(what).count(), 1);
}
