//! Cases 1 to 26 on Next.js 16.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use super::{
    Naive, Outcome, Recipe, ask, demand, front, front_with, has, is_a, made_at, router,
    shows_of_16, status_of, warm,
};
use crate::support::{
    apps::NextApp,
    client::{Connection, Request, get, post},
    wait::{pass, wait_for},
};

#[tokio::test]
async fn pages_files_payloads_and_images_are_stored() {
    let app = NextApp::shared().await;
    let gateway = front(app).await;
    let page = gateway.get("/").await.text();
    let chunk = page
        .split('"')
        .find(|text| text.starts_with("/_next/static/") && text.ends_with(".js"))
        .expect("the page has scripts");
    let requests = [
        get("/isr"),
        get("/login"),
        get("/blog/kept"),
        router("/isr?_rsc"),
        get(chunk),
        get("/_next/image?url=%2Fpicture.png&w=64&q=75").header("accept", "image/webp"),
    ];
    warm(app, &requests).await;
    for request in requests {
        let first = gateway.send(&request).await;
        assert_eq!(first.status(), 200, "{request:?}");
        let second = gateway.send(&request).await;
        assert_eq!(status_of(&second), "HIT", "{request:?}");
        assert_eq!(second.body, first.body);
        for name in ["content-type", "etag", "x-nextjs-prerender"] {
            assert_eq!(
                second.header(name),
                first.header(name),
                "{name} {request:?}"
            );
        }
        assert!(second.header("age").is_some());
    }
}

/// Cases 1 and 2.
#[tokio::test]
async fn a_browser_gets_html_and_the_router_its_payload() {
    shows_of_16(Recipe::Everything, async |to| {
        is_a(
            &ask(to, &router("/isr?_rsc")).await?,
            200,
            "text/x-component",
        )?;
        is_a(&ask(to, &get("/isr?_rsc")).await?, 200, "text/html")?;
        is_a(
            &ask(to, &router("/isr?_rsc")).await?,
            200,
            "text/x-component",
        )
    })
    .await;
    shows_of_16(Recipe::Everything, async |to| {
        let redirect = ask(to, &router("/login")).await?;
        demand(redirect.status() == 307, "the router is sent to `_rsc`")?;
        is_a(&ask(to, &get("/login")).await?, 200, "text/html")
    })
    .await;
    shows_of_16(Recipe::Everything, async |to| {
        is_a(&ask(to, &get("/login")).await?, 200, "text/html")?;
        let redirect = ask(to, &router("/login")).await?;
        demand(redirect.status() == 307, "the router gets HTML")
    })
    .await;
}

/// Case 3.
#[tokio::test]
async fn no_client_gets_the_page_of_another() {
    shows_of_16(Recipe::Everything, async |to| {
        for (user, sees) in [("alice", "user:alice"), ("bob", "user:bob")] {
            let page = get("/dynamic").header("cookie", format!("user={user}"));
            has(&ask(to, &page).await?, sees)?;
        }
        has(&ask(to, &get("/dynamic")).await?, "user:nobody")
    })
    .await;
}

/// Case 4.
#[tokio::test]
async fn each_visitor_gets_a_session_of_his_own() {
    shows_of_16(Recipe::Everything, async |to| {
        let sid = async || {
            let response = ask(to, &get("/api/setcookie")).await?;
            Ok::<_, String>(response.header("set-cookie").map(str::to_owned))
        };
        demand(sid().await? != sid().await?, "one session for two")
    })
    .await;
}

/// Case 5.
#[tokio::test]
async fn clients_that_accept_no_gzip_get_none() {
    shows_of_16(Recipe::Everything, async |to| {
        let encoded = get("/isr").header("accept-encoding", "gzip");
        let encoded = ask(to, &encoded).await?;
        demand(
            encoded.header("content-encoding") == Some("gzip"),
            "not encoded",
        )?;
        let plain = ask(to, &get("/isr")).await?;
        demand(plain.header("content-encoding").is_none(), "encoded")?;
        has(&plain, "made:")
    })
    .await;
}

async fn a_guard_holds(to: SocketAddr) -> Outcome {
    let invited = get("/secret").header("cookie", "auth=ok");
    for _ in 0..2 {
        demand(
            ask(to, &get("/secret")).await?.status() == 307,
            "not guarded",
        )?;
        has(&ask(to, &invited).await?, "for the invited only")?;
    }
    demand(
        ask(to, &get("/secret")).await?.status() == 307,
        "open to all",
    )
}

/// Case 6.
#[tokio::test]
async fn a_guarded_page_stays_guarded() {
    shows_of_16(Recipe::Everything, a_guard_holds).await;
    // With a list, and with nothing but the rule about cookies.
    let app = NextApp::shared().await;
    for line in ["guarded: [/secret/*]", "guarded: []"] {
        let gateway = front_with(app, line).await;
        a_guard_holds(gateway.address()).await.unwrap();
    }
}

/// Cases 8 and 9.
#[tokio::test]
async fn only_the_editor_sees_the_draft() {
    let app = NextApp::shared().await;
    let response = app.get("/api/draft").await;
    let cookie = response
        .header("set-cookie")
        .expect("draft mode is a cookie");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    shows_of_16(Recipe::Everything, async |to| {
        has(&ask(to, &get("/draft-page")).await?, "draft:off")?;
        let draft = get("/draft-page").header("cookie", cookie.as_str());
        has(&ask(to, &draft).await?, "draft:on")?;
        has(&ask(to, &get("/draft-page")).await?, "draft:off")
    })
    .await;
    shows_of_16(Recipe::Everything, async |to| {
        let junk = get("/draft-page").header("cookie", "__prerender_bypass=junk");
        has(&ask(to, &junk).await?, "draft:off")?;
        let visitor = ask(to, &get("/draft-page")).await?;
        demand(
            visitor.header("set-cookie").is_none(),
            "another's cookie is cleared",
        )
    })
    .await;
}

/// Cases 10 and 11.
#[tokio::test]
async fn images_vary_by_accept_and_by_their_query() {
    const IMAGE: &str = "/_next/image?url=%2Fpicture.png&w=64&q=75";
    shows_of_16(Recipe::Everything, async |to| {
        for accept in ["image/avif", "image/webp", "image/png", "image/avif"] {
            let response = ask(to, &get(IMAGE).header("accept", accept)).await?;
            is_a(&response, 200, accept)?;
        }
        Ok(())
    })
    .await;
    shows_of_16(Recipe::DecodedPath, async |to| {
        let one = ask(to, &get(IMAGE).header("accept", "image/webp")).await?;
        let other = "/_next/image?url=%2Fother.png&w=128&q=75";
        let other = ask(to, &get(other).header("accept", "image/webp")).await?;
        demand(one.status() == 200 && other.status() == 200, "no images")?;
        demand(one.body != other.body, "the same image")
    })
    .await;
}

/// R9.
#[tokio::test]
async fn a_width_that_the_app_does_not_list_never_reaches_it() {
    use crate::support::origins::EchoOrigin;

    let origin = EchoOrigin::start().await;
    let folder = super::folder(crate::support::apps::Kind::Next);
    let config = format!(
        "
upstreams:
  web: {{ app: nextjs, folder: \"{folder}\", backends: [\"{}\"] }}
routes:
  - match: {{ path: /* }}
    upstream: web
    cache: {{}}
",
        origin.address()
    );
    let gateway = crate::support::gateway::Gateway::start(&config).await;
    let app = NextApp::shared().await;
    for query in [
        "url=%2Fpicture.png&w=65&q=75",
        "url=%2Fpicture.png&w=64&q=74",
        "w=64&q=75",
    ] {
        let target = format!("/_next/image?{query}");
        let refused = gateway.get(&target).await;
        let own = app.get(&target).await;
        assert_eq!((refused.status(), own.status()), (400, 400), "{target}");
        assert!(refused.text().contains(&own.text()), "{}", refused.text());
    }
    assert_eq!(origin.counts().requests(), 0);
    // The control: a listed width.
    gateway
        .get("/_next/image?url=%2Fpicture.png&w=64&q=75")
        .await;
    assert_eq!(origin.counts().requests(), 1);
}

/// Case 12.
#[tokio::test]
async fn a_percent_encoded_letter_replaces_no_stored_page() {
    shows_of_16(Recipe::DecodedPath, async |to| {
        // The app responds to this spelling with 404, and never gets it from the gateway.
        ask(to, &get("/%69sr")).await?;
        is_a(&ask(to, &get("/isr")).await?, 200, "text/html")
    })
    .await;
}

/// Case 13.
#[tokio::test]
async fn a_page_does_not_pass_for_a_file_of_the_build() {
    for target in [
        "/_next/static/../../dynamic",
        "/_next/static/%2e%2e/%2e%2e/dynamic",
    ] {
        shows_of_16(Recipe::Everything, async |to| {
            let alice = get(target).header("cookie", "user=alice");
            ask(to, &alice).await?;
            let nobody = ask(to, &get(target)).await?;
            demand(!nobody.text().contains("user:alice"), "alice's page")
        })
        .await;
    }
}

/// Case 14.
#[tokio::test]
async fn a_prefetch_of_the_middleware_is_never_served_as_a_page() {
    shows_of_16(Recipe::Everything, async |to| {
        for target in ["/dynamic", "/isr"] {
            ask(to, &get(target).header("x-middleware-prefetch", "1")).await?;
            has(&ask(to, &get(target)).await?, "<h1>")?;
        }
        Ok(())
    })
    .await;
}

/// Cases 15 and 22.
#[tokio::test]
async fn streams_are_live_for_everybody() {
    for (target, first, last) in [
        ("/api/sse?events=3", "event\":0", "event\":2"),
        ("/stream", "shell-piece", "second-piece"),
        ("/api/chunked", "first", "last"),
    ] {
        shows_of_16(Recipe::Everything, async |to| {
            for _ in 0..2 {
                let response = ask(to, &get(target)).await?;
                let [first, last] = [first, last].map(|text| response.arrival_of(text));
                let apart = last
                    .zip(first)
                    .map(|(last, first)| last.saturating_sub(first));
                let is_live = apart.is_some_and(|apart| apart > Duration::from_millis(300));
                demand(
                    is_live,
                    format!("{target}: {apart:?} between first and last"),
                )?;
            }
            Ok(())
        })
        .await;
    }
}

/// Case 16. The control is asked at the same times.
#[tokio::test]
async fn an_expired_page_is_soon_replaced() {
    let app = NextApp::shared().await;
    let gateway = front(app).await;
    let naive = Naive::start(Recipe::Everything, app.address()).await;
    let made = async |to| made_at(&ask(to, &get("/isr-quick")).await.unwrap());
    let first = made(naive.address()).await;
    let mut pages = BTreeSet::new();
    // The first one may be of the build, which is not stored.
    wait_for(
        "a stored page is replaced",
        Duration::from_secs(30),
        async || {
            pages.insert(made(gateway.address()).await);
            assert_eq!(made(naive.address()).await, first);
            (pages.len() == 3).then_some(())
        },
    )
    .await;
}

/// Case 18.
#[tokio::test]
async fn the_router_gets_its_data_and_is_not_sent_round() {
    shows_of_16(Recipe::NoQuery, async |to| {
        for target in ["/isr", "/login", "/dynamic", "/isr?a=1&b=2"] {
            for _ in 0..2 {
                let mut response = ask(to, &router(target)).await?;
                let mut hops = 0;
                while response.status() == 307 {
                    hops += 1;
                    demand(hops < 3, format!("{target} goes round"))?;
                    let location = response.header("location").unwrap_or_default().to_owned();
                    response = ask(to, &router(&location)).await?;
                }
                is_a(&response, 200, "text/x-component")?;
            }
        }
        Ok(())
    })
    .await;
}

/// Case 19.
#[tokio::test]
async fn a_head_request_stores_no_empty_page() {
    shows_of_16(Recipe::Everything, async |to| {
        for _ in 0..2 {
            let head_response = ask(to, &Request::new("HEAD", "/isr")).await?;
            demand(
                head_response.status() == 200 && head_response.body.is_empty(),
                "not a HEAD",
            )?;
            has(&ask(to, &get("/isr")).await?, "made:")?;
        }
        Ok(())
    })
    .await;
}

/// Case 20. The control is any cache in front of the app with a limit of 8 kB.
#[tokio::test]
async fn long_cookies_arrive() {
    let gateway = front(NextApp::shared().await).await;
    for target in ["/isr", "/dynamic"] {
        let request = get(target).header("cookie", format!("user=alice; c={}", "x".repeat(12_000)));
        assert_eq!(gateway.send(&request).await.status(), 200, "{target}");
    }
}

/// Case 21.
#[tokio::test]
async fn a_range_of_a_file_is_partial() {
    shows_of_16(Recipe::Everything, async |to| {
        for _ in 0..2 {
            let part = ask(to, &get("/notes.txt").header("range", "bytes=2-9")).await?;
            demand(part.status() == 206 && part.body.len() == 8, "not a part")?;
            let full = ask(to, &get("/notes.txt")).await?;
            demand(
                full.status() == 200 && full.body.len() == 1559,
                "not all of it",
            )?;
        }
        Ok(())
    })
    .await;
}

/// Case 23: Node closes sockets after six seconds without a request.
#[tokio::test]
async fn a_socket_that_the_app_is_about_to_close_fails_no_request() {
    let gateway = front(NextApp::shared().await).await;
    let spans = [5950, 5990, 6000, 6010, 6050].map(Duration::from_millis);
    let all = spans.map(|span| {
        let address = gateway.address();
        async move {
            let mut client = Connection::open(address).await.unwrap();
            let first = client.send(&get("/api/hello")).await.unwrap();
            pass(span).await;
            let second = client.send(&get("/api/hello")).await.unwrap();
            (first.status(), second.status())
        }
    });
    for statuses in futures_util::future::join_all(all).await {
        assert_eq!(statuses, (200, 200));
    }
}

/// Case 24.
#[tokio::test]
async fn a_response_without_cache_control_is_fetched_again() {
    shows_of_16(Recipe::Everything, async |to| {
        for turn in ["one", "two"] {
            let response = ask(to, &get("/api/echo").header("x-turn", turn)).await?;
            let echo = response.json();
            demand(echo["headers"]["x-turn"] == turn, format!("{echo}"))?;
        }
        Ok(())
    })
    .await;
}

/// Case 26.
#[tokio::test]
async fn an_action_of_another_build_gets_the_apps_own_response() {
    let app = NextApp::shared().await;
    let gateway = front(app).await;
    let call = post("/action", "[]")
        .header("next-action", "40".repeat(21))
        .header("content-type", "text/plain;charset=UTF-8");
    let own = app.send(&call).await;
    assert_eq!(own.status(), 409, "{}", own.text());
    for _ in 0..2 {
        let response = gateway.send(&call).await;
        assert_eq!(response.status(), 409);
        assert_eq!(response.header("x-nextjs-action-not-found"), Some("1"));
        assert_eq!(response.body, own.body);
    }
    // Nothing of it stays: the page itself is there.
    assert_eq!(gateway.get("/action").await.status(), 200);
}

/// R1: responses with these statuses are not stored, although they have `s-maxage`.
#[tokio::test]
async fn a_not_found_page_may_exist_soon() {
    let gateway = front(NextApp::shared().await).await;
    for (target, status) in [("/gone", 404), ("/moved", 307)] {
        for _ in 0..2 {
            let response = gateway.get(target).await;
            assert_eq!(response.status(), status, "{target}");
            let cache_control = response.header("cache-control").unwrap_or_default();
            assert!(
                cache_control.contains("s-maxage"),
                "{target}: {cache_control}"
            );
            assert_ne!(status_of(&response), "HIT", "{target}");
        }
    }
    // For the router a redirect is a 200 with a `location`, and stays one.
    for _ in 0..2 {
        let payload = gateway.send(&router("/moved?_rsc")).await;
        assert_eq!(payload.status(), 200);
        assert!(payload.header("location").is_some());
    }
}

/// R5: a stale response is served with its age while one request revalidates it, also to members,
/// whose own responses are not stored.
#[tokio::test]
async fn a_stale_page_has_its_age_and_is_revalidated_in_the_background() {
    let gateway = front(NextApp::shared().await).await;
    let member = get("/isr-quick").header("cookie", "user=alice");
    let alone = gateway.send(&member).await;
    assert_ne!(status_of(&alone), "HIT");
    assert_ne!(status_of(&gateway.send(&member).await), "HIT");
    wait_for("the page is stored", Duration::from_secs(10), async || {
        (status_of(&gateway.get("/isr-quick").await) == "HIT").then_some(())
    })
    .await;
    pass(Duration::from_millis(2500)).await;
    let stale = gateway.send(&member).await;
    assert_eq!(status_of(&stale), "STALE");
    let age: u64 = stale.header("age").expect("it has an age").parse().unwrap();
    assert!(age >= 2, "{age}");
    wait_for("the page is fresh", Duration::from_secs(10), async || {
        let page = gateway.send(&member).await;
        (status_of(&page) == "HIT" && made_at(&page) > made_at(&stale)).then_some(())
    })
    .await;
}
