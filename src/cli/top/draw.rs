//! Draws the state. A frame is a function of the state and of the size of the screen alone.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::actions::PAUSE;
use super::canvas::{Canvas, ToneLine};
use super::clean::{clean, columns, wrap};
use super::layout::{NeededLines, TopAreas, divide};
use super::request::ViewPage;
use super::state::{TextKind, TopPrompt, TopState, TopView};
use super::style::Tone;
use super::table::RowOrder;
use super::values::{items, shown, since, time_of_status};
use super::{charts, details, filter, help, table, tables, verdict, view_lists};

/// The hints of the last line, the longest first.
const HINTS: [&str; 3] = [
    "Enter details  c connections  d drain  r ready  m maintenance  p pause  x close  / filter  s sort  ? keys  q end",
    "Enter details  c connections  / filter  s sort  ? keys  q end",
    "? keys  q end",
];

/// The least lines between the pools and the end of the screen in which events are shown.
const LEAST_EVENTS: u16 = 6;

/// The most lines of a message.
const MESSAGE: usize = 4;

/// Draws a frame.
pub(super) fn draw(state: &TopState, buffer: &mut Buffer) {
    let screen = buffer.area;
    let mut canvas = Canvas::new(buffer, state.style);
    let areas = areas(state, screen);
    draw_verdict(state, &mut canvas, areas.verdict);
    if state.page.is_some() {
        draw_page(state, &mut canvas, areas.body);
    } else {
        draw_charts(state, &mut canvas, areas.charts);
        draw_tabs(state, &mut canvas, areas.tabs);
        draw_table(state, &mut canvas, areas.table);
    }
    draw_foot(state, &mut canvas, areas.foot);
}

fn areas(state: &TopState, screen: Rect) -> TopAreas {
    let width = usize::from(screen.width);
    divide(
        screen,
        NeededLines {
            verdict: 1 + verdict::lines(state, width).len(),
            foot: foot(state, width).len(),
            has_charts: charts::is_history(state.pages.value(ViewPage::History)),
        },
    )
}

fn areas_of_screen(state: &TopState) -> TopAreas {
    areas(state, Rect::new(0, 0, state.size.0, state.size.1))
}

/// Returns the area of pages of text.
pub(super) fn body(state: &TopState) -> Rect {
    areas_of_screen(state).body
}

/// Returns the lines of the table.
pub(super) fn table_lines(state: &TopState) -> u16 {
    areas_of_screen(state).table.height
}

/// Returns true if the whole question is on the screen.
pub(super) fn question_fits(state: &TopState) -> bool {
    let lines = foot(state, usize::from(state.size.0)).len();
    state.size.0 > 3 && lines <= usize::from(state.size.1)
}

/// Returns the first line of the verdict after a move by some lines.
pub(super) fn verdict_top(state: &TopState, step: isize) -> usize {
    let lines = verdict::lines(state, usize::from(state.size.0)).len();
    let shown = usize::from(areas_of_screen(state).verdict.height.saturating_sub(1));
    state.verdict_top.saturating_add_signed(step).min(lines.saturating_sub(shown))
}

/// Keeps the last lines of a page of text on the screen.
pub(super) fn bound_page(state: &mut TopState) {
    let area = body(state);
    let lines = page_lines(state, usize::from(area.width)).len();
    let shown = usize::from(area.height.saturating_sub(1));
    if let Some(page) = &mut state.page {
        page.top = page.top.min(lines.saturating_sub(shown));
    }
}

fn draw_verdict(state: &TopState, canvas: &mut Canvas<'_>, area: Rect) {
    let lines = verdict::lines(state, usize::from(area.width));
    let shown = usize::from(area.height.saturating_sub(1));
    let top = state.verdict_top.min(lines.len().saturating_sub(shown));
    let (mut heading, tone) = verdict::heading(state);
    if lines.len() > shown {
        heading +=
            &format!(", lines {}-{} of {} (J K v)", (top + 1).min(lines.len()), top + shown, lines.len());
    }
    let used = canvas.put(area, 0, 1, &heading, tone);
    let mut facts = verdict::process(state);
    while !facts.is_empty() {
        let text = format!("{} ", facts.join("  "));
        if columns(&clean(&text)) + usize::from(used) + 2 <= usize::from(area.width) {
            canvas.put_right(area, 0, used, &text, tone);
            break;
        }
        facts.pop();
    }
    canvas.reverse(area, 0, tone);
    draw_lines(canvas, Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area }, &lines, top);
}

/// Draws lines from one of them on, as many as there is room for.
fn draw_lines(canvas: &mut Canvas<'_>, area: Rect, lines: &[ToneLine], top: usize) {
    for (row, line) in lines.iter().skip(top).take(usize::from(area.height)).enumerate() {
        canvas.line(area, u16::try_from(row).unwrap_or(u16::MAX), line);
    }
}

fn draw_charts(state: &TopState, canvas: &mut Canvas<'_>, area: Rect) {
    let history = state.pages.value(ViewPage::History);
    if charts::is_history(history) {
        charts::draw(canvas, area, history, state.status()["connections"]["limit"].as_u64());
    } else if let Some((code, _)) = state.pages.refusal(ViewPage::History) {
        let open = shown(&state.status()["connections"]["open"]);
        let text = format!("open {open}; this server has no history for charts ({code})");
        canvas.put(area, 0, 0, &text, Tone::Faint);
    }
}

/// Draws the names of the tables. A narrow screen has the numbers of the others alone.
fn draw_tabs(state: &TopState, canvas: &mut Canvas<'_>, area: Rect) {
    let overrides = items(&state.status()["overrides"]).len();
    let whole = |at: usize, view: TopView| match (view, overrides) {
        (TopView::Overrides, 1..) => format!("{} {} ({overrides})", at + 1, view.word()),
        _ => format!("{} {}", at + 1, view.word()),
    };
    let plain = |at: usize, view: TopView| format!("{} {}", at + 1, view.word());
    let short =
        |at: usize, view: TopView| if view == state.view { plain(at, view) } else { (at + 1).to_string() };
    let names = |name: &dyn Fn(usize, TopView) -> String| -> Vec<String> {
        TopView::ALL.into_iter().enumerate().map(|(at, view)| name(at, view)).collect()
    };
    let fits =
        |names: &[String]| names.iter().map(|name| name.len() + 2).sum::<usize>() <= usize::from(area.width);
    let names =
        [names(&whole), names(&plain)].into_iter().find(|names| fits(names)).unwrap_or_else(|| names(&short));
    let mut column = 0;
    for (at, name) in names.iter().enumerate() {
        let (text, tone) = match at == state.view as usize {
            true => (format!("[{name}]"), Tone::Strong),
            false => (format!(" {name} "), Tone::Faint),
        };
        column = canvas.put(area, 0, column, &text, tone);
    }
}

fn draw_table(state: &TopState, canvas: &mut Canvas<'_>, area: Rect) {
    let whole = tables::table(state);
    let (titles, note) = (whole.columns, whole.note.clone());
    let rows = tables::rows(state);
    let has_note = !note.is_empty() && area.height >= 3;
    let of_rows = Rect { height: area.height - u16::from(has_note), ..area };
    table::draw(canvas, of_rows, titles, &rows, state.table());
    if rows.is_empty() && area.height >= 2 {
        let text = match (state.status().is_null(), state.filter().is_empty()) {
            (true, _) => "no answer yet",
            (false, true) => "nothing to show",
            (false, false) => "no row passes the filter; Esc ends it",
        };
        canvas.put(of_rows, 1, 2, text, Tone::Faint);
    }
    let used = u16::try_from(rows.len()).unwrap_or(u16::MAX).saturating_add(2);
    if state.view == TopView::Pools && of_rows.height.saturating_sub(used) >= LEAST_EVENTS {
        draw_events(state, canvas, Rect { y: area.y + used, height: of_rows.height - used, ..area });
    }
    if has_note {
        canvas.put(area, area.height - 1, 0, &note, Tone::Faint);
    }
}

/// Draws the last events below the pools.
fn draw_events(state: &TopState, canvas: &mut Canvas<'_>, area: Rect) {
    let now = time_of_status(state.status());
    let events = items(&state.status()["events"]);
    if !events.is_empty() {
        canvas.put(area, 0, 2, "LAST EVENTS", Tone::Strong);
    }
    for (row, event) in (1..area.height).zip(events) {
        let text = view_lists::first_line(&event["text"]);
        let time = since(&event["time"], now);
        let column = canvas.put(area, row, 2, &format!("{time:<32}"), Tone::Faint);
        canvas.put(area, row, column + 2, text, view_lists::tone_of_event(event));
    }
}

fn draw_page(state: &TopState, canvas: &mut Canvas<'_>, area: Rect) {
    let Some(page) = &state.page else { return };
    let lines = page_lines(state, usize::from(area.width));
    let shown = usize::from(area.height.saturating_sub(1));
    let top = page.top.min(lines.len().saturating_sub(shown));
    let title = match &page.kind {
        TextKind::Help => "Keys".to_owned(),
        TextKind::Verdict => "Problems".to_owned(),
        TextKind::Details { key, .. } => key.clone(),
        TextKind::Connection { id, .. } => format!("connection {id}"),
    };
    let used = canvas.put(area, 0, 1, &title, Tone::Strong);
    let place = match lines.len() > shown {
        true => format!("lines {}-{} of {}, j k  Esc: back ", top + 1, top + shown, lines.len()),
        false => "Esc: back ".to_owned(),
    };
    canvas.put_right(area, 0, used, &place, Tone::Strong);
    canvas.reverse(area, 0, Tone::Strong);
    draw_lines(canvas, Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area }, &lines, top);
}

fn page_lines(state: &TopState, width: usize) -> Vec<ToneLine> {
    let plain = |lines: Vec<String>| lines.into_iter().map(|line| vec![(line, Tone::Plain)]).collect();
    match state.page.as_ref().map(|page| &page.kind) {
        None => Vec::new(),
        Some(TextKind::Help) => help::lines(width),
        Some(TextKind::Verdict) => verdict::lines(state, width),
        Some(TextKind::Details { facts, .. }) => plain(details::lines(facts, width)),
        Some(TextKind::Connection { facts, .. }) => {
            plain(facts.lines().flat_map(|line| wrap(line, width, 4)).collect())
        }
    }
}

/// Returns the lines of the foot: a question, a message, or the filter and the order of the table.
fn foot(state: &TopState, width: usize) -> Vec<String> {
    let mark = state.style.typing_mark();
    match (&state.prompt, &state.message) {
        (TopPrompt::Question { text, .. }, _) => wrap(&format!("{text} [y/N] "), width, 0),
        (TopPrompt::PauseTime { pool, text, .. }, message) => {
            let fault = message.as_ref().map(|message| format!("{}; ", message.text)).unwrap_or_default();
            let question = format!("pause {pool}: new connections wait; for how long ({PAUSE})?");
            wrap(&format!("{fault}{question} {text}{mark}"), width, 0)
        }
        (TopPrompt::Filter(text), _) => wrap(&format!("/{text}{mark}"), width, 0),
        (TopPrompt::None, Some(message)) => {
            let kind = if message.is_fault { "error: " } else { "" };
            let mut lines = wrap(&format!("{kind}{}", message.text), width, 0);
            lines.truncate(MESSAGE);
            lines
        }
        (TopPrompt::None, None) => vec![table_facts(state)],
    }
}

/// Returns the filter and the order of the table, if it is shown.
fn table_facts(state: &TopState) -> String {
    if state.page.is_some() {
        return String::new();
    }
    let table = state.table();
    let mut facts = Vec::new();
    if !table.filter.is_empty() {
        facts.push(format!("filter: {}", clean(&table.filter)));
    }
    let whole = tables::table(state);
    match (table.sort, whole.order) {
        (sort, RowOrder::OfServer) => facts.push(format!("sorted by {}", filter::server_order(sort))),
        (Some(column), _) => {
            let title = whole.columns.get(column).map_or("", |column| column.title);
            let reversed = if table.is_reversed { ", reversed" } else { "" };
            facts.push(format!("sorted by {title}{reversed}"));
        }
        (None, _) => {}
    }
    facts.join("  ")
}

fn draw_foot(state: &TopState, canvas: &mut Canvas<'_>, area: Rect) {
    let lines = foot(state, usize::from(area.width));
    let is_fault = state.message.as_ref().is_some_and(|message| message.is_fault);
    let tone = match &state.prompt {
        TopPrompt::Question { .. } => Tone::Warning,
        _ if is_fault => Tone::Bad,
        TopPrompt::Filter(_) | TopPrompt::PauseTime { .. } => Tone::Strong,
        TopPrompt::None => Tone::Plain,
    };
    let mut used = 0;
    for (row, line) in lines.iter().enumerate().take(usize::from(area.height)) {
        let row = u16::try_from(row).unwrap_or(u16::MAX);
        used = canvas.put(area, row, 0, line, tone);
        if matches!(state.prompt, TopPrompt::Question { .. }) {
            canvas.reverse(area, row, tone);
        }
    }
    if matches!(state.prompt, TopPrompt::None) && lines.len() == 1 && state.has_keys {
        let fits = |hint: &&&str| usize::from(used) + 2 + hint.len() <= usize::from(area.width);
        let hints = if state.page.is_some() { &HINTS[2..] } else { &HINTS };
        let hint = hints.iter().find(fits).copied().unwrap_or_default();
        canvas.put_right(area, 0, used, hint, Tone::Faint);
    }
}
