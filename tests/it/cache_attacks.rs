//! Attempts of clients and broken origins to poison the cache.

use std::net::SocketAddr;

use crate::support::{
    client::{Request, get},
    front::Front,
    gateway::Gateway,
    origins::PresetOrigin,
};

async fn front(origin: SocketAddr) -> Gateway {
    Front::to(origin).route("cache: {}").start().await
}

fn minute() -> Vec<(String, String)> {
    vec![("cache-control".to_owned(), "max-age=60".to_owned())]
}

fn on(host: &str, target: &str) -> Request {
    get(target).header("host", host)
}

#[tokio::test]
async fn a_truncated_response_is_truncated_for_all_collapsed_requests_and_not_stored() {
    let mut origin = PresetOrigin::start().await;
    origin.settings().tell("/a", 200, minute());
    origin.settings().hold("/a");
    let gateway = front(origin.address()).await;
    let mut readers = Vec::new();
    for expected in ["MISS", "HIT", "HIT"] {
        let mut connection = gateway.connect().await;
        let headers = connection.start(&get("/a")).await.expect("headers");
        assert_eq!(headers.header("x-cache-status"), Some(expected));
        readers.push((connection, headers));
    }
    origin.stop();
    for (mut connection, headers) in readers {
        let broken = connection
            .finish(headers)
            .await
            .expect_err("no complete response");
        assert!(broken.is_truncated(), "{broken:?}");
    }
    // All have the same cause, which is logged once.
    for line in gateway.log_lines(3).await {
        assert_eq!(line["reason"], "upstream_reset", "{line:#}");
    }
    let reported = gateway.stderr().matches("request failed").count();
    assert_eq!(reported, 1, "{}", gateway.stderr());
    origin.resume().await;
    origin.settings().release("/a");
    let next = gateway.get("/a").await;
    assert_eq!(next.header("x-cache-status"), Some("MISS"));
    assert_eq!(next.text(), "/a #2");
}

#[tokio::test]
async fn a_host_is_one_key_in_any_spelling_and_clients_cannot_change_it() {
    let origin = PresetOrigin::start().await;
    origin.settings().tell("/a", 200, minute());
    let gateway = front(origin.address()).await;
    let forwarded = on("shop.test", "/a")
        .header("x-forwarded-host", "evil.test")
        .header("forwarded", "host=evil.test");
    let first = gateway.send(&forwarded).await;
    assert_eq!(first.header("x-cache-status"), Some("MISS"));
    let asked = origin.settings().asked("/a");
    assert_eq!(asked[0].header("host"), Some("shop.test"));
    assert_eq!(asked[0].header("x-forwarded-host"), Some("shop.test"));
    for same in [
        on("shop.test", "/a"),
        on("SHOP.test", "/a"),
        on("shop.test", "http://shop.test/a"),
        // Spellings of one path are one path, to the origin too.
        on("shop.test", "/%61"),
        on("shop.test", "//a"),
    ] {
        let response = gateway.send(&same).await;
        assert_eq!(response.header("x-cache-status"), Some("HIT"), "{same:?}");
    }
    for refused in [
        on("shop.test", "http://evil.test/a"),
        on("shop.test", "/a").header("host", "evil.test"),
        on("shop.test", "/a#b"),
    ] {
        assert_eq!(gateway.send(&refused).await.status(), 400, "{refused:?}");
    }
    for other in ["/A", "/a%2F", "/a?", "/a/"] {
        let response = gateway.send(&on("shop.test", other)).await;
        assert_ne!(response.header("x-cache-status"), Some("HIT"), "{other}");
    }
}

#[tokio::test]
async fn variants_of_one_url_are_bounded() {
    let origin = PresetOrigin::start().await;
    let mut headers = minute();
    headers.push(("vary".to_owned(), "Foo".to_owned()));
    origin.settings().tell("/a", 200, headers);
    let gateway = front(origin.address()).await;
    let mut connection = gateway.connect().await;
    for number in 0..300 {
        let request = get("/a").header("foo", number.to_string());
        connection.send(&request).await.expect("a response");
    }
    let stored = gateway.count("edgeway_cache_objects").await;
    assert!(stored <= 64, "{stored}");
    let newest = gateway.send(&get("/a").header("foo", "299")).await;
    assert_eq!(newest.header("x-cache-status"), Some("HIT"));
}
