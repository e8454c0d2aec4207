//! A table: rows in groups, their order and filter, and their place on a screen of any width.

use std::cmp::Ordering;

use ratatui::layout::Rect;
use serde_json::Value;

use super::canvas::Canvas;
use super::clean::{clean, columns};
use super::filter::passes;
use super::state::TableState;
use super::style::Tone;

/// The least width of the last column, which takes the rest of the screen.
const LEAST_REST: usize = 24;

/// The columns between two cells.
const GAP: usize = 2;

/// The columns of the mark of the selected row.
const MARK: usize = 2;

/// The columns by which a row below a head is moved.
const INDENT: usize = 2;

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct TopColumn {
    pub(super) title: &'static str,
    /// True for numbers.
    pub(super) is_right: bool,
    /// The order in which columns leave a narrow screen: the greatest first; 0 stays.
    pub(super) rank: u8,
}

impl TopColumn {
    pub(super) const fn text(title: &'static str, rank: u8) -> Self {
        Self { title, is_right: false, rank }
    }

    pub(super) const fn number(title: &'static str, rank: u8) -> Self {
        Self { title, is_right: true, rank }
    }
}

/// A cell: its text, and its number if it is sorted as one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TopCell {
    pub(super) text: String,
    pub(super) number: Option<f64>,
}

impl TopCell {
    pub(super) fn text(text: impl AsRef<str>) -> Self {
        Self { text: clean(text.as_ref()).into_owned(), number: None }
    }

    /// Makes a cell of a number with a text of its own.
    pub(super) fn number(number: Option<f64>, text: impl AsRef<str>) -> Self {
        Self { number: Some(number.unwrap_or(-1.0)), ..Self::text(text) }
    }

    /// Makes a cell of a count; an empty one of another value.
    pub(super) fn count(value: &Value) -> Self {
        Self::number(value.as_f64(), value.as_u64().map(|count| count.to_string()).unwrap_or_default())
    }
}

/// The thing that a row is about, with its names as the server wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RowSubject {
    /// Nothing that can be changed or searched.
    Other,
    Pool(String),
    Backend {
        pool: String,
        name: String,
    },
    Connection(u64),
    Source(String),
    ServerName(String),
    Listener(String),
    Override,
}

/// A row of a table.
#[derive(Clone, Debug)]
pub(super) struct TopRow<'s> {
    /// The identity of the row, over answers.
    pub(super) key: String,
    pub(super) cells: Vec<TopCell>,
    pub(super) tone: Tone,
    pub(super) subject: RowSubject,
    /// The JSON that the row is made of.
    pub(super) value: &'s Value,
}

/// Rows with a head, or without one.
#[derive(Clone, Debug)]
pub(super) struct RowGroup<'s> {
    pub(super) head: Option<TopRow<'s>>,
    pub(super) rows: Vec<TopRow<'s>>,
}

/// The origin of the order of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// The view sorts groups and rows.
    All,
    /// The view sorts the rows of each group.
    InGroups,
    /// The server has sorted the rows.
    OfServer,
}

/// The content of a table.
#[derive(Clone, Debug)]
pub(super) struct TopTable<'s> {
    pub(super) columns: &'static [TopColumn],
    pub(super) groups: Vec<RowGroup<'s>>,
    pub(super) order: RowOrder,
    /// A line below the table, or in the place of its rows.
    pub(super) note: String,
}

/// A row in its place.
#[derive(Clone, Debug)]
pub(super) struct PlacedRow<'s> {
    pub(super) row: TopRow<'s>,
    /// True if it is below a head.
    pub(super) is_below: bool,
}

/// Returns the rows that pass a filter, in their order. A head passes with one of its rows, and all rows pass with their
/// head.
pub(super) fn placed<'s>(table: TopTable<'s>, state: &TableState, filter: &str) -> Vec<PlacedRow<'s>> {
    let TopTable { mut groups, order, .. } = table;
    let passes = |row: &TopRow<'_>| passes(&text_of(row), filter);
    for group in &mut groups {
        if !group.head.as_ref().is_some_and(passes) {
            group.rows.retain(passes);
        }
    }
    groups.retain(|group| !group.rows.is_empty() || group.head.as_ref().is_some_and(passes));
    if let (Some(column), true) = (state.sort, order != RowOrder::OfServer) {
        let compare = |one: &TopRow<'_>, other: &TopRow<'_>| compare(one, other, column, state.is_reversed);
        groups.iter_mut().for_each(|group| group.rows.sort_by(compare));
        if order == RowOrder::All {
            groups.sort_by(|one, other| match (&one.head, &other.head) {
                (Some(one), Some(other)) => compare(one, other),
                _ => Ordering::Equal,
            });
        }
    }
    let mut rows = Vec::new();
    for group in groups {
        let is_below = group.head.is_some();
        rows.extend(group.head.map(|row| PlacedRow { row, is_below: false }));
        rows.extend(group.rows.into_iter().map(|row| PlacedRow { row, is_below }));
    }
    rows
}

fn text_of(row: &TopRow<'_>) -> String {
    let cells: Vec<_> = row.cells.iter().map(|cell| &*cell.text).collect();
    // A name that is cut or escaped in its cell is found by its key too.
    format!("{} {}", cells.join(" "), row.key)
}

/// Compares two rows by a column: the greatest number and the first text come first.
fn compare(one: &TopRow<'_>, other: &TopRow<'_>, column: usize, is_reversed: bool) -> Ordering {
    let (Some(one), Some(other)) = (one.cells.get(column), other.cells.get(column)) else {
        return Ordering::Equal;
    };
    let ordering = match (one.number, other.number) {
        (Some(one), Some(other)) => other.total_cmp(&one),
        _ => one.text.cmp(&other.text),
    };
    if is_reversed { ordering.reverse() } else { ordering }
}

/// Returns the place of the selected row. If it is gone, the row that has its place is selected.
pub(super) fn selected(rows: &[PlacedRow<'_>], state: &TableState) -> Option<usize> {
    let last = rows.len().checked_sub(1)?;
    let place = state.place.min(last);
    let Some(key) = &state.selected else { return Some(place) };
    // Two rows may have one key. The one that the operator has reached comes before the other.
    let has_key = |at: &usize| rows[*at].row.key == *key;
    Some(Some(place).filter(has_key).or_else(|| (0..rows.len()).find(has_key)).unwrap_or(place))
}

/// Draws the titles and the rows around the selected one.
pub(super) fn draw(
    canvas: &mut Canvas<'_>,
    area: Rect,
    titles: &'static [TopColumn],
    rows: &[PlacedRow<'_>],
    state: &TableState,
) {
    let widths = widths(titles, rows, usize::from(area.width));
    let lines = usize::from(area.height.saturating_sub(1));
    let selected = selected(rows, state);
    // The selected row is in the middle, except near the ends.
    let first = selected.unwrap_or(0).saturating_sub(lines / 2).min(rows.len().saturating_sub(lines));
    let heads: Vec<_> = titles.iter().map(|column| column.title).collect();
    let mut line = Line { canvas, area, titles, widths: &widths, row: 0 };
    line.draw(&heads, Tone::Strong, 0, "");
    for (at, placed) in rows.iter().enumerate().skip(first).take(lines) {
        let cells: Vec<_> = placed.row.cells.iter().map(|cell| &*cell.text).collect();
        let indent = if placed.is_below { INDENT } else { 0 };
        let is_selected = Some(at) == selected;
        line.row += 1;
        line.draw(&cells, placed.row.tone, indent, if is_selected { ">" } else { "" });
        if is_selected {
            let row = line.row;
            line.canvas.reverse(area, row, placed.row.tone);
        }
    }
}

/// Returns the width of each column; `None` for a column that does not fit.
fn widths(titles: &[TopColumn], rows: &[PlacedRow<'_>], screen: usize) -> Vec<Option<usize>> {
    let most = (screen * 2 / 5).max(12);
    let last = titles.len().saturating_sub(1);
    let wanted = |at: usize, column: &TopColumn| {
        let cells = rows.iter().filter_map(|placed| {
            let indent = if at == 0 && placed.is_below { INDENT } else { 0 };
            placed.row.cells.get(at).map(|cell| columns(&cell.text) + indent)
        });
        let content = cells.max().unwrap_or(0);
        // A column without content says nothing.
        let is_empty = content == 0 && column.rank > 0 && !rows.is_empty();
        (!is_empty).then(|| content.max(column.title.len()).min(if at == last { usize::MAX } else { most }))
    };
    let mut widths: Vec<_> = titles.iter().enumerate().map(|(at, column)| wanted(at, column)).collect();
    loop {
        let shown = widths.iter().flatten().count();
        let of = |(at, width): (usize, &Option<usize>)| {
            width.map(|width| if at == last { width.min(LEAST_REST) } else { width })
        };
        let sum: usize = widths.iter().enumerate().filter_map(of).sum();
        let free = screen.saturating_sub(MARK + sum + GAP * shown.saturating_sub(1));
        if MARK + sum + GAP * shown.saturating_sub(1) <= screen {
            if let Some(Some(width)) = widths.last_mut() {
                *width = (*width).min((*width).min(LEAST_REST) + free);
            }
            return widths;
        }
        let leaves = (0..titles.len())
            .filter(|at| widths[*at].is_some() && titles[*at].rank > 0)
            .max_by_key(|at| titles[*at].rank);
        match leaves {
            Some(at) => widths[at] = None,
            None => return widths,
        }
    }
}

/// A line of a table that is drawn.
struct Line<'c, 'b> {
    canvas: &'c mut Canvas<'b>,
    area: Rect,
    titles: &'static [TopColumn],
    widths: &'c [Option<usize>],
    row: u16,
}

impl Line<'_, '_> {
    fn draw(&mut self, cells: &[&str], tone: Tone, indent: usize, mark: &str) {
        self.canvas.put(self.area, self.row, 0, mark, tone);
        let mut column = MARK;
        for (at, (cell, width)) in cells.iter().zip(self.widths).enumerate() {
            let Some(width) = *width else { continue };
            let indent = if at == 0 { indent } else { 0 };
            let free = width.saturating_sub(columns(cell) + indent);
            let moved = column + if self.titles[at].is_right { free } else { indent };
            let within = u16::try_from(column + width).unwrap_or(u16::MAX).min(self.area.width);
            let area = Rect { width: within, ..self.area };
            self.canvas.put(area, self.row, u16::try_from(moved).unwrap_or(u16::MAX), cell, tone);
            column += width + GAP;
        }
    }
}
