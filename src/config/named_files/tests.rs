use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::config::{check_given, load};
use crate::sys::file::make_fifo;

/// A folder with a configuration and the files that it names, all without faults.
struct ConfigFolder(PathBuf);

const CONFIG: &str = "\
access_log.to = 'LOG'
admin = { listen = '127.0.0.1:1', token_file = 'token' }
[list.drop]
file = 'drop.txt'
[listener.l]
bind = ':1'
protocol = 'tls'
routes_file = 'routes.toml'
unmatched = 'p'
deny = 'drop'
[pool.p]
discover = { file = 'b.json' }
";

const GOOD: [(&str, &str); 4] = [
    ("token", "0123456789abcdef\n"),
    ("drop.txt", "192.0.2.1\n"),
    ("routes.toml", "routes = []\n"),
    ("b.json", "{\"version\": 1, \"backends\": []}\n"),
];

impl ConfigFolder {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder =
            Self(std::env::temp_dir().join(format!("pointsman-named-{}-{number}", std::process::id())));
        fs::create_dir_all(folder.at("log")).unwrap();
        folder.configure(&folder.at("log/access.log"));
        GOOD.iter().for_each(|(name, text)| folder.write(name, text.as_bytes()));
        folder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &[u8]) {
        fs::write(self.at(name), text).unwrap();
    }

    fn configure(&self, log: &Path) {
        self.write("c.toml", CONFIG.replace("LOG", log.to_str().unwrap()).as_bytes());
    }

    /// Returns the output of a check, without the folder's own name.
    fn told(&self) -> String {
        let told = match check_given(&self.at("c.toml")) {
            Ok((_, warnings)) => warnings.render(false),
            Err(faults) => faults.render(false),
        };
        told.replace(self.0.to_str().unwrap(), "DIR")
    }

    fn check(&self, expected: &[&str]) {
        let told = self.told();
        assert_eq!(told.is_empty(), expected.is_empty(), "{told}");
        for part in expected {
            assert!(told.contains(part), "no {part:?} in {told}");
        }
    }
}

impl Drop for ConfigFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn good_files_are_good_with_a_byte_order_mark_too() {
    let folder = ConfigFolder::new();
    folder.check(&[]);
    for (name, text) in GOOD {
        folder.write(name, &[b"\xef\xbb\xbf", text.replace('\n', "\r\n").as_bytes()].concat());
        folder.check(&[]);
    }
    let text = fs::read(folder.at("c.toml")).unwrap();
    folder.write("c.toml", &[b"\xef\xbb\xbf".as_slice(), &text].concat());
    folder.check(&[]);
}

#[test]
fn a_fault_has_the_line_that_names_the_file() {
    let folder = ConfigFolder::new();
    folder.write("drop.txt", b"# only a remark\n");
    folder.check(&["error[C0263]", "DIR/c.toml:4:8", "DIR/drop.txt", "allow_empty = true in [list.drop]"]);
    fs::remove_file(folder.at("drop.txt")).unwrap();
    folder.check(&["error[C0100]", "DIR/c.toml:4:8", "DIR/drop.txt", "there is no such file"]);
    folder.write("drop.txt", b"192.0.2.1\nx\n");
    folder.check(&["error[C0260]", "DIR/drop.txt:2:1", "DIR/c.toml:4 names the file, by list.drop.file"]);
    folder.write("drop.txt", b"192.0.2.1\n");

    folder.write("routes.toml", b"");
    folder.check(&["error[C0105]", "needs `routes`", "DIR/c.toml:8:15", "DIR/routes.toml"]);
    folder.write("routes.toml", b"routes = 1\n");
    folder.check(&["DIR/routes.toml:1:10", "DIR/c.toml:8 names the file, by listener.l.routes_file"]);
}

#[test]
fn all_files_that_loading_leaves_alone_are_told_of_at_once() {
    let folder = ConfigFolder::new();
    folder.configure(&folder.at("nowhere/access.log"));
    folder.write("token", b"short");
    folder.write("b.json", b"rubbish");
    folder.check(&[
        "error[C0362]: the access log cannot be opened: its directory does not exist",
        "DIR/c.toml:1:17",
        "error[C0361]",
        "DIR/c.toml:2:48",
        "warning[C0463]: the file with the backends of pool `p` is broken: expected value at line 1 column 1",
        "DIR/c.toml:12:21",
        "2 faults",
    ]);
    // A process that starts reads the last two files later, and continues without them.
    load(&folder.at("c.toml")).unwrap();
}

#[test]
fn discovery_may_come_later() {
    let folder = ConfigFolder::new();
    fs::remove_file(folder.at("b.json")).unwrap();
    folder.check(&["warning[C0462]", "does not exist yet", "DIR/c.toml:12:21", "1 warning"]);
    fs::create_dir(folder.at("b.json")).unwrap();
    folder.check(&["warning[C0463]", "it is a directory"]);
}

#[test]
fn the_access_log_is_not_opened() {
    let folder = ConfigFolder::new();
    folder.check(&[]);
    assert!(!folder.at("log/access.log").exists(), "a check creates nothing");
    make_fifo(&folder.at("fifo"));
    for name in ["fifo", "drop.txt"] {
        folder.configure(&folder.at(name));
        folder.check(&[]);
    }
    folder.configure(&folder.at("log"));
    folder.check(&["error[C0362]", "it is a directory"]);
    folder.configure(&folder.at("drop.txt/access.log"));
    folder.check(&["error[C0362]", "the path of its directory is not a directory"]);
}

#[test]
fn what_this_user_may_not_do_is_a_warning() {
    let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
    assert_eq!(access_log(&denied()).code, Code::UnseenFile);
    assert_eq!(discovery("p", &FileFault::Unreadable(denied())).code, Code::UnseenFile);
    assert_eq!(access_log(&io::ErrorKind::ReadOnlyFilesystem.into()).code, Code::BadAccessLog);
}

#[test]
fn keys_are_found_however_they_are_written() {
    let check = |text: &str, keys: &[&str], expected: Option<&str>| {
        let found = place(text, keys).map(|span| &text[span.start..span.end]);
        assert_eq!(found, expected, "{text} {keys:?}");
    };
    let keys = ["pool", "p", "discover", "file"];
    check("[pool.p]\ndiscover = { file = 'a' }", &keys, Some("'a'"));
    check("pool.p.discover.file = 'a'", &keys, Some("'a'"));
    check("[pool.p.discover]\nfile = \"\"\"a\"\"\"", &keys, Some("\"\"\"a\"\"\""));
    check("[pool.q]\ndiscover = { file = 'a' }", &keys, None);
    check("[pool.p]\ndiscover = [{ file = 'a' }]", &keys, Some("'a'"));
    check(
        "[[pool.p.discover]]\nfile = 'a'\n[[pool.p.discover]]\nfile = 'b'",
        &["pool", "p", "discover", "1", "file"],
        Some("'b'"),
    );
    check("pool = 1", &keys, None);
}
