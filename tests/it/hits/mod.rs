//! Stored responses: they are those of the origin, in the order of the requests, and each exit has one
//! line of the log.

mod exits;
mod stored;

use crate::support::{
    client::{Request, get},
    gateway::Gateway,
    origins::NumberedOrigin,
};

#[tokio::test]
async fn pipelined_requests_wait_and_the_target_stays_as_received() {
    let origin = NumberedOrigin::start().await;
    let stored = [("cache-control", "max-age=600")];
    origin.settings().tell("/a", 200, &stored);
    let gateway = Gateway::start(&format!(
        "
cache: {{ purge: {{ allow: [127.0.0.0/8] }} }}
upstreams: {{ app: {{ backends: ['{origin}'], health: false }} }}
routes:
  - {{ match: {{ path: '/*' }}, upstream: app, cache: {{}} }}
  - {{ match: {{ path: /old }}, redirect: {{ to: /new }} }}
"
    ))
    .await;
    let mut client = gateway.connect().await;
    let odd = get("/b/../a");
    for expected in ["MISS", "HIT"] {
        let response = client.send(&odd).await.unwrap();
        assert_eq!(response.header("x-cache-status"), Some(expected));
        assert_eq!(response.text(), "/a #1");
    }
    gateway.send(&Request::new("PURGE", "/a")).await;
    let request = |target: &str| {
        format!(
            "GET {target} HTTP/1.1\r\nhost: {}\r\n\r\n",
            gateway.address()
        )
    };
    let three = [request("/b/../a"), request("/old"), request("/b/../a")].concat();
    client.write(three).await.unwrap();
    for expected in [(200, "/a #2"), (307, ""), (200, "/a #2")] {
        let head = client.read_headers().await.unwrap();
        let response = client.finish(head).await.unwrap();
        assert_eq!(response.status(), expected.0);
        if expected.0 == 200 {
            assert_eq!(response.text(), expected.1);
        }
    }
}
