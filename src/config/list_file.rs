//! Reads files with the entries of lists, in the usual form of such files: a network or an address a line, with
//! comments after `#` or `;`. Files with countries have another form.

use std::sync::Arc;

use super::code::Code;
use super::fault::{self, Diagnostic, Faults, Span};
use super::findings::Findings;
use super::load::{not_utf8, read_bytes};
use super::named_files::FileFindings;
use super::{Config, country_file};
use crate::route::{IpPrefix, PrefixFault, PrefixSetBuilder};
use crate::snapshot::access::{FileEntries, ListSource};
use crate::sys::file_call::FileTurn;

/// The most entries of one file: several times as many as any known list, and at most some 160 MiB of IPv6.
pub(super) const MOST_ENTRIES: usize = 5_000_000;

/// The name of such a file in messages.
const WHAT: &str = "the file of the list";

/// Reads the file of one list, any number of times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListReader {
    list: Arc<str>,
    source: ListSource,
}

impl ListReader {
    /// Returns the readers of a configuration, sorted by the list's name.
    pub fn all(config: &Config) -> Vec<Self> {
        let readers = config.lists.iter().filter_map(|list| {
            Some(Self { list: Arc::clone(&list.name), source: list.file.as_ref()?.source.clone() })
        });
        readers.collect()
    }

    /// Returns the list of these entries.
    pub fn list(&self) -> &Arc<str> {
        &self.list
    }

    /// Returns the file, with the countries whose networks are used.
    pub fn source(&self) -> &ListSource {
        &self.source
    }

    /// Reads and checks the file; a million entries take less than a second. It blocks.
    ///
    /// # Errors
    ///
    /// All faults of the file at once; one fault if it cannot be read, is larger than 256 MiB, has more than
    /// 5,000,000 entries, is UTF-16, has no entries although it needs some, or lacks the countries of the list.
    pub fn read(&self) -> Result<FileEntries, Faults> {
        let ListSource { path, countries, allow_empty } = &self.source;
        let name = path.display().to_string();
        let bytes = read_bytes(path, WHAT)?;
        if !countries.is_empty() {
            return country_file::parse(&name, &bytes, countries);
        }
        match parse(&name, &bytes)? {
            read if read.count == 0 && !allow_empty => Err(self.empty(&name)),
            read => Ok(read),
        }
    }

    fn empty(&self, source_name: &str) -> Faults {
        let fault = Diagnostic::new(
            Code::EmptyList,
            format!("list.{}.allow_empty", self.list),
            "the file of the list has no entries",
        );
        let help = format!("to use an empty list, write allow_empty = true in [list.{}]", self.list);
        fault::about_text(source_name, String::new(), fault.help(help))
    }
}

/// The byte order marks of UTF-16, which some editors and shells of Windows write.
const UTF_16: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// Reads the text of a file; messages use `source_name` as its path. Comments may have any bytes.
fn parse(source_name: &str, bytes: &[u8]) -> Result<FileEntries, Faults> {
    if UTF_16.iter().any(|mark| bytes.starts_with(mark)) {
        return Err(not_utf8(source_name, WHAT, bytes));
    }
    let text = &*String::from_utf8_lossy(bytes);
    let mut found = Findings::new(text);
    let mut builder = PrefixSetBuilder::default();
    // Some editors of Windows begin a file with a byte order mark.
    let mut start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    for line in text[start..].split_inclusive('\n') {
        let entry = line.split(['#', ';']).next().unwrap_or_default();
        let word = entry.trim();
        let at = start + (entry.len() - entry.trim_start().len());
        start += line.len();
        if word.is_empty() {
            continue;
        }
        if builder.len() >= MOST_ENTRIES {
            let message = format!("the file has more than {MOST_ENTRIES} entries");
            let fault = Diagnostic::new(Code::BadEntry, "", message);
            found.add(fault.label((at..at + word.len()).into(), "the first entry above the limit"));
            break;
        }
        match word.parse() {
            // Published lists have networks with host bits, and other tools accept them.
            Ok(prefix) | Err(PrefixFault::HostBits(prefix)) => builder.add(&prefix),
            Err(fault) => refuse(word, (at..at + word.len()).into(), fault, &mut found),
        }
    }
    found.conclude(source_name)?;
    let count = builder.len();
    Ok(FileEntries { set: builder.build(), count })
}

fn refuse(word: &str, at: Span, fault: PrefixFault, found: &mut Findings<'_>) {
    if found.is_full() {
        found.add(Diagnostic::new(Code::BadEntry, "", ""));
        return;
    }
    let shown: String = word.chars().take(60).collect();
    let diagnostic = Diagnostic::new(Code::BadEntry, "", format!("{shown:?} is not a network"));
    let help = match word.split_whitespace().next() {
        Some(first) if first != word && first.parse::<IpPrefix>().is_ok() => {
            "a line has one network; a comment begins with # or ;"
        }
        _ if word.contains('-') => "a range of addresses is written as networks, such as 10.0.0.0/23",
        _ => "remove the line, or begin it with # if it is a comment",
    };
    found.add(diagnostic.label(at, fault.to_string()).help(help));
}

/// Reads the files of all lists.
pub(super) fn read_all(config: &mut Config, found: &mut FileFindings<'_>) {
    for reader in ListReader::all(config) {
        let turn = FileTurn::wait_blocking(&reader.source.path);
        let read = reader.read();
        drop(turn);
        let read = match read {
            Ok(read) => Arc::new(read),
            Err(faults) => {
                found.add(faults, &["list", &reader.list, "file"]);
                continue;
            }
        };
        let own = config.lists.iter_mut().find(|list| list.name == reader.list);
        if let Some(file) = own.and_then(|list| list.file.as_mut()) {
            file.read = Some(read);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, count: usize, holds: &str) {
        check_bytes(text.as_bytes(), count, holds);
    }

    fn check_bytes(text: &[u8], count: usize, holds: &str) {
        let read = parse("bad.txt", text).unwrap_or_else(|faults| panic!("{text:?}: {faults}"));
        assert_eq!(read.count, count, "{text:?}");
        for address in holds.split_whitespace() {
            assert!(read.set.contains(address.parse().unwrap()), "{text:?} {address}");
        }
        assert!(!read.set.contains("203.0.113.1".parse().unwrap()));
    }

    #[test]
    fn the_lists_that_others_publish_are_read() {
        check("", 0, "");
        check("10.0.0.1", 1, "10.0.0.1");
        check(
            "; Spamhaus DROP List\n1.10.16.0/20 ; SBL256894\n1.19.0.0/16 ; SBL434604\n",
            2,
            "1.10.16.1 1.19.255.255",
        );
        check(
            "#\n# firehol_level1\n#\n0.0.0.0/8\n  1.2.3.4  # a comment ; in a comment\n\n",
            2,
            "0.1.2.3 1.2.3.4",
        );
        check("\u{feff}10.0.0.1\r\n10.0.0.2\r\n\r\n", 2, "10.0.0.1 10.0.0.2");
        check("2001:db8::/32;x\n::ffff:10.0.0.1\n\t10.9.0.0/16", 3, "2001:db8::1 10.0.0.1 10.9.9.9");
        check("10.1.2.3/8\n10.0.0.0/8", 2, "10.255.0.0");
    }

    #[test]
    fn comments_may_have_any_bytes() {
        check_bytes(b"# gr\xfc\xdfe\n10.0.0.1 ; caf\xe9\n10.0.0.2\n", 2, "10.0.0.1 10.0.0.2");
        check_bytes(b"\xef\xbb\xbf# \xff\n10.0.0.1", 1, "10.0.0.1");
        let refused = |text: &[u8], part: &str| {
            let told = parse("bad.txt", text).unwrap_err().render(false);
            assert!(told.contains(part), "{text:?}: no {part:?} in {told}");
        };
        refused(b"10.0.0.1\n10.0.0.2\xa0\n", "bad.txt:2:1");
        refused(b"\xff\xfe1\x000\x00.\x00", "is not UTF-8");
        refused(b"\xfe\xff\x001\x000\x00.", "save the file as UTF-8");
    }

    fn check_fault(text: &str, expected: &[&str]) {
        let faults = parse("bad.txt", text.as_bytes()).unwrap_err();
        let rendered = faults.render(false);
        assert!(!expected.is_empty());
        for words in expected {
            assert!(rendered.contains(words), "{words:?} is not in\n{rendered}");
        }
        assert!(faults.diagnostics().iter().all(|fault| fault.code == Code::BadEntry));
    }

    #[test]
    fn faults_tell_the_line_and_what_to_do() {
        check_fault("10.0.0.1\n10.0.0\n", &["bad.txt:2:1", "\"10.0.0\" is not a network", "remove the line"]);
        check_fault("# x\n\n  evil.example # y\n", &["bad.txt:3:3", "evil.example"]);
        check_fault("10.0.0.0/33", &["the length is at most 32"]);
        check_fault("10.0.0.1 10.0.0.2", &["bad.txt:1:1", "a line has one network"]);
        check_fault("10.0.0.1-10.0.0.9", &["written as networks"]);
        check_fault("\u{feff}x\r\ny", &["bad.txt:1", "bad.txt:2:1"]);
        check_fault(&"x\n".repeat(1000), &["bad.txt:1:1", "800 more not shown"]);
    }
}
