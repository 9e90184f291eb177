//! Strings that a regular expression matches, for the shapes' own expressions: literals, classes,
//! groups, alternatives and repetitions. A look-ahead is left out, so not each sample matches.

/// Reader of an expression that writes a sample as it goes.
struct Sampler<'a> {
    pattern: &'a [char],
    at: usize,
    random: &'a mut fastrand::Rng,
}

/// Returns a string that `pattern` probably matches.
pub(super) fn sample(pattern: &str, random: &mut fastrand::Rng) -> String {
    let letters: Vec<char> = pattern.chars().collect();
    let mut sampler = Sampler {
        pattern: &letters,
        at: 0,
        random,
    };
    let text = sampler.alternatives();
    const MORE: [&str; 3] = ["more", "env", "git/config"];
    if pattern.ends_with('$') {
        return text;
    }
    text + MORE[random.usize(..MORE.len())]
}

impl Sampler<'_> {
    fn peek(&self) -> Option<char> {
        self.pattern.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += 1;
        next
    }

    /// Reads up to the end of a group, and keeps one of its alternatives.
    fn alternatives(&mut self) -> String {
        let mut all = vec![self.sequence()];
        while self.peek() == Some('|') {
            self.at += 1;
            all.push(self.sequence());
        }
        all.swap_remove(self.random.usize(..all.len()))
    }

    fn sequence(&mut self) -> String {
        let mut text = String::new();
        while let Some(next) = self.peek() {
            if matches!(next, '|' | ')') {
                break;
            }
            let from = self.at;
            let once = self.atom();
            let after = self.at;
            let times = self.times();
            for number in 0..times {
                if number == 0 {
                    text.push_str(&once);
                    continue;
                }
                let end = std::mem::replace(&mut self.at, from);
                text.push_str(&self.atom());
                debug_assert_eq!(self.at, after);
                self.at = end;
            }
        }
        text
    }

    fn times(&mut self) -> usize {
        let (least, most) = match self.peek() {
            Some('?') => (0, 1),
            Some('*') => (0, 3),
            Some('+') => (1, 3),
            Some('{') => {
                let rest = self.pattern[self.at + 1..].iter();
                let inner: String = rest.take_while(|letter| **letter != '}').collect();
                self.at += inner.chars().count() + 1;
                let mut numbers = inner.split(',').map(|number| number.parse().unwrap_or(3));
                let least = numbers.next().unwrap_or(1);
                (least, numbers.next().unwrap_or(least))
            }
            _ => return 1,
        };
        self.at += 1;
        if self.peek() == Some('?') {
            self.at += 1;
        }
        self.random.usize(least..=most)
    }

    fn atom(&mut self) -> String {
        match self.next() {
            Some('(') => self.group(),
            Some('[') => self.class(),
            Some('.') => self.one_of("abz09-"),
            Some('^' | '$') | None => String::new(),
            Some('\\') => match self.next() {
                Some('d') => self.one_of("0123456789"),
                Some('w') => self.one_of("abcXYZ019_"),
                Some('s') => " ".to_owned(),
                Some('b' | 'B') | None => String::new(),
                Some(literal) => literal.to_string(),
            },
            Some(literal) => literal.to_string(),
        }
    }

    fn group(&mut self) -> String {
        let mut is_look_around = false;
        if self.peek() == Some('?') {
            self.at += 1;
            match (self.next(), self.peek()) {
                (Some('!' | '='), _) | (Some('<'), Some('!' | '=')) => is_look_around = true,
                (Some('<' | 'P'), _) => while !matches!(self.next(), None | Some('>')) {},
                _ => {}
            }
        }
        let text = self.alternatives();
        self.at += 1;
        if is_look_around { String::new() } else { text }
    }

    fn class(&mut self) -> String {
        let is_negated = self.peek() == Some('^');
        let mut members = String::new();
        while let Some(next) = self.next() {
            if next == ']' {
                break;
            }
            match (next, self.peek()) {
                ('\\', Some('d')) => members.push_str("059"),
                ('\\', Some('w')) => members.push_str("az_9"),
                ('\\', Some(literal)) => members.push(literal),
                (from, Some('-')) if self.pattern.get(self.at + 1) != Some(&']') => {
                    self.at += 1;
                    members.push(from);
                    members.extend(self.next());
                    continue;
                }
                _ => {
                    members.push(next);
                    continue;
                }
            }
            self.at += 1;
        }
        if is_negated {
            return self.one_of("abz09");
        }
        self.one_of(&members)
    }

    fn one_of(&mut self, letters: &str) -> String {
        let all: Vec<char> = letters.chars().collect();
        all[self.random.usize(..all.len())].to_string()
    }
}

#[test]
fn samples_match_their_expression() {
    let mut random = fastrand::Rng::with_seed(7);
    for pattern in [
        "^/old/(.*)$",
        r"\.(?:jpe?g|png|webp)$",
        r"^/u/(?<name>[a-z0-9_-]+)/(\d{4})/?$",
        "^/a|^/b+[^/]*$",
    ] {
        let expression = regex::Regex::new(pattern).expect("it is valid");
        for _ in 0..50 {
            let text = sample(pattern, &mut random);
            assert!(expression.is_match(&text), "{pattern}: {text}");
        }
    }
}
