//! The keys of the view, in words.

use super::canvas::ToneLine;
use super::clean::wrap;
use super::style::Tone;

/// The keys and their effects. An entry without a key is a heading.
const KEYS: [(&str, &str); 27] = [
    ("", "Move"),
    ("1 to 7", "show a table: pools, connections, sources, names, events, overrides, listeners"),
    ("Tab, left, right", "show the next or the previous table"),
    ("j k, up, down", "select a row"),
    ("Space, PgUp, PgDn", "move by a screen; g and G: to the start and the end"),
    ("Enter", "show the details of the row; Esc: back to the table"),
    ("c", "show the connections of a pool, backend, source, name or listener"),
    ("", "Order"),
    ("/", "filter: rows that contain all words; Esc ends the filter"),
    ("s", "sort by the next column; S: the other way round"),
    ("", "Verdict"),
    ("J K", "move in the problems; v: show all of them"),
    ("", "Change: each asks first, and only y is a yes"),
    ("d", "drain a backend: no new clients, open connections stay"),
    ("m", "maintenance of a backend: the same, and its checks pause"),
    ("r", "put a backend in use again"),
    ("p", "pause a pool: its new connections wait; the same key resumes it"),
    ("x", "close a connection, or end an override"),
    ("", "Filters of connections, which the server applies to all of them"),
    ("pool=app", "also listener=, backend=app/b1, stage=relaying"),
    ("source=192.0.2.0/24", "the network of the client"),
    ("sni=*.example.com", "the server name; * is any text"),
    ("older=1h idle=10m", "open, or without a byte, for at least this time"),
    ("", "End"),
    ("q, Ctrl-C", "end the view"),
    ("Ctrl-Z", "suspend the view; `fg` continues it"),
    ("Ctrl-L", "draw the screen again"),
];

/// Returns the lines of the help.
pub(super) fn lines(width: usize) -> Vec<ToneLine> {
    let mut lines = Vec::new();
    for (key, effect) in KEYS {
        if key.is_empty() {
            lines.push(vec![(effect.to_owned(), Tone::Strong)]);
            continue;
        }
        let text = format!("  {key:<19}  {effect}");
        lines.extend(wrap(&text, width, 23).into_iter().map(|line| vec![(line, Tone::Plain)]));
    }
    lines
}
