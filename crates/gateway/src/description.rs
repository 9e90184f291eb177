//! Descriptions of routes: in one line for display, and their paths for traces.

use edgeway_config::model::MatchConfig;

/// Returns what a route's requests have in common, for traces: its path, or else its name.
pub(super) fn template(config: &MatchConfig, name: &str) -> Box<str> {
    match &config.path.0[..] {
        [path] => path.value.as_str().into(),
        _ => name.into(),
    }
}

/// Returns the match of a route in one line, for display.
pub(super) fn describe(config: &MatchConfig) -> String {
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
        (None, None) => config.path.listed(),
    };
    let mut words = vec![
        config.method.listed(),
        format!("{}{path}", config.host.listed())
            .trim_start()
            .to_owned(),
    ];
    words.extend(config.conditions());
    words.retain(|word| !word.is_empty());
    words.join(" ")
}
