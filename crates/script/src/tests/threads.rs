//! Plugins with threads of their own.

use super::*;

/// A call of a native function, which the engine cannot interrupt: 3·10⁸ letters are compared, which
/// takes half a second alone.
const STUCK: &str = "
    const text = 'y'.repeat(36000);
    const part = 'y'.repeat(18000) + 'x';
    export function onRequest(req) {
        if (req.method === 'POST') text.indexOf(part);
        return new Response('quiet');
    }";
/// Such a call takes minutes on a machine that does much else.
const SOON: Duration = Duration::from_mins(5);

fn on_threads(text: &str, wall: Duration, workers: usize) -> Loaded {
    let limits = HookLimits {
        wall,
        load: Duration::from_secs(5),
        isolation: Isolation::Thread,
        ..HookLimits::default()
    };
    loaded(text, limits, workers)
}

fn loaded(text: &str, limits: HookLimits, workers: usize) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("plugin.js"), text).unwrap();
    let source = source::Source::read("plugins/x", &folder.path().join("plugin.js")).unwrap();
    let capabilities = capabilities::Capabilities::default();
    let plugin = Plugin::load("x", source, "{}".to_owned(), limits, capabilities, workers);
    Loaded {
        plugin: plugin
            .unwrap_or_else(|failure| panic!("{failure:?}"))
            .into(),
        folder,
    }
}

fn attack() -> Input {
    attack_of(9)
}

/// Attack by one of several clients.
fn attack_of(number: u8) -> Input {
    Input {
        method: Method::POST,
        ip: Some([198, 51, 100, number].into()),
        ..input()
    }
}

/// Retries: a replacement thread may have to load the plugin again.
async fn until_quiet(loaded: &Loaded) {
    let next = async { while !is_quiet(&loaded.request().await) {} };
    let next = tokio::time::timeout(SOON, next).await;
    assert!(next.is_ok(), "its threads came back");
}

async fn until(what: impl Fn() -> bool) {
    let waited = tokio::time::timeout(SOON, async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it comes to that");
}

fn is_quiet(outcome: &Result<Output, Failure>) -> bool {
    matches!(outcome, Ok(Output { result: HookResult::Response(response), .. }) if response.body == "quiet")
}

#[tokio::test]
async fn a_hook_on_a_thread_does_what_it_does_on_a_worker() {
    let text = "export async function onRequest(req, ctx) {
        const both = await Promise.all([1, 2].map((n) => new Promise((keep) => setTimeout(() => keep(n), n))));
        req.headers.set('x-both', both.join());
        return new Response(ctx.ip);
    }";
    let output = on_threads(text, Duration::from_secs(5), 2)
        .request()
        .await
        .unwrap();
    assert_eq!(output, load(text).request().await.unwrap());
    assert_eq!(output.request.len(), 1);
}

#[tokio::test]
async fn limits_hold_on_threads_and_the_next_hook_is_served() {
    for (attack, kind) in [
        ("for (;;);", FailureKind::Cpu),
        ("await 0; for (;;);", FailureKind::Cpu),
        ("for (;;) await 0;", FailureKind::Cpu),
        (
            "const a = []; for (;;) a.push(new Uint8Array(1 << 20));",
            FailureKind::Memory,
        ),
        ("throw new Error('no');", FailureKind::Script),
        ("await new Promise(() => {});", FailureKind::Wall),
        (
            "await new Promise((keep) => setTimeout(keep, 60000));",
            FailureKind::Wall,
        ),
    ] {
        let text = format!(
            "export async function onRequest(req) {{ if (req.method === 'POST') {{ {attack} }} return new Response('quiet'); }}"
        );
        let loaded = on_threads(&text, Duration::from_millis(500), 1);
        let failure = loaded.plugin.call(Hook::Request, self::attack()).await;
        let failure = failure.expect_err(attack);
        assert_eq!(failure.kind, kind, "{attack}: {failure:?}");
        assert!(is_quiet(&loaded.request().await), "{attack}");
        assert_eq!(loaded.plugin.stuck(), 0, "{attack}");
    }
}

#[tokio::test]
async fn callers_of_a_stuck_thread_fail_in_time_and_others_are_served() {
    let wall = Duration::from_millis(100);
    let loaded = on_threads(STUCK, wall, 1);
    let failure = loaded.plugin.call(Hook::Request, attack()).await;
    let failure = failure.expect_err("it does not end");
    assert_eq!(failure.kind, FailureKind::Stuck, "{failure:?}");
    // The thread is still in the call: the caller has not waited for its end.
    assert_eq!(loaded.plugin.stuck(), 1);
    assert!(!loaded.plugin.is_out_of_threads());
    until_quiet(&loaded).await;
    assert_eq!(loaded.plugin.stuck(), 1);
    until(|| loaded.plugin.stuck() == 0).await;
    assert!(is_quiet(&loaded.request().await));
    // On a worker the same holds the thread that runs it for as long as it takes.
    let limits = HookLimits {
        wall,
        ..HookLimits::default()
    };
    let held = self::loaded(STUCK, limits, 1);
    let begun = tokio::time::Instant::now();
    let _any = held.plugin.call(Hook::Request, attack()).await;
    assert!(begun.elapsed() > wall, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn stuck_threads_are_bounded() {
    let loaded = on_threads(STUCK, Duration::from_millis(50), 1);
    until_full(&loaded).await;
    assert_eq!(loaded.plugin.stuck(), crate::threads::MAX_STUCK);
    let refused = tokio::select! {
        biased;
        refused = loaded.request() => refused,
        () = std::future::ready(()) => panic!("the request waits for a thread"),
    };
    let failure = refused.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Stuck, "{failure:?}");
    until(|| loaded.plugin.stuck() == 0).await;
    until_quiet(&loaded).await;
}

#[tokio::test]
async fn one_client_leaves_threads_to_others() {
    let wall = Duration::from_millis(100);
    let loaded = on_threads(STUCK, wall, 1);
    for _ in 0..20 {
        let attacked = loaded.plugin.call(Hook::Request, attack()).await;
        let failure = attacked.expect_err("it does not end");
        assert_eq!(failure.kind, FailureKind::Stuck, "{failure:?}");
        assert!(!loaded.plugin.is_out_of_threads());
        // Other clients are served, except while a thread is being started.
        until_quiet(&loaded).await;
        if failure.message.contains("this client already holds") {
            return;
        }
    }
    panic!("it holds as many as it likes");
}

async fn until_full(loaded: &Loaded) {
    let attacks = async {
        for number in (0..4).cycle() {
            let attacked = loaded.plugin.call(Hook::Request, attack_of(number)).await;
            attacked.expect_err("it does not end");
            if loaded.plugin.is_out_of_threads() {
                break;
            }
        }
    };
    let attacks = tokio::time::timeout(SOON, attacks).await;
    attacks.expect("each attack holds a thread");
}

#[tokio::test]
async fn an_abandoned_hook_leaves_nothing_behind() {
    let text = "let count = 0;
        export async function onRequest(req) {
            if (req.method === 'POST') { count += 1; await new Promise((keep) => setTimeout(keep, 60000)); }
            return new Response(String(count));
        }";
    let loaded = on_threads(text, Duration::from_secs(20), 1);
    for _ in 0..3 {
        let call = loaded.plugin.call(Hook::Request, attack());
        let abandoned = tokio::time::timeout(Duration::from_millis(30), call).await;
        assert!(abandoned.is_err());
    }
    let output = loaded.request().await.unwrap();
    let HookResult::Response(response) = output.result else {
        panic!("no response");
    };
    // The same instance as before: it did not count as stuck.
    assert_eq!(response.body, "3");
}
