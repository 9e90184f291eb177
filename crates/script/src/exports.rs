//! Exports of a plugin: an export that nothing would call or read is an error at load time.

use rquickjs::{Ctx, Exception, Object, Result, Value};

use super::call::Hook;

/// Other names accepted for `onRequest`.
pub(super) const ALIASES: [&str; 3] = ["proxy", "middleware", "default"];

/// Keys that Next.js has in `config` beside the matcher. They choose runtimes and regions there;
/// here there is only one.
const WITHOUT_MEANING: [&str; 3] = ["runtime", "regions", "unstable_allowDynamic"];

/// Edit distance at which a name that begins like a hook's is taken for it. The distance used for
/// keys of a configuration, which are all known, would take `sendResponse` for a hook, and `log`,
/// `error` or `route`.
const MAX_EDIT_DISTANCE: usize = 2;

/// Refuses exports that the author cannot have meant.
pub(super) fn demand<'js>(ctx: &Ctx<'js>, namespace: &Object<'js>) -> Result<()> {
    let refuse = |why: &str| Err(Exception::throw_message(ctx, why));
    for name in namespace.keys::<String>() {
        let name = name?;
        let value: Value<'js> = namespace.get(&*name)?;
        let is_hook = Hook::ALL.iter().any(|hook| hook.name() == name);
        if is_hook && !value.is_function() {
            return refuse(&format!("its export `{name}` is not a function"));
        }
        if name == "transform" && value.is_function() {
            return refuse(
                "it exports `transform`, which nothing calls: plugins do not change response \
                 bodies; remove or rename it",
            );
        }
        if name == "default"
            && let Some(object) = value.as_object().filter(|_| !value.is_function())
        {
            let calls = |name: &str| object.get::<_, Value<'_>>(name).map(|v| v.is_function());
            if calls("fetch")? {
                return refuse(
                    "its default export is an object with `fetch`: write `export function \
                     onRequest(request, ctx)`, which returns a Response, or nothing to pass the \
                     request on",
                );
            }
            for hook in Hook::ALL {
                if calls(hook.name())? {
                    let hook = hook.name();
                    return refuse(&format!(
                        "its default export is an object with `{hook}`, which nothing calls: write \
                         `export function {hook}(…)`"
                    ));
                }
            }
        }
        if !is_hook && value.is_function() {
            if let Some(hook) = meant(&name) {
                return refuse(&format!(
                    "it exports the unknown hook `{name}`: did you mean `{hook}`?"
                ));
            }
            if is_named_as_a_hook(&name) {
                let all = Hook::ALL.map(Hook::name).join(", ");
                return refuse(&format!(
                    "it exports the unknown hook `{name}`, which nothing calls; the hooks are {all}"
                ));
            }
        }
    }
    Ok(())
}

/// Returns the exported `config.matcher` as JSON.
pub(super) fn matcher<'js>(ctx: &Ctx<'js>, namespace: &Object<'js>) -> Result<Option<String>> {
    let refuse = |why: &str| Err(Exception::throw_message(ctx, why));
    let config: Value<'js> = namespace.get("config")?;
    let Some(config) = config.as_object() else {
        return Ok(None);
    };
    for key in config.keys::<String>() {
        let key = key?;
        if key != "matcher" && !WITHOUT_MEANING.contains(&&*key) {
            return refuse(&format!(
                "unknown `config.{key}`: the export `config` has only `matcher`; `config` of the \
                 YAML is `ctx.config`"
            ));
        }
    }
    let matcher: Value<'js> = config.get("matcher")?;
    if matcher.is_undefined() {
        return Ok(None);
    }
    match ctx.json_stringify(matcher)? {
        Some(json) => json.to_string().map(Some),
        None => {
            refuse("`config.matcher` must be a path such as `/about/:path*`, or a list of paths")
        }
    }
}

/// Returns the hook that a misspelled name must have meant.
fn meant(name: &str) -> Option<&'static str> {
    if ALIASES.contains(&name) {
        return None;
    }
    let hooks = Hook::ALL.map(Hook::name);
    let lower = name.to_ascii_lowercase();
    let mut all = hooks.iter().chain(&ALIASES[..2]);
    if let Some(same) = all.find(|known| known.eq_ignore_ascii_case(name)) {
        return Some(same);
    }
    let far = |hook: &&'static str| strsim::osa_distance(&hook.to_ascii_lowercase(), &lower);
    let nearest = hooks.into_iter().min_by_key(far)?;
    (lower.starts_with('o') && far(&nearest) <= MAX_EDIT_DISTANCE).then_some(nearest)
}

fn is_named_as_a_hook(name: &str) -> bool {
    let rest = name.strip_prefix("on");
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()))
}
