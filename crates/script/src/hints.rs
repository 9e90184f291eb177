//! Hints on alternatives to APIs that authors know from elsewhere and that are missing here.

/// Returns a hint about an error of the engine, if there is one.
pub(super) fn find(message: &str) -> Option<&'static str> {
    if let Some(name) = message.strip_suffix(" is not defined") {
        return of_name(name);
    }
    if message.starts_with("Could not find export") && message.ends_with("'next/server'") {
        return Some(
            "`next/server` exports NextRequest and NextResponse; import types with `import type`",
        );
    }
    if message.starts_with("Could not find export") && message.ends_with("'edgeway:test'") {
        return Some("it exports `test`, `plugin` and `assert`");
    }
    None
}

fn of_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "module" | "exports" | "require" | "__dirname" | "__filename" => {
            "a plugin is an ES module, with `import` and `export`: convert CommonJS with a bundler"
        }
        "process" => {
            "Node.js APIs are not available; `ctx.env` has the variables that the configuration \
             lists in `env`"
        }
        "Buffer" => {
            "Node.js APIs are not available: use Uint8Array for bytes, and `atob` and `btoa` for \
             base64"
        }
        "global" | "setImmediate" | "setInterval" => {
            "use `globalThis`, `setTimeout` and `ctx.waitUntil`"
        }
        "addEventListener" => "a plugin exports its hooks, such as `onRequest`",
        "ReadableStream" | "WritableStream" | "TransformStream" => {
            "streams are not available: a response body is text or bytes"
        }
        "Request" => {
            "only tests create requests: `NextRequest` is the class of the current one, and \
             `fetch` takes a URL and options"
        }
        _ => return None,
    })
}
