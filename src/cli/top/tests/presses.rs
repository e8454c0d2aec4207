//! Keys and the requests that they cause.

use super::pages::{page, status};
use super::*;
use crate::cli::top::state::{Reach, TopPrompt, TopView};

/// Presses keys after a round. Returns the requests that follow, without those of rounds.
fn requests(keys: &str) -> Vec<String> {
    let mut state = answered(page);
    sent(&mut state, keys)
}

fn sent(state: &mut TopState, keys: &str) -> Vec<String> {
    let mut sent = Vec::new();
    for key in keys_of(keys) {
        let mut request = update(state, TopEvent::Key(key), now());
        while let Some(one) = request {
            let reply = match &one {
                ViewRequest::Page(kind, path) => {
                    if !matches!(kind, ViewPage::Status | ViewPage::History) {
                        sent.push(format!("GET {path}"));
                    }
                    page(*kind)
                }
                ViewRequest::Change(change) => {
                    sent.push(format!("{} {}", change.method, change.path));
                    ViewReply::Json(json!({ "result": "set", "open": 12 }))
                }
            };
            request = update(state, TopEvent::Answer(ViewAnswer { request: one, reply }), now());
        }
    }
    sent
}

fn check(keys: &str, expected: &[&str]) {
    assert_eq!(requests(keys), expected, "{keys}");
}

/// Returns the text of the foot.
fn foot(state: &mut TopState) -> String {
    shown(state, 200, 24).lines().last().unwrap().to_owned()
}

#[test]
fn a_table_asks_for_its_pages() {
    check("2", &["GET /api/v1/connections?limit=500&sort=age"]);
    check("3", &["GET /api/v1/top?top=100", "GET /api/v1/sources?top=100"]);
    check("4", &["GET /api/v1/top?top=100"]);
    check("567", &[]);
    check("<Tab>", &["GET /api/v1/connections?limit=500&sort=age"]);
    check("7<BackTab>", &[]);
    check(
        "2s",
        &["GET /api/v1/connections?limit=500&sort=age", "GET /api/v1/connections?limit=500&sort=age"],
    );
    let mut state = answered(page);
    sent(&mut state, "2ss");
    assert_eq!(sent(&mut state, "s"), ["GET /api/v1/connections?limit=500&sort=rate"]);
    assert_eq!(
        sent(&mut state, "/pool=app idle=10m web<Enter>"),
        ["GET /api/v1/connections?limit=500&sort=rate&pool=app&idle=10m"]
    );
    assert_eq!(sent(&mut state, "<Esc>"), ["GET /api/v1/connections?limit=500&sort=rate"]);
}

#[test]
fn a_connection_is_asked_for_while_its_details_are_open() {
    let mut state = answered(page);
    sent(&mut state, "2j");
    // The answer of the test is about 4711, so it is not taken for 4712.
    assert_eq!(sent(&mut state, "<Enter>"), ["GET /api/v1/connections/4712"]);
    assert!(shown(&mut state, 80, 40).contains("asking for its sockets"));
    assert_eq!(sent(&mut state, "<Esc>k<Enter>"), ["GET /api/v1/connections/4711"]);
    assert!(shown(&mut state, 80, 40).contains("the client does not read"));
    let request = update(&mut state, TopEvent::Due, now());
    assert!(state.rounds.pages.contains(&ViewPage::Connection));
    serve(&mut state, request, page);
    assert_eq!(sent(&mut state, "xy")[0], "DELETE /api/v1/connections/4711");
}

#[test]
fn changes_are_made_after_a_yes() {
    // The rows are db, db-1, db-2, app, app-3, app-1, app-2, web, web-1.
    check("jdy", &["POST /api/v1/overrides/state?pool=db&backend=db-1&value=drain"]);
    check("jmy", &["POST /api/v1/overrides/state?pool=db&backend=db-1&value=maintenance"]);
    check("jry", &["POST /api/v1/overrides/state?pool=db&backend=db-1&value=ready"]);
    check("Gdy", &["POST /api/v1/overrides/state?pool=web&backend=web-1&value=drain&force=true"]);
    check("p<Enter>y", &["POST /api/v1/overrides/pause?pool=db&for=60s"]);
    check("jp2m<Enter>y", &["POST /api/v1/overrides/pause?pool=db&for=2m"]);
    check(
        "2xy",
        &[
            "GET /api/v1/connections?limit=500&sort=age",
            "DELETE /api/v1/connections/4711",
            "GET /api/v1/connections?limit=500&sort=age",
        ],
    );
    check("6xy", &["DELETE /api/v1/overrides/state?pool=app&backend=app-3"]);
    check("6jxy", &["DELETE /api/v1/overrides/leave"]);
}

#[test]
fn all_but_a_yes_changes_nothing() {
    for keys in
        ["jdn", "jd<Enter>", "jd<Esc>", "jd ", "jdq", "p<Esc>y", "p<Enter><Enter>", "dy", "xy", "7jdy", "3ry"]
    {
        let found: Vec<_> =
            requests(keys).into_iter().filter(|request| !request.starts_with("GET")).collect();
        assert!(found.is_empty(), "{keys}: {found:?}");
    }
    let mut state = answered(page);
    press(&mut state, "d");
    assert!(foot(&mut state).contains("select a backend (key 1)"));
    // A pasted text is no command and no yes.
    press(&mut state, "jd");
    assert!(update(&mut state, TopEvent::Paste("y".to_owned()), now()).is_none());
    assert!(matches!(state.prompt, TopPrompt::Question { .. }));
    // A question that the operator cannot read has no yes.
    update(&mut state, TopEvent::Resized(3, 2), now());
    assert_eq!(sent(&mut state, "y"), [""; 0]);
}

#[test]
fn questions_name_the_thing_and_the_effect() {
    let question = |keys: &str| {
        let mut state = answered(page);
        press(&mut state, keys);
        foot(&mut state)
    };
    let check = |keys: &str, expected: &str| assert_eq!(question(keys), expected, "{keys}");
    check("jjjjjjd", "drain app/app-2? new clients go elsewhere; 470 connections stay open [y/N]");
    check(
        "Gd",
        "drain web/web-1? IT IS THE LAST AVAILABLE BACKEND of web, so new clients are refused; 741 connections stay open [y/N]",
    );
    check("jd", "drain db/db-1? new clients go elsewhere; no connection is open [y/N]");
    check(
        "jjm",
        "put db/db-2 into maintenance? new clients go elsewhere, and its checks pause; 3 connections stay open [y/N]",
    );
    check("jr", "put db/db-1 in use again? it gets new clients [y/N]");
    check("Gp", "pause web: new connections wait; for how long (60s)? \u{2588}");
    check("Gp<Enter>", "pause web for 60s? its new connections wait; 741 connections stay open [y/N]");
    check("2x", "close connection 4711 of 198.51.100.7:51234? both sides are reset [y/N]");
    check("6x", "end the override state of app/app-3? the configuration is in force again [y/N]");
    check("6jx", "end the override leave? the configuration is in force again [y/N]");
    let mut state = answered(page);
    press(&mut state, "Gpx<Enter>");
    assert!(foot(&mut state).starts_with("this is no time: write one such as 60s or 2m; pause web"));
}

#[test]
fn a_paused_pool_is_resumed() {
    let paused = |kind| match kind {
        ViewPage::Status => {
            let mut paused = status();
            paused["overrides"] =
                json!([{ "kind": "pause", "pool": "web", "value": "paused", "ends_in_seconds": 40 }]);
            paused["pools"][2]["queue"]["waiting"] = 7.into();
            json_page(paused)
        }
        _ => page(kind),
    };
    let mut state = answered(paused);
    let shown = shown(&mut state, 160, 24);
    assert!(shown.contains("paused for 40s: new connections wait; 7 wait in the queue"), "{shown}");
    let row = shown.lines().skip_while(|line| !line.contains("POOL, BACKEND")).nth(4).unwrap_or_default();
    assert!(row.contains("web "), "a paused pool comes before those that are well: {shown}");
    press(&mut state, "/web<Enter>p");
    assert_eq!(foot(&mut state), "resume web? 7 connections wait and go on [y/N]");
    assert_eq!(sent(&mut state, "y"), ["DELETE /api/v1/overrides/pause?pool=web"]);
}

#[test]
fn the_answer_to_a_change_is_shown() {
    let answer_with = |reply: ViewReply| {
        let mut state = answered(page);
        press(&mut state, "jd");
        let request = update(&mut state, TopEvent::Key(TopKey::Char('y')), now()).unwrap();
        let next = update(&mut state, TopEvent::Answer(ViewAnswer { request, reply }), now());
        (foot(&mut state), next)
    };
    let (foot, next) = answer_with(ViewReply::Json(json!({ "result": "set", "open": 3 })));
    assert!(foot.starts_with("drain db/db-1: set; 3 connections are open"), "{foot}");
    assert_eq!(
        next,
        Some(ViewRequest::Page(ViewPage::Status, "/api/v1/status".to_owned())),
        "the effect is shown at once"
    );
    let (foot, _) = answer_with(ViewReply::Refused(401, "a change needs a token: --token-file\n".to_owned()));
    assert!(
        foot.starts_with("error: drain db/db-1: refused (401): a change needs a token: --token-file"),
        "{foot}"
    );
    let (foot, _) = answer_with(ViewReply::Unanswered("timed out".to_owned()));
    assert!(
        foot.contains("error: drain db/db-1: no answer (timed out); the change may be in force"),
        "{foot}"
    );
}

#[test]
fn a_row_leads_to_its_connections() {
    let filter = |keys: &str| requests(keys).last().cloned().unwrap_or_default();
    let check = |keys: &str, query: &str| {
        assert_eq!(filter(keys), format!("GET /api/v1/connections?limit=500&sort=age&{query}"), "{keys}");
    };
    check("c", "pool=db");
    check("jc", "backend=db/db-1");
    check("3jc", "source=198.51.100.7");
    check("3jjc", "source=2001:db8::/64");
    check("4jc", "sni=a.example.com");
    check("7jc", "listener=pg");
    assert_eq!(requests("5c"), [""; 0]);
}

#[test]
fn a_filter_and_an_order_choose_the_rows() {
    let names = |keys: &str| {
        let mut state = answered(page);
        press(&mut state, keys);
        let shown = shown(&mut state, 100, 40);
        let rows = shown.lines().skip_while(|line| !line.contains("POOL, BACKEND")).skip(1);
        rows.filter_map(|line| line.get(2..)?.split_whitespace().next().map(str::to_owned))
            .take_while(|name| !["ter", "?", "rted", "lter:", "LAST", "keys"].contains(&&**name))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(""), ["db", "db-1", "db-2", "app", "app-3", "app-1", "app-2", "web", "web-1"]);
    assert_eq!(names("/web"), ["web", "web-1"], "while it is typed");
    assert_eq!(names("/DOWN<Enter>"), ["db", "db-1"]);
    assert_eq!(names("/web<Esc>").len(), 9);
    assert_eq!(names("/web<Enter><Esc>").len(), 9);
    assert_eq!(names("s"), ["app", "app-1", "app-2", "app-3", "db", "db-1", "db-2", "web", "web-1"]);
    assert_eq!(names("sS")[..2], ["web", "web-1"]);
    assert_eq!(names("ssss")[..4], ["web", "web-1", "app", "app-2"], "by the open connections");
    assert_eq!(names("/none"), ["no"], "no row passes the filter");
}

#[test]
fn the_selection_follows_its_row() {
    let mut state = answered(page);
    press(&mut state, "jjjjjj");
    let marked = |state: &mut TopState| {
        let shown = shown(state, 80, 30);
        shown.lines().find(|line| line.starts_with("> ")).unwrap_or_default().to_owned()
    };
    assert!(marked(&mut state).contains("app-2"));
    press(&mut state, "s");
    assert!(marked(&mut state).contains("app-2"), "in another order");
    // Its backend leaves the pool, and the row in its place is selected.
    let mut later = status();
    later["pools"][0]["backends"].as_array_mut().unwrap().remove(1);
    round(&mut state, |kind| if kind == ViewPage::Status { json_page(later.clone()) } else { page(kind) });
    assert!(
        marked(&mut state).starts_with(">  ") || marked(&mut state).contains("web"),
        "{}",
        marked(&mut state)
    );
    press(&mut state, "g");
    assert!(marked(&mut state).contains("app "));
    press(&mut state, "<End>");
    assert!(marked(&mut state).contains("web-1"));
}

#[test]
fn one_request_is_under_way() {
    let mut state = view();
    let first = update(&mut state, TopEvent::Due, now()).unwrap();
    assert_eq!(first, ViewRequest::Page(ViewPage::Status, "/api/v1/status".to_owned()));
    for _ in 0..3 {
        assert_eq!(update(&mut state, TopEvent::Due, now()), None, "a slow server gets no further round");
        assert_eq!(update(&mut state, TopEvent::Key(TopKey::Char('3')), now()), None);
        assert_eq!(update(&mut state, TopEvent::Key(TopKey::Char('4')), now()), None);
    }
    assert_eq!(state.rounds.pages.len(), 3, "each page waits once: {:?}", state.rounds.pages);
    let reply = ViewReply::Unanswered("timed out".to_owned());
    let next = update(&mut state, TopEvent::Answer(ViewAnswer { request: first, reply }), now());
    assert_eq!(next, None, "the other pages of the round would wait as long");
    assert!(matches!(state.reach, Reach::Lost { answered: None, .. }));
    assert!(update(&mut state, TopEvent::Due, now()).is_some(), "the next round tries again");
}

#[test]
fn the_view_ends_by_its_keys() {
    for keys in ["q", "<Ctrl-C>", "?q", "jd<Ctrl-C>", "/q<Ctrl-C>"] {
        let mut state = answered(page);
        press(&mut state, keys);
        assert!(state.has_ended, "{keys}");
        assert_eq!(update(&mut state, TopEvent::Due, now()), None);
    }
    let mut state = answered(page);
    press(&mut state, "/q<Esc>jdq");
    assert!(!state.has_ended, "a letter of a filter and an answer to a question are no commands");
    assert_eq!(state.view, TopView::Pools);
}

#[test]
fn the_verdict_is_read_in_parts() {
    let mut long = status();
    let problems: Vec<_> = (0..30)
        .map(|number| json!({ "kind": "backend", "name": format!("app/b{number}"), "text": "down" }))
        .collect();
    long["problems"] = problems.into();
    let mut state =
        answered(|kind| if kind == ViewPage::Status { json_page(long.clone()) } else { page(kind) });
    let top = shown(&mut state, 80, 24);
    assert!(top.starts_with(" NOT WELL: 30 problems, lines 1-7 of 30"), "{top}");
    press(&mut state, "JJJ");
    let moved = shown(&mut state, 80, 24);
    assert!(
        moved.contains("lines 4-10 of 30") && moved.contains("app/b9") && !moved.contains("app/b2:"),
        "{moved}"
    );
    press(&mut state, &"J".repeat(50));
    assert!(shown(&mut state, 80, 24).contains("lines 24-30 of 30"));
    press(&mut state, "Kv<End>");
    let all = shown(&mut state, 80, 24);
    assert!(all.contains("app/b29") && all.contains("Problems"), "{all}");
    press(&mut state, "<Esc>");
    assert!(state.page.is_none());
}
