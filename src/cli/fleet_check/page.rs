//! The pages of nodes. Memory for a page is bounded, because another program may listen at the address of a node.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The largest page, in bytes: a status of about 40,000 backends. The pages of routes and keys are smaller.
const LARGEST_PAGE: usize = 32 * 1024 * 1024;

/// The most memory of the values of a page, in bytes. Small objects take a hundred times the memory of their text.
const MOST_MEMORY: usize = 64 * 1024 * 1024;

/// The memory of an object, in bytes: the first node of its map.
const MEMORY_OF_OBJECT: usize = 640;

/// The memory of a key in an object, in bytes: its part of a node of the map that is half full.
const MEMORY_OF_KEY: usize = 128;

/// The memory of an item in an array, in bytes: an array grows by doubling.
const MEMORY_OF_ITEM: usize = 2 * size_of::<Value>();

/// The keys that are compared or shown. All others are dropped.
const KEPT: [&str; 46] = [
    "action",
    "address",
    "backend",
    "backends",
    "backup",
    "balance",
    "by",
    "commit",
    "config",
    "cut",
    "digest",
    "ends_in_seconds",
    "hidden",
    "host",
    "key",
    "keys",
    "kind",
    "last_reload",
    "left_out",
    "life",
    "listener",
    "listeners",
    "name",
    "near",
    "origin",
    "otherwise",
    "overrides",
    "pool",
    "pools",
    "problems",
    "protocol",
    "result",
    "route",
    "routes",
    "since",
    "split",
    "state",
    "text",
    "tiers",
    "time",
    "total",
    "value",
    "verdict",
    "version",
    "weight",
    "zone",
];

/// Reads a page of JSON, and keeps the values that are compared or shown.
///
/// # Errors
///
/// The fault of the page. It has no line end.
pub(super) fn parse(page: &str) -> Result<Value, String> {
    if page.len() > LARGEST_PAGE {
        return Err(format!("its answer is larger than {} MiB, so it is not read", LARGEST_PAGE >> 20));
    }

    let left = Cell::new(MOST_MEMORY);
    let mut json = serde_json::Deserializer::from_str(page);
    let value = Kept { left: &left }.deserialize(&mut json);
    value.and_then(|value| json.end().map(|()| value)).map_err(|error| {
        if error.is_data() {
            format!("its answer has values of more than {} MiB, so it is not read", MOST_MEMORY >> 20)
        } else {
            "its answer is no JSON".to_owned()
        }
    })
}

/// Builds a value without the keys that are not kept.
#[derive(Clone, Copy)]
struct Kept<'a> {
    /// The memory that the page may still take, in bytes.
    left: &'a Cell<usize>,
}

impl Kept<'_> {
    /// Subtracts the memory of a value.
    fn take<E: Error>(self, bytes: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(bytes).ok_or_else(|| E::custom("too many values"))?;
        self.left.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Kept<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Kept<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.take(text.len())?;
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut json: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = json.next_element_seed(self)? {
            self.take(MEMORY_OF_ITEM)?;
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut json: A) -> Result<Value, A::Error> {
        self.take(MEMORY_OF_OBJECT)?;
        let mut object = Map::new();
        while let Some(key) = json.next_key::<String>()? {
            if KEPT.contains(&&*key) {
                self.take(MEMORY_OF_KEY + key.len())?;
                object.insert(key, json.next_value_seed(self)?);
            } else {
                json.next_value::<IgnoredAny>()?;
            }
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_compared_keys_are_kept() {
        let page = json!({
            "life": "serving", "uptime": { "name": 1 }, "split": [-1, 2, 0.5, true, null],
            "pools": [{ "name": "d\u{1b}b", "queue": [[]] }, {}],
        });
        let kept = json!({
            "life": "serving", "split": [-1, 2, 0.5, true, null], "pools": [{ "name": "d\u{1b}b" }, {}],
        });
        assert_eq!(parse(&page.to_string()), Ok(kept));
    }

    #[test]
    fn other_text_is_no_json() {
        for page in ["", "x", "{\"life\":", "[] []", "{1:2}", &"[".repeat(1000)] {
            assert_eq!(parse(page), Err("its answer is no JSON".to_owned()), "{page:?}");
        }
    }

    #[test]
    fn the_size_of_a_page_is_bounded() {
        let page = |size: usize| format!("[]{}", " ".repeat(size - 2));
        assert_eq!(parse(&page(LARGEST_PAGE)), Ok(json!([])));
        assert!(parse(&page(LARGEST_PAGE + 1)).unwrap_err().contains("larger than 32 MiB"));
    }

    #[test]
    fn the_memory_of_small_values_is_bounded() {
        let page = |item: &str, count: usize| format!("[{}0]", format!("{item},").repeat(count));
        let check = |item: &str, most: usize| {
            assert!(parse(&page(item, most / 2)).is_ok(), "{item}");
            let fault = parse(&page(item, most + 1)).unwrap_err();
            assert!(fault.contains("values of more than 64 MiB"), "{item}: {fault}");
        };
        check("0", MOST_MEMORY / MEMORY_OF_ITEM);
        check("{}", MOST_MEMORY / MEMORY_OF_OBJECT);
        check("[{}]", MOST_MEMORY / MEMORY_OF_OBJECT);
        check("{\"name\":0}", MOST_MEMORY / MEMORY_OF_OBJECT);
        // Dropped values take no memory.
        let dropped = format!("{{\"uptime\":{}}}", page("{}", MOST_MEMORY / MEMORY_OF_OBJECT + 1));
        assert_eq!(parse(&dropped), Ok(json!({})));
    }
}
