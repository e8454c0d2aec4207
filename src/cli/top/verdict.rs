//! The first lines of the screen: all is well, or the problems with their beginning and the command that helps.

use serde_json::Value;

use super::canvas::ToneLine;
use super::clean::{clean, columns, wrap};
use super::request::ViewPage;
use super::state::{Reach, TopState};
use super::style::Tone;
use super::values::{items, seconds, shown, since, time_of_day, time_of_status};
use crate::cli::admin_client::NO_LISTENER;
use crate::cli::status::duration;

/// The columns by which the further lines of a problem are moved.
const INDENT: usize = 4;

/// Returns the heading: the verdict in a few words.
pub(super) fn heading(state: &TopState) -> (String, Tone) {
    if let Reach::Lost { since, .. } = &state.reach {
        let age = duration(state.now.duration_since(*since).unwrap_or_default().as_secs());
        return (format!("NO ANSWER since {}, for {age}", time_of_day(*since)), Tone::Bad);
    }
    if let Some((code, _)) = state.pages.refusal(ViewPage::Status) {
        return (format!("NO STATUS: the server answers {code}"), Tone::Bad);
    }
    let status = state.status();
    match (&status["problems"], &state.reach) {
        (_, Reach::Asking) => (format!("asking {}", state.target), Tone::Strong),
        (Value::Array(problems), _) => match problems.len() {
            0 => ("all is well".to_owned(), Tone::Good),
            1 => ("NOT WELL: 1 problem".to_owned(), Tone::Bad),
            count => (format!("NOT WELL: {count} problems"), Tone::Bad),
        },
        _ if status.is_null() => (format!("asking {}", state.target), Tone::Strong),
        // An older server has no list of problems.
        _ => ("no verdict: the status has no list of problems".to_owned(), Tone::Warning),
    }
}

/// Returns the facts about the process, those that matter most first.
pub(super) fn process(state: &TopState) -> Vec<String> {
    let status = state.status();
    if !status.is_object() {
        return vec!["pointsman".to_owned()];
    }
    let mut facts = vec![
        format!("pointsman {}", shown(&status["version"])),
        format!("{} {}", shown(&status["life"]), seconds(&status["uptime_seconds"])),
    ];
    if let Some(time) = time_of_status(status) {
        facts.push(format!("{} UTC", time_of_day(time)));
    }
    facts.push(state.target.clone());
    facts
}

/// Returns the lines below the heading.
pub(super) fn lines(state: &TopState, width: usize) -> Vec<ToneLine> {
    let mut lines = Vec::new();
    let mut add = |text: &str, tone: Tone| {
        lines.extend(wrap(text, width, INDENT).into_iter().map(|line| vec![(line, tone)]));
    };
    if let Reach::Lost { reason, answered, .. } = &state.reach {
        let again = humantime::format_duration(state.interval);
        add(
            &format!("! cannot query {}: {reason}; the next try is within {again}", clean(&state.target)),
            Tone::Bad,
        );
        match answered {
            Some(time) => {
                add(&format!("    the values below are of {} UTC", time_of_day(*time)), Tone::Plain)
            }
            None => add(&format!("    {NO_LISTENER}"), Tone::Plain),
        }
    } else if let Some((code, text)) = state.pages.refusal(ViewPage::Status) {
        let hint = match code {
            401 | 403 => "; --token-file FILE gives the token",
            _ => "",
        };
        add(&format!("! {}{hint}", text.trim()), Tone::Bad);
    }
    let now = time_of_status(state.status());
    for problem in items(&state.status()["problems"]) {
        lines.extend(problem_lines(problem, now, width));
    }
    lines
}

fn problem_lines(problem: &Value, now: Option<std::time::SystemTime>, width: usize) -> Vec<ToneLine> {
    let name = shown(&problem["name"]);
    let space = if name.is_empty() { "" } else { " " };
    let text = problem["text"].as_str().map_or_else(|| shown(&problem["text"]), str::to_owned);
    let text = format!("! {}{space}{name}: {}", shown(&problem["kind"]), text.trim_end());
    // An older server has neither.
    let since = problem["since"].as_str().map(|_| format!("since {}", since(&problem["since"], now)));
    let command = problem["command"].as_str().map(|_| shown(&problem["command"]));
    let further = since.into_iter().chain(command).collect::<Vec<_>>().join(": ");
    let text = wrap(&text, width, INDENT);
    let is_short = |line: &String| text.len() == 1 && columns(line) + 2 + columns(&further) <= width;
    match text.first() {
        _ if further.is_empty() => text.into_iter().map(|line| vec![(line, Tone::Bad)]).collect(),
        Some(line) if is_short(line) => vec![vec![(format!("{line}  "), Tone::Bad), (further, Tone::Plain)]],
        _ => {
            let further = wrap(&format!("{}{further}", " ".repeat(INDENT)), width, INDENT);
            let text = text.into_iter().map(|line| vec![(line, Tone::Bad)]);
            text.chain(further.into_iter().map(|line| vec![(line, Tone::Plain)])).collect()
        }
    }
}
