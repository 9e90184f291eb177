//! Commands that look for the running gateway: where they look, and what they propose.

use std::{path::Path, time::Duration};

use serde_json::Value;

use super::Home;
use crate::support::{
    origins::EchoOrigin,
    ports::free_port,
    wait::{until, wait_for},
};

#[test]
fn without_a_gateway_every_place_is_listed_with_what_to_pass() {
    let home = Home::alone();
    for command in [&["status"][..], &["reload"], &["bans"], &["profile"]] {
        let (status, stdout, stderr) = home.run(command);
        assert_eq!((status, stdout.as_str()), (1, ""), "{command:?}");
        for words in [
            "run/admin.sock: no such socket",
            "127.0.0.1:9900",
            "--socket PATH",
            "--config FILE",
        ] {
            assert!(stderr.contains(words), "{command:?}: {stderr}");
        }
    }
}

#[tokio::test]
async fn another_gateway_of_the_user_is_proposed_and_the_proposal_works() {
    let app = EchoOrigin::start().await;
    let home = Home::alone();
    let to = app.address().port().to_string();
    let ports = [free_port().to_string(), free_port().to_string()];
    let first = home
        .start(&["proxy", "--to", &to, "--listen", &ports[0]])
        .await;
    let _second = home
        .start(&["proxy", "--to", &to, "--listen", &ports[1]])
        .await;
    // The first one has the usual places.
    let listener = |text: &str| {
        let status: Value = serde_json::from_str(text).expect("the status is JSON");
        let address = status["listeners"][0]["address"]
            .as_str()
            .expect("it listens");
        address
            .rsplit(':')
            .next()
            .expect("it has a port")
            .to_owned()
    };
    let (status, text, stderr) = home.run(&["status", "--json"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_eq!(listener(&text), ports[0]);

    drop(first);
    let (status, _, stderr) = home.run(&["status"]);
    assert_eq!(status, 1);
    let socket = stderr
        .split("--socket ")
        .nth(1)
        .and_then(|rest| rest.split('`').next());
    let socket = socket.unwrap_or_else(|| panic!("no proposal: {stderr}"));
    let (status, text, stderr) = home.run(&["status", "--json", "--socket", socket]);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(listener(&text), ports[1]);
}

/// Invariant: without a file that is named, `explain` is about the gateway that `status` shows.
#[tokio::test]
async fn explain_finds_what_status_finds() {
    let home = Home::alone();
    let explain = ["explain", "GET", "http://localhost/a"];
    let installed = Path::new("/etc/edgeway/edgeway.yaml").exists();
    if !installed {
        let (status, stdout, stderr) = home.run(&explain);
        assert_eq!((status, stdout.as_str()), (78, ""));
        assert!(
            stderr.contains("no edgeway.yaml here") && stderr.contains("--config FILE"),
            "{stderr}"
        );
    }
    let app = EchoOrigin::start().await;
    let to = app.address().port().to_string();
    let listen = free_port().to_string();
    let _gateway = home
        .start(&["proxy", "--to", &to, "--listen", &listen])
        .await;
    let (status, stdout, stderr) = home.run(&explain);
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("upstream app"), "{stdout}");
    assert!(stderr.contains("the running gateway"), "{stderr}");

    // A file in the folder comes first, as for `status`.
    let yaml = "listeners: [{ address: 127.0.0.1:8080 }]\n\
                routes: [{ match: { path: /* }, respond: { status: 418 } }]\n";
    super::write(&home.project(), &[("edgeway.yaml", yaml)]);
    let (status, stdout, stderr) = home.run(&explain);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert!(stdout.contains("418"), "{stdout}");
}

/// Invariant: a person at a terminal reads what is served; a log has its own lines only.
#[tokio::test]
async fn run_says_on_a_terminal_what_it_serves() {
    let home = Home::new();
    let port = free_port();
    let yaml = format!(
        "listeners: [{{ address: \"127.0.0.1:{port}\" }}]\n\
         admin: {{ address: off, socket: own.sock }}\n\
         upstreams: {{ web: {{ backends: [127.0.0.1:1] }} }}\n\
         routes: [{{ match: {{ path: /* }}, upstream: web }}]\n"
    );
    super::write(&home.project(), &[("edgeway.yaml", &yaml)]);
    let words = [
        format!("edgeway: serving http://localhost:{port}"),
        "1 route and 1 upstream of ".to_owned(),
        "project/edgeway.yaml".to_owned(),
        // The log names what the admin API listens on, which the file alone does not tell.
        "\"own.sock\"".to_owned(),
    ];
    let plain = home.start(&["run"]).await;
    let shown = until(Duration::from_millis(500), &mut async || {
        plain.text().contains("edgeway: serving").then_some(())
    })
    .await;
    assert!(shown.is_none(), "{}", plain.text());
    drop(plain);

    // `script` runs a command on a terminal of its own, whose end is no end of `run`.
    let run = format!("exec timeout 20 {} run", env!("CARGO_BIN_EXE_edgeway"));
    let mut command = home.command("script");
    command.args([
        "--quiet",
        "--return",
        "--flush",
        "--command",
        &run,
        "/dev/null",
    ]);
    let terminal = home.start_command(&mut command).await;
    wait_for("the summary", Duration::from_secs(10), async || {
        let text = terminal.text();
        words.iter().all(|word| text.contains(word)).then_some(())
    })
    .await;
}
