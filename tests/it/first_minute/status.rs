//! Commands that look for the running gateway: where they look, and what they propose.

use serde_json::Value;

use super::Home;
use crate::support::{origins::EchoOrigin, ports::free_port};

#[test]
fn without_a_gateway_every_place_is_listed_with_what_to_pass() {
    let home = Home::new();
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
    let home = Home::new();
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
