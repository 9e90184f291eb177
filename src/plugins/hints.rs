//! Hints on alternatives to APIs that authors know from elsewhere and that are missing here.

/// Returns a hint about an error of the engine, if there is one.
pub(super) fn of(message: &str) -> Option<&'static str> {
    if let Some(name) = message.strip_suffix(" is not defined") {
        return of_name(name);
    }
    if message.starts_with("Could not find export") && message.ends_with("'next/server'") {
        return Some(
            "`next/server` has NextRequest and NextResponse here, and types are imported by `import type`",
        );
    }
    if message.starts_with("Could not find export") && message.ends_with("'edgeway:test'") {
        return Some("it has `test`, `plugin` and `assert`");
    }
    None
}

fn of_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "module" | "exports" | "require" | "__dirname" | "__filename" => {
            "a plugin is an ES module, with `import` and `export`: a bundler makes one of CommonJS"
        }
        "process" => {
            "nothing of Node is there, and `ctx.env` has the variables that the configuration names in `env`"
        }
        "Buffer" => {
            "nothing of Node is there: bytes are a Uint8Array, and `atob` and `btoa` know base64"
        }
        "global" | "setImmediate" | "setInterval" => {
            "there are `globalThis`, `setTimeout` and `ctx.waitUntil`"
        }
        "addEventListener" => "a plugin exports its hooks, such as `onRequest`",
        "ReadableStream" | "WritableStream" | "TransformStream" => {
            "there are no streams: what an answer is made of is text or bytes"
        }
        "Request" => {
            "only tests make requests: `NextRequest` is the class of the one under way, and `fetch` takes a URL and options"
        }
        _ => return None,
    })
}
