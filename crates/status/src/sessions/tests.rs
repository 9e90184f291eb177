//! Sessions: what begins, ends and outlives what.

use super::*;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn token(text: &str) -> Secret {
    Secret::new(text)
}

#[test]
fn a_link_opens_one_session_within_a_minute() {
    let clock = Clock::test();
    let sessions = Sessions::new(clock.clone());
    let key = sessions.link();
    clock.advance(Duration::from_secs(59));
    let cookie = sessions.enter_by_link(&key, None).unwrap();
    assert!(sessions.find(&cookie, None).is_some());
    assert_eq!(
        sessions.enter_by_link(&key, None),
        Err(LoginError::UnknownLink)
    );
    let late = sessions.link();
    clock.advance(LINK);
    for key in [late.as_str(), "", &cookie] {
        let refused = sessions.enter_by_link(key, None);
        assert_eq!(refused, Err(LoginError::UnknownLink), "{key}");
    }
    // A link is not a session, and not the other way round.
    assert!(sessions.find(&sessions.link(), None).is_none());
}

#[test]
fn a_session_ends_by_time_by_logout_and_with_its_token() {
    let clock = Clock::test();
    let sessions = Sessions::new(clock.clone());
    let (first, second) = (token("0123456789abcdef"), token("another-token-of-16"));
    let enter = || sessions.enter_by_token(HERE, first.reveal(), Some(&first));
    let cookie = enter().unwrap();
    let found = sessions.find(&cookie, Some(&first)).unwrap();
    assert_ne!(found.csrf, cookie);
    assert!(sessions.find(&cookie, Some(&second)).is_none());
    assert!(sessions.find(&cookie, None).is_none());
    sessions.end(found.id);
    assert!(sessions.find(&cookie, Some(&first)).is_none());
    let cookie = enter().unwrap();
    clock.advance(Duration::from_secs(28_799));
    assert!(sessions.find(&cookie, Some(&first)).is_some());
    clock.advance(Duration::from_secs(1));
    assert!(sessions.find(&cookie, Some(&first)).is_none());
}

#[test]
fn failed_logins_are_limited_for_each_address() {
    let clock = Clock::test();
    let sessions = Sessions::new(clock.clone());
    let right = token("0123456789abcdef");
    let enter = |from: IpAddr, shown: &str| sessions.enter_by_token(from, shown, Some(&right));
    for _ in 0..MAX_FAILED_LOGINS {
        assert_eq!(enter(HERE, "wrong"), Err(LoginError::Wrong));
    }
    assert_eq!(enter(HERE, right.reveal()), Err(LoginError::TooMany));
    assert!(enter("192.0.2.1".parse().unwrap(), right.reveal()).is_ok());
    // A link still works.
    assert!(
        sessions
            .enter_by_link(&sessions.link(), Some(&right))
            .is_ok()
    );
    clock.advance(LOGIN_WINDOW);
    assert!(enter(HERE, right.reveal()).is_ok());
    // Many addresses share a count; a client of IPv6 has one for all of its addresses.
    for index in 0..100_000_u32 {
        let from = IpAddr::V6((u128::from(index) << 64 | 7).into());
        drop(enter(from, "wrong"));
    }
    assert_eq!(sessions.inner.lock().failed.by_address.len(), MAX_ADDRESSES);
    assert_eq!(
        enter("2001:db8::1".parse().unwrap(), right.reveal()),
        Err(LoginError::TooMany)
    );
    assert_eq!(
        sessions.enter_by_token(HERE, "", None),
        Err(LoginError::TooMany)
    );
}

#[test]
fn without_a_token_no_text_is_right() {
    let sessions = Sessions::default();
    for shown in ["", "x", "0123456789abcdef"] {
        assert_eq!(
            sessions.enter_by_token(HERE, shown, None),
            Err(LoginError::Wrong)
        );
    }
}

#[test]
fn everything_is_bounded() {
    let sessions = Sessions::default();
    let first = sessions.enter_by_link(&sessions.link(), None).unwrap();
    for _ in 0..200 {
        sessions.link();
        sessions.enter_by_link(&sessions.link(), None).unwrap();
        sessions.put_result(None, "x".to_owned());
    }
    let inner = sessions.inner.lock();
    assert_eq!(inner.sessions.len(), MAX_SESSIONS);
    assert!(inner.links.len() <= MAX_LINKS);
    assert_eq!(inner.results.len(), MAX_RESULTS);
    drop(inner);
    assert!(sessions.find(&first, None).is_none());
    let readers: Vec<_> = std::iter::from_fn(|| sessions.reader()).collect();
    assert_eq!(readers.len(), MAX_READERS);
    drop(readers);
    assert!(sessions.reader().is_some());
}

#[test]
fn a_result_is_shown_to_its_session_only() {
    let sessions = Sessions::default();
    let enter = || {
        let cookie = sessions.enter_by_link(&sessions.link(), None).unwrap();
        sessions.find(&cookie, None).unwrap().id
    };
    let (one, other) = (enter(), enter());
    let key = sessions.put_result(Some(one), "done".to_owned());
    assert_eq!(sessions.result(Some(one), &key).as_deref(), Some("done"));
    assert_eq!(sessions.result(Some(one), &key).as_deref(), Some("done"));
    assert!(sessions.result(Some(other), &key).is_none());
    assert!(sessions.result(None, &key).is_none());
    sessions.end(one);
    assert!(sessions.result(Some(one), &key).is_none());
}

#[tokio::test]
async fn a_session_that_ends_after_the_export_ends_for_every_successor() {
    let clock = Clock::test();
    let [old, new, newest] = [(); 3].map(|()| Sessions::new(clock.clone()));
    let enter = || {
        let cookie = old.enter_by_link(&old.link(), None).unwrap();
        let id = old.find(&cookie, None).unwrap().id;
        (cookie, id)
    };
    let [before, after, kept] = [enter(), enter(), enter()];
    old.end(before.1);
    new.import(&old.export());
    newest.import(&new.export());
    old.end(after.1);
    let ended = old.next_ended().await;
    new.end_inherited(&ended);
    newest.end_inherited(&new.next_ended().await);
    for sessions in [&old, &new, &newest] {
        let found = [&before, &after, &kept].map(|it| sessions.find(&it.0, None).is_some());
        assert_eq!(found, [false, false, true]);
    }
    // The one that ended before is in no export, so no note follows.
    let more = tokio::time::timeout(Duration::from_millis(10), old.next_ended());
    assert!(more.await.is_err());
    new.end_all();
    assert!(new.find(&kept.0, None).is_none());
}

#[test]
fn a_successor_knows_the_sessions_but_not_their_secrets() {
    let clock = Clock::test();
    let (old, new) = (Sessions::new(clock.clone()), Sessions::new(clock.clone()));
    let required = token("0123456789abcdef");
    let with_token = old.enter_by_token(HERE, required.reveal(), Some(&required));
    let with_token = with_token.unwrap();
    let without = old.enter_by_link(&old.link(), None).unwrap();
    clock.advance(SESSION / 2);
    let exported = old.export();
    let text = exported.to_string();
    assert!(!text.contains(&with_token) && !text.contains(required.reveal()));
    new.import(&exported);
    assert_eq!(
        new.find(&with_token, Some(&required)),
        old.find(&with_token, Some(&required))
    );
    assert!(new.find(&without, None).is_some());
    assert!(new.find(&without, Some(&required)).is_none());
    // Pages that were opened over the socket have the old value in their forms.
    assert_eq!(new.socket_csrf(), old.socket_csrf());
    let third = Sessions::new(clock.clone());
    third.import(&exported["sessions"]);
    assert!(third.find(&without, None).is_some(), "an earlier version's");
    assert_ne!(third.socket_csrf(), old.socket_csrf());
    clock.advance(SESSION / 2);
    assert!(new.find(&without, None).is_none());
    // Another version may export something else.
    for other in [
        json!(null),
        json!({}),
        json!([1, { "id": "zz" }, { "id": 3 }]),
        json!({ "sessions": 3, "socket_csrf": "" }),
    ] {
        new.import(&other);
    }
    assert_eq!(new.socket_csrf(), old.socket_csrf());
}
