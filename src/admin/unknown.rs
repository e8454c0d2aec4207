//! The message about a name that does not exist.

use crate::config::did_you_mean;

/// The most names in a message.
const NAMED: usize = 20;

/// Returns the message about a name that does not exist: the nearest name, and the names that exist.
pub(super) fn unknown<'a>(
    what: &str,
    name: &str,
    list: &str,
    names: impl Iterator<Item = &'a str> + Clone,
) -> String {
    let nearest = did_you_mean(name, names.clone()).map(|near| format!("; did you mean `{near}`?"));
    let count = names.clone().count();
    let shown: Vec<_> = names.take(NAMED).collect();
    let more = if count > NAMED { format!(" and {} more", count - NAMED) } else { String::new() };
    let nearest = nearest.unwrap_or_else(|| ".".to_owned());
    if count == 0 {
        return format!("there is no {what} `{name}`. {list}: none");
    }
    format!("there is no {what} `{name}`{nearest} {list}: {}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_about_a_name_has_the_nearest_one() {
        let names = ["db", "mail", "web"];
        let message = unknown("pool", "wbe", "The pools are", names.into_iter());
        assert_eq!(message, "there is no pool `wbe`; did you mean `web`? The pools are: db, mail, web");
        let message = unknown("pool", "zzzzzz", "The pools are", names.into_iter());
        assert_eq!(message, "there is no pool `zzzzzz`. The pools are: db, mail, web");
        let many: Vec<_> = (0..NAMED + 5).map(|number| format!("backend-{number}")).collect();
        let message = unknown("backend", "x", "Its backends are", many.iter().map(String::as_str));
        assert!(message.ends_with("backend-19 and 5 more"), "{message}");
    }
}
