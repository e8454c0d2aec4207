use super::*;

#[test]
fn a_command_line_is_a_configuration() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let listen = words(&[":5432", "127.0.0.1:5433"]);
    let config = one_liner(&listen, &words(&["10.0.0.1:5432", "10.0.0.2:5432"])).unwrap();
    let expected = good(
        "[listener.main]\nbind = [':5432', '127.0.0.1:5433']\npool = 'main'\n\
         [pool.main]\nbackends = ['10.0.0.1:5432', '10.0.0.2:5432']",
    );
    assert_eq!(config, expected);

    let faults = one_liner(&words(&["5432", ":1", ":1"]), &words(&["db"])).unwrap_err();
    insta::assert_snapshot!(faults.render(false), @r#"
    error[C0204]: "5432" is not an address that `listener.main.bind[0]` can use
     --> arguments:1:10
      |
    1 | --listen 5432 --listen :1 --listen :1 --backend db
      |          ^^^^ write ":5432" for every local address, or "IP:5432"

    error[C0307]: 0.0.0.0:1 is bound twice
     --> arguments:1:36
      |
    1 | --listen 5432 --listen :1 --listen :1 --backend db
      |                        --          ^^ bound here
      |                        |
      |                        and bound here

    error[C0204]: "db" is not an address that `pool.main.backends` can use
     --> arguments:1:49
      |
    1 | --listen 5432 --listen :1 --listen :1 --backend db
      |                                                 ^^ the port is missing, as in "db:443"
      |
      = help: a backend without a port is for listeners with a range of ports: bind = ":30000-30100"

    arguments: 3 faults
    "#);
    assert_eq!(one_liner(&[], &[]).unwrap_err().diagnostics().len(), 2);
}

/// The arguments have no key for the port of the checks.
#[test]
fn a_backend_without_a_port_for_its_checks_needs_a_file() {
    let faults = one_liner(&[":30000-30009".to_owned()], &["db.example".to_owned()]).unwrap_err();
    let told = faults.render(false);
    assert!(told.contains("the health checks of pool `main` have no port"), "{told}");
    assert!(!told.contains("health = {"), "{told}");
    assert!(told.contains("write a configuration file"), "{told}");
}
