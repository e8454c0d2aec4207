//! The tables and values of address lists, and of the rules that admit or refuse clients by them.

use super::code::Code;
use super::conditions::Network;
use super::fault::Diagnostic;
use super::findings::Findings;
use super::hints;
use super::read::{OneOrMany, Path, Read, Value, tables};
use super::words::{FilePath, name_fault, string};
use crate::route::{Country, CountryFault, IpPrefix, PrefixFault};

tables! {
    /// A list of addresses, for `allow` and `deny`. If a list has no entries and no file, it has only the entries
    /// that are added while the process runs.
    "a list" struct ListWords {
        /// Networks such as "10.0.0.0/8", or addresses, or an array. Default: none.
        entries: OneOrMany<Network>,
        /// The path of a text file with further entries, relative to the directory of the configuration file. The
        /// file has one entry a line, and comments after `#` or `;`. The file is read again whenever it changes.
        /// While the file is broken, the entries from its last good version stay. Default: none.
        file: FilePath,
        /// Countries by their two letters (ISO 3166-1 alpha-2) such as "DE", or an array. The file must then be a
        /// database in MaxMind's format (.mmdb), and the list has the networks of these countries. Default: none,
        /// the file is text.
        countries: OneOrMany<CountryCode>,
        /// True if a file without entries empties the list. With false, such a file changes nothing, because a
        /// failed download often leaves an empty file. At the start and at a reload, such a file is then a fault.
        /// The key has no effect beside `countries`. Default false.
        allow_empty: bool,
    }

    /// Rules that apply to all listeners.
    "the lists" struct ListsWords {
        /// Names of lists, networks or addresses that every listener refuses, or an array. Default: none.
        deny: OneOrMany<AccessWord>,
    }
}

/// A country.
#[derive(Clone, Copy, Debug)]
pub(super) struct CountryCode(pub(super) Country);

impl Read for CountryCode {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "the code of a country, such as \"DE\"", found)?;
        let refuse = |fault: CountryFault| {
            let message = format!("{text:?} is not the code of a country");
            let diagnostic = Diagnostic::new(Code::BadCountry, path, message);
            found.add(diagnostic.label(value.span().into(), fault.to_string()));
        };
        text.parse().map(Self).map_err(refuse).ok()
    }
}

/// An item of `allow` or `deny`.
#[derive(Clone, Debug)]
pub(super) enum AccessWord {
    Network(IpPrefix),
    List(String),
}

impl Read for AccessWord {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let text = string(value, path, "the name of a list, or a network such as \"10.0.0.0/8\"", found)?;
        let fault = match text.parse() {
            Ok(network) => return Some(Self::Network(network)),
            Err(fault) => match hints::network(text) {
                Some(hint) => hint,
                None if fault == PrefixFault::Form && name_fault(text, path).is_none() => {
                    return Some(Self::List(text.to_owned()));
                }
                None => fault.to_string(),
            },
        };
        let message = format!("{text:?} is neither a network nor the name of a list");
        let diagnostic = Diagnostic::new(Code::BadAddress, path, message);
        found.add(diagnostic.label(value.span().into(), fault));
        None
    }
}
