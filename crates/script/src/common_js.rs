//! Values of configuration files that are `CommonJS` modules, such as `ecosystem.config.js`: each
//! runs in an engine of its own, which has no files, no network and little time.

use std::time::Duration;

use rquickjs::{CatchResultExt, Context, Runtime};
use serde_json::Value;

use crate::base::clock::Clock;

const MAX_MEMORY: usize = 32 << 20;
const MAX_STACK: usize = 256 << 10;
const MAX_TIME: Duration = Duration::from_millis(500);

/// Runs `source`. Other modules are stand-ins that accept every use, except for the few functions
/// of `path` that such files call.
const RUN: &str = r"
(() => {
  const text = () => '';
  const stub = new Proxy(function () {}, {
    get: (_, name) => (name === Symbol.toPrimitive || name === 'toString' ? text : stub),
    apply: () => stub,
    construct: () => stub,
  });
  const join = (...parts) => parts.map(String).join('/').replace(/\/(\.\/)+/g, '/').replace(/\/+/g, '/');
  const path = { join, resolve: join, dirname: (at) => String(at).replace(/\/[^/]*$/, '') };
  const require = (name) => (/^(node:)?path$/.test(name) ? path : stub);
  const process = { env: {}, argv: [], platform: 'linux', cwd: () => '.' };
  const module = { exports: {} };
  const run = new Function('module', 'exports', 'require', 'process', '__dirname', '__filename', source);
  run(module, module.exports, require, process, '.', './config.js');
  return JSON.stringify(module.exports) ?? 'null';
})()
";

/// Returns the exports of a module that JSON can hold.
///
/// # Errors
///
/// The engine's message, if the module throws or takes too long.
pub fn exports(source: &str) -> Result<Value, String> {
    // A module by the newer syntax has the same content.
    let source = match source.find("export default") {
        Some(at) => {
            let (before, after) = source.split_at(at);
            format!(
                "{before}module.exports ={}",
                &after["export default".len()..]
            )
        }
        None => source.to_owned(),
    };
    let engine = |error: rquickjs::Error| error.to_string();
    let runtime = Runtime::new().map_err(engine)?;
    runtime.set_memory_limit(MAX_MEMORY);
    runtime.set_max_stack_size(MAX_STACK);
    let clock = Clock::machine();
    let end = clock.now() + MAX_TIME;
    runtime.set_interrupt_handler(Some(Box::new(move || clock.now() > end)));
    let context = Context::full(&runtime).map_err(engine)?;
    let json = context.with(|ctx| {
        ctx.globals().set("source", source).map_err(engine)?;
        let text: Result<String, _> = ctx.eval::<String, _>(RUN).catch(&ctx);
        text.map_err(|error| error.to_string())
    })?;
    serde_json::from_str(&json).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_module_is_what_it_exports() {
        let apps = json!({ "apps": [{ "name": "web", "port": 3001 }] });
        for source in [
            "module.exports = { apps: [{ name: 'web', port: 3000 + 1 }] }",
            "const apps = [{ name: 'web', port: 3001 }];\nmodule.exports = { apps };",
            "exports.apps = [{ name: `we${'b'}`, port: Number(process.env.PORT || 3001) }];",
            "export default { apps: [{ name: 'web', port: 3001 }] };\n",
        ] {
            assert_eq!(exports(source), Ok(apps.clone()), "{source}");
        }
        let source = "const path = require('path'); require('dotenv').config().parsed;\n\
                      module.exports = { cwd: path.join(__dirname, 'web'), run() {} };";
        assert_eq!(exports(source), Ok(json!({ "cwd": "./web" })));
    }

    #[test]
    fn a_module_that_fails_or_never_ends_is_an_error() {
        let thrown = exports("throw new Error('no such thing')").unwrap_err();
        assert!(thrown.contains("no such thing"), "{thrown}");
        for source in [
            "for (;;) {}",
            "module.exports = {",
            "let a = []; for (;;) a.push(a.slice())",
        ] {
            assert!(exports(source).is_err(), "{source}");
        }
    }
}
