//! Presets: configurations that a file extends with `extends: preset:NAME`.

use crate::tree::{Node, Value};

/// A preset, whose text is a configuration without listeners.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    pub name: &'static str,
    /// The kind of site that it is for, in a few words.
    pub about: &'static str,
    pub text: &'static str,
    /// True if listeners need TLS, unless the file accepts plain HTTP.
    pub requires_tls: bool,
    pub(crate) needs: &'static [Need],
}

/// A setting that only the user can know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    pub(crate) message: &'static str,
    pub(crate) help: &'static str,
    /// Returns the nodes that lack the setting, in the merged tree.
    pub(crate) lacking: fn(&Node) -> Vec<&Node>,
}

/// Every preset.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "small",
        about: "one machine with a front end and an API; TLS is optional",
        text: include_str!("small.yaml"),
        requires_tls: false,
        needs: &[],
    },
    Preset {
        name: "api",
        about: "an API of services behind JSON Web Tokens",
        text: include_str!("api.yaml"),
        requires_tls: true,
        needs: &[
            Need {
                message: "the route `auth` of this preset needs the keys of tokens",
                help: "write `routes: [{ name: auth, jwt: { keys: file:jwt.pub } }]`, or \
                       `jwt: { jwks: https://… }`; `jwt: false` counts everybody by address",
                lacking: |root| without_keys(root, "auth").into_iter().collect(),
            },
            Need {
                message: "the route `tasks` of this preset needs the keys of tokens",
                help: "write `routes: [{ name: tasks, jwt: { keys: file:jwt.pub } }]`, or \
                       `jwt: { jwks: https://… }`",
                lacking: |root| without_keys(root, "tasks").into_iter().collect(),
            },
        ],
    },
    Preset {
        name: "portal",
        about: "a Next.js site with protected areas and videos, behind a CDN",
        text: include_str!("portal.yaml"),
        requires_tls: true,
        needs: &[
            Need {
                message: "the route `admin` of this preset needs the keys of tokens",
                help: "write `routes: [{ name: admin, jwt: { keys: file:jwt.pub } }]`, or \
                       `jwt: false` if the app alone protects it",
                lacking: |root| without_keys(root, "admin").into_iter().collect(),
            },
            Need {
                message: "the route `manifest` of this preset needs the keys of tokens",
                help: "write `routes: [{ name: manifest, jwt: { keys: file:player.pub } }]`, or \
                       `jwt: false` if there are no protected videos",
                lacking: |root| without_keys(root, "manifest").into_iter().collect(),
            },
        ],
    },
    Preset {
        name: "regulated",
        about: "health data or payments: access control, audit log, nothing cached but files",
        text: include_str!("regulated.yaml"),
        requires_tls: true,
        needs: &[],
    },
    Preset {
        name: "shop",
        about: "a shop of five services on several gateways, ready for peaks",
        text: include_str!("shop.yaml"),
        requires_tls: true,
        needs: &[Need {
            message: "the limits of this preset are shared by all gateways, in Redis",
            help: "write `redis: { url: \"redis://127.0.0.1:6379\", secret: file:redis-secret }`; \
                   for one gateway alone write \
                   `rate_limits: { burst: { store: memory }, window: { store: memory } }`",
            lacking: without_redis,
        }],
    },
    Preset {
        name: "nextjs",
        about: "a Next.js app: its caching rules, and limits that exempt files and prefetches",
        text: include_str!("nextjs.yaml"),
        requires_tls: true,
        needs: &[],
    },
];

/// Returns a preset by its name.
pub fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// Returns the `jwt` of a route if it has no keys.
fn without_keys<'n>(root: &'n Node, route: &str) -> Option<&'n Node> {
    let is_named = |item: &&Node| item.get("name").and_then(Node::text) == Some(route);
    let jwt = root.items("routes").iter().find(is_named)?.get("jwt")?;
    let has_keys = || jwt.get("keys").is_some() || jwt.get("jwks").is_some();
    (matches!(jwt.value, Value::Map(_)) && !has_keys()).then_some(jwt)
}

/// Returns the limits in Redis if there is no Redis.
fn without_redis(root: &Node) -> Vec<&Node> {
    if root.get("redis").is_some() {
        return Vec::new();
    }
    let limits = root.get("rate_limits").map_or(&[][..], Node::entries);
    let is_in_redis = |limit: &&Node| limit.get("store").and_then(Node::text) == Some("redis");
    limits
        .iter()
        .map(|(_, limit)| limit)
        .filter(is_in_redis)
        .collect()
}
