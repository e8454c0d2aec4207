//! Files that tell the country of each network, in MaxMind's format (`.mmdb`), of which a list takes the networks of
//! some countries.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use maxminddb::{MaxMindDbError, PathElement, Reader, WithinOptions};

use super::code::Code;
use super::fault::{self, Diagnostic, Faults};
use super::list_file::MOST_ENTRIES;
use crate::route::{Country, IpPrefix, PrefixSetBuilder};
use crate::snapshot::access::FileEntries;

/// How many networks a walk may meet for each node of the tree. Those of a sound tree are no more than its nodes, and
/// the networks of IPv4 are met again at each place of IPv6 that leads to them, of which writers know three. A broken
/// or evil one has ways without number.
const MOST_WAYS: usize = 16;

/// Records whose country is remembered. Files have some hundred, or hundreds of thousands with cities.
const MOST_RECORDS: usize = 1 << 20;

/// How much of a message is shown that may have pieces of the file in it.
const LONGEST_MESSAGE: usize = 200;

/// Where a record has its country: in files like IPinfo's beside the rest, in those of MaxMind and DB-IP within a
/// part of its own. The first must be asked for first, as `country` is a name there.
const PLACES: [&[PathElement<'static>]; 2] =
    [&[PathElement::Key("country_code")], &[PathElement::Key("country"), PathElement::Key("iso_code")]];

/// Why a file has no entries for a list.
#[derive(Debug, thiserror::Error)]
enum CountryFileFault {
    #[error("the file of the list is not in MaxMind's format, or not whole: {0}")]
    Format(MaxMindDbError),
    #[error("the file of the list is broken: {0}")]
    Broken(#[from] MaxMindDbError),
    #[error("the file of the list is broken: its tree has far more ways than nodes")]
    Tangled,
    #[error("the file of the list has no countries: its kind is {0:?}")]
    NoCountries(String),
    #[error("the file of the list has no network of {}", all_of(.0))]
    Absent(Vec<Country>),
    #[error("the file of the list has more than {MOST_ENTRIES} networks of these countries")]
    TooMany,
}

/// Takes the networks of these countries, which are sorted, out of a file; `source_name` stands for its path in
/// messages.
///
/// # Errors
///
/// One fault: the file is none of this kind, or broken, or has no network of one of the countries.
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
    // The reader takes for aliases of IPv4 whatever leads to where IPv4 begins. Where that is no part of the tree but
    // a record of its own, others that share the record are none.
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
        // A reader looks for IPv4 where IPv6 begins, never here.
        if matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
            continue;
        }
        absent.remove(&country);
        if builder.len() >= MOST_ENTRIES {
            return Err(CountryFileFault::TooMany);
        }
        builder.add(&IpPrefix::around(address, length));
        // All of IPv4 is in what begins where it does.
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

/// Counts the ways through the tree: a walk does not know where it was before, and passes over aliases and what has
/// no record without end if there is no end of them.
fn refuse_tangles(reader: &Reader<&[u8]>) -> Result<(), CountryFileFault> {
    let every_way = WithinOptions::default().include_aliased_networks().include_networks_without_data();
    let most = (reader.metadata().node_count as usize + 1).saturating_mul(MOST_WAYS);
    let ways = reader.networks(every_way)?.take(most + 1).count();
    if ways > most { Err(CountryFileFault::Tangled) } else { Ok(()) }
}

/// The country of a record, by what it has at a place.
fn country<'r>(
    at: impl Fn(&'static [PathElement<'static>]) -> Result<Option<&'r str>, MaxMindDbError>,
) -> Result<Option<Country>, MaxMindDbError> {
    for place in PLACES {
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
            "`countries` takes a file such as GeoLite2-Country.mmdb; one with a network a line goes without it"
                .to_owned(),
        ),
        CountryFileFault::NoCountries(_) => Some(
            "take one of countries or cities: its records have `country.iso_code` or `country_code`".to_owned(),
        ),
        CountryFileFault::Absent(countries) => {
            let meant = countries.iter().find_map(|country| Some((country, country.meant()?)));
            Some(match meant {
                Some((written, meant)) => format!("the code of ISO 3166-1 is {meant}, not {written}"),
                None => "the codes are those of ISO 3166-1 alpha-2, such as GB, CH or AT".to_owned(),
            })
        }
        CountryFileFault::Broken(_) | CountryFileFault::Tangled | CountryFileFault::TooMany => None,
    }
}

#[cfg(test)]
mod tests;
