//! `--https` and `edgeway ca`: certificates of a CA of this machine, which programs of others
//! verify: curl, OpenSSL and Chromium.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use super::{Home, output};
use crate::support::{
    client::{self, get},
    namespaces,
    origins::EchoOrigin,
    ports::free_port,
};

/// Invariant: a client that trusts the CA accepts every name that the gateway serves, and no other
/// client accepts any.
#[tokio::test(flavor = "multi_thread")]
async fn https_is_served_with_a_certificate_that_only_those_who_trust_the_ca_accept() {
    let app = EchoOrigin::start().await;
    let home = Home::new();
    let (to, listen) = (app.address().port().to_string(), free_port().to_string());
    let arguments = ["proxy", "--to", &to, "--listen", &listen, "--https"];
    let arguments = [
        &arguments[..],
        &["--host", "shop.localhost,localhost,127.0.0.1"],
    ]
    .concat();
    let gateway = home.start(&arguments).await;
    let folder = home.path().join(".local/share/edgeway/ca");
    let root = folder.join("root.pem").display().to_string();
    for name in ["localhost", "shop.localhost", "127.0.0.1"] {
        let url = format!("https://{name}:{listen}/");
        let curl = |more: &[&str]| {
            let resolve = format!("{name}:{listen}:127.0.0.1");
            let fixed = ["-sS", "-i", "--http1.1", "--resolve", &resolve, &url];
            output(home.command("curl").args(fixed).args(more))
        };
        let (status, response, stderr) = curl(&["--cacert", &root]);
        assert_eq!(status, 0, "{name}: {stderr}");
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        // Browsers apply this to every port of a name.
        assert!(
            !response
                .to_lowercase()
                .contains("strict-transport-security"),
            "{response}"
        );
        // 60: the peer's certificate cannot be verified.
        assert_eq!(curl(&[]).0, 60, "{name}");
    }
    let mode = |name: &str| {
        let found = fs::metadata(folder.join(name)).expect("it is there");
        found.permissions().mode() & 0o777
    };
    assert_eq!((mode("root.key"), mode(".")), (0o600, 0o700));
    drop(gateway);

    // The next start uses the same CA.
    let before = fs::read(&root).expect("it is there");
    let _again = home.start(&arguments).await;
    assert_eq!(fs::read(&root).expect("it is there"), before);
}

#[tokio::test]
async fn http_redirects_to_https_on_the_port_beside_it() {
    let home = Home::new();
    let (status, yaml, stderr) = home.run(&["proxy", "--to", "3000", "--https", "--print"]);
    assert_eq!(status, 0, "{stderr}");
    super::write(&home.project(), &[("e.yaml", &yaml)]);
    let (status, _, findings) = home.run(&["check", "--config", "e.yaml"]);
    assert!(
        status == 0 && findings.contains("well formed"),
        "{findings}"
    );
    let (plain, secure) = (free_port(), free_port());
    let local = |yaml: &str| {
        let yaml = yaml.replace("127.0.0.1:8080", &format!("127.0.0.1:{plain}"));
        let yaml = yaml.replace(":8443", &format!(":{secure}"));
        yaml.replace("port: 8443", &format!("port: {secure}"))
    };
    // The redirect that a configuration gets by `redirect: https` is the control.
    let permanent = "listeners:\n  - { address: 127.0.0.1:8080, redirect: { port: 8443 } }\n\
                     routes: [{ match: { path: /* }, respond: ok }]\n";
    for (yaml, expected) in [(yaml.as_str(), 307), (permanent, 308)] {
        let yaml = format!("{}admin: {{ address: off }}\n", local(yaml));
        super::write(&home.project(), &[("local.yaml", &yaml)]);
        let _gateway = home.start(&["run", "--config", "local.yaml"]).await;
        let address = format!("127.0.0.1:{plain}").parse().expect("an address");
        for path in ["/", "/a/b%20c?d=e&f", "/a?"] {
            let response = client::send(address, &get(path))
                .await
                .expect("it responds");
            let to = response.header("location").unwrap_or_default().to_owned();
            let path = path.trim_end_matches('?');
            assert_eq!(response.status(), expected, "{yaml}");
            let to = to.trim_end_matches('?');
            assert_eq!(to, format!("https://127.0.0.1:{secure}{path}"));
        }
    }
}

/// Invariant: programs that start at the same time make one CA, and one certificate with its key.
#[test]
fn first_starts_at_the_same_time_share_one_ca_and_its_certificate() {
    for _ in 0..5 {
        let home = Home::new();
        let arguments = ["proxy", "--to", "3000", "--https", "--print"];
        let children: Vec<_> = (0..6)
            .map(|_| {
                let mut command = home.edgeway(&arguments);
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
                command.spawn().expect("the program starts")
            })
            .collect();
        for child in children {
            let ran = child.wait_with_output().expect("it ends");
            assert!(
                ran.status.success(),
                "{}",
                String::from_utf8_lossy(&ran.stderr)
            );
        }
        let script = r"
            set -e
            cd certificates/*
            openssl verify -CAfile ../../root.pem certificate.pem >/dev/null
            openssl x509 -noout -pubkey -in certificate.pem >c
            openssl pkey -pubout -in certificate.key >k
            cmp c k
        ";
        let folder = home.path().join(".local/share/edgeway/ca");
        let mut command = home.command("sh");
        let (status, stdout, stderr) = output(command.args(["-c", script]).current_dir(&folder));
        assert_eq!(status, 0, "{stdout}{stderr}");
    }
}

/// Invariant: a thief of the key can sign for no public name.
#[test]
fn the_ca_is_constrained_to_names_of_this_machine() {
    let home = Home::new();
    let (status, _, stderr) = home.run(&["proxy", "--to", "3000", "--https", "--print"]);
    assert_eq!(status, 0, "{stderr}");
    let folder = home.path().join(".local/share/edgeway/ca");
    // OpenSSL signs with the key, as a thief would.
    let script = r#"
        set -e
        openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k.pem \
            -subj "/CN=x" -out r.pem 2>/dev/null
        printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$1" >e.cnf
        openssl x509 -req -in r.pem -CA root.pem -CAkey root.key -CAcreateserial -days 7 \
            -extfile e.cnf -out c.pem 2>/dev/null
        openssl verify -CAfile root.pem c.pem
    "#;
    for (name, is_valid) in [
        ("DNS:localhost", true),
        ("DNS:shop.localhost", true),
        ("DNS:shop.test", true),
        ("IP:127.0.0.1", true),
        ("IP:192.168.1.7", true),
        ("DNS:example.com", false),
        ("DNS:localhost.example.com", false),
        ("IP:8.8.8.8", false),
    ] {
        let ran = Command::new("sh")
            .args(["-c", script, "sh", name])
            .current_dir(&folder)
            .output();
        let ran = ran.expect("sh runs");
        let text = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
        assert_eq!(ran.status.success(), is_valid, "{name}: {text}");
        assert!(
            is_valid || text.contains("permitted subtree violation"),
            "{name}: {text}"
        );
    }
    // It signs no other CA.
    let text = output(
        Command::new("openssl")
            .args(["x509", "-noout", "-text", "-in"])
            .arg(folder.join("root.pem")),
    )
    .1;
    for words in [
        "CA:TRUE, pathlen:0",
        "X509v3 Name Constraints: critical",
        "Certificate Sign",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

/// The stores of the system are changed in a namespace of mounts that ends with the test.
#[test]
fn the_system_and_its_browsers_trust_the_ca_until_it_is_untrusted() {
    let Some(unshare) = namespaces::unshare(&["--mount"], "mount -t tmpfs none /mnt") else {
        return;
    };
    let home = Home::new();
    let script = r#"
        set -e
        cp -a /etc/ssl/certs "$HOME/certs"
        mount --bind "$HOME/certs" /etc/ssl/certs
        mount -t tmpfs none /usr/local/share/ca-certificates
        "$1" proxy --to 3000 --https --print >/dev/null
        ca=$HOME/.local/share/edgeway/ca
        leaf=$(ls -d "$ca"/certificates/*)
        verify() { openssl verify -verify_hostname localhost "$leaf/certificate.pem" 2>&1 | tail -1; }
        echo "before: $(verify)"
        "$1" ca trust
        echo "trusted: $(verify)"
        "$1" ca show
        certutil -d "sql:$HOME/.pki/nssdb" -L
        "$1" ca untrust
        echo "after: $(verify)"
        certutil -d "sql:$HOME/.pki/nssdb" -L
        "$1" ca show
    "#;
    let mut command = home.command("unshare");
    command
        .args(unshare)
        .args(["sh", "-c", script, "sh", env!("CARGO_BIN_EXE_edgeway")]);
    let (status, stdout, stderr) = output(&mut command);
    assert_eq!(status, 0, "{stdout}\n{stderr}");
    let line = |start: &str| {
        let found = stdout.lines().find(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("{start}: {stdout}\n{stderr}"))
    };
    assert!(line("trusted: ").ends_with(": OK"), "{stdout}");
    for start in ["before: ", "after: "] {
        assert!(!line(start).ends_with(": OK"), "{stdout}");
    }
    let shown: Vec<&str> = stdout
        .lines()
        .filter(|line| line.starts_with("trusted by"))
        .collect();
    assert!(
        shown[0].contains("the system, ") && shown[0].contains("nssdb"),
        "{shown:?}"
    );
    assert!(shown[1].contains("no store"), "{shown:?}");
    let known = stdout
        .lines()
        .filter(|line| line.starts_with("Edgeway local CA"))
        .count();
    assert_eq!(known, 1, "{stdout}");
}

/// A browser has a store of its own, which `ca trust` fills and `ca untrust` empties.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_accepts_the_certificate_while_the_ca_is_trusted() {
    let Some(unshare) = namespaces::unshare(&["--mount"], "mount -t tmpfs none /mnt") else {
        return;
    };
    let app = EchoOrigin::start().await;
    let home = Home::new();
    let (to, listen) = (app.address().port().to_string(), free_port().to_string());
    let _gateway = home
        .start(&["proxy", "--to", &to, "--listen", &listen, "--https"])
        .await;
    let visit = || {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
        let url = format!("https://localhost:{listen}/");
        let mut node = home.command("node");
        node.args(["trust.js", &url])
            .current_dir(folder)
            .env("BROWSER", "/usr/bin/chromium-headless-shell");
        let (status, stdout, stderr) = output(&mut node);
        assert_eq!(status, 0, "{stderr}");
        stdout
    };
    let refused = "ERR_CERT_AUTHORITY_INVALID";
    assert!(visit().contains(refused));
    // The system's own store is changed in the namespace only.
    let script = r#"
        set -e
        cp -a /etc/ssl/certs "$HOME/certs"
        mount --bind "$HOME/certs" /etc/ssl/certs
        mount -t tmpfs none /usr/local/share/ca-certificates
        "$1" ca trust
    "#;
    let program = env!("CARGO_BIN_EXE_edgeway");
    let mut trust = home.command("unshare");
    trust
        .args(unshare)
        .args(["sh", "-c", script, "sh", program]);
    let (status, _, stderr) = output(&mut trust);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(visit().trim(), "{\"status\":200}");
    assert_eq!(home.run(&["ca", "untrust"]).0, 0);
    assert!(visit().contains(refused));
}
