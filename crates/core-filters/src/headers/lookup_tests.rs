//! Lookup tables in values.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use edgeway_config::tree;
use edgeway_core::chain::{
    CompileContext, Shared,
    testkit::{FilterCheck, check_with, refused_with},
};
use edgeway_routes::values::{MapConfig, Maps};

use super::Headers;

/// Compiles `maps` in the order of the text.
fn share(maps: &str, cx: &mut CompileContext<'_>, shared: &mut Shared) {
    let section = tree::parse(maps, 0, cx.diagnostics).expect("well formed");
    let mut all = Maps::default();
    for (name, node) in section.entries() {
        let config = tree::read::<MapConfig>(node, cx.diagnostics);
        let lookup = config.and_then(|config| config.compile(&all, cx));
        all.insert(name.name.clone(), lookup);
    }
    shared.insert(Arc::new(all));
}

#[track_caller]
fn check(maps: &str) -> FilterCheck {
    check_with::<Headers>(
        "{ request: { set: { X-Result: '{map.result}' } } }",
        |cx, shared| share(maps, cx, shared),
    )
}

#[track_caller]
fn result(check: &FilterCheck) -> Option<&str> {
    let upstream = check.last().upstream.as_ref();
    let value = upstream.expect("it was forwarded").headers.get("x-result");
    value.map(|value| value.to_str().unwrap())
}

/// Model of a regular expression.
type Matches = fn(&str) -> bool;

/// Invariant: the result is that of the equal text, without regard to case; else of the first
/// regular expression of the file that matches; else the default.
#[test]
fn a_text_counts_before_patterns_and_those_in_order() {
    let mut random = fastrand::Rng::with_seed(3);
    let words = ["a", "A", "ab", "Ab", "~a", "b", "abc", "1", ""];
    let patterns: [(&str, Matches); 5] = [
        ("~a", |text| text.contains('a')),
        ("~*a", |text| text.to_lowercase().contains('a')),
        ("~^b$", |text| text == "b"),
        ("~^.{3,}$", |text| text.len() > 2),
        ("~*^AB", |text| text.to_lowercase().starts_with("ab")),
    ];
    for _ in 0..400 {
        let mut used = patterns.to_vec();
        random.shuffle(&mut used);
        used.truncate(random.usize(0..4));
        let mut texts: Vec<&str> = words.into_iter().filter(|_| random.u8(..3) == 0).collect();
        texts.dedup_by_key(|text| text.to_lowercase());
        let mut entries: Vec<(String, String)> = Vec::new();
        for text in &texts {
            let key = text.replace('~', r"\~");
            entries.push((key, format!("is {}", text.to_lowercase())));
        }
        for (pattern, _) in &used {
            let at = random.usize(..=entries.len());
            entries.insert(at, ((*pattern).to_owned(), format!("like {pattern}")));
        }
        if entries.is_empty() {
            continue;
        }
        let default = ["", "other"][random.usize(..2)];
        let own = entries
            .iter()
            .map(|(key, result)| (key.clone(), result.clone().into()));
        let values = serde_json::Value::Object(own.collect());
        let maps = format!(
            "{{ result: {{ from: '{{query.v}}', values: {values}, default: '{default}' }} }}"
        );
        let mut filter = check(&maps);
        for word in words {
            filter = filter.get(&format!("/?v={word}"));
            let text = texts.iter().find(|text| text.eq_ignore_ascii_case(word));
            let pattern = entries.iter().find_map(|(key, result)| {
                let (_, matches) = patterns.iter().find(|(pattern, _)| pattern == key)?;
                matches(word).then(|| result.clone())
            });
            let expected = text
                .map(|text| format!("is {}", text.to_lowercase()))
                .or(pattern)
                .unwrap_or_else(|| default.to_owned());
            let expected = Some(expected).filter(|text| !text.is_empty());
            assert_eq!(result(&filter), expected.as_deref(), "{word} {maps}");
        }
    }
}

/// Returns an address as a text of bits.
fn bits(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{:032b}", address.to_bits()),
        IpAddr::V6(address) => format!("{:0128b}", address.to_bits()),
    }
}

/// Returns the address of a text of bits, which zeros complete.
fn address(bits: &str, is_v4: bool) -> IpAddr {
    if is_v4 {
        IpAddr::V4(
            u32::from_str_radix(&format!("{bits:0<32}"), 2)
                .unwrap()
                .into(),
        )
    } else {
        IpAddr::V6(
            u128::from_str_radix(&format!("{bits:0<128}"), 2)
                .unwrap()
                .into(),
        )
    }
}

/// Invariant: the result is that of the smallest network that contains the address.
#[test]
fn the_smallest_network_counts() {
    let mut random = fastrand::Rng::with_seed(4);
    let near = |random: &mut fastrand::Rng| -> IpAddr {
        if random.bool() {
            IpAddr::V4(((random.u32(..) & 0x0f00_0303) | 0x0a00_0000).into())
        } else {
            IpAddr::V6(((random.u128(..) & 0x0f0f) | (0x2001_0db8 << 96)).into())
        }
    };
    for _ in 0..100 {
        let mut networks: BTreeSet<(bool, String)> = BTreeSet::new();
        for _ in 0..random.usize(1..12) {
            let address = near(&mut random);
            let mut bits = bits(address);
            bits.truncate(random.usize(..=bits.len()));
            networks.insert((address.is_ipv4(), bits));
        }
        let text =
            |(v4, prefix): &(bool, String)| format!("{}/{}", address(prefix, *v4), prefix.len());
        let entries = networks
            .iter()
            .map(|one| format!("'{}': 'in {0}'", text(one)));
        let entries = entries.collect::<Vec<_>>().join(", ");
        let maps = format!("{{ result: {{ networks: {{ {entries} }}, default: none }} }}");
        let mut filter = check(&maps);
        for _ in 0..20 {
            let client = near(&mut random);
            filter = filter.client(|facts| facts.ip = client).get("/");
            let within = networks.iter().filter(|(v4, prefix)| {
                *v4 == client.is_ipv4() && bits(client).starts_with(prefix.as_str())
            });
            let smallest = within.max_by_key(|(_, prefix)| prefix.len());
            let expected = smallest.map_or("none".to_owned(), |one| format!("in {}", text(one)));
            assert_eq!(result(&filter), Some(&*expected), "{client} {maps}");
        }
    }
}

#[test]
fn results_and_maps_may_use_others() {
    let maps = "{ kind: { from: '{header.user-agent}', values: { '~*bot': bot }, default: person },
                 result: { from: '{map.kind} {method}', values: { bot get: 'slow {host}' } } }";
    let filter = check(maps).send("GET", "/", &[("User-Agent", "Robot"), ("Host", "a.b")], &[]);
    assert_eq!(result(&filter), Some("slow a.b"));
    let filter = filter.send(
        "GET",
        "/",
        &[("User-Agent", "curl"), ("X-Result", "forged")],
        &[],
    );
    assert_eq!(result(&filter), None);
}

#[test]
fn unknown_maps_are_reported() {
    let problems = |maps: &str, value: &str| {
        let settings = format!("{{ response: {{ set: {{ X-A: '{value}' }} }} }}");
        refused_with::<Headers>(&settings, |cx, shared| share(maps, cx, shared))
    };
    for (maps, value, expected) in [
        (
            "{ kind: { values: { a: b } } }",
            "{map.kinds}",
            "unknown map `kinds`; help: did you mean `{map.kind}`?",
        ),
        (
            "{}",
            "{map.x}",
            "unknown map `x`; help: add `x` to the section `maps`",
        ),
    ] {
        assert_eq!(problems(maps, value), [expected], "{maps}");
    }
}

#[test]
fn groups_of_the_expression_that_matched_are_in_its_result() {
    let maps = r#"
result:
  from: "{header.a}"
  values:
    '~^(?<shop>[a-z]+)\.(x|y)$': "{group.shop} of {group.2}{group.1}"
    "~*^(?<rest>z.*)?$": "<{group.rest}>"
  default: none
"#;
    for (value, expected) in [
        ("shop.x", "shop of xshop"),
        ("shop.z", "none"),
        ("Zoo", "<Zoo>"),
        ("", "<>"),
        ("a.y", "a of ya"),
    ] {
        let check = check(maps).send("GET", "/", &[("A", value)], &[]);
        assert_eq!(result(&check), Some(expected), "{value}");
    }
    for (key, group) in [("~^(a)$", "name"), ("~^(a)$", "2"), ("a", "1")] {
        let maps =
            format!("result:\n  from: '{{path}}'\n  values:\n    '{key}': '{{group.{group}}}'\n");
        // The second problem is that of the filter.
        let settings = "{ response: { set: { X-A: '{map.other}' } } }";
        let problems = refused_with::<Headers>(settings, |cx, shared| share(&maps, cx, shared));
        assert_eq!(problems.len(), 2, "{key} {group}");
    }
}
