//! Frames at the sizes of real screens.

use insta::assert_snapshot;

use super::pages::{history, page, status};
use super::*;

#[test]
fn pools_come_first() {
    let mut state = answered(page);
    assert_snapshot!("pools_80x24", shown(&mut state, 80, 24));
    assert_snapshot!("pools_200x60", shown(&mut state, 200, 60));
    assert_snapshot!("pools_40x12", shown(&mut state, 40, 12));
}

#[test]
fn each_table_has_its_columns() {
    let mut state = answered(page);
    for (key, name) in [
        ('2', "connections"),
        ('3', "sources"),
        ('4', "names"),
        ('5', "events"),
        ('6', "overrides"),
        ('7', "listeners"),
    ] {
        press(&mut state, &key.to_string());
        assert_snapshot!(format!("{name}_80x24"), shown(&mut state, 80, 24));
    }
    press(&mut state, "2");
    assert_snapshot!("connections_200x60", shown(&mut state, 200, 60));
}

#[test]
fn details_the_help_and_a_question_are_pages_and_lines() {
    let mut state = answered(page);
    press(&mut state, "2<Enter>");
    assert_snapshot!("connection_80x24", shown(&mut state, 80, 24));
    press(&mut state, "<Esc>1?");
    assert_snapshot!("help_80x24", shown(&mut state, 80, 24));
    press(&mut state, "?j<Enter>");
    assert_snapshot!("backend_80x24", shown(&mut state, 80, 24));
    press(&mut state, "<Esc>Gd");
    assert_snapshot!("question_40x12", shown(&mut state, 40, 12));
}

#[test]
fn a_server_that_is_well_has_one_line() {
    let mut well = status();
    well["problems"] = json!([]);
    let mut state = answered(|kind| match kind {
        ViewPage::Status => json_page(well.clone()),
        _ => page(kind),
    });
    assert_snapshot!("well_80x24", shown(&mut state, 80, 24));
    // Without the characters of bars.
    state.style.has_blocks = false;
    assert_snapshot!("ascii_80x24", shown(&mut state, 80, 24));
}

#[test]
fn a_server_that_does_not_answer_keeps_its_last_values() {
    let mut state = view();
    assert!(shown(&mut state, 80, 24).starts_with(" asking unix:/run/a.sock"));
    let lost = |_| ViewReply::Unanswered("Connection refused (os error 111)".to_owned());
    round(&mut state, lost);
    assert_snapshot!("never_answered_80x24", shown(&mut state, 80, 24));
    round(&mut state, page);
    round(&mut state, lost);
    update(&mut state, TopEvent::Key(TopKey::Char('j')), now() + Duration::from_secs(75));
    assert_snapshot!("lost_80x24", shown(&mut state, 80, 24));
    round(&mut state, page);
    assert!(shown(&mut state, 80, 24).starts_with(" NOT WELL: 2 problems"));
}

#[test]
fn an_older_server_has_what_it_has() {
    let mut state = answered(|kind| match kind {
        ViewPage::Status => json_page(json!({ "life": "serving", "version": "0.1.0" })),
        _ => ViewReply::Refused(404, "no such page\n".to_owned()),
    });
    assert_snapshot!("older_80x24", shown(&mut state, 80, 24));
    for (view, part) in [
        ("3", "this server has no /api/v1/sources"),
        ("4", "this server has no /api/v1/top"),
        ("2", "(404): no such page"),
        ("5", "nothing to show"),
    ] {
        let request = update(&mut state, TopEvent::Key(keys_of(view)[0]), now());
        serve(&mut state, request, |_| ViewReply::Refused(404, "no such page\n".to_owned()));
        let shown = shown(&mut state, 80, 24);
        assert!(shown.contains(part), "{view}: {shown}");
    }
}

#[test]
fn a_server_that_asks_for_a_token_has_no_status() {
    let mut state = answered(|_| ViewReply::Refused(401, "the request needs the token\n".to_owned()));
    let shown = shown(&mut state, 80, 24);
    assert!(shown.starts_with(" NO STATUS: the server answers 401"), "{shown}");
    assert!(shown.contains("! the request needs the token; --token-file FILE gives the token"), "{shown}");
    let mut other = answered(|_| json_page(json!(["another program"])));
    let shown = super::shown(&mut other, 80, 24);
    assert!(shown.contains("! the answer is no status of pointsman"), "{shown}");
}

#[test]
fn a_printed_frame_is_as_high_as_its_content() {
    let mut state = answered(|kind| match kind {
        ViewPage::Status => {
            let mut long = status();
            let one = long["pools"][0]["backends"][0].clone();
            let backends: Vec<_> = (0..300)
                .map(|number| {
                    let mut backend = one.clone();
                    backend["name"] = format!("b{number}").into();
                    backend
                })
                .collect();
            long["pools"][0]["backends"] = backends.into();
            json_page(long)
        }
        _ => page(kind),
    });
    state.has_keys = false;
    let frame = super::super::once::frame(&mut state, None, None);
    assert!(frame.contains("b0 ") && frame.contains("b299 ") && frame.contains("web-1"), "{frame}");
    assert!(frame.lines().all(|line| line.chars().count() <= 80), "{frame}");
    assert!(!frame.contains('\u{1b}') && !frame.contains("? keys"), "{frame}");
    let frame = super::super::once::frame(&mut state, Some(50), Some(10));
    assert!(frame.lines().count() <= 10 && frame.lines().all(|line| line.chars().count() <= 50), "{frame}");
}

#[test]
fn new_connections_of_a_backend_come_from_two_answers() {
    let mut state = answered(page);
    let mut later = status();
    later["pools"][2]["backends"][0]["connections"]["total"] = 5841.into();
    let then = now() + Duration::from_secs(4);
    let request = update(&mut state, TopEvent::Due, then).unwrap();
    let answer = ViewAnswer { request, reply: json_page(later) };
    update(&mut state, TopEvent::Answer(answer), then);
    let shown = shown(&mut state, 120, 24);
    let row = shown.lines().find(|line| line.contains("web-1")).unwrap();
    assert!(shown.contains("NEW/S") && row.split_whitespace().any(|cell| cell == "25"), "{shown}");
}

#[test]
fn charts_need_a_history() {
    let mut short = history();
    short["open"] = json!([1, 2, 3]);
    let mut state = answered(|kind| match kind {
        ViewPage::History => json_page(short.clone()),
        _ => page(kind),
    });
    assert!(shown(&mut state, 80, 24).contains("open 3, in 3s"));
}
