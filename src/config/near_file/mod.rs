//! Reads the databases from which pools have the places of clients, in MaxMind's format (`.mmdb`).

use std::sync::Arc;

use maxminddb::{LookupResult, MaxMindDbError, PathElement};

use super::Config;
use super::code::Code;
use super::country_file::country_of;
use super::fault::Faults;
use super::named_files::FileFindings;
use super::network_file::{self, NetworkFile, NetworkFileFault};
use super::text::read_bytes;
use crate::pool::near::{
    ClientPlace, Coordinates, MOST_PLACE_RANGES, NearSource, PlaceTable, PlaceTableFault, Sites, ZoneOrders,
};
use crate::route::{IpPrefix, PrefixMapBuilder};
use crate::sys::file_call::FileTurn;

/// The name of such a file in messages.
const WHAT: &str = "the database of `near`";

/// The paths of the coordinates in a record: within `location` in files of MaxMind and DB-IP, at the top in others.
const COORDINATE_PATHS: [[&[PathElement<'static>]; 2]; 2] = [
    [
        &[PathElement::Key("location"), PathElement::Key("latitude")],
        &[PathElement::Key("location"), PathElement::Key("longitude")],
    ],
    [&[PathElement::Key("latitude")], &[PathElement::Key("longitude")]],
];

/// Reads a database for one set of sites, any number of times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearReader(NearSource);

/// The reason for which a database has no places for the sites.
#[derive(Debug, thiserror::Error)]
enum NearFileFault {
    #[error("the database of `near` is {0}")]
    File(#[from] NetworkFileFault),
    #[error("the database of `near` has no coordinates: its kind is {0:?}")]
    NoCoordinates(String),
    #[error("the database of `near` has no country that a site lists: its kind is {0:?}")]
    NoCountries(String),
    #[error("the database of `near` is too large for these sites: {0}")]
    TooLarge(#[from] PlaceTableFault),
}

impl NearReader {
    /// Returns the readers of a configuration, one for each database with its sites.
    pub fn all(config: &Config) -> Vec<Self> {
        let mut readers: Vec<Self> = Vec::new();
        for near in config.pools.iter().filter_map(|pool| pool.tiers.near.as_ref()) {
            if !readers.iter().any(|reader| reader.0 == near.source) {
                readers.push(Self(near.source.clone()));
            }
        }
        readers
    }

    /// Returns the database and the sites.
    pub fn source(&self) -> &NearSource {
        &self.0
    }

    /// Reads and checks the database; a million networks take less than a second. It blocks.
    ///
    /// # Errors
    ///
    /// One fault: the database cannot be read, is larger than 256 MiB, is broken, has no places of the kind that the sites
    /// have, or needs too large a table.
    pub fn read(&self) -> Result<PlaceTable, Faults> {
        let bytes = read_bytes(&self.0.path, WHAT)?;
        parse(&self.0.path.display().to_string(), &bytes, &self.0.sites)
    }
}

fn parse(source_name: &str, bytes: &[u8], sites: &Sites) -> Result<PlaceTable, Faults> {
    table(bytes, sites).map_err(|fault| {
        network_file::faults(source_name, Code::BadNearFile, &fault, help(&fault).map(str::to_owned))
    })
}

fn table(bytes: &[u8], sites: &Sites) -> Result<PlaceTable, NearFileFault> {
    let file = NetworkFile::open(bytes)?;
    let mut orders = ZoneOrders::new(sites);
    let mut networks = PrefixMapBuilder::default();
    let value = |network: &LookupResult<'_, &[u8]>| -> Result<_, NearFileFault> {
        let place = match sites {
            Sites::At(_) => coordinates_of(network).map(|place| place.map(ClientPlace::At)),
            Sites::For(_) => country_of(network).map(|country| country.map(ClientPlace::In)),
        };
        match place.map_err(NetworkFileFault::from)? {
            Some(place) => Ok(orders.number(place)?),
            None => Ok(None),
        }
    };
    let take = |network: &IpPrefix, order: Option<u32>| {
        let Some(order) = order else { return Ok(()) };
        networks.add(network, order);
        if networks.len() > MOST_PLACE_RANGES { Err(PlaceTableFault::Ranges.into()) } else { Ok(()) }
    };
    file.each(value, take)?;
    match sites {
        _ if !networks.is_empty() => Ok(orders.with_networks(networks.build())),
        Sites::At(_) => Err(NearFileFault::NoCoordinates(file.kind().to_owned())),
        Sites::For(_) => Err(NearFileFault::NoCountries(file.kind().to_owned())),
    }
}

/// Returns the coordinates of the record of a network; `None` if it has none, or if they are out of range.
fn coordinates_of(network: &LookupResult<'_, &[u8]>) -> Result<Option<Coordinates>, MaxMindDbError> {
    for [latitude, longitude] in COORDINATE_PATHS {
        let both = (network.decode_path::<f64>(latitude)?, network.decode_path::<f64>(longitude)?);
        if let (Some(latitude), Some(longitude)) = both {
            return Ok(Coordinates::new(latitude, longitude));
        }
    }
    Ok(None)
}

fn help(fault: &NearFileFault) -> Option<&'static str> {
    match fault {
        NearFileFault::File(NetworkFileFault::Format(_)) => {
            Some("`near` needs a file such as GeoLite2-City.mmdb or GeoLite2-Country.mmdb")
        }
        NearFileFault::NoCoordinates(_) => Some(
            "use a file of cities, whose records have `location.latitude` and `location.longitude`; or give each site \
             its countries instead of coordinates: sites = { a = [\"DE\", \"AT\"], b = [\"US\"] }",
        ),
        NearFileFault::NoCountries(_) => Some(
            "use a file of countries or cities, whose records have `country.iso_code` or `country_code`, and the codes \
             of ISO 3166-1 alpha-2, such as GB, CH or AT",
        ),
        NearFileFault::TooLarge(_) => Some("use fewer sites, or a database of countries"),
        NearFileFault::File(_) => None,
    }
}

/// Reads the databases of all pools. Pools with the same database and sites get one table.
pub(super) fn read_all(config: &mut Config, found: &mut FileFindings<'_>) {
    for reader in NearReader::all(config) {
        let turn = FileTurn::wait_blocking(&reader.0.path);
        let read = reader.read();
        drop(turn);
        let mut pools = config
            .pools
            .iter_mut()
            .filter(|pool| pool.tiers.near.as_ref().is_some_and(|near| near.source == reader.0));
        match read {
            Ok(table) => {
                let table = Arc::new(table);
                for near in pools.filter_map(|pool| pool.tiers.near.as_mut()) {
                    near.read = Some(Arc::clone(&table));
                }
            }
            Err(faults) => {
                if let Some(first) = pools.next() {
                    found.add(faults, &["pool", &first.name, "near", "database"]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
