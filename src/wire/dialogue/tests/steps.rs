use super::*;

#[test]
fn steps_are_done_in_order() {
    let steps = script(&[expect(b"220"), send(b"NOOP\r\n"), expect(b"250"), send(b"QUIT\r\n")]);
    check_alive(&steps, b"220 hello\r\n250");
    check(&steps, b"xx 250 220 250", "alive");
    check(&steps, b"250 220", "more");
    assert_eq!(sent(&steps, b"220"), b"NOOP\r\n");
    assert_eq!(sent(&steps, b"220 250"), b"NOOP\r\nQUIT\r\n");

    // Bytes that one step has consumed do not count for the next.
    check(&script(&[expect(b"aa"), expect(b"aa")]), b"aaa", "more");
    check_alive(&script(&[expect(b"aa"), expect(b"aa")]), b"aaxaa");
    check_alive(&script(&[expect(b"aab")]), b"aaab");
    check(&script(&[expect(&[0, 255])]), &[1, 0, 0, 255, 7], "alive");
    check(&script(&[send(b"x")]), b"", "alive");
    check(&script(&[]), b"", "alive");
    let long = vec![b'y'; send_expect::LONGEST_STEP];
    check(&script(&[expect(&long)]), &[&[b'x'; 9000][..], &long].concat(), "alive");
    check(&script(&[expect(b"y")]), &[b'x'; 20_000], "more than 16384 bytes without the expected answer");
}

#[test]
fn bytes_after_the_match_are_bounded_too() {
    let last = script(&[expect(b"ready"), refuse(b"loading:1")]);
    let long = [b"ready".to_vec(), vec![b'x'; MOST_HEARD], b"loading:1".to_vec()].concat();
    check(&last, &long, ENDLESS);
}

#[test]
fn a_pattern_is_searched_in_bounded_time() {
    let pattern = BytePattern::new("[a-z]{3}[0-9] ready").unwrap();
    for fill in [b'x', b'\n'] {
        let steps = script(&[ScriptStep::ExpectPattern(pattern.clone()), refuse(b"never")]);
        let filled = vec![fill; MOST_HEARD - 100];
        let whole = [&filled[..], b"abc7 ready"].concat();
        pattern::SEARCHED.set(0);
        assert_eq!(run(&steps, whole.chunks(1)).0, "alive");
        let searched = pattern::SEARCHED.get();
        assert!(searched < 8 * MOST_HEARD, "{searched}");
    }
    // Refused bytes before the match are still refused; refused bytes after it are not.
    let steps = script(&[refuse(b"fault"), ScriptStep::ExpectPattern(pattern)]);
    let with = |end: &[u8]| [&[b'x'; MOST_HEARD - 100][..], end].concat();
    check(&steps, &with(b"fault abc7 ready"), UNEXPECTED);
    check(&steps, &with(b"abc7 ready fault"), "alive");
}

#[test]
fn silence_is_over_when_more_comes() {
    let steps = [
        ScriptStep::ExpectPattern(BytePattern::new("b+ ready").unwrap()),
        expect(b"role:master"),
        refuse(b"loading"),
    ];
    let mut dialogue = Dialogue::new(&script(&steps), "10.0.0.1:80", &random());
    for byte in [b'x'; 10_000] {
        assert!(matches!(dialogue.go_on(), Ok(DialogueStep::Read | DialogueStep::Listen)));
        dialogue.receive(&[byte]);
    }
    assert_eq!(dialogue.go_on(), Ok(DialogueStep::Listen));
    dialogue.silent();
    assert_eq!(dialogue.go_on(), Ok(DialogueStep::Read));
    dialogue.receive(b"b ready");
    assert_eq!(dialogue.go_on(), Ok(DialogueStep::Listen));
    dialogue.silent();
    assert_eq!(dialogue.go_on(), Ok(DialogueStep::Read));
    dialogue.receive(b" role:master");
    assert_eq!(dialogue.go_on(), Ok(DialogueStep::Listen));
    dialogue.receive(b" loading");
    assert_eq!(dialogue.go_on(), Err(DialogueFault::Unexpected));
}

#[test]
fn patterns_are_expected_and_words_refused() {
    let pattern = |text: &str| ScriptStep::ExpectPattern(BytePattern::new(text).unwrap());
    let primary = script(&[pattern("role:(master|primary)\r\n"), pattern("slaves:[1-9]")]);
    check_alive(&primary, b"role:primary\r\nslaves:2");
    check(&primary, b"role:slave\r\nslaves:2", "more");
    check(&primary, b"slaves:2 role:master\r\n", "more");

    let steps = script(&[refuse(b"loading:1"), refuse(b"-ERR"), send(b"INFO"), expect(b"role:master")]);
    check_alive(&steps, b"loading:0 role:master");
    check(&steps, b"loading:1 role:master", UNEXPECTED);
    check(&steps, b"-ERR", UNEXPECTED);
    check(&steps, b"role:master loading:1", "alive");
    // The end of refused bytes counts: here it is after the expected ones, and equal to them.
    check(&script(&[refuse(b"abcd"), expect(b"bc")]), b"abcd", "alive");
    check(&script(&[refuse(b"abc"), expect(b"bc")]), b"abc", UNEXPECTED);

    // The last refused bytes count until the server closes or is silent.
    let last = script(&[expect(b"role:master"), refuse(b"loading:1")]);
    check(&last, b"role:master loading:0", "alive");
    check(&last, b"role:master loading:1", UNEXPECTED);
    check(&last, b"loading:1 role:master", "alive");
    assert_eq!(end_at_close(&last, b"role:master"), "alive");
    assert_eq!(end_at_close(&last, b"role:slave"), "closed before it answered");
}
