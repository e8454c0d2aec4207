//! The table of the present view, and its selected row.

use super::filter::own_words;
use super::state::{TopState, TopView};
use super::table::{PlacedRow, RowOrder, TopRow, TopTable, placed, selected};
use super::{view_lists, view_pools};

/// Returns the whole table.
pub(super) fn table(state: &TopState) -> TopTable<'_> {
    match state.view {
        TopView::Pools => view_pools::table(state),
        TopView::Connections => view_lists::connections(state),
        TopView::Sources => view_lists::sources(state),
        TopView::Names => view_lists::names(state),
        TopView::Events => view_lists::events(state),
        TopView::Overrides => view_lists::overrides(state),
        TopView::Listeners => view_lists::listeners(state),
    }
}

/// Returns the rows that pass the filter, in their order.
pub(super) fn rows(state: &TopState) -> Vec<PlacedRow<'_>> {
    let table = table(state);
    match table.order {
        RowOrder::OfServer => placed(table, state.table(), &own_words(state.filter())),
        RowOrder::All | RowOrder::InGroups => placed(table, state.table(), state.filter()),
    }
}

/// Returns the selected row.
pub(super) fn selected_row(state: &TopState) -> Option<TopRow<'_>> {
    let mut rows = rows(state);
    let at = selected(&rows, state.table())?;
    Some(rows.swap_remove(at).row)
}

/// Returns the row with a key.
pub(super) fn row_of<'s>(state: &'s TopState, key: &str) -> Option<TopRow<'s>> {
    rows(state).into_iter().map(|placed| placed.row).find(|row| row.key == key)
}
