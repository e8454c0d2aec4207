//! Parses the system's file of resolvers into the servers to ask and the names to ask for. Pure. The form is
//! described in resolv.conf(5), and the defaults are the defaults of glibc.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// The most resolvers that are queried, as in glibc (MAXNS).
const MOST_SERVERS: usize = 3;

/// The most domains of the search list. glibc has no bound, but a wrong file may have very many.
const MOST_SEARCHED: usize = 32;

/// The resolvers and the search list of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// The servers to ask, at least one.
    pub(super) servers: Vec<IpAddr>,
    /// True if the file names no server, so that the default is used.
    pub(super) is_by_default: bool,
    search: Vec<Box<str>>,
    ndots: usize,
    /// The longest time for one try.
    pub(super) timeout: Duration,
    /// The number of tries for each question.
    pub(super) attempts: usize,
    /// True if questions have EDNS.
    pub(super) edns0: bool,
    /// True if questions use TCP only.
    pub(super) use_tcp: bool,
    /// True if IPv6 addresses are not queried.
    pub(super) no_aaaa: bool,
}

impl ResolvConf {
    /// Parses the file. `host` is the name of this host; its domain is the search list if the file has none. Unknown
    /// keywords and options are skipped.
    pub(super) fn parse(text: &[u8], host: &str) -> Self {
        let mut read = Self {
            servers: Vec::new(),
            is_by_default: false,
            search: host.split_once('.').map(|(_, domain)| domain.into()).into_iter().collect(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            edns0: false,
            use_tcp: false,
            no_aaaa: false,
        };
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        for line in text.split(|&byte| byte == b'\n') {
            let line = line.split(|byte| b"#;".contains(byte)).next().unwrap_or_default();
            let Ok(line) = str::from_utf8(line) else { continue };
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => read.servers.extend(words.next().and_then(server)),
                // If there are several `domain` and `search` lines, the last line counts.
                Some("domain") => read.search = words.take(1).filter_map(domain).collect(),
                Some("search") => read.search = words.filter_map(domain).take(MOST_SEARCHED).collect(),
                Some("options") => words.for_each(|word| read.option(word)),
                _ => {}
            }
        }
        read.servers.truncate(MOST_SERVERS);
        read.is_by_default = read.servers.is_empty();
        if read.is_by_default {
            read.servers.push(Ipv4Addr::LOCALHOST.into());
        }
        read
    }

    fn option(&mut self, word: &str) {
        let (key, value) = word.split_once(':').unwrap_or((word, ""));
        // The bounds are those of glibc. 0 attempts would ask no question.
        let number = |least: usize, most: usize| Some(value.parse::<usize>().ok()?.clamp(least, most));
        match key {
            "ndots" => self.ndots = number(0, 15).unwrap_or(self.ndots),
            "timeout" => {
                let seconds = number(1, 30).map(|seconds| Duration::from_secs(seconds as u64));
                self.timeout = seconds.unwrap_or(self.timeout);
            }
            "attempts" => self.attempts = number(1, 5).unwrap_or(self.attempts),
            "edns0" => self.edns0 = true,
            "use-vc" => self.use_tcp = true,
            "no-aaaa" => self.no_aaaa = true,
            _ => {}
        }
    }

    /// Returns the whole names to ask for, in order, each with its final dot.
    pub(super) fn candidates(&self, name: &str) -> Vec<Box<str>> {
        if name.ends_with('.') {
            return vec![name.into()];
        }
        let searched = self.search.iter().map(|domain| match &**domain {
            // The root domain.
            "" => format!("{name}.").into(),
            domain => format!("{name}.{domain}.").into(),
        });
        let mut names: Vec<Box<str>> = searched.collect();
        let dots = name.bytes().filter(|&byte| byte == b'.').count();
        let at = if dots >= self.ndots { 0 } else { names.len() };
        names.insert(at, format!("{name}.").into());
        // A repeated name is queried once, at its first position.
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }
}

/// Returns the address of a resolver. `None` for an address with an interface (`fe80::1%eth0`), which is not supported.
fn server(word: &str) -> Option<IpAddr> {
    word.parse().ok()
}

/// Returns a domain of the search list without its final dot, or `None` for a word that is no domain, such as `--`.
fn domain(word: &str) -> Option<Box<str>> {
    let name = word.strip_suffix('.').unwrap_or(word);
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(fits);
    let is_domain = name.is_empty() || name != "--" && name.split('.').all(is_label);
    is_domain.then(|| name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> ResolvConf {
        ResolvConf::parse(text.as_bytes(), "box")
    }

    fn check_servers(text: &str, expected: &str) {
        let servers: Vec<_> = read(text).servers.iter().map(IpAddr::to_string).collect();
        assert_eq!(servers.join(" "), expected, "{text:?}");
    }

    #[test]
    fn resolvers_are_read() {
        check_servers("nameserver 10.0.0.53\nnameserver ::1\n", "10.0.0.53 ::1");
        check_servers("\u{feff}nameserver 10.0.0.53\r\n# x\r\n", "10.0.0.53");
        check_servers("nameserver 10.0.0.53 # the first\n;nameserver 10.0.0.54\n", "10.0.0.53");
        check_servers("nameserver fe80::1%eth0\nnameserver dns\nnameserver\nnameserver ::1", "::1");
        check_servers(
            "nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4\n",
            "1.1.1.1 1.1.1.2 1.1.1.3",
        );
        check_servers("", "127.0.0.1");
        assert!(read("# none\n").is_by_default && !read("nameserver ::1").is_by_default);
    }

    fn check(text: &str, name: &str, expected: &str) {
        assert_eq!(read(text).candidates(name).join(" "), expected, "{text:?} {name}");
    }

    #[test]
    fn a_search_list_comes_after_a_name_with_enough_dots() {
        check("", "app", "app.");
        check("search x.test y.test", "app.", "app.");
        check("search x.test y.test", "app", "app.x.test. app.y.test. app.");
        check("search x.test", "app.test", "app.test. app.test.x.test.");
        check("search x.test\noptions ndots:2", "app.test", "app.test.x.test. app.test.");
        check("search x.test.\noptions ndots:0", "app", "app. app.x.test.");
        check(
            "options ndots:5\nsearch ns.svc.cluster.local svc.cluster.local",
            "a.b",
            "a.b.ns.svc.cluster.local. a.b.svc.cluster.local. a.b.",
        );
        check("search . x.test", "app", "app. app.x.test.");
        check("search -- x.test a,b", "app", "app.x.test. app.");
    }

    #[test]
    fn of_search_and_domain_the_last_counts() {
        check("search x.test\ndomain y.test z.test", "app", "app.y.test. app.");
        check("domain y.test\nsearch x.test", "app", "app.x.test. app.");
        check("search x.test\nsearch", "app", "app.");
        let of_host = ResolvConf::parse(b"", "box.example.org");
        assert_eq!(of_host.candidates("app").join(" "), "app.example.org. app.");
        let written = ResolvConf::parse(b"search x.test", "box.example.org");
        assert_eq!(written.candidates("app").join(" "), "app.x.test. app.");
    }

    #[test]
    fn options_are_kept_within_the_bounds_of_the_system() {
        let options = |text: &str| {
            let read = read(&format!("options {text}"));
            (read.ndots, read.timeout.as_secs(), read.attempts)
        };
        assert_eq!(options(""), (1, 5, 2));
        assert_eq!(options("ndots:3 timeout:2 attempts:3 rotate trust-ad x:y"), (3, 2, 3));
        assert_eq!(options("ndots:99 timeout:99 attempts:99"), (15, 30, 5));
        assert_eq!(options("ndots:x timeout:0 attempts:0"), (1, 1, 1));
        let read = read("options edns0 use-vc no-aaaa");
        assert!(read.edns0 && read.use_tcp && read.no_aaaa);
    }
}
