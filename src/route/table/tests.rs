use proptest::prelude::*;

use super::*;

fn table(patterns: &[&str]) -> RouteTable {
    let parsed = patterns.iter().map(|pattern| pattern.parse().unwrap());
    RouteTable::build(parsed.zip((0..).map(RouteId))).unwrap()
}

#[test]
fn the_most_specific_pattern_wins() {
    let patterns = ["a.example.com", "*.example.com", "*.b.example.com", "x.b.example.com", "*.net", "host"];
    let table = table(&patterns);
    let check = |name: &str, expected: Option<&str>| {
        let found = table.find(&name.parse().unwrap()).map(|route| patterns[route.0 as usize]);
        assert_eq!(found, expected, "{name}");
    };
    check("a.example.com", Some("a.example.com"));
    check("A.EXAMPLE.com.", Some("a.example.com"));
    check("c.example.com", Some("*.example.com"));
    check("d.c.example.com", Some("*.example.com"));
    check("b.a.example.com", Some("*.example.com"));
    check("b.example.com", Some("*.example.com"));
    check("y.b.example.com", Some("*.b.example.com"));
    check("z.y.b.example.com", Some("*.b.example.com"));
    check("x.b.example.com", Some("x.b.example.com"));
    check("w.x.b.example.com", Some("*.b.example.com"));
    check("example.com", None);
    check("com", None);
    check("badexample.com", None);
    check("example.com.org", None);
    check("example.net", Some("*.net"));
    check("a.b.c.d.e.f.g.h.net", Some("*.net"));
    check("net", None);
    check("host", Some("host"));
    check("a.host", None);
    check("hos", None);
}

#[test]
fn an_empty_table_finds_nothing() {
    let empty = table(&[]);
    assert_eq!(empty.find(&"a".parse().unwrap()), None);
    assert_eq!(empty.find(&"a.b.example.com".parse().unwrap()), None);
}

#[test]
fn a_name_of_many_labels_meets_a_short_suffix() {
    let name = format!("{}example.com", "a.".repeat(120));
    assert_eq!(table(&["*.example.com"]).find(&name.parse().unwrap()), Some(RouteId(0)));
    assert_eq!(table(&["*.example.org"]).find(&name.parse().unwrap()), None);
}

#[test]
fn every_duplicate_is_told_with_both_routes() {
    let routes = [("a.com", 0), ("*.a.com", 0), ("b.com", 1), ("A.com", 2), ("*.a.com.", 3), ("a.com", 4)];
    let parsed = routes.iter().map(|&(pattern, route)| (pattern.parse().unwrap(), RouteId(route)));
    let duplicates = RouteTable::build(parsed).unwrap_err();
    let told: Vec<_> =
        duplicates.iter().map(|it| (it.pattern.to_string(), it.first.0, it.second.0)).collect();
    assert_eq!(told, [("a.com".to_owned(), 0, 2), ("*.a.com".to_owned(), 0, 3), ("a.com".to_owned(), 0, 4)]);
    assert_eq!(duplicates[1].to_string(), "`*.a.com` is given twice");
}

/// The route by the words of the rule: look at every pattern, keep the best.
fn naive(patterns: &[NamePattern], name: &ServerName) -> Option<RouteId> {
    let fits = |pattern: &NamePattern| match pattern {
        NamePattern::Exact(exact) => (exact == name).then_some(usize::MAX),
        NamePattern::Below(suffix) => {
            name.as_str().ends_with(&format!(".{suffix}")).then_some(suffix.as_str().len())
        }
    };
    let fitting = (0..).zip(patterns).filter_map(|(route, pattern)| Some((fits(pattern)?, RouteId(route))));
    fitting.max().map(|(_, route)| route)
}

proptest! {
    /// Two letters and few labels, so that names and patterns meet often.
    #[test]
    fn agrees_with_a_linear_search(
        patterns in prop::collection::hash_set(r"(\*\.)?[ab]{1,2}(\.[ab]{1,2}){0,3}", 0..20),
        names in prop::collection::vec(r"[ab]{1,2}(\.[ab]{1,2}){0,5}", 1..40),
    ) {
        let patterns: Vec<NamePattern> = patterns.iter().map(|text| text.parse().unwrap()).collect();
        let table = RouteTable::build(patterns.iter().cloned().zip((0..).map(RouteId))).unwrap();
        for name in names {
            let name = name.parse().unwrap();
            prop_assert_eq!(table.find(&name), naive(&patterns, &name), "{}", name);
        }
    }
}
