//! Patterns given to regular expressions, and hooks that return after their limits.

use super::*;

const MAX_PATTERN: usize = 8192;

/// Each of these reads a pattern from the request (`X-Pattern`), some as a flag or twice.
const WAYS: [&str; 9] = [
    "new RegExp(text)",
    "RegExp(text, 'i')",
    "/x/.constructor(text)",
    "new (class extends RegExp {})(text)",
    "Reflect.construct(RegExp, [{ toString: () => text }])",
    "/x/.compile(text)",
    "'abc'.match(text)",
    "[...'abc'.matchAll(text)]",
    "'abc'.search({ toString: () => text })",
];

/// Returns a pattern of this kind and about this length.
fn pattern(kind: u8, length: usize) -> String {
    let part = match kind {
        0 => "a",
        1 => "a|",
        2 => "(a)",
        3 => "[a-z]",
        4 => "a{1,9}",
        5 => "(?:a*)*",
        6 => "\\u{1F600}",
        7 => "(?=a)",
        _ => "(?<!a)b?",
    };
    part.repeat(length.div_ceil(part.len()))
}

fn asking(text: &str) -> Input {
    let mut input = input();
    // Not in a header: headers have a limit of their own.
    input.body = Body::Whole(text.to_owned().into());
    input
}

/// Whatever its length and kind, a pattern holds the worker no longer than the limit.
#[tokio::test]
async fn no_pattern_holds_a_worker() {
    let mut random = fastrand::Rng::with_seed(edgeway_testkit::drawn());
    for _ in 0..edgeway_testkit::cases(30, 60) {
        let way = random.choice(WAYS).expect("there are some");
        let length = match random.u8(..3) {
            0 => random.usize(1..64),
            1 => random.usize(64..MAX_PATTERN),
            _ => random.usize(MAX_PATTERN..1_000_000),
        };
        let text = pattern(random.u8(..9), length);
        let code = format!(
            "export async function onRequest(req) {{ const text = await req.text(); {way}; return new Response('read'); }}"
        );
        let limits = HookLimits {
            cpu: Duration::from_millis(50),
            memory: 64 << 20,
            ..HookLimits::default()
        };
        let loaded = load_within(
            &[("plugin.js", &code)],
            "{}",
            limits,
            capabilities::Capabilities::default(),
        );
        let loaded = loaded.unwrap_or_else(|failure| panic!("{way}: {failure:?}"));
        let begun = super::super::budget::thread_time();
        let outcome = loaded.plugin.call(Hook::Request, asking(&text)).await;
        let took = Duration::from_nanos(super::super::budget::thread_time() - begun);
        let what = format!("{way} with {} of {:.20}…", text.len(), text);
        assert!(took < Duration::from_secs(2), "{what}: {took:?}");
        if text.len() > MAX_PATTERN {
            let failure = outcome.expect_err(&what);
            let why = format!(
                "at most {MAX_PATTERN} characters, and this one has {}",
                text.len()
            );
            assert!(failure.message.contains(&why), "{what}: {failure:?}");
        } else if let Err(failure) = outcome {
            assert!(
                matches!(failure.kind, FailureKind::Cpu | FailureKind::Script),
                "{what}: {failure:?}"
            );
        }
    }
}

/// Ordinary regular expressions behave as in any engine.
#[tokio::test]
async fn regular_expressions_behave_as_in_other_engines() {
    let text = r"export function onRequest() {
        const re = /a(b)?/gi;
        const made = class extends RegExp { test(text) { return !super.test(text); } };
        const all = [
            RegExp(re) === re, new RegExp(re) !== re, new RegExp(re, 'y').flags === 'y',
            re instanceof RegExp, re.constructor === RegExp, RegExp.prototype === Object.getPrototypeOf(re),
            RegExp.name === 'RegExp', RegExp.length === 2, String.prototype.match.length === 1,
            String.prototype.match.name === 'match', !Object.keys(String.prototype).length,
            String(new RegExp('a/b', 'g')) === '/a\\/b/g', String(RegExp()) === '/(?:)/',
            'xabAB'.match(re).join() === 'ab,AB', 'xab'.match('b')[0] === 'b', 'x'.match() !== null,
            'xabab'.search('ba') === 2, 'a1b2'.replace(/\d/g, '_') === 'a_b_', 'a,b;c'.split(/[,;]/).join('') === 'abc',
            [...'a1b22'.matchAll(/\d+/g)].join() === '1,22', [...'aXbX'.matchAll('X')].length === 2,
            'abc'.search({ [Symbol.search]: () => 7 }) === 7, new made('a').test('b'), new made('a') instanceof made,
            new RegExp({ [Symbol.match]: true, source: 'q', flags: 'g' }).flags === 'g', null + '' === 'null'.match(null)[0],
            (() => { try { new RegExp('('); } catch (error) { return error instanceof SyntaxError; } })(),
            (() => { try { 'a'.matchAll(/a/); } catch (error) { return error instanceof TypeError; } })(),
            (() => { try { String.prototype.match.call(null, 'a'); } catch (error) { return error instanceof TypeError; } })(),
            /x/.compile('y', 'g').source === 'y', Reflect.construct(RegExp, ['a'], Date) instanceof Date,
        ];
        return new Response(all.map((is, at) => (is ? '' : String(at))).filter(Boolean).join());
    }";
    let output = load_slow(&[("plugin.js", text)]).request().await.unwrap();
    let HookResult::Response(response) = output.result else {
        panic!("no response");
    };
    assert_eq!(response.body, "", "these are not");
}

/// A call of a native function that the engine cannot interrupt, and that returns.
#[tokio::test]
async fn a_hook_that_returned_after_its_limit_has_failed_and_changed_nothing() {
    let text = "const [text, part] = ['y'.repeat(20000), 'y'.repeat(10000) + 'x'];
        export function onRequest(req) {
            req.headers.set('x-seen', '1');
            if (req.method === 'POST') text.indexOf(part);
        }";
    let over = HookLimits {
        cpu: Duration::from_millis(1),
        ..HookLimits::default()
    };
    let patient = HookLimits {
        cpu: Duration::from_mins(1),
        wall: Duration::from_millis(1),
        ..HookLimits::default()
    };
    let enough = HookLimits {
        cpu: Duration::from_mins(1),
        wall: Duration::from_mins(1),
        ..HookLimits::default()
    };
    for (limits, wanted) in [
        (over, Some(FailureKind::Cpu)),
        (patient, Some(FailureKind::Wall)),
        // The control.
        (enough, None),
    ] {
        let limits = HookLimits {
            load: Duration::from_secs(5),
            ..limits
        };
        let capabilities = capabilities::Capabilities::default();
        let loaded = load_within(&[("plugin.js", text)], "{}", limits, capabilities);
        let loaded = loaded.unwrap_or_else(|failure| panic!("{failure:?}"));
        let slow = Input {
            method: Method::POST,
            ..input()
        };
        let outcome = loaded.plugin.call(Hook::Request, slow).await;
        let kind = outcome.as_ref().err().map(|failure| failure.kind);
        assert_eq!(kind, wanted, "{outcome:?}");
    }
}
