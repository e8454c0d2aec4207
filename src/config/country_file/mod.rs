//! Reads files with the country of each network, in MaxMind's format (`.mmdb`). A list uses the networks of some
//! countries from such a file.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use maxminddb::{MaxMindDbError, PathElement, Reader, WithinOptions};

use super::code::Code;
use super::fault::{self, Diagnostic, Faults};
use super::list_file::MOST_ENTRIES;
use crate::route::{Country, IpPrefix, PrefixSetBuilder};
use crate::snapshot::access::FileEntries;

/// The most networks that a walk may visit, for each node of the tree. A valid tree has no more networks than nodes. A
/// walk visits the networks of IPv4 again at each alias of IPv4 in IPv6, and writers use three aliases. A broken or
/// malicious tree can have any number of paths.
const MOST_WAYS: usize = 16;

/// The most records whose country is cached. Files have some hundred records, or hundreds of thousands with cities.
const MOST_RECORDS: usize = 1 << 20;

/// The most characters of a message. A message may contain pieces of the file, so its further characters are cut off.
const LONGEST_MESSAGE: usize = 200;

/// The paths of the country in a record: at the top in files such as IPinfo's, within `country` in files of MaxMind
/// and DB-IP. The path at the top must be tried first, because in IPinfo's files `country` is a name.
const COUNTRY_PATHS: [&[PathElement<'static>]; 2] =
    [&[PathElement::Key("country_code")], &[PathElement::Key("country"), PathElement::Key("iso_code")]];

/// The reason for which a file has no entries for a list.
#[derive(Debug, thiserror::Error)]
enum CountryFileFault {
    #[error("the file of the list is not in MaxMind's format, or not whole: {0}")]
    Format(MaxMindDbError),
    #[error("the file of the list is broken: {0}")]
    Broken(#[from] MaxMindDbError),
    #[error("the file of the list is broken: its tree has far more paths than nodes")]
    Tangled,
    #[error("the file of the list has no countries: its kind is {0:?}")]
    NoCountries(String),
    #[error("the file of the list has no network of {}", all_of(.0))]
    Absent(Vec<Country>),
    #[error("the file of the list has more than {MOST_ENTRIES} networks of these countries")]
    TooMany,
}

/// Returns the networks of these countries, which are sorted, from a file; messages use `source_name` as its path.
///
/// # Errors
///
/// One fault. The file is not of this format, the file is broken, or one of the countries has no network in the file.
pub(super) fn parse(source_name: &str, bytes: &[u8], countries: &[Country]) -> Result<FileEntries, Faults> {
    entries(bytes, countries).map_err(|fault| {
        let message: String = fault.to_string().chars().take(LONGEST_MESSAGE).collect();
        let mut diagnostic = Diagnostic::new(Code::BadCountryFile, "", message);
        if let Some(help) = help(&fault) {
            diagnostic = diagnostic.help(help);
        }
        fault::about_text(source_name, String::new(), diagnostic)
    })
}

fn entries(bytes: &[u8], countries: &[Country]) -> Result<FileEntries, CountryFileFault> {
    let reader = Reader::from_source(bytes).map_err(CountryFileFault::Format)?;
    refuse_tangles(&reader)?;
    // The reader treats every path to the start of IPv4 as an alias of IPv4. If that start is a record and not a
    // subtree, other paths to the same record are not aliases.
    let start = reader.lookup(Ipv4Addr::UNSPECIFIED.into())?.network()?;
    let options = WithinOptions::default();
    let has_v4_tree = start.is_ipv4();
    let options = if has_v4_tree { options } else { options.include_aliased_networks() };

    let mut records = HashMap::new();
    let mut builder = PrefixSetBuilder::default();
    let mut has_countries = false;
    let mut absent: BTreeSet<Country> = countries.iter().copied().collect();
    for network in reader.networks(options)? {
        let network = network?;
        let Some(record) = network.offset() else { continue };
        let country = match records.get(&record) {
            Some(country) => *country,
            None => {
                let country = country(|place| network.decode_path(place))?;
                if records.len() >= MOST_RECORDS {
                    records.clear();
                }
                records.insert(record, country);
                country
            }
        };
        has_countries |= country.is_some();
        let Some(country) = country.filter(|country| countries.contains(country)) else { continue };
        let network = network.network()?;
        let (address, length) = (network.ip(), network.prefix());
        // Readers search IPv4 at the start of IPv6, never here.
        if matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
            continue;
        }
        absent.remove(&country);
        if builder.len() >= MOST_ENTRIES {
            return Err(CountryFileFault::TooMany);
        }
        builder.add(&IpPrefix::around(address, length));
        // A network of IPv6 that starts where IPv4 starts contains all of IPv4.
        if network.is_ipv6() && address.is_unspecified() && length <= 96 {
            builder.add(&IpPrefix::around(Ipv4Addr::UNSPECIFIED.into(), 0));
        }
    }
    if !has_countries {
        return Err(CountryFileFault::NoCountries(reader.metadata().database_type.clone()));
    }
    if !absent.is_empty() {
        return Err(CountryFileFault::Absent(absent.into_iter().collect()));
    }
    let count = builder.len();
    Ok(FileEntries { set: builder.build(), count })
}

/// Returns a fault if the tree has too many paths. A walk does not detect nodes that it has visited before. If a cycle
/// leads to aliases, or to nodes without a record, the walk would never end.
fn refuse_tangles(reader: &Reader<&[u8]>) -> Result<(), CountryFileFault> {
    let every_way = WithinOptions::default().include_aliased_networks().include_networks_without_data();
    let most = (reader.metadata().node_count as usize + 1).saturating_mul(MOST_WAYS);
    let ways = reader.networks(every_way)?.take(most + 1).count();
    if ways > most { Err(CountryFileFault::Tangled) } else { Ok(()) }
}

/// Returns the country of a record, by its values at [`COUNTRY_PATHS`].
fn country<'r>(
    at: impl Fn(&'static [PathElement<'static>]) -> Result<Option<&'r str>, MaxMindDbError>,
) -> Result<Option<Country>, MaxMindDbError> {
    for place in COUNTRY_PATHS {
        if let Some(text) = at(place)? {
            return Ok(text.parse().ok());
        }
    }
    Ok(None)
}

fn all_of(countries: &[Country]) -> String {
    countries.iter().map(Country::to_string).collect::<Vec<_>>().join(", ")
}

fn help(fault: &CountryFileFault) -> Option<String> {
    match fault {
        CountryFileFault::Format(_) => Some(
            "`countries` needs a file such as GeoLite2-Country.mmdb; a file with one network a line is used without `countries`"
                .to_owned(),
        ),
        CountryFileFault::NoCountries(_) => Some(
            "use a file of countries or cities: its records have `country.iso_code` or `country_code`".to_owned(),
        ),
        CountryFileFault::Absent(countries) => {
            let meant = countries.iter().find_map(|country| Some((country, country.meant()?)));
            Some(match meant {
                Some((written, meant)) => format!("the ISO 3166-1 code is {meant}, not {written}"),
                None => "use the codes of ISO 3166-1 alpha-2, such as GB, CH or AT".to_owned(),
            })
        }
        CountryFileFault::Broken(_) | CountryFileFault::Tangled | CountryFileFault::TooMany => None,
    }
}

#[cfg(test)]
mod tests;
