//! The values of the nodes for one thing, and a difference between these values.

use std::borrow::Cow;

use serde_json::Value;

use crate::cli::admin_client::shortened;
use crate::cli::status::escaped;

/// The most nodes that are named in a sentence.
const NAMED: usize = 5;

/// A difference between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// The kind: `version`, `life`, `override`, `listener`, `route`, `pool`, `digest`, `backend` or `key`.
    pub(super) kind: &'static str,
    /// The thing that differs, such as `pool db, backend b2: weight`.
    pub(super) subject: String,
    /// The values. The one that most nodes have comes first.
    pub(super) values: Vec<NodesOfValue>,
    /// The consequence for clients or operators.
    pub(super) effect: String,
}

/// A value and the nodes that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodesOfValue {
    pub(super) value: String,
    pub(super) nodes: Vec<String>,
}

/// Groups the values of nodes; `None` if all are equal. Equal groups keep the order of the nodes.
pub(super) fn grouped<'a>(values: impl IntoIterator<Item = (&'a str, String)>) -> Option<Vec<NodesOfValue>> {
    let mut groups: Vec<NodesOfValue> = Vec::new();
    for (node, value) in values {
        match groups.iter_mut().find(|group| group.value == value) {
            Some(group) => group.nodes.push(node.to_owned()),
            None => groups.push(NodesOfValue { value, nodes: vec![node.to_owned()] }),
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.nodes.len()));
    (groups.len() > 1).then_some(groups)
}

/// Returns `before` with the nodes that differ from the majority. Returns `otherwise` if there is no majority.
pub(super) fn odd_nodes(groups: &[NodesOfValue], before: &str, otherwise: &str) -> String {
    let [most, second, ..] = groups else { return otherwise.to_owned() };
    if most.nodes.len() == second.nodes.len() {
        return otherwise.to_owned();
    }
    let odd: Vec<_> = groups[1..].iter().flat_map(|group| group.nodes.iter().cloned()).collect();
    format!("{before}{}", first_of(&odd))
}

/// Returns some names of a list, with the number of the others.
pub(super) fn first_of(names: &[String]) -> String {
    match names.len() {
        0..=NAMED => names.join(", "),
        all => format!("{} and {} more", names[..NAMED].join(", "), all - NAMED),
    }
}

/// Returns the first characters of a name or a short value of a node in one line, with characters that control a terminal
/// escaped.
pub(super) fn said(value: &Value) -> String {
    one_line(shortened(&plain(value)))
}

/// Returns a value of a node like [`said`], but not shortened, because other values may have the same first characters.
pub(super) fn whole(value: &Value) -> String {
    one_line(&plain(value))
}

/// Returns a value without quotes; an empty text for null.
fn plain(value: &Value) -> Cow<'_, str> {
    match value {
        Value::Null => Cow::Borrowed(""),
        Value::String(text) => Cow::Borrowed(text),
        other => Cow::Owned(other.to_string()),
    }
}

/// Escapes line ends and all other characters that control a terminal.
pub(super) fn one_line(text: &str) -> String {
    escaped(text, |_| false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(values: &[(&str, &str)]) -> Option<Vec<NodesOfValue>> {
        grouped(values.iter().map(|(node, value)| (*node, (*value).to_owned())))
    }

    #[test]
    fn the_value_of_most_nodes_comes_first() {
        assert_eq!(groups(&[("a", "1"), ("b", "1")]), None);
        assert_eq!(groups(&[]), None);
        let found = groups(&[("a", "2"), ("b", "1"), ("c", "1")]).unwrap();
        assert_eq!((found[0].value.as_str(), &*found[0].nodes), ("1", &["b".to_owned(), "c".to_owned()][..]));
        assert_eq!(odd_nodes(&found, " through ", ""), " through a");
    }

    #[test]
    fn without_a_majority_no_node_is_odd() {
        let found = groups(&[("a", "2"), ("b", "1")]).unwrap();
        assert_eq!((found[0].value.as_str(), odd_nodes(&found, " through ", "?").as_str()), ("2", "?"));
    }

    #[test]
    fn long_lists_are_counted() {
        let names: Vec<_> = (1..=8).map(|number| format!("n{number}")).collect();
        assert_eq!(first_of(&names), "n1, n2, n3, n4, n5 and 3 more");
        assert_eq!(first_of(&names[..2]), "n1, n2");
    }

    #[test]
    fn no_value_controls_the_terminal() {
        assert_eq!(said(&"a\u{1b}[2J\nb\u{202e}".into()), "a\\u{1b}[2J\\nb\\u{202e}");
        assert_eq!((said(&Value::Null), said(&7.into())), (String::new(), "7".to_owned()));
        let long = Value::from("\n".repeat(5000));
        assert_eq!((said(&long).len(), whole(&long).len()), (600, 10_000));
    }
}
