//! Parses the system's file of hosts into the addresses of names. Pure. The form is described in hosts(5).

use std::collections::HashMap;
use std::net::IpAddr;

/// The addresses of names, in the order of the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hosts(HashMap<Box<str>, Vec<IpAddr>>);

impl Hosts {
    /// Parses the file. A line of another form is skipped, as the system does.
    pub(super) fn parse(text: &[u8]) -> Self {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut hosts: HashMap<Box<str>, Vec<IpAddr>> = HashMap::new();
        for line in text.split(|&byte| byte == b'\n') {
            let line = line.split(|&byte| byte == b'#').next().unwrap_or_default();
            // A comment may have any encoding, a name is UTF-8.
            let Ok(line) = str::from_utf8(line) else { continue };
            let mut words = line.split_ascii_whitespace();
            // An address with an interface (`fe80::1%eth0`) leads to no backend.
            let Some(ip) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
            for name in words {
                let addresses = hosts.entry(key(name)).or_default();
                if !addresses.contains(&ip.to_canonical()) {
                    addresses.push(ip.to_canonical());
                }
            }
        }
        Self(hosts)
    }

    /// Returns the addresses of a name, or `None` if the file does not have the name. Case and a final dot are ignored.
    pub(super) fn addresses(&self, name: &str) -> Option<&[IpAddr]> {
        self.0.get(&key(name)).map(Vec::as_slice)
    }
}

fn key(name: &str) -> Box<str> {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, name: &str, expected: &str) {
        let found = match Hosts::parse(text.as_bytes()).addresses(name) {
            Some(ips) => ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "),
            None => "-".to_owned(),
        };
        assert_eq!(found, expected, "{text:?} {name}");
    }

    #[test]
    fn each_name_of_a_line_has_its_address() {
        check("10.0.0.1 app.test app\n", "app.test", "10.0.0.1");
        check("10.0.0.1 app.test app\n", "app", "10.0.0.1");
        check("10.0.0.1 app.test app", "test", "-");
        check("10.0.0.1 app\n10.0.0.2 app\n::1 app\n10.0.0.1 app\n", "app", "10.0.0.1 10.0.0.2 ::1");
        check("::ffff:10.0.0.1 app\n", "app", "10.0.0.1");
        check("", "app", "-");
    }

    #[test]
    fn case_and_a_final_dot_make_no_difference() {
        check("10.0.0.1 App.Test\n", "app.test.", "10.0.0.1");
        check("10.0.0.1 app.test.\n", "APP.TEST", "10.0.0.1");
    }

    #[test]
    fn lines_of_another_form_are_passed_over() {
        check("# x\r\n10.0.0.1\tApp.Test\tapp # y\r\n", "app", "10.0.0.1");
        check("# x\r\n10.0.0.1\tApp.Test\tapp # y\r\n", "y", "-");
        check("\u{feff}10.0.0.1 app\n", "app", "10.0.0.1");
        check("10.0.0 app\napp\n10.0.0.1\nfe80::1%eth0 app\n10.0.0.2 app\n", "app", "10.0.0.2");
        let latin = [b"10.0.0.1 app # caf\xe9\n10.0.0.2 caf\xe9\n10.0.0.3 b\n".as_slice(), b""].concat();
        let hosts = Hosts::parse(&latin);
        assert_eq!(hosts.addresses("app").unwrap().len(), 1);
        assert_eq!(hosts.addresses("b").unwrap().len(), 1);
    }
}
