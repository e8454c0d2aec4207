//! The filter of a table: words that a row contains, and for connections also filters of the server.

use crate::cli::admin_client::escaped;

/// The filters of connections that the server has.
const OF_SERVER: [&str; 8] = ["pool", "backend", "listener", "source", "sni", "stage", "older", "idle"];

/// The orders of connections that the server has, in the order of their columns.
pub(super) const ORDERS: [&str; 4] = ["age", "idle", "rate", "bytes"];

/// Returns true if a text passes the words of a filter. Upper and lower case are equal.
pub(super) fn passes(text: &str, filter: &str) -> bool {
    let text = text.to_lowercase();
    filter.split_whitespace().all(|word| text.contains(&word.to_lowercase()))
}

/// Returns the words of a filter that the server does not know.
pub(super) fn own_words(filter: &str) -> String {
    let words: Vec<_> = filter.split_whitespace().filter(|word| of_server(word).is_none()).collect();
    words.join(" ")
}

/// Returns the parameters of a query for the words that are filters of the server, such as `pool=app`. A filter that has no
/// value yet has no effect.
pub(super) fn server_filters(filter: &str) -> String {
    let filters = filter.split_whitespace().filter_map(of_server).filter(|(_, value)| !value.is_empty());
    filters.map(|(name, value)| format!("&{name}={}", escaped(value))).collect()
}

/// Returns the word of an order of the server.
pub(super) fn server_order(sort: Option<usize>) -> &'static str {
    ORDERS.get(sort.unwrap_or(0)).copied().unwrap_or(ORDERS[0])
}

fn of_server(word: &str) -> Option<(&str, &str)> {
    word.split_once('=').filter(|(name, _)| OF_SERVER.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_words_must_be_in_a_row() {
        assert!(passes("app/b1 down", "DOWN app"));
        assert!(passes("app/b1 down", "  "));
        assert!(!passes("app/b1 down", "app up"));
    }

    #[test]
    fn the_server_gets_its_filters() {
        let check = |filter: &str, query: &str, own: &str| {
            assert_eq!((&*server_filters(filter), &*own_words(filter)), (query, own), "{filter}");
        };
        check("", "", "");
        check("pool=app idle=10m web", "&pool=app&idle=10m", "web");
        check("sni=*.a&b pool= x=y", "&sni=%2A.a%26b", "x=y");
        check("backend=app/b1", "&backend=app/b1", "");
        check("source=\u{e9}\u{1b}", "&source=%C3%A9%1B", "");
    }
}
