//! Mail with STARTTLS: real clients and real servers, with the listener between them.

use std::path::Path;
use std::process::Command;

use super::certificates::{Authority, SignedCertificate};
use super::checks::{self, RunningServer};
use super::{Directory, Program, finish, run, said};

const NAMES: [&str; 2] = ["one.example.test", "two.example.test"];

/// Starts a listener of a protocol with a pool for each name.
fn program(protocol: &str, servers: &[RunningServer; 2]) -> Program {
    let [one, two] = servers.each_ref().map(|server| server.address);
    let [first, second] = NAMES;
    Program::start(&format!(
        "[listener.mail]\nbind = \"127.0.0.1:0\"\nprotocol = \"{protocol}\"\nhostname = \"front.example.test\"\n\
         routes = [{{ sni = \"{first}\", pool = \"one\" }}, {{ sni = \"{second}\", pool = \"two\" }}]\n\
         [pool.one]\nbackends = [\"{one}\"]\n[pool.two]\nbackends = [\"{two}\"]\n"
    ))
}

/// Checks that clients of both names reach the server with the certificate, and that clients without TLS are
/// refused.
fn check(protocol: &str, servers: &[RunningServer; 2], authority: &Authority, python: &str) {
    let program = program(protocol, servers);
    let port = program.address("mail").port().to_string();
    for name in NAMES {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-starttls", protocol, "-connect", &format!("127.0.0.1:{port}"), "-crlf"]);
        openssl.args(["-servername", name, "-verify_return_error", "-verify_hostname", name, "-CAfile"]);
        let told = said(&finish(openssl.arg(authority.file()), b""));
        assert!(told.contains("Verify return code: 0 (ok)") && told.contains(name), "{told}");
        // The script verifies the name, and connects to an address.
        let script = format!(
            "import smtplib, imaplib, poplib, ssl, socket, sys\n\
             port, name, ca = int(sys.argv[1]), sys.argv[2], sys.argv[3]\n\
             context = ssl.create_default_context(cafile=ca)\n\
             real = socket.getaddrinfo\n\
             socket.getaddrinfo = lambda host, *rest, **more: real('127.0.0.1', *rest, **more)\n{python}"
        );
        let mut client = Command::new("python3");
        client.args(["-c", &script, &port, name]).arg(authority.file());
        assert_eq!(run(&mut client), "plain refused\nsession\n", "{protocol} {name}");
        program.wait_for_record("the record", |record| record["sni"] == *name && record["route"] == *name);
    }
    program.stop();
}

/// OpenSMTPD of Debian 12 cannot finish a handshake (its key engine fails with OpenSSL 3). So the server is
/// the submission service of Dovecot. It is a real server up to the login, after which it needs a relay.
#[test]
#[ignore = "needs dovecot-submissiond, openssl and python3"]
fn smtp_is_routed_by_name() {
    let authority = Authority::new();
    let servers = NAMES.map(|name| dovecot("submission", name, &authority.sign(name)));
    let python = "with smtplib.SMTP(name, port, timeout=20) as mail:\n    \
                  if mail.mail('a@b.test')[0] == 530: print('plain refused')\n    \
                  mail.starttls(context=context)\n    code, said = mail.ehlo('me.test')\n    \
                  assert code == 250 and name.encode() in said and mail.has_extn('auth'), said\n    \
                  print('session')\n";
    check("smtp", &servers, &authority, python);
}

/// Starts Dovecot with this protocol alone.
fn dovecot(protocol: &str, name: &str, signed: &SignedCertificate) -> RunningServer {
    let directory = Directory::new();
    let base = directory.0.clone();
    let mail = directory.file("mail");
    std::fs::create_dir(&mail).unwrap();
    run(Command::new("chown").arg("65534:65534").arg(&mail));
    let users = directory.write("users", "ann:{PLAIN}secret:65534:65534::/tmp::\n");
    RunningServer::start(directory, |directory, port| {
        let conf = configuration(protocol, name, signed, &base, &users, port);
        let mut command = Command::new("dovecot");
        command.arg("-F").arg("-c").arg(directory.write("conf", conf));
        command
    })
}

fn configuration(
    protocol: &str,
    name: &str,
    signed: &SignedCertificate,
    base: &Path,
    users: &Path,
    port: u16,
) -> String {
    let other = format!("{protocol}s");
    format!(
        "protocols = {protocol}\nbase_dir = {base}/run\nstate_dir = {base}/state\nlog_path = /dev/stderr\n\
         listen = 127.0.0.1\nssl = required\nssl_cert = <{cert}\nssl_key = <{key}\nhostname = {name}\n\
         mail_location = maildir:{base}/mail\nmail_uid = 65534\nmail_gid = 65534\nfirst_valid_uid = 1\nfirst_valid_gid = 1\n\
         passdb {{\n driver = passwd-file\n args = {users}\n}}\nuserdb {{\n driver = passwd-file\n args = {users}\n}}\n\
         service {protocol}-login {{\n chroot =\n inet_listener {protocol} {{\n  port = {port}\n }}\n inet_listener {other} {{\n  port = 0\n }}\n}}\n",
        base = base.display(),
        cert = signed.certificate.display(),
        key = signed.key.display(),
        users = users.display(),
    )
}

#[test]
#[ignore = "needs dovecot-imapd, openssl and python3"]
fn imap_is_routed_by_name() {
    let authority = Authority::new();
    let servers = NAMES.map(|name| dovecot("imap", name, &authority.sign(name)));
    let python = "mail = imaplib.IMAP4(name, port, timeout=20)\n\
                  try: mail.login('ann', 'secret')\n\
                  except imaplib.IMAP4.error as error:\n    \
                  if 'STARTTLS' in str(error): print('plain refused')\n\
                  mail.starttls(context)\n\
                  try: assert mail.login('ann', 'wrong') is None\n\
                  except imaplib.IMAP4.error as error: assert 'AUTHENTICATIONFAILED' in str(error), error\n\
                  mail.login('ann', 'secret')\nprint('session')\nmail.logout()\n";
    check("imap", &servers, &authority, python);
}

#[test]
#[ignore = "needs dovecot-pop3d, openssl and python3"]
fn pop3_is_routed_by_name() {
    let authority = Authority::new();
    let servers = NAMES.map(|name| dovecot("pop3", name, &authority.sign(name)));
    let python = "mail = poplib.POP3(name, port, timeout=20)\n\
                  try: mail.user('ann')\n\
                  except poplib.error_proto as error:\n    \
                  if b'STLS' in error.args[0]: print('plain refused')\n\
                  mail.stls(context)\n\
                  mail.user('ann')\nmail.pass_('secret')\nprint('session')\nmail.quit()\n";
    check("pop3", &servers, &authority, python);
}

/// Tests the checks in the recipes of docs/start/recipes.md for protocols that have no kind of their own.
#[test]
#[ignore = "needs dovecot-imapd, dovecot-pop3d and openssl"]
fn recipes_check_their_servers() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/start/recipes.md");
    let page = std::fs::read_to_string(page).unwrap();
    let authority = Authority::new();
    for protocol in ["imap", "pop3"] {
        let (_, recipe) = page.split_once(&format!("<!-- recipe: {protocol} -->\n```toml\n")).unwrap();
        let (recipe, _) = recipe.split_once("```").unwrap();
        let health = recipe.lines().find_map(|line| line.strip_prefix("health   = { ")?.strip_suffix(" }"));
        let server = dovecot(protocol, NAMES[0], &authority.sign(NAMES[0]));
        checks::check(server, &[health.expect("a line with a check")]);
    }
}
