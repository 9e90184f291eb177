//! Facts about the client in plugins: the claims of a verified token, and the client's location.

use std::{fs, path::Path};

use edgeway_base::geo::{Database, Geo};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::{
    cli::edgeway,
    support::{
        client::get,
        gateway::Gateway,
        mmdb::{loopback_in_munich, mmdb},
    },
};

const SECRET: &str = "thirty-two bytes that nobody else knows";

fn token(secret: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    let token = encode(&Header::default(), claims, &key).expect("it can sign");
    format!("Bearer {token}")
}

fn yaml(top: &str, route: &str, run: &str) -> String {
    format!(
        "{top}\nroutes:\n  - {{ match: {{ path: /* }}, respond: ok, {route} plugins: [{{ file: x/plugin.js, on_error: refuse{run} }}] }}\n"
    )
}

/// Starts a gateway whose routes have a plugin that shows what it finds.
async fn showing(top: &str, route: &str, run: &str) -> Gateway {
    Gateway::start_in(&yaml(top, route, run), |folder| {
        let text = "export const onRequest = (request, ctx) =>
            Response.json({ jwt: ctx.jwt ?? null, geo: ctx.geo ?? null, same: ctx.geo === ctx.geo && ctx.jwt === ctx.jwt });";
        fs::create_dir(folder.join("x")).expect("the folder is ours");
        fs::write(folder.join("x/plugin.js"), text).expect("the folder is ours");
        fs::write(folder.join("city.mmdb"), loopback_in_munich()).expect("the folder is ours");
    })
    .await
}

#[tokio::test]
async fn claims_are_those_of_a_token_that_was_verified() {
    let jwt = format!("jwt: {{ keys: \"{SECRET}\", algorithms: [HS256], optional: true }},");
    let claims = json!({ "sub": "ann", "realm": { "roles": ["a", "b"] }, "n": 1.5, "exp": 4_000_000_000_u64 });
    let good = get("/").header("authorization", token(SECRET, &claims));
    let forged = token("another secret of thirty-two bytes!", &claims);
    let forged = get("/").header("authorization", forged);
    let gateway = showing("", &jwt, "").await;
    let known = gateway.send(&good).await.json();
    assert_eq!((&known["jwt"], &known["same"]), (&claims, &json!(true)));
    for nobody in [&forged, &get("/")] {
        assert_eq!(gateway.send(nobody).await.json()["jwt"], json!(null));
    }
    // Before the token is verified, there are no claims.
    let early = showing("", &jwt, ", run: first").await;
    assert_eq!(early.send(&good).await.json()["jwt"], json!(null));
}

#[tokio::test]
async fn a_location_is_that_of_the_client_and_of_no_proxy() {
    let geo = "trusted_proxies: [127.0.0.1]\ngeo: { file: city.mmdb }";
    let gateway = showing(geo, "", "").await;
    let munich = json!({
        "country": "DE", "continent": "EU", "city": "Munich", "region": "BY",
        "latitude": 48.15, "longitude": 11.58, "timezone": "Europe/Berlin",
    });
    let here = gateway.get("/").await.json();
    assert_eq!((&here["geo"], &here["same"]), (&munich, &json!(true)));
    let elsewhere = get("/").header("x-forwarded-for", "192.0.2.1");
    assert_eq!(gateway.send(&elsewhere).await.json()["geo"], json!(null));
    let without = showing("", "", "").await;
    assert_eq!(without.get("/").await.json()["geo"], json!(null));
}

#[test]
fn two_geo_files_are_merged_and_the_first_one_wins() {
    let folder = tempfile::tempdir().expect("there is room");
    let read = |name: &str, bytes: Vec<u8>| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("the folder is ours");
        Database::read(&path).map(std::sync::Arc::new)
    };
    let networks = mmdb(
        "GeoLite2-ASN",
        &[
            (
                "127.0.0.0/9",
                json!({ "autonomous_system_number": 64_500, "autonomous_system_organization": "Example" }),
            ),
            (
                "2001:db8::/32",
                json!({ "autonomous_system_number": 64_501, "country": { "iso_code": "FR" } }),
            ),
            // An invalid record is ignored.
            ("198.51.100.0/24", json!(["x"])),
        ],
    );
    let geo = Geo::new(vec![
        read("city.mmdb", loopback_in_munich()).expect("it is well formed"),
        read("asn.mmdb", networks).expect("it is well formed"),
    ]);
    let place = |text: &str| geo.place(text.parse().expect("an address"));
    let both = place("127.0.0.1").expect("it is known");
    assert_eq!(
        (both.city.as_deref(), both.asn),
        (Some("Munich"), Some(64_500))
    );
    assert_eq!(both.organization.as_deref(), Some("Example"));
    assert_eq!(place("127.200.0.1").expect("it is known").asn, None);
    let other = place("2001:db8::1").expect("it is known");
    assert_eq!((other.country.as_deref(), other.city), (Some("FR"), None));
    assert_eq!(place("198.51.100.1"), None);
    assert_eq!(place("192.0.2.1"), None);
    assert!(read("bad.mmdb", b"no such file".to_vec()).is_err());
}

#[tokio::test]
async fn a_file_that_is_replaced_is_read_by_a_reload() {
    let geo = "geo: { file: city.mmdb }";
    let gateway = showing(geo, "", "").await;
    let yaml = yaml(geo, "", "");
    let france = json!({ "country": { "iso_code": "FR" } });
    let file = gateway.folder().join("city.mmdb");
    fs::write(&file, mmdb("GeoLite2-Country", &[("127.0.0.0/8", france)])).expect("it is ours");
    assert_eq!(gateway.get("/").await.json()["geo"]["country"], "DE");
    assert!(gateway.reload(&yaml).await, "{}", gateway.stderr());
    assert_eq!(
        gateway.get("/").await.json()["geo"],
        json!({ "country": "FR" })
    );
    // A file that cannot be read leaves the previous one in use.
    fs::write(&file, b"half a fi").expect("it is ours");
    assert!(!gateway.reload(&yaml).await);
    assert_eq!(
        gateway.get("/").await.json()["geo"],
        json!({ "country": "FR" })
    );
}

#[test]
fn check_names_the_invalid_file() {
    let folder = tempfile::tempdir().expect("there is room");
    let check = |geo: &str| {
        let yaml = format!(
            "listeners: [{{ address: 127.0.0.1:8080 }}]\ngeo: {{ file: {geo} }}\nroutes: [{{ match: {{ path: /* }}, respond: ok }}]\n"
        );
        let config = folder.path().join("edgeway.yaml");
        fs::write(&config, yaml).expect("the folder is ours");
        edgeway(&["check", "-c", &config.display().to_string()])
    };
    fs::write(folder.path().join("city.mmdb"), loopback_in_munich()).expect("it is ours");
    fs::write(folder.path().join("bad.mmdb"), b"no such file").expect("it is ours");
    let right = check("city.mmdb");
    assert_eq!(right.status, 0, "{}", right.stderr);
    for (geo, parts) in [
        (
            "[city.mmdb, gone.mmdb]",
            [
                "edgeway.yaml:2:26: error: cannot read `gone.mmdb`",
                "No such file",
            ],
        ),
        (
            "bad.mmdb",
            [
                "edgeway.yaml:2:14: error: cannot read `bad.mmdb`",
                "MaxMind",
            ],
        ),
        (
            "[]",
            [
                "edgeway.yaml:2:14: error: this list is empty",
                "at least one",
            ],
        ),
    ] {
        let wrong = check(geo);
        assert_eq!(wrong.status, 78, "{geo}");
        for part in parts {
            assert!(wrong.stderr.contains(part), "{part}: {}", wrong.stderr);
        }
    }
}

#[test]
fn a_manual_run_takes_claims_and_location() {
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("plugin.js");
    let text = "export const onRequest = (request, ctx) => new Response(`${ctx.jwt?.sub} ${ctx.geo?.country}`);";
    fs::write(&file, text).expect("the folder is ours");
    let run = |more: &[&str]| {
        let file = Path::new(&file).display().to_string();
        edgeway(&[&["plugin", "run", &file, "GET", "/"], more].concat())
    };
    let known = run(&["--jwt", r#"{"sub":"ann"}"#, "--geo", r#"{"country":"DE"}"#]);
    assert!(
        known.stdout.contains("  body      ann DE\n"),
        "{}",
        known.stdout
    );
    let nobody = run(&[]);
    assert!(
        nobody.stdout.contains("  body      undefined undefined\n"),
        "{}",
        nobody.stdout
    );
    let wrong = run(&["--jwt", "ann"]);
    assert_eq!(wrong.status, 1);
    assert!(
        wrong.stderr.starts_with("edgeway: `--jwt` is not JSON"),
        "{}",
        wrong.stderr
    );
}
