//! The keys of the access log.

use super::*;

fn events(keys: &str) -> AccessLogEvents {
    good(&whole("", "", &format!("[access_log]\n{keys}"))).access_log.events
}

#[test]
fn events_and_their_interval_reach_the_spec() {
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let end = AccessLogEvents { start: false, interval: None, end: true };
    assert_eq!(AccessLogEvents::default(), end);
    assert_eq!(events(""), end);
    assert_eq!(events("events = 'end'"), end);
    let all = AccessLogEvents { start: true, interval: seconds(60), end: true };
    assert_eq!(events("events = ['start', 'interval', 'end']"), all);
    let own = AccessLogEvents { start: false, interval: seconds(86_400), end: false };
    assert_eq!(events("events = ['interval', 'interval']\ninterval = '1day'"), own);
}

#[test]
fn events_without_a_meaning_are_faults() {
    let check = |keys: &str, expected: &[&str]| check_others(&format!("[access_log]\n{keys}"), expected);
    check("events = []", &["C0105"]);
    check("events = ['begin']", &["C0201"]);
    check("events = ['intervall']\ninterval = '5s'", &["C0201"]);
    check("events = 7", &["C0104"]);
    check("events = 'interval'\ninterval = '999ms'", &["C0203"]);
    check("events = 'interval'\ninterval = '1day 1s'", &["C0203"]);
    check("events = 'interval'\ninterval = '1500ms'", &["C0203"]);
    check("events = 'interval'\ninterval = 60", &["C0104"]);
    check("interval = '5s'", &["C0402"]);
    check("events = 'end'\ninterval = '5s'", &["C0402"]);
}
