//! The only way to the cells of the screen. Each text is cleaned, and stays inside its area.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Modifier;

use super::clean::{clean, columns, cut};
use super::style::{Tone, TopStyle};

/// A line of pieces of text.
pub(super) type ToneLine = Vec<(String, Tone)>;

/// The cells of one frame.
pub(super) struct Canvas<'b> {
    buffer: &'b mut Buffer,
    style: TopStyle,
}

impl<'b> Canvas<'b> {
    pub(super) fn new(buffer: &'b mut Buffer, style: TopStyle) -> Self {
        Self { buffer, style }
    }

    pub(super) fn style(&self) -> TopStyle {
        self.style
    }

    /// Writes a text at a column of a row of an area, as far as the area goes. Returns the column behind it.
    pub(super) fn put(&mut self, area: Rect, row: u16, column: u16, text: &str, tone: Tone) -> u16 {
        let area = area.intersection(self.buffer.area);
        if row >= area.height || column >= area.width {
            return column;
        }
        let cleaned = clean(text);
        let shown = cut(&cleaned, usize::from(area.width - column), self.style.cut_mark());
        self.buffer.set_string(area.x + column, area.y + row, &shown, self.style.of(tone));
        column + u16::try_from(columns(&shown)).unwrap_or(area.width - column)
    }

    /// Writes a line of pieces at the start of a row.
    pub(super) fn line(&mut self, area: Rect, row: u16, line: &ToneLine) {
        line.iter().fold(0, |column, (text, tone)| self.put(area, row, column, text, *tone));
    }

    /// Writes a text at the end of a row, if there are two free columns before it.
    pub(super) fn put_right(&mut self, area: Rect, row: u16, used: u16, text: &str, tone: Tone) {
        let width = u16::try_from(columns(&clean(text))).unwrap_or(u16::MAX);
        if used.saturating_add(width).saturating_add(2) <= area.width {
            self.put(area, row, area.width - width, text, tone);
        }
    }

    /// Exchanges the two colours of a row.
    pub(super) fn reverse(&mut self, area: Rect, row: u16, tone: Tone) {
        let area = area.intersection(self.buffer.area);
        if row < area.height {
            let row = Rect { y: area.y + row, height: 1, ..area };
            self.buffer.set_style(row, self.style.of(tone).add_modifier(Modifier::REVERSED));
        }
    }
}
