//! `edgeway demo`: every line that its page lists does what the page says.

use std::{collections::BTreeMap, time::Duration};

use rustix::process::Signal;

use super::{Foreground, Home, output};
use crate::support::{
    client::{self, get},
    ports::free_port,
    wait::wait_for,
};

/// Starts the demonstration, and returns the curl lines of its page by name.
async fn start(home: &Home) -> (Foreground, u16, BTreeMap<String, String>) {
    let port = free_port();
    let demo = home.start(&["demo", "--listen", &port.to_string()]).await;
    let address = format!("127.0.0.1:{port}").parse().expect("an address");
    let page = client::send(address, &get("/")).await.expect("it responds");
    assert_eq!(page.status(), 200);
    let text = page.text();
    let lines = text.split("data-curl=\"").skip(1).map(|rest| {
        let (name, rest) = rest.split_once("\">").expect("it is HTML");
        let (line, _) = rest.split_once("</pre>").expect("it is HTML");
        (name.to_owned(), line.to_owned())
    });
    let lines = lines.collect();
    assert!(
        !text.contains("{base}") && !text.contains("{socket}"),
        "{text}"
    );
    (demo, port, lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_the_page_does_what_the_page_says() {
    let home = Home::new();
    let (_demo, _, lines) = start(&home).await;
    let run = |name: &str| {
        let line = lines
            .get(name)
            .unwrap_or_else(|| panic!("no line `{name}`: {lines:?}"));
        let (_, stdout, stderr) = output(home.command("sh").args(["-c", line]));
        assert_eq!(stderr, "", "{name}: {line}");
        stdout.to_lowercase()
    };
    let expected = [
        "body", "cache", "chat", "echo", "events", "limit", "metrics", "redirect", "slow", "split",
        "status",
    ];
    assert_eq!(lines.keys().collect::<Vec<_>>(), expected);

    assert!(run("cache").contains("x-cache-status: miss"));
    assert!(run("cache").contains("x-cache-status: hit"));

    let limited = run("limit");
    let statuses: Vec<&str> = limited
        .lines()
        .filter(|line| line.starts_with("http/"))
        .collect();
    assert_eq!(statuses.len(), 4, "{limited}");
    assert!(
        statuses[..3].iter().all(|line| line.contains(" 200")),
        "{limited}"
    );
    assert!(statuses[3].contains(" 429"), "{limited}");
    let wait = limited
        .lines()
        .find_map(|line| line.strip_prefix("retry-after: "));
    let wait: u32 = wait.expect("it says when").trim().parse().expect("seconds");
    assert!((1..=12).contains(&wait), "{limited}");

    // Each curl is a new visitor; that twenty-four are all alike happens once in 8 million runs.
    let variants: Vec<String> = (0..3).map(|_| run("split")).collect();
    let variants = variants.concat();
    assert!(
        variants.contains("variant a\n") && variants.contains("variant b\n"),
        "{variants}"
    );
    assert!(!variants.contains("none"), "{variants}");

    let chat = run("chat");
    assert!(
        chat.contains(" 101 ") && chat.contains("welcome to the chat"),
        "{chat}"
    );

    let stock = run("slow");
    assert!(stock.starts_with("stock-2 is slow"), "{stock}");
    let served: Vec<&str> = stock.lines().skip(1).collect();
    assert_eq!(served.len(), 6, "{stock}");
    assert!(
        served.iter().all(|line| line.ends_with("says stock-1")),
        "{stock}"
    );

    let status = run("status");
    for words in ["stock", "shop", "/product", "down"] {
        assert!(status.contains(words), "{words}: {status}");
    }
    assert!(run("metrics").contains("edgeway_cache_bytes"));
    let echo = run("echo");
    assert!(
        echo.contains("x-forwarded-for") && !echo.contains("6.6.6.6"),
        "{echo}"
    );
    assert_eq!(run("body").trim(), "413");
    let events = run("events");
    assert!(events.matches("to go").count() >= 3, "{events}");
    assert!(run("redirect").contains("hello from the edge"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slow_backend_returns_and_the_status_page_is_a_page() {
    let home = Home::new();
    let (_demo, port, lines) = start(&home).await;
    let address = format!("127.0.0.1:{port}").parse().expect("an address");
    let (_, stdout, _) = output(home.command("sh").args(["-c", &lines["slow"]]));
    assert!(stdout.contains("says stock-1"), "{stdout}");
    wait_for("stock-2 is back", Duration::from_secs(40), async || {
        let response = client::send(address, &get("/stock/items"))
            .await
            .expect("it responds");
        response.text().contains("stock-2").then_some(())
    })
    .await;
    let page = get("/status").header("accept", "text/html");
    let page = client::send(address, &page).await.expect("it responds");
    assert_eq!(page.status(), 200);
    assert!(page.text().contains("<h1"), "{}", page.text());
    // The rest of the admin API stays behind its socket.
    for path in ["/v1/status", "/metrics", "/status/", "/status/../v1/status"] {
        let other = client::send(address, &get(path))
            .await
            .expect("it responds");
        assert_ne!(other.status(), 200, "{path}");
    }
    let stop = client::Request::new("POST", "/status");
    assert_eq!(
        client::send(address, &stop)
            .await
            .expect("it responds")
            .status(),
        405
    );
}

#[tokio::test]
async fn it_runs_beside_another_gateway_and_leaves_nothing_behind() {
    let home = Home::new();
    let temporary = home.path().join("tmp");
    std::fs::create_dir(&temporary).expect("the folder takes folders");
    let (_first, first, _) = start(&home).await;
    // The address of the first is taken, and the message names one that the command takes.
    let (status, _, stderr) = home.run(&["demo", "--listen", &first.to_string()]);
    assert_eq!(status, 1);
    let free = stderr.split("`--listen ").nth(1).expect("it names one");
    let free = free.split('`').next().expect("it ends");
    let arguments = ["demo", "--listen", free];
    let mut second = home
        .start_with(&arguments, &[("TMPDIR", temporary.as_path())])
        .await;
    let left = || std::fs::read_dir(&temporary).expect("it is there").count();
    assert_eq!(left(), 1);
    second.signal(Signal::TERM);
    assert_eq!(second.ends(Duration::from_secs(15)).await.code(), Some(0));
    assert_eq!(left(), 0);
}

#[test]
fn its_configuration_is_printed_wherever_it_is_installed() {
    let home = Home::new();
    let (status, yaml, stderr) = home.run(&["demo", "--print"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    for words in ["upstreams:", "rate_limits:", "plugins/ab-split"] {
        assert!(yaml.contains(words), "{words}: {yaml}");
    }
}
