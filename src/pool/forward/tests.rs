//! Tests of names and addresses. The integration tests have those that need a resolver.

use super::*;
use crate::pool::forward_spec::{ForwardRules, HostPattern};

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

fn forward(allow: &[&str], resolvers: &[&str]) -> ForwardSpec {
    let allow = allow.iter().map(|pattern| HostPattern::Names(pattern.parse().unwrap())).collect();
    ForwardSpec {
        to: ForwardTo::Sni { port: 443 },
        rules: ForwardRules {
            allow,
            deny: Vec::new(),
            allow_networks: Vec::new(),
            deny_networks: Vec::new(),
            ports: vec![443..=443],
            mode: RuleMode::Enforce,
        },
        verify_sni: false,
        allow_private: Vec::new(),
        resolvers: resolvers.iter().map(|address| address.parse().unwrap()).collect(),
    }
}

#[test]
fn a_client_names_its_host_as_the_pool_needs_it() {
    let sni = Forward::build(&forward(&["api.test"], &[]), None);
    let requested = ForwardSpec { to: ForwardTo::Requested, ..forward(&["api.test"], &[]) };
    let requested = Forward::build(&requested, None);
    let name = name("api.test");
    let wanted = TunnelTarget { host: RequestedHost::Name(name.clone()), port: 8443 };
    let target =
        |forward: &Forward, name, wanted| forward.target(name, wanted).map(|target| target.to_string());
    assert_eq!(target(&sni, Some(&name), None), Ok("api.test:443".to_owned()));
    assert_eq!(target(&requested, Some(&name), Some(&wanted)), Ok("api.test:8443".to_owned()));
    for (forward, name, wanted) in
        [(&sni, None, None), (&sni, Some(&name), Some(&wanted)), (&requested, Some(&name), None)]
    {
        assert_eq!(target(forward, name, wanted), Err(ForwardFault::NotAllowed));
    }
}

#[test]
fn our_own_sockets_are_known() {
    fn check(address: &str, own: &str, expected: bool) {
        let own = [own.parse().unwrap()];
        let here = OwnAddresses { own: &own, addresses: Some(vec!["9.9.9.9".parse().unwrap()]) };
        assert_eq!(here.listens(address.parse().unwrap()), expected, "{address} {own:?}");
    }
    check("127.0.0.1:443", "127.0.0.1:443", true);
    check("127.0.0.1:443", "127.0.0.1:444", false);
    check("127.0.0.2:443", "127.0.0.1:443", false);
    check("127.0.0.2:443", "0.0.0.0:443", true);
    check("127.0.0.2:443", "0.0.0.0:444", false);
    check("[::1]:443", "[::]:443", true);
    check("127.0.0.1:443", "[::]:443", false);
    check("9.9.9.9:443", "0.0.0.0:443", true);
    check("9.9.9.10:443", "0.0.0.0:443", false);
}

#[test]
fn our_own_addresses_are_refused_unless_opened() {
    let check = |open: &str, address: &str, expected: bool| {
        let allow_private = open.split_whitespace().map(|prefix| prefix.parse().unwrap()).collect();
        let spec = ForwardSpec { allow_private, ..forward(&["api.test"], &[]) };
        let own = ["9.9.9.9:443".parse().unwrap()];
        let here = OwnAddresses { own: &own, addresses: Some(vec!["9.9.9.9".parse().unwrap()]) };
        let found = Forward::build(&spec, None).may_dial(address.parse().unwrap(), &here);
        assert_eq!(found, expected, "{open} {address}");
    };
    check("", "9.9.9.10:22", true);
    check("", "9.9.9.9:22", false);
    check("9.9.9.9", "9.9.9.9:22", true);
    check("9.9.9.9", "9.9.9.9:443", false);
    check("", "127.0.0.1:22", false);
    check("127.0.0.0/8", "127.0.0.1:22", true);
    check("", "[64:ff9b::9.9.9.10]:22", true);
    check("", "[64:ff9b::9.9.9.9]:22", false);
    check("64:ff9b::/96", "[64:ff9b::9.9.9.9]:443", false);
    let unknown = OwnAddresses { own: &[], addresses: None };
    let forward = Forward::build(&forward(&["api.test"], &[]), None);
    assert!(
        !forward.may_dial("9.9.9.10:22".parse().unwrap(), &unknown),
        "the address may be one of this host"
    );
}

#[test]
fn what_is_known_outlives_a_reload() {
    let one = Forward::build(&forward(&["api.test"], &["10.0.0.53:53"]), None);
    let two = Forward::build(&forward(&["*.test"], &["10.0.0.53:53"]), Some(&one));
    assert!(Arc::ptr_eq(&one.shared, &two.shared));
    let other = TunnelTarget { host: RequestedHost::Name(name("other.test")), port: 443 };
    assert_eq!(two.preview(&other), Ok(()));
    let three = Forward::build(&forward(&["*.test"], &["10.0.0.54:53"]), Some(&two));
    assert!(!Arc::ptr_eq(&two.shared, &three.shared), "other resolvers may have other addresses");
    assert!(Arc::ptr_eq(&two.counts, &three.counts));
    let mark = two.mark(b"hello").expect("the first");
    assert!(three.mark(b"hello").is_none(), "a reload keeps the marks of open connections");
    drop(mark);
}

#[test]
fn those_who_wait_are_told_when_nobody_answers() {
    let one = Forward::build(&forward(&["api.test"], &[]), None);
    let wanted = name("api.test");
    let mut asked = Box::pin(one.look_up(&wanted));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(asked.as_mut().poll(&mut cx).is_pending());
    drop(one.shared.unstarted.lock().unwrap().take());
    let std::task::Poll::Ready(answer) = asked.as_mut().poll(&mut cx) else { panic!("it has an answer") };
    assert_eq!(answer, Err(LookupFault::Failed));
    assert_eq!(one.known(), 1);
}
