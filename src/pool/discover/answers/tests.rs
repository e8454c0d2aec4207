use proptest::prelude::*;

use super::*;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Returns the result of a question. `text` has addresses with spaces between, `-` for none, `nx` or `timeout`.
fn heard(text: &str) -> Heard<IpAddr> {
    match text {
        "nx" => Err(DnsFault::NoName),
        "timeout" => Err(DnsFault::Timeout),
        "-" => Ok(Answer { records: Vec::new(), ttl: Duration::ZERO }),
        addresses => {
            let records = addresses.split(' ').map(|address| address.parse().unwrap()).collect();
            Ok(Answer { records, ttl: seconds(60) })
        }
    }
}

/// Returns the answers for both families.
fn whole(v4: Heard<IpAddr>, v6: Heard<IpAddr>) -> Part {
    Part { name: "app.test.".into(), v4: Some(v4), v6: Some(v6) }
}

/// Checks the backends with port 1 of a host after rounds of answers (A, AAAA), and the fault of the last round.
fn check(rounds: &[(&str, &str)], backends: &str, fault: Option<&str>) {
    let mut host = HostAnswers::default();
    let mut told = RoundResult::default();
    for (v4, v6) in rounds {
        told = host.take_answer(whole(heard(v4), heard(v6)));
    }
    let found = set(host.backends(1)).unwrap_or_default();
    let names: Vec<_> =
        found.to_string().split(", ").filter_map(|one| Some(one.split(' ').next()?.to_owned())).collect();
    assert_eq!(names.join(" "), backends, "{rounds:?}");
    assert_eq!(told.fault.map(|fault| fault.to_string()).as_deref(), fault, "{rounds:?}");
}

const NO_NAME: Option<&str> = Some("there is no such name (NXDOMAIN)");
const EMPTY: Option<&str> = Some("the answer has no usable record");
const TIMEOUT: Option<&str> = Some("no resolver answered in time");

#[test]
fn both_families_are_taken() {
    check(&[("10.0.0.1", "-")], "10.0.0.1:1", None);
    check(&[("-", "2001:db8::1")], "[2001:db8::1]:1", None);
    check(&[("10.0.0.2 10.0.0.1", "2001:db8::1")], "10.0.0.1:1 10.0.0.2:1 [2001:db8::1]:1", None);
    check(&[("10.0.0.1 10.0.0.1", "nx")], "10.0.0.1:1", None);
}

#[test]
fn an_answer_replaces_the_last_one() {
    check(&[("10.0.0.1", "-"), ("10.0.0.2", "-")], "10.0.0.2:1", None);
    check(&[("10.0.0.1", "2001:db8::1"), ("10.0.0.1", "-")], "10.0.0.1:1", None);
    check(&[("10.0.0.1", "2001:db8::1"), ("nx", "2001:db8::1")], "[2001:db8::1]:1", None);
}

#[test]
fn a_failure_keeps_what_was_heard() {
    for (round, fault) in [
        (("nx", "nx"), NO_NAME),
        (("-", "-"), EMPTY),
        (("timeout", "-"), TIMEOUT),
        (("timeout", "timeout"), TIMEOUT),
    ] {
        check(&[round], "", fault);
        check(&[("10.0.0.1", "2001:db8::1"), round], "10.0.0.1:1 [2001:db8::1]:1", fault);
    }
    let no_v6 = Some("AAAA: no resolver answered in time");
    check(&[("10.0.0.1", "timeout")], "10.0.0.1:1", no_v6);
    check(&[("10.0.0.1", "2001:db8::1"), ("10.0.0.2", "timeout")], "10.0.0.2:1 [2001:db8::1]:1", no_v6);
}

/// Checks the backends after answers of one family, each of a name, and the results of all answers.
fn check_parts(parts: &[(&str, &str, &str, bool)], expected: &str) {
    let mut host = HostAnswers::default();
    let mut told = Vec::new();
    for (name, v4, v6, is_late) in parts {
        let some = |text: &str| (text != "?").then(|| heard(text));
        let part = Part { name: (*name).into(), v4: some(v4), v6: some(v6) };
        told.push(match host.take_in(part, *is_late) {
            None => "passed over".to_owned(),
            Some(RoundResult { fault: Some(fault), .. }) => fault.to_string(),
            Some(RoundResult { is_unfinished, .. }) => {
                if is_unfinished { "unfinished" } else { "good" }.to_owned()
            }
        });
    }
    let names: Vec<_> = host.backends(1).iter().map(|found| found.name.to_string()).collect();
    assert_eq!(format!("{} | {}", names.join(" "), told.join(", ")), expected, "{parts:?}");
}

#[test]
fn a_late_family_joins() {
    let (first, late) = (("a.", "10.0.0.1", "?", false), true);
    check_parts(&[first], "10.0.0.1:1 | unfinished");
    check_parts(&[first, ("a.", "?", "2001:db8::1", late)], "10.0.0.1:1 [2001:db8::1]:1 | unfinished, good");
    check_parts(&[first, ("a.", "?", "-", late)], "10.0.0.1:1 | unfinished, good");
    check_parts(&[first, ("a.", "?", "nx", late)], "10.0.0.1:1 | unfinished, good");
    check_parts(
        &[first, ("a.", "?", "timeout", late)],
        "10.0.0.1:1 | unfinished, AAAA: no resolver answered in time",
    );
    check_parts(&[("a.", "?", "2001:db8::1", false)], "[2001:db8::1]:1 | unfinished");
    // The addresses of the late family stay until its answer has come.
    let both = ("a.", "10.0.0.1", "2001:db8::1", false);
    check_parts(&[both, ("a.", "10.0.0.2", "?", false)], "10.0.0.2:1 [2001:db8::1]:1 | good, unfinished");
    // Another name of the search list is another host.
    check_parts(&[both, ("b.", "10.0.0.2", "?", false)], "10.0.0.2:1 | good, unfinished");
    check_parts(
        &[first, ("b.", "10.0.0.2", "?", false), ("a.", "?", "2001:db8::1", late)],
        "10.0.0.2:1 | unfinished, unfinished, passed over",
    );
}

#[test]
fn addresses_that_are_nobodys_are_passed_over() {
    check(&[("0.0.0.0 224.0.0.1 255.255.255.255 10.0.0.1", ":: ff02::1")], "10.0.0.1:1", None);
    check(&[("0.0.0.0", "-")], "", None);
    assert!(matches!(set(Vec::new()), Err(DnsFault::Empty)));
}

#[test]
fn rounds_are_joined() {
    let good = |ttl| RoundResult::good(seconds(ttl));
    let check = |one: RoundResult, two: RoundResult, ttl: Option<u64>, fault: bool| {
        let joined = one.and(two);
        assert_eq!((joined.ttl, joined.fault.is_some()), (ttl.map(seconds), fault));
    };
    check(good(5), good(3), Some(3), false);
    check(good(5), RoundResult::default(), Some(5), false);
    check(good(5), RoundResult::bad(DnsFault::Empty), Some(5), true);
    check(RoundResult::bad(DnsFault::Empty), RoundResult::bad(DnsFault::Timeout), None, true);
}

fn service(priority: u16, weight: u16, port: u16, target: &str) -> SrvRecord {
    SrvRecord { priority, weight, port, target: target.into() }
}

fn records(list: &[(u16, u16, u16, &str)]) -> Heard<SrvRecord> {
    let records =
        list.iter().map(|&(priority, weight, port, target)| service(priority, weight, port, target));
    Ok(Answer { records: records.collect(), ttl: seconds(30) })
}

/// Checks the backends of SRV records whose targets have these addresses.
fn check_services(list: &[(u16, u16, u16, &str)], hosts: &[(&str, &str, &str)], expected: &str) {
    let mut services = SrvAnswers::default();
    let told = services.take_answer(records(list));
    assert_eq!(told.ttl, Some(seconds(30)), "{list:?}");
    for (target, v4, v6) in hosts {
        services.host(target).unwrap().take_answer(whole(heard(v4), heard(v6)));
    }
    assert_eq!(set(services.backends()).unwrap_or_default().to_string(), expected, "{list:?}");
}

#[test]
fn a_target_with_one_address_is_an_identity() {
    let record = [(1, 1, 443, "a.example")];
    check_services(&record, &[("a.example", "10.0.0.1", "-")], "a.example:443 10.0.0.1:443 1");
    check_services(
        &record,
        &[("a.example", "10.0.0.1", "2001:db8::1")],
        "[a.example]:443 [2001:db8::1]:443 1, a.example:443 10.0.0.1:443 1",
    );
    check_services(
        &record,
        &[("a.example", "10.0.0.1 10.0.0.2", "-")],
        "10.0.0.1:443 10.0.0.1:443 1, 10.0.0.2:443 10.0.0.2:443 1",
    );
    check_services(&[(1, 1, 443, "a\\032b")], &[("a\\032b", "10.0.0.1", "-")], "10.0.0.1:443 10.0.0.1:443 1");
}

#[test]
fn weights_are_honoured_and_0_is_little_rather_than_none() {
    let hosts = [("a", "10.0.0.1", "-"), ("b", "10.0.0.2", "-")];
    let check = |a: u16, b: u16, expected: (u16, u16)| {
        let expected = format!("a:1 10.0.0.1:1 {}, b:1 10.0.0.2:1 {}", expected.0, expected.1);
        check_services(&[(1, a, 1, "a"), (1, b, 1, "b")], &hosts, &expected);
    };
    check(3, 5, (3, 5));
    check(0, 0, (1, 1));
    check(0, 1, (1, 100));
    check(600, 0, (60_000, 1));
    check(0, 65_535, (1, 65_535));
}

#[test]
fn a_higher_number_is_a_backup() {
    let list = [(10, 1, 1, "a"), (20, 2, 1, "b"), (30, 3, 1, "c")];
    let (a, b, c) = (("a", "10.0.0.1", "-"), ("b", "10.0.0.2", "-"), ("c", "10.0.0.3", "-"));
    check_services(&list, &[a, b, c], "a:1 10.0.0.1:1 1, b:1 10.0.0.2:1 2 backup, c:1 10.0.0.3:1 3 backup");
    check_services(&list, &[("a", "nx", "nx"), b, c], "b:1 10.0.0.2:1 2, c:1 10.0.0.3:1 3 backup");
    check_services(&list, &[c], "c:1 10.0.0.3:1 3");
    check_services(&list, &[], "");
    // A server with two priorities counts for the lower number.
    let twice = [(20, 2, 1, "a"), (10, 1, 1, "b")];
    check_services(&twice, &[("a", "10.0.0.1", "-"), ("b", "10.0.0.1", "-")], "b:1 10.0.0.1:1 1");
}

#[test]
fn srv_answers_that_are_none() {
    let check = |list: &[(u16, u16, u16, &str)], expected: Option<&str>| {
        let mut services = SrvAnswers::default();
        services.take_answer(records(&[(1, 1, 1, "last")]));
        let told = services.take_answer(records(list));
        assert_eq!(told.fault.map(|fault| fault.to_string()).as_deref(), expected, "{list:?}");
        let kept = services.targets();
        assert_eq!(kept.iter().any(|target| **target == *"last"), expected.is_some(), "{kept:?}");
    };
    check(&[], EMPTY);
    check(&[(1, 1, 0, "a")], EMPTY);
    check(&[(1, 1, 1, ""), (1, 1, 1, "a")], None);
    let many: Vec<_> =
        (0..=MOST_SERVICES).map(|port| (1, 1, u16::try_from(port + 1).unwrap(), "a")).collect();
    check(&many, Some("the answer has 513 records, which is too many"));
    check(&many[1..], None);
}

#[test]
fn a_service_that_is_not_there_takes_nothing_new() {
    let gone = || records(&[(0, 0, 0, "")]);
    let mut services = SrvAnswers::default();
    assert!(services.take_answer(gone()).fault.is_none());
    assert_eq!(services.set().unwrap().to_string(), "", "an empty set is an answer");
    services.take_answer(records(&[(1, 1, 1, "a"), (2, 1, 1, "b")]));
    for (target, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
        services.host(target).unwrap().take_answer(whole(heard(address), heard("-")));
    }
    let open = "a:1 10.0.0.1:1 1, b:1 10.0.0.2:1 1 backup";
    assert_eq!(services.set().unwrap().to_string(), open);
    let told = services.take_answer(gone());
    assert_eq!((told.ttl, told.fault.is_none()), (Some(seconds(30)), true));
    assert!(services.targets().is_empty(), "no target is asked for");
    assert_eq!(services.set().unwrap().to_string(), "a:1 10.0.0.1:1 0, b:1 10.0.0.2:1 0 backup");
    services.take_answer(Err(DnsFault::Timeout));
    assert_eq!(services.set().unwrap().to_string(), "a:1 10.0.0.1:1 0, b:1 10.0.0.2:1 0 backup");
    services.take_answer(records(&[(1, 1, 1, "a"), (2, 1, 1, "b"), (0, 0, 0, "")]));
    assert_eq!(services.set().unwrap().to_string(), open);
}

#[test]
fn a_target_that_is_gone_is_forgotten() {
    let mut services = SrvAnswers::default();
    services.take_answer(records(&[(1, 1, 1, "a"), (1, 1, 1, "b")]));
    for target in services.targets() {
        services.host(&target).unwrap().take_answer(whole(heard("10.0.0.1"), heard("-")));
    }
    services.take_answer(records(&[(1, 1, 1, "b")]));
    services.take_answer(records(&[(1, 1, 1, "a"), (1, 1, 1, "b")]));
    let names: Vec<_> = services.backends().iter().map(|found| found.name.to_string()).collect();
    assert_eq!(names, ["b:1"]);
}

fn ip() -> impl Strategy<Value = IpAddr> {
    (1_u8..20).prop_map(|low| IpAddr::from([10, 0, 0, low]))
}

proptest! {
    #[test]
    fn the_order_of_addresses_says_nothing(list in prop::collection::vec(ip(), 1..20), turn in any::<usize>()) {
        let answer = |records: Vec<IpAddr>| Ok(Answer { records, ttl: seconds(1) });
        let none = || Ok(Answer { records: Vec::new(), ttl: seconds(1) });
        let mut turned = list.clone();
        turned.rotate_left(turn % list.len());
        turned.reverse();
        let (mut one, mut two) = (HostAnswers::default(), HostAnswers::default());
        one.take_answer(whole(answer(list), none()));
        two.take_answer(whole(answer(turned), none()));
        prop_assert_eq!(set(one.backends(1)).unwrap(), set(two.backends(1)).unwrap());
    }

    #[test]
    fn the_order_of_services_says_nothing(
        list in prop::collection::vec((0_u16..3, any::<u16>(), 1_u16..4, 0_u8..4), 1..12),
        turn in any::<usize>(),
    ) {
        let build = |list: &[(u16, u16, u16, u8)]| {
            let mut services = SrvAnswers::default();
            let records = list
                .iter()
                .map(|&(priority, weight, port, target)| service(priority, weight, port, &format!("t{target}")));
            services.take_answer(Ok(Answer { records: records.collect(), ttl: seconds(1) }));
            for target in services.targets() {
                // The targets t0 and t3 share an address.
                let low = target.as_bytes()[1] % 3;
                services.host(&target).unwrap().take_answer(whole(heard(&format!("10.0.0.{low}")), heard("-")));
            }
            set(services.backends()).unwrap()
        };
        let mut turned = list.clone();
        turned.rotate_left(turn % list.len());
        let found = build(&list);
        prop_assert!(!found.is_empty());
        prop_assert_eq!(found, build(&turned));
    }

    #[test]
    fn no_failure_ever_empties(rounds in prop::collection::vec((0_usize..5, 0_usize..5), 1..30)) {
        const WORDS: [&str; 5] = ["10.0.0.1", "10.0.0.1 10.0.0.2", "-", "nx", "timeout"];
        let mut host = HostAnswers::default();
        host.take_answer(whole(heard("10.0.0.9"), heard("-")));
        for (v4, v6) in rounds {
            let told = host.take_answer(whole(heard(WORDS[v4]), heard(WORDS[v6])));
            prop_assert!(!host.backends(1).is_empty());
            prop_assert!(told.fault.is_some() || told.ttl.is_some());
        }
    }
}
