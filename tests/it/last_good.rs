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
routes: [{ match: { path: /main }, respond: { file: page.txt } }]
";

fn write_all(folder: &Path) {
    fs::create_dir(folder.join("routes.d")).expect("the folder takes files");
    fs::write(folder.join("page.txt"), "from the folder").expect("the folder takes files");
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
async fn a_start_from_the_last_good_serves_the_stored_configuration() {
    let environment = [("GREETING", "secret-greeting")];
    let mut gateway = Gateway::start_prepared(MAIN, &environment, write_all).await;
    let bundle = wait_for("the configuration is stored", WITHIN, async || {
        bundles(gateway.folder()).into_iter().next()
    })
    .await;
    let mode = fs::metadata(&bundle).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let stored = fs::read_to_string(&bundle).unwrap();
    assert!(stored.contains("${GREETING}"), "{stored}");
    assert!(!stored.contains("secret-greeting"), "{stored}");

    gateway.terminate(WITHIN).await;
    for broken in ["edgeway.yaml", "routes.d/more.yaml"] {
        fs::write(gateway.folder().join(broken), "routes: [{ mach: {} }]\n").unwrap();
    }
    let refused = run(gateway.folder(), &["-c", "edgeway.yaml"]);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(EX_CONFIG), "{stderr}");
    assert!(stderr.contains("unknown key `mach`"), "{stderr}");
    assert!(
        stderr.contains("`edgeway run --config edgeway.yaml --last-good`"),
        "{stderr}"
    );
    assert_eq!(fs::read_to_string(&bundle).unwrap(), stored);

    let environment = [("GREETING", "another greeting")];
    gateway.start_again(&["--last-good"], &environment).await;
    assert_eq!(gateway.get("/main").await.text(), "from the folder");
    assert_eq!(gateway.get("/more").await.text(), "another greeting");
    let stderr = gateway.stderr();
    assert!(
        stderr.contains("this is the last good configuration of"),
        "{stderr}"
    );
    assert!(stderr.contains("began to serve at 20"), "{stderr}");
    let config = &gateway.status().await["config"];
    let error = config["last_error"].as_str().unwrap_or_default();
    assert!(error.contains("repair the file and reload"), "{config}");
    // The bundle is still from the moment when it began to serve.
    assert_eq!(fs::read_to_string(&bundle).unwrap(), stored);
}

#[tokio::test]
async fn a_plugin_broken_on_disk_is_reported_and_the_last_good_is_not_offered() {
    let yaml = "routes: [{ match: { path: /* }, plugins: [{ file: x/plugin.js, on_error: continue }], respond: ok }]\n";
    let plugin = "export const onRequest = () => new Response('from the plugin');\n";
    let mut gateway = Gateway::start_prepared(yaml, &[], |folder| {
        fs::create_dir(folder.join("x")).expect("the folder takes files");
        fs::write(folder.join("x/plugin.js"), plugin).expect("the folder takes files");
    })
    .await;
    wait_for("the configuration is stored", WITHIN, async || {
        bundles(gateway.folder()).into_iter().next()
    })
    .await;
    gateway.terminate(WITHIN).await;
    let file = gateway.folder().join("x/plugin.js");
    fs::write(&file, "export const onRequest = ( => {\n").unwrap();

    let refused = |arguments: &[&str]| {
        let refused = run(gateway.folder(), arguments);
        let stderr = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(EX_CONFIG), "{stderr}");
        assert!(stderr.contains("x/plugin.js:1:"), "{stderr}");
        stderr
    };
    let stderr = refused(&[]);
    assert!(
        stderr.contains("something that it names has changed"),
        "{stderr}"
    );
    assert!(!stderr.contains("edgeway.yaml --last-good"), "{stderr}");
    let stderr = refused(&["--last-good"]);
    assert!(stderr.contains("restore the file or the value"), "{stderr}");

    // The saved configuration uses the plugin file as it is now.
    fs::write(&file, plugin).unwrap();
    fs::write(gateway.folder().join("edgeway.yaml"), "routes: [{}]\n").unwrap();
    gateway.start_again(&["--last-good"], &[]).await;
    assert_eq!(gateway.get("/").await.text(), "from the plugin");
}

#[test]
fn without_a_stored_configuration_last_good_fails() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("edgeway.yaml"), "routes: [").unwrap();
    let refused = run(folder.path(), &[]);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(EX_CONFIG), "{stderr}");
    assert!(!stderr.contains("--last-good"), "{stderr}");
    let none = run(folder.path(), &["--last-good"]);
    let stderr = String::from_utf8(none.stderr).unwrap();
    assert_eq!(none.status.code(), Some(EX_CONFIG), "{stderr}");
    assert!(
        stderr.contains("no last good configuration of `edgeway.yaml`"),
        "{stderr}"
    );
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_written_is_one_warning() {
    let yaml = "routes: [{ match: { path: /* }, respond: ok }]\n";
    let environment = [("STATE_DIRECTORY", "/dev/null/state")];
    let gateway = Gateway::start_with(yaml, &environment).await;
    let message = "cannot store the configuration for `--last-good`";
    wait_for("it is reported", WITHIN, async || {
        gateway.stderr().contains(message).then_some(())
    })
    .await;
    assert_eq!(gateway.get("/").await.text(), "ok");
    assert_eq!(gateway.stderr().matches(message).count(), 1);
}
