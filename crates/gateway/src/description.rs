//! Descriptions of routes: in one line for display, and their paths for traces.

use edgeway_base::secret;
use edgeway_config::{
    model::{MatchConfig, OneOrMany},
    tree::Spanned,
};

/// Returns what a route's requests have in common, for traces: its path, or else its name.
pub(super) fn template(config: &MatchConfig, name: &str) -> Box<str> {
    match &config.path.0[..] {
        [path] => path.value.as_str().into(),
        _ => name.into(),
    }
}

/// Returns the match of a route in one line, for display.
pub(super) fn describe(config: &MatchConfig) -> String {
    let texts = |list: &OneOrMany<Spanned<String>>| {
        let texts: Vec<&str> = list.0.iter().map(|text| text.value.as_str()).collect();
        texts.join(",")
    };
    if config.named {
        return "by its name alone".to_owned();
    }
    let path = match (&config.path_regex, &config.location) {
        (Some(regex), _) => format!("~{}", regex.value),
        (None, Some(location)) => {
            let around = config.within.0.iter();
            let around: String = around.flat_map(|outer| [&*outer.value, " > "]).collect();
            format!(" location {around}{}", location.value)
        }
        (None, None) if config.path.0.is_empty() => "/*".to_owned(),
        (None, None) => texts(&config.path),
    };
    let mut words = vec![
        texts(&config.method),
        format!("{}{path}", texts(&config.host)),
    ];
    if !config.listener.0.is_empty() {
        words.push(format!("listener {}", texts(&config.listener)));
    }
    for (kind, demands) in [
        ("header", &config.header),
        ("query", &config.query),
        ("cookie", &config.cookie),
    ] {
        for (name, value) in demands {
            let value = secret::shown(name, &value.value);
            words.push(format!("{kind} {name}={value}"));
        }
    }
    words.retain(|word| !word.is_empty());
    words.join(" ")
}
