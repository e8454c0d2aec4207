//! One frame as text, for scripts.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::clean::columns;
use super::state::TopState;
use super::{draw, tables, verdict};

/// The bounds of a frame, so that a wrong variable of the environment asks for no memory without bound.
const MOST_COLUMNS: u16 = 1000;
const MOST_LINES: u16 = 20_000;

/// The lines of a frame beside its verdict and the rows of its table.
const OTHER_LINES: usize = 14;

/// Returns a frame of the state. Without a number of lines it has as many as its content needs.
pub(super) fn frame(state: &mut TopState, columns: Option<u16>, lines: Option<u16>) -> String {
    let width = columns.filter(|columns| *columns > 0).unwrap_or(80).min(MOST_COLUMNS);
    let height = lines.filter(|lines| *lines > 0).unwrap_or_else(|| needed_lines(state, width));
    state.size = (width, height.min(MOST_LINES));
    let mut buffer = Buffer::empty(Rect::new(0, 0, state.size.0, state.size.1));
    draw::draw(state, &mut buffer);
    text(&buffer)
}

/// Returns the lines with which nothing is cut. The verdict may take a third of them.
fn needed_lines(state: &TopState, width: u16) -> u16 {
    let verdict = 1 + verdict::lines(state, usize::from(width)).len();
    let rows = tables::rows(state).len();
    u16::try_from((3 * verdict).max(verdict + rows + OTHER_LINES)).unwrap_or(MOST_LINES)
}

/// Returns the characters of a screen, without spaces at the ends of lines and empty lines at the end.
pub(super) fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for row in buffer.area.rows() {
        let mut line = String::new();
        let mut covered = 0;
        for position in row.positions() {
            if covered > 0 {
                // The character before it has two columns.
                covered -= 1;
                continue;
            }
            let symbol = buffer[position].symbol();
            covered = columns(symbol).saturating_sub(1);
            line.push_str(symbol);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}
