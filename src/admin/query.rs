//! Parses the query of a request, the part after `?`.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The pace of an order to close connections without a rate: slow enough that clients that connect again are no load.
const PACE: Duration = Duration::from_millis(50);

/// The highest number in a rate.
pub(super) const FASTEST: u32 = 100_000;

/// The fault of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueryFault {
    /// A parameter has another name, has no value, or is there twice.
    Other,
    /// A `%` without two hexadecimal digits, or escapes that are not UTF-8.
    Escape,
}

/// Returns the value of the one parameter that a query may have.
pub(super) fn value(query: Option<&str>, word: &str) -> Result<Option<String>, QueryFault> {
    values(query, [word]).map(|[value]| value)
}

/// Returns the number that the one parameter of a query has: the default if the query has none, and `None` if it is not
/// valid or not in these bounds.
pub(super) fn number(
    query: Option<&str>,
    word: &str,
    default: usize,
    bounds: RangeInclusive<usize>,
) -> Option<usize> {
    let Some(number) = value(query, word).ok()? else { return Some(default) };
    number.parse().ok().filter(|number| bounds.contains(number))
}

/// Returns the values of the parameters `words`. A query may have each of them once, and no others. Escapes are
/// decoded: `%3A`, and `%20` or `+` for a space.
pub(super) fn values<const COUNT: usize>(
    query: Option<&str>,
    words: [&str; COUNT],
) -> Result<[Option<String>; COUNT], QueryFault> {
    let mut values = [const { None }; COUNT];
    for pair in query.filter(|query| !query.is_empty()).into_iter().flat_map(|query| query.split('&')) {
        let (name, value) = pair.split_once('=').ok_or(QueryFault::Other)?;
        let name = decoded(name)?;
        let at = words.iter().position(|word| *word == name).ok_or(QueryFault::Other)?;
        if values[at].replace(decoded(value)?).is_some() {
            return Err(QueryFault::Other);
        }
    }
    Ok(values)
}

/// Returns the time of one turn of a rate such as `20/s`; the default if there is none. `None` if the text is no rate.
pub(super) fn interval(rate: Option<&str>) -> Option<Duration> {
    let Some(text) = rate else { return Some(PACE) };
    let (number, unit) = text.split_once('/')?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse().ok().filter(|number| is_number && (1..=FASTEST).contains(number))?;
    Some(Duration::from_secs(unit) / number)
}

/// Returns the value of `true` or `false`; false if there is none. `None` if the text is another.
pub(super) fn truth(text: Option<&str>) -> Option<bool> {
    match text {
        None | Some("false") => Some(false),
        Some("true") => Some(true),
        Some(_) => None,
    }
}

fn decoded(text: &str) -> Result<String, QueryFault> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => match (hex(rest.next()), hex(rest.next())) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(QueryFault::Escape),
            },
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| QueryFault::Escape)
}

fn hex(digit: Option<u8>) -> Option<u8> {
    let value = char::from(digit?).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, expected: Result<Option<&str>, QueryFault>) {
        let value = value(Some(query), "ttl");
        assert_eq!(value.as_ref().map(Option::as_deref).map_err(|fault| *fault), expected, "{query:?}");
    }

    #[test]
    fn a_query_has_one_word() {
        use QueryFault::Other;
        assert_eq!(value(None, "ttl"), Ok(None));
        check("", Ok(None));
        check("ttl=1h", Ok(Some("1h")));
        check("ttl=", Ok(Some("")));
        check("ttl", Err(Other));
        check("tll=1h", Err(Other));
        check("ttl=1h&ttl=2h", Err(Other));
        check("a=1&ttl=2h", Err(Other));
    }

    #[test]
    fn a_query_may_have_several_words() {
        let check = |query: &str, expected: Result<[Option<&str>; 2], QueryFault>| {
            let values = values(Some(query), ["ttl", "force"]);
            let expected = expected.map(|values| values.map(|value| value.map(str::to_owned)));
            assert_eq!(values, expected, "{query:?}");
        };
        check("", Ok([None, None]));
        check("ttl=1h", Ok([Some("1h"), None]));
        check("force=true&ttl=1h", Ok([Some("1h"), Some("true")]));
        check("force=true&force=true", Err(QueryFault::Other));
        check("force=true&", Err(QueryFault::Other));
        check("force=true&x=1", Err(QueryFault::Other));
    }

    #[test]
    fn escapes_are_taken_out() {
        use QueryFault::Escape;
        check("ttl=1h%2030m", Ok(Some("1h 30m")));
        check("ttl=1h+30m", Ok(Some("1h 30m")));
        check("%74tl=2001%3adb8%3A%3A1", Ok(Some("2001:db8::1")));
        check("ttl=%26%3D%25%2B", Ok(Some("&=%+")));
        check("ttl=%C3%A9", Ok(Some("é")));
        check("ttl=é", Ok(Some("é")));
        check("ttl=%", Err(Escape));
        check("ttl=%4", Err(Escape));
        check("ttl=%+1", Err(Escape));
        check("ttl=%-1", Err(Escape));
        check("ttl=%zz", Err(Escape));
        check("ttl=%é", Err(Escape));
        check("ttl=%ff", Err(Escape));
    }
}
