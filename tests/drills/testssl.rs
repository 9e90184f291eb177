//! Findings of `testssl.sh` at a listener with an EC and an RSA certificate.

use std::{fs, process::Command, sync::Arc};

use serde_json::Value;

use crate::{
    Report,
    support::{
        certificates::{Ca, Wanted},
        client::{Connection, get},
        gateway::Gateway,
        origins::EchoOrigin,
    },
};

/// Findings about the test's environment rather than the gateway. The same ones as in
/// `SECURITY.md`.
const EXPLAINED: [(&str, &str); 3] = [
    ("cert_chain_of_trust", "the CA is the test's own"),
    ("cert_revocation", "the CA has neither CRL nor OCSP"),
    (
        "BREACH",
        "compressed responses: csrf tokens and `cache-control` are the app's",
    ),
];

pub(crate) async fn run(report: &mut Report) {
    if Command::new("testssl").arg("--version").output().is_err() {
        report.check(false, "testssl is there: `make drills` installs it");
        return;
    }
    let ca = Ca::new();
    let origin = EchoOrigin::start().await;
    let yaml = format!(
        "
listeners:
  - address: \"127.0.0.1:0\"
    tls: {{ certificates: {{ dir: sites }} }}
upstreams:
  app: {{ backends: [\"{}\"], health: false }}
routes:
  - {{ match: {{ path: /* }}, upstream: app }}
",
        origin.address()
    );
    let gateway = Gateway::start_in(&yaml, |folder| {
        let sites = folder.join("sites");
        fs::create_dir(&sites).expect("the folder takes folders");
        ca.issue(&Wanted::site(&["localhost"])).write(&sites, "ec");
        ca.issue(&Wanted::site(&["localhost"]).rsa())
            .write(&sites, "rsa");
        fs::write(folder.join("ca.pem"), ca.pem()).expect("the folder takes files");
    })
    .await;
    let file = gateway.folder().join("testssl.json");
    let target = format!("localhost:{}", gateway.address().port());
    let run = Command::new("testssl")
        .args([
            "--quiet",
            "--color",
            "0",
            "--warnings",
            "batch",
            "--ip",
            "127.0.0.1",
        ])
        .arg("--add-ca")
        .arg(gateway.folder().join("ca.pem"))
        .arg("--jsonfile")
        .arg(&file)
        .arg(&target)
        .output()
        .expect("testssl starts");
    let text = fs::read_to_string(&file).unwrap_or_default();
    let findings: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
    report.check(
        findings.len() > 100,
        format!(
            "testssl looked at {} things ({})",
            findings.len(),
            run.status
        ),
    );
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let mut bad = 0;
    for finding in &findings {
        let (id, severity, text) = (
            word(finding, "id"),
            word(finding, "severity"),
            word(finding, "finding"),
        );
        let is_bad = ["MEDIUM", "HIGH", "CRITICAL"].contains(&&*severity);
        let line = format!("{severity} {id}: {text}");
        match EXPLAINED.iter().find(|(prefix, _)| id.starts_with(prefix)) {
            Some((_, why)) if is_bad => Report::note(format!("{line} ({why})")),
            _ if is_bad => {
                bad += 1;
                report.check(false, line);
            }
            _ if severity == "LOW" || severity == "WARN" => Report::note(line),
            _ if id == "overall_grade" || id == "final_score" => Report::note(line),
            _ => {}
        }
    }
    report.check(
        bad == 0,
        format!("{bad} findings of MEDIUM or worse that nobody explained"),
    );
    // The control: testssl.sh examined both certificates.
    for kind in ["EC 256", "RSA 2048"] {
        let seen = findings.iter().any(|finding| {
            word(finding, "id").starts_with("cert_keySize")
                && word(finding, "finding").contains(kind)
        });
        report.check(seen, format!("a certificate with {kind} was looked at"));
    }
    let config = Arc::new(ca.trust());
    let open = Connection::open_tls(gateway.address(), "localhost", &config).await;
    let response = match open {
        Ok(mut open) => open.send(&get("/")).await,
        Err(error) => Err(error),
    };
    report.check(response.is_ok(), "the gateway still serves");
}
