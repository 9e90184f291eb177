//! Plugins that reach beyond their request: key-value stores, and `fetch` of the gateway itself.

use std::{collections::HashMap, fs};

use serde_json::{Value, json};

use crate::support::{
    client::{get, post},
    gateway::Gateway,
    redis::Redis,
    seed,
};

/// Starts a gateway with a plugin in the folder of each name.
async fn start(yaml: &str, names: &[&str], plugin: &str) -> Gateway {
    Gateway::start_in(yaml, |folder| {
        for name in names {
            fs::create_dir(folder.join(name)).expect("the folder is ours");
            fs::write(folder.join(name).join("plugin.js"), plugin).expect("the folder is ours");
        }
    })
    .await
}

/// Invariant: of one request follow five others at most, whatever the client sends and the plugin
/// copies.
#[tokio::test]
async fn a_plugin_that_fetches_itself_ends() {
    let plugin = "export const onRequest = async (request) => {
        const way = request.headers.get('cdn-loop');
        request.headers.delete('cdn-loop');
        if (request.url.endsWith('/reset')) return Object.defineProperty(new Response('x'), 'status', { value: 205 });
        try {
            const inner = await fetch(`http://${request.headers.get('host')}/`, { headers: { 'cdn-loop': 'x' } });
            return new Response(await inner.text());
        } catch (error) {
            return Response.json([error.name, error.message, way]);
        }
    };";
    let yaml = |origin: &str| {
        format!(
            "routes: [{{ match: {{ path: /* }}, respond: ok, plugins: [{{ file: x/plugin.js, \
             on_error: refuse, fetch: {{ origins: ['{origin}'], deadline: 5s }}, \
             limits: {{ cpu: 50ms, wall: 5s }} }}] }}]\n"
        )
    };
    let gateway = start(&yaml("http://127.0.0.1:1"), &["x"], plugin).await;
    let origin = format!("http://{}", gateway.address());
    assert!(gateway.reload(&yaml(&origin)).await);
    let request = get("/").header("cdn-loop", "other.test; v=1, edgeway, edgeway, edgeway");
    let ended = gateway.send(&request).await.json();
    assert_eq!(ended[0], "TypeError", "{ended}");
    let message = ended[1].as_str().expect("it has one");
    assert!(message.contains("one behind the other"), "{message}");
    let way: Vec<_> = ended[2].as_str().expect("it has one").split(", ").collect();
    assert_eq!(
        way[..4],
        ["other.test; v=1", "edgeway", "edgeway", "edgeway"]
    );
    assert_eq!(way.len(), 9, "{way:?}");
    assert_eq!(gateway.log_lines(6).await.len(), 6);
    // RFC 9110, 15.3.6: it has no content, whatever a plugin makes of it.
    let reset = gateway.get("/reset").await;
    assert_eq!((reset.status(), reset.text().as_str()), (205, ""));
    assert_eq!(reset.header("content-length"), Some("0"));
}

/// Invariant: the same operations give the same results in either store, and keys that expire are
/// those that were made with a `ttl`.
#[tokio::test]
async fn values_in_redis_are_those_in_memory() {
    let redis = Redis::start().await;
    let plugin = "export const onRequest = async (request, ctx) => {
        const results = [];
        for (const [operation, ...rest] of await request.json()) {
            try {
                results.push((await ctx.kv[operation](...rest)) ?? null);
            } catch (error) {
                results.push(error.message);
            }
        }
        return Response.json(results);
    };";
    let route = |name: &str, store: &str| {
        format!(
            "  - {{ match: {{ path: /{name} }}, respond: ok, plugins: [{{ file: {name}/plugin.js, \
             on_error: refuse, body: {{}}, kv: {store}, limits: {{ cpu: 1s, wall: 10s }} }}] }}\n"
        )
    };
    let section = format!("redis: {}", redis.section(", timeout: 1s"));
    let routes = [route("remote", "redis"), route("local", "memory")].concat();
    let names = ["remote", "local"];
    let gateway = start(&format!("{section}\nroutes:\n{routes}"), &names, plugin).await;
    let mut random = fastrand::Rng::with_seed(seed::drawn());
    let mut expires: HashMap<usize, bool> = HashMap::new();
    let largest = (1_i64 << 53) - 1;
    let values = [
        json!(0),
        json!(-1),
        json!(largest),
        json!("5"),
        json!(1.5),
        json!(1e300),
        json!(null),
    ];
    let operations = (0..500).map(|_| {
        let key = random.usize(..6);
        let (name, ttl) = (key.to_string(), random.bool());
        let options = if ttl {
            json!({ "ttl": 3600 })
        } else {
            json!({})
        };
        match random.usize(..8) {
            0 => json!(["get", name]),
            1 => {
                expires.remove(&key);
                json!(["delete", name])
            }
            2 | 3 => {
                expires.insert(key, ttl);
                json!(["put", name, random.choice(&values), options])
            }
            _ => {
                expires.entry(key).or_insert(ttl);
                let by = [0, 1, -3, largest, -largest][random.usize(..5)];
                json!(["increment", name, by, options])
            }
        }
    });
    let operations = Value::Array(operations.collect());
    let mut results = Vec::new();
    for name in names {
        let request = post(&format!("/{name}"), operations.to_string());
        let request = request.header("content-type", "application/json");
        let response = gateway.send(&request).await;
        assert_eq!(response.status(), 200, "{}", response.text());
        results.push(response.json());
    }
    for ((operation, remote), local) in operations
        .as_array()
        .into_iter()
        .flatten()
        .zip(results[0].as_array().expect("a list"))
        .zip(results[1].as_array().expect("a list"))
    {
        assert_eq!(remote, local, "{operation}");
    }
    assert!(results[0].to_string().contains("not an integer"));
    for (key, expires) in expires {
        let left = redis.cli(&["pttl", &format!("edgeway:kv:6:remote:{key}")]);
        assert_eq!(left.trim() != "-1", expires, "{key}: {left}");
    }
    // A value that is no number is no fault of Redis.
    let errors = gateway
        .count(r#"edgeway_redis_errors_total{kind="response"}"#)
        .await;
    assert_eq!(errors, 0);
}
