//! Requests that nginx refuses, and targets that it sends: the same here, or named in the report.

use super::*;

#[test]
fn the_directive_ssl_makes_all_addresses_of_a_server_tls() {
    let certificate = "ssl_certificate /c.pem; ssl_certificate_key /k.pem;";
    let of = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nginx.conf");
        fs::write(&path, format!("http {{ {text} }}")).unwrap();
        import(&path, &Wishes::default()).unwrap().0
    };
    for text in [
        format!("server {{ listen 8080; listen 8443; ssl on; {certificate} return 200 a; }}"),
        format!("{certificate} ssl on; server {{ listen 8080; listen 8443; return 200 a; }}"),
        // Another server of the address has the certificate, and comes first.
        format!(
            "server {{ listen 8080; listen 8443; server_name b; {certificate} return 200 b; }}
             server {{ listen 8080 default; listen 8443 default; ssl on; return 200 a; }}"
        ),
    ] {
        let yaml = of(&text);
        assert!(yaml.contains("cert: /c.pem"), "{yaml}");
        assert_eq!(yaml.matches("tls: ").count(), 2, "{yaml}");
    }
    for text in [
        "server { listen 8080; ssl off; return 200 a; }",
        // nginx looks at the default server of an address alone.
        "server { listen 8080; return 200 a; }
         server { listen 8080; server_name b; ssl on; return 200 b; }",
    ] {
        assert!(!of(text).contains("tls:"), "{}", of(text));
    }
}
