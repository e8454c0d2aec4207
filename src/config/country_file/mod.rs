//! Reads files with the country of each network, in MaxMind's format (`.mmdb`). A list uses the networks of some
//! countries from such a file.

use std::collections::BTreeSet;

use maxminddb::{LookupResult, MaxMindDbError, PathElement};

use super::code::Code;
use super::fault::Faults;
use super::network_file::{self, NetworkFile, NetworkFileFault};
use crate::route::{Country, IpPrefix, PrefixSetBuilder};
use crate::snapshot::list::{FileEntries, MOST_FILE_ENTRIES};

/// The paths of the country in a record: at the top in files such as IPinfo's, within `country` in files of MaxMind
/// and DB-IP. The path at the top must be tried first, because in IPinfo's files `country` is a name.
const COUNTRY_PATHS: [&[PathElement<'static>]; 2] =
    [&[PathElement::Key("country_code")], &[PathElement::Key("country"), PathElement::Key("iso_code")]];

/// The reason for which a file has no entries for a list.
#[derive(Debug, thiserror::Error)]
enum CountryFileFault {
    #[error("the file of the list is {0}")]
    File(#[from] NetworkFileFault),
    #[error("the file of the list has no countries: its kind is {0:?}")]
    NoCountries(String),
    #[error("the file of the list has no network of {}", all_of(.0))]
    Absent(Vec<Country>),
    #[error("the file of the list has more than {MOST_FILE_ENTRIES} networks of these countries")]
    TooMany,
}

/// Returns the networks of these countries, which are sorted, from a file; messages use `source_name` as its path.
///
/// # Errors
///
/// One fault. The file is not of this format, the file is broken, or one of the countries has no network in the file.
pub(super) fn parse(source_name: &str, bytes: &[u8], countries: &[Country]) -> Result<FileEntries, Faults> {
    entries(bytes, countries)
        .map_err(|fault| network_file::faults(source_name, Code::BadCountryFile, &fault, help(&fault)))
}

fn entries(bytes: &[u8], countries: &[Country]) -> Result<FileEntries, CountryFileFault> {
    let file = NetworkFile::open(bytes)?;
    let mut builder = PrefixSetBuilder::default();
    let mut has_countries = false;
    let mut absent: BTreeSet<Country> = countries.iter().copied().collect();
    let value = |network: &LookupResult<'_, &[u8]>| {
        let country = country_of(network).map_err(NetworkFileFault::from)?;
        has_countries |= country.is_some();
        Ok(country)
    };
    let take = |network: &IpPrefix, country: Option<Country>| {
        let Some(country) = country.filter(|country| countries.contains(country)) else { return Ok(()) };
        absent.remove(&country);
        if builder.len() >= MOST_FILE_ENTRIES {
            return Err(CountryFileFault::TooMany);
        }
        builder.add(network);
        Ok(())
    };
    file.each(value, take)?;
    if !has_countries {
        return Err(CountryFileFault::NoCountries(file.kind().to_owned()));
    }
    if !absent.is_empty() {
        return Err(CountryFileFault::Absent(absent.into_iter().collect()));
    }
    let count = builder.len();
    Ok(FileEntries { set: builder.build(), count })
}

/// Returns the country of the record of a network, by its values at [`COUNTRY_PATHS`].
pub(super) fn country_of(network: &LookupResult<'_, &[u8]>) -> Result<Option<Country>, MaxMindDbError> {
    for place in COUNTRY_PATHS {
        if let Some(text) = network.decode_path::<&str>(place)? {
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
        CountryFileFault::File(NetworkFileFault::Format(_)) => Some(
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
        CountryFileFault::File(_) | CountryFileFault::TooMany => None,
    }
}

#[cfg(test)]
pub(super) mod tests;
