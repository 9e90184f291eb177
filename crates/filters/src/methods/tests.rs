//! Methods that pass.

use edgeway_core::chain::testkit::{check, refused};

use super::Methods;

#[test]
fn only_listed_methods_pass() {
    check::<Methods>("[GET, POST]")
        .get("/")
        .request("POST", "/")
        .request("DELETE", "/")
        .request("BREW", "/")
        .expect([200, 200, 405, 405]);
}

#[test]
fn get_includes_head() {
    check::<Methods>("[GET]").request("HEAD", "/").expect([200]);
    check::<Methods>("[POST]")
        .request("HEAD", "/")
        .expect([405]);
}

#[test]
fn a_refusal_lists_the_allowed_methods() {
    let check = check::<Methods>("[GET, POST, GET]").request("PUT", "/");
    assert_eq!(check.last().headers["allow"], "GET, HEAD, POST");
    assert_eq!(check.last().reason, Some("method"));
}

#[test]
fn a_preflight_passes_where_its_method_would() {
    let preflight = |method| {
        let headers = [
            ("Origin", "https://shop.test"),
            ("Access-Control-Request-Method", method),
        ];
        check::<Methods>("[GET, PUT]").send("OPTIONS", "/", &headers, &[])
    };
    preflight("PUT").expect([200]);
    preflight("DELETE").expect([405]);
    check::<Methods>("[GET]")
        .request("OPTIONS", "/")
        .expect([405]);
}

#[test]
fn invalid_lists_are_reported_with_a_remedy() {
    assert_eq!(
        refused::<Methods>("['*', get, 'G T', POST]"),
        [
            "invalid method `*`; help: leave `methods` out to allow all of them",
            "invalid method `get`; help: write it in upper case: `GET`",
            "invalid method `G T`; help: write a method such as `GET` or `POST`",
        ]
    );
    assert_eq!(
        refused::<Methods>("[]"),
        ["`methods` allows no method; help: list the allowed methods, such as `[GET, POST]`"]
    );
}
