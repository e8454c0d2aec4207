//! Tests of the printed result, with pages that a node may forge.

use super::*;

#[test]
fn the_text_names_values_nodes_and_effects() {
    let mut nodes = ["a", "b", "c"].map(node).to_vec();
    set(&mut nodes[0].status, "/listeners/0/protocol", "tcp");
    let fleet = fleet(nodes);
    let text = show::text(&fleet, &Comparison::of(&fleet));
    let expected = "\
NODE  HOST    VERSION  STATE    PROBLEMS
a     host-a  1.2.3    serving  0
b     host-b  1.2.3    serving  0
c     host-c  1.2.3    serving  0

THE NODES DIFFER

  listener tls: protocol
      tls at b, c
      tcp at a
      effect: the listener reads another protocol at a
";
    assert_eq!(text, expected);
}

#[test]
fn long_results_are_cut() {
    let keys: Vec<_> =
        (0..150).map(|number| json!({ "key": format!("limits.n{number}"), "value": number })).collect();
    let mut nodes = ["a", "b"].map(node).to_vec();
    nodes[1].config["keys"].as_array_mut().unwrap().extend(keys);
    let fleet = fleet(nodes);
    let comparison = Comparison::of(&fleet);
    assert_eq!(comparison.differences.len(), 150);
    assert!(show::text(&fleet, &comparison).contains("and 50 differences more; --json shows them"));
    let page: Value = serde_json::from_str(&show::json(&fleet, &comparison)).unwrap();
    assert_eq!(page["differences"].as_array().unwrap().len(), 150);
}

#[test]
fn long_values_are_compared_as_a_whole_and_shown_in_part() {
    let long = "x".repeat(5000);
    let mut nodes = ["a", "b"].map(node).to_vec();
    for (end, node) in ["y", "z"].iter().zip(&mut nodes) {
        set(&mut node.status, "/host", &*long);
        set(&mut node.config, "/keys/5/value", format!("{long}{end}"));
    }
    let listener = json!({ "name": long, "protocol": "tls" });
    nodes[0].status["listeners"].as_array_mut().unwrap().push(listener);
    let fleet = fleet(nodes);
    let comparison = Comparison::of(&fleet);
    assert_eq!(comparison.differences.len(), 2, "{:?}", comparison.differences);
    let text = show::text(&fleet, &comparison);
    let longest = text.lines().map(str::len).max().unwrap();
    assert!((300..400).contains(&longest), "{longest}");
    assert!(show::json(&fleet, &comparison).contains(&format!("{long}z")));
}

#[test]
fn no_name_of_a_node_controls_the_terminal() {
    let bad = "\u{1b}[2J\n\u{202e}x";
    let mut hostile = node("c");
    for pointer in
        ["/version", "/host", "/life", "/pools/0/name", "/pools/0/digest", "/pools/0/backends/0/name"]
    {
        set(&mut hostile.status, pointer, bad);
    }
    hostile.status["listeners"].as_array_mut().unwrap().push(json!({ "name": bad, "protocol": bad }));
    hostile.status["overrides"] = set_override(bad, bad.into(), bad.into(), bad);
    hostile.status["overrides"][0]["since"] = bad.into();
    hostile.status["config"]["last_reload"] = json!({ "result": "failed", "time": bad });
    set(&mut hostile.routes, "/routes/0/pool", bad);
    set(&mut hostile.config, "/keys/0/key", bad);
    set(&mut hostile.config, "/keys/5/value", bad);
    let fleet = fleet(vec![node("a"), hostile]);
    let text = show::text(&fleet, &Comparison::of(&fleet));
    assert!(text.contains("\\u{1b}[2J"), "{text}");
    let is_bad = |letter: char| (letter.is_control() && letter != '\n') || letter == '\u{202e}';
    assert!(!text.contains(is_bad), "{text:?}");
    assert!(!text.lines().any(|line| line.ends_with("[2J") || line.starts_with("\\u{202e}")), "{text}");
}

#[test]
fn pages_of_another_form_do_not_panic() {
    for page in [
        Value::Null,
        json!([]),
        json!({}),
        json!({ "pools": 1, "listeners": [[]], "overrides": [1] }),
        json!(7),
    ] {
        let odd = Node { status: page.clone(), routes: page.clone(), config: page, ..node("odd") };
        let fleet = fleet(vec![node("a"), odd]);
        let comparison = Comparison::of(&fleet);
        assert!(!comparison.agrees(&fleet));
        assert!(show::text(&fleet, &comparison).contains("THE NODES DIFFER"));
    }
}
