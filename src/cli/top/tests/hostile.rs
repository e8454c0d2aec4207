//! Text that must not control the terminal, and JSON of any form.

use proptest::prelude::*;
use ratatui::style::Color;

use super::pages::page;
use super::*;
use crate::cli::top::clean::clean;
use crate::cli::top::request::TopChange;

/// Names that a client, a backend or another program may send.
fn hostile_names() -> Vec<String> {
    vec![
        "\u{1b}]0;x\u{7}".to_owned(),
        "\u{1b}[2J\u{1b}[H\u{9b}31m".to_owned(),
        "a\u{202e}b\u{2066}c".to_owned(),
        "\u{200b}\u{feff}\u{ad}".to_owned(),
        "a\r\nb\tc\0".to_owned(),
        "\u{6f22}".repeat(85),
        "x".repeat(255),
        "\u{5d0}\u{5d1}".to_owned(),
        "e\u{301}\u{301}\u{301}".to_owned(),
        "\u{1f468}\u{200d}\u{1f469}\u{1f1e9}\u{1f1ea}\u{1f44d}\u{1f3fb}".to_owned(),
    ]
}

/// Replaces each string of a value.
fn poison(value: &mut Value, name: &str) {
    match value {
        // The words on which the view depends stay.
        Value::String(text)
            if !["up", "down", "pause", "relaying"].contains(&&**text) && moment(&json!(text)).is_none() =>
        {
            *text = name.to_owned();
        }
        Value::Array(items) => items.iter_mut().for_each(|item| poison(item, name)),
        Value::Object(parts) => parts.values_mut().for_each(|part| poison(part, name)),
        _ => {}
    }
}

/// Checks that each cell has a character that the terminal only shows.
#[track_caller]
fn expect_harmless(state: &mut TopState, columns: u16, lines: u16) {
    let backend = screen(state, columns, lines);
    for cell in backend.buffer().content() {
        assert_eq!(clean(cell.symbol()), cell.symbol(), "{:?}", cell.symbol());
    }
    let text = text(backend.buffer());
    for line in text.lines() {
        let wide: usize = super::super::clean::columns(line);
        assert!(wide <= usize::from(columns), "{wide} of {columns}: {line:?}");
    }
}

#[test]
fn no_name_controls_the_terminal() {
    for name in hostile_names() {
        let poisoned = |kind| match page(kind) {
            ViewReply::Json(mut value) => {
                poison(&mut value, &name);
                ViewReply::Json(value)
            }
            other => other,
        };
        let mut state = answered(poisoned);
        for keys in [
            "1",
            "2",
            "3",
            "4",
            "5",
            "6",
            "7",
            "1<Enter>",
            "v",
            "v2<Enter>",
            "x",
            "n6<Enter>",
            "x",
            "n1jd",
            "np",
            "<Esc>c",
        ] {
            for key in keys_of(keys) {
                let request = update(&mut state, TopEvent::Key(key), now());
                serve(&mut state, request, poisoned);
            }
            for (columns, lines) in [(80, 24), (40, 12), (200, 60), (7, 30)] {
                expect_harmless(&mut state, columns, lines);
            }
        }
        // Texts of refusals and of the operator's clipboard.
        let fault = ViewReply::Refused(409, name.repeat(100));
        let change = TopChange { method: "POST", path: "/".to_owned(), words: name.clone() };
        let answer = ViewAnswer { request: ViewRequest::Change(change), reply: fault };
        update(&mut state, TopEvent::Answer(answer), now());
        expect_harmless(&mut state, 80, 24);
        press(&mut state, "/");
        update(&mut state, TopEvent::Paste(name.repeat(10)), now());
        expect_harmless(&mut state, 80, 24);
    }
}

#[test]
fn a_hostile_name_is_seen_as_it_is() {
    let mut state = answered(|kind| {
        let mut value = match page(kind) {
            ViewReply::Json(value) => value,
            other => panic!("{other:?}"),
        };
        if kind == ViewPage::Connections {
            value["connections"][0]["sni"] = "\u{1b}]0;x\u{7}".into();
        }
        json_page(value)
    });
    state.view = super::super::state::TopView::Connections;
    round(&mut state, |kind| {
        let mut value = super::pages::connections();
        value["connections"][0]["sni"] = "\u{1b}]0;x\u{7}".into();
        if kind == ViewPage::Connections { json_page(value) } else { page(kind) }
    });
    let shown = shown(&mut state, 120, 24);
    assert!(shown.contains("\\u{1b}]0;x\\u{7}"), "{shown}");
}

#[test]
fn states_are_words_without_colors() {
    let mut state = answered(page);
    let colored = text(screen(&mut state, 80, 24).buffer());
    state.style.has_color = false;
    let plain = screen(&mut state, 80, 24);
    assert_eq!(text(plain.buffer()), colored);
    assert!(plain.buffer().content().iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
}

/// Any JSON, with the keys that the view reads.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(json!("2026-11-29T14:40:19Z")),
        Just(json!("9999-12-31T23:59:59Z")),
        Just(json!("pause")),
    ];
    let keys = prop_oneof![
        Just("life"),
        Just("problems"),
        Just("pools"),
        Just("backends"),
        Just("name"),
        Just("pool"),
        Just("kind"),
        Just("text"),
        Just("since"),
        Just("started"),
        Just("uptime_seconds"),
        Just("connections"),
        Just("active"),
        Just("overrides"),
        Just("events"),
        Just("time"),
        Just("listeners"),
        Just("open"),
        Just("accepted"),
        Just("from_client_bytes"),
        Just("from_backend_bytes"),
        Just("ended"),
        Just("end"),
        Just("interval_seconds"),
        Just("heaviest"),
        Just("names"),
        Just("sources"),
        Just("top"),
        Just("error"),
        Just("id"),
        Just("legs"),
        Just("client"),
        Just("tcp"),
        Just("state"),
        Just("available"),
        Just("queue"),
        Just("waiting"),
        Just("since_seconds"),
        Just("latency_seconds"),
        Just("checks"),
        Just("command"),
    ];
    leaf.prop_recursive(6, 120, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec((keys.clone(), inner), 0..10).prop_map(|parts| Value::Object(
                parts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            )),
        ]
    })
}

/// Puts values in some places of a page.
fn mutate(value: &mut Value, places: &mut impl Iterator<Item = (u8, Value)>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| mutate(item, places)),
        Value::Object(parts) => parts.values_mut().for_each(|part| mutate(part, places)),
        _ => {}
    }
    if let Some((dice, other)) = places.next()
        && dice < 40
    {
        *value = other;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_size_and_no_json_panics(
        values in prop::collection::vec(any_json(), 6),
        places in prop::collection::vec((any::<u8>(), any_json()), 20),
        is_mutated in any::<bool>(),
        keys in "[1-7jkgGsS/?vJKdmrpxcyn q]{0,24}",
        enters in prop::collection::vec(0_usize..24, 0..6),
        columns in 0_u16..220,
        lines in 0_u16..70,
    ) {
        let answer = |kind: ViewPage| {
            let mut value = values[kind as usize].clone();
            if is_mutated {
                let ViewReply::Json(known) = page(kind) else { unreachable!() };
                value = known;
                mutate(&mut value, &mut places.iter().cloned().cycle().skip(kind as usize).take(400));
            }
            if kind == ViewPage::Status && !is_mutated && let Some(status) = value.as_object_mut() {
                status.insert("life".to_owned(), "serving".into());
            }
            ViewReply::Json(value)
        };
        let mut state = answered(answer);
        update(&mut state, TopEvent::Resized(columns, lines), now());
        for (at, c) in keys.chars().enumerate() {
            let key = if enters.contains(&at) { TopKey::Enter } else { TopKey::Char(c) };
            let request = update(&mut state, TopEvent::Key(key), now());
            serve(&mut state, request, answer);
            // `q` ends the view, and the frame before the end is drawn too.
            state.has_ended = false;
        }
        expect_harmless(&mut state, columns, lines);
        state.has_keys = false;
        let _ = super::super::once::frame(&mut state, Some(columns), Some(lines));
    }
}

#[test]
fn every_small_size_is_drawn() {
    let mut state = answered(page);
    for keys in ["", "?", "?v", "v<Enter>", "<Esc>Gd"] {
        press(&mut state, keys);
        for columns in 0..24 {
            for lines in 0..14 {
                expect_harmless(&mut state, columns, lines);
            }
        }
    }
}
