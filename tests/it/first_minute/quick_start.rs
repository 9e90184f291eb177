//! The quick start, word for word: each of its commands runs, and prints what the page shows.

use std::{fmt::Write as _, fs};

use super::{Home, output};
use crate::support::namespaces;

/// Commands that run until Ctrl-C, and the port that they open.
const SERVERS: [(&str, u16); 3] = [
    ("node app.mjs", 3000),
    ("edgeway proxy", 8080),
    ("edgeway run", 8080),
];

/// Fenced blocks of a page: what follows the fence, and the text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let parts: Vec<&str> = page.split("```").collect();
    let blocks = parts.iter().skip(1).step_by(2).map(|block| {
        let (kind, text) = block.split_once('\n').expect("a block has lines");
        (kind.to_owned(), text.to_owned())
    });
    blocks.collect()
}

/// Returns a script that does what the page says, in the order of the page.
fn script(blocks: &[(String, String)]) -> (String, usize) {
    let mut script = "set -e\nip link set lo up\n\
                      wait_for() { for i in $(seq 300); do curl -s -o /dev/null http://127.0.0.1:$1/ \
                      && return; sleep 0.1; done; echo \"nothing on $1\"; exit 1; }\n"
        .to_owned();
    let mut expected = 0;
    for (kind, text) in blocks {
        match kind.split_once(' ').unwrap_or((kind, "")) {
            ("js", name) => {
                let _infallible = writeln!(script, "cat >{name} <<'FILE'\n{text}FILE");
            }
            ("sh", _) => {
                let server = SERVERS
                    .iter()
                    .find(|(start, _)| text.starts_with(start) && !text.contains("--print"));
                if let Some((_, port)) = server {
                    if *port == 8080 {
                        // Ctrl-C in the terminal of the gateway before it.
                        script.push_str(
                            "if [ -n \"$gateway\" ]; then kill -INT $gateway; wait $gateway; fi\n",
                        );
                        let _infallible =
                            writeln!(script, "{} >log 2>&1 & gateway=$!", text.trim());
                    } else {
                        let _infallible = writeln!(script, "{} & app=$!", text.trim());
                    }
                    let _infallible = writeln!(script, "wait_for {port} || {{ cat log; exit 1; }}");
                } else {
                    let _infallible =
                        writeln!(script, "{{ {text} }} >last 2>&1 || {{ cat last; exit 1; }}");
                }
            }
            ("text", _) => {
                for line in text.lines() {
                    expected += 1;
                    let _infallible = writeln!(
                        script,
                        "grep -qF -- '{line}' last || \
                         {{ echo 'not printed: {line}'; cat last; exit 1; }}\n\
                         echo shown"
                    );
                }
            }
            _ => {}
        }
    }
    script.push_str("kill $gateway $app; wait\n");
    (script, expected)
}

#[test]
fn every_command_of_the_quick_start_does_what_the_page_says() {
    // The ports of the page are free in a network of its own.
    let Some(unshare) = namespaces::unshare(&["--net"], "ip link set lo up") else {
        return;
    };
    let page = fs::read_to_string("docs/quick-start.md").expect("the page is there");
    let blocks = blocks(&page);
    assert!(blocks.len() >= 10, "{blocks:?}");
    let (script, expected) = script(&blocks);
    // The wait of the first request must not count as a rendering.
    let script = script.replace("wait_for 3000 ||", "sleep 1; true ||").replace(
        "wait_for 8080 ||",
        "for i in $(seq 300); do grep -qE 'serving|listening listener' log && break; sleep 0.1; done; true ||",
    );
    let home = Home::new();
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_edgeway"))
        .parent()
        .expect("a folder");
    let path = format!(
        "{}:{}",
        bin.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut command = home.command("unshare");
    command
        .args(unshare)
        .args(["sh", "-c", &script])
        .env("PATH", path);
    let (status, stdout, stderr) = output(&mut command);
    assert_eq!(status, 0, "{stdout}\n{stderr}\n{script}");
    assert!(expected >= 5);
    assert_eq!(
        stdout.lines().filter(|line| *line == "shown").count(),
        expected,
        "{stdout}"
    );
}
