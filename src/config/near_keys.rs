//! The table that orders the zones of a pool by distance, and the places of its sites.

use toml::de::DeValue;

use super::code::Code;
use super::fault::Diagnostic;
use super::findings::Findings;
use super::list_keys::CountryCode;
use super::read::{ArrayItem, ArrayOf, NamedTables, OneOrMany, Path, Read, Value, tables};
use super::words::FilePath;
use crate::pool::near::Coordinates;

tables! {
    /// The order of a pool's zones for each client, by distance.
    "an order by distance" struct NearWords {
        /// The path of a database in MaxMind's format (.mmdb) with the places of networks, relative to the directory of
        /// the configuration file. The file is read again whenever it changes. While the file is broken, its last good
        /// version stays in force. Required.
        database: FilePath,
        /// The places of zones: all as latitude and longitude in degrees, such as [52.37, 4.90], or all as countries,
        /// such as ["NL", "BE"]. Coordinates need a database of cities. A client's first zone is the one that lists
        /// its country earliest. Zones that are not named come last, without an order among them. At most 64. Required.
        sites: NamedTables<SiteWord>,
    }
}

/// The place of a zone.
#[derive(Debug)]
pub(super) enum SiteWord {
    At(Coordinates),
    For(Vec<ArrayItem<CountryCode>>),
}

/// The expected value in messages.
const EXPECTED: &str = "coordinates such as [52.37, 4.90], or countries such as [\"NL\", \"BE\"]";

impl Read for SiteWord {
    fn read(value: &Value<'_>, path: Path<'_>, found: &mut Findings<'_>) -> Option<Self> {
        let first = value.get_ref().as_array().and_then(|array| array.first());
        let first = first.unwrap_or(value).get_ref();
        if first.as_str().is_some() {
            let OneOrMany(ArrayOf { items, complete }) = OneOrMany::read(value, path, found)?;
            return complete.then_some(Self::For(items));
        }
        let refuse = |label: &str, found: &mut Findings<'_>| {
            let fault = Diagnostic::new(Code::BadPlace, path, format!("`{path}` is not a place"));
            found.add(fault.label(value.span().into(), label).help(format!("it takes {EXPECTED}")));
        };
        let numbers = value.get_ref().as_array().map(|array| {
            array.iter().map(|item| number(item.get_ref())).collect::<Option<Vec<f64>>>().unwrap_or_default()
        });
        let Some([latitude, longitude]) = numbers.as_deref() else {
            refuse("expected two numbers or some countries", found);
            return None;
        };
        let place = Coordinates::new(*latitude, *longitude);
        if place.is_none() {
            refuse("the latitude is -90 to 90, then the longitude is -180 to 180", found);
        }
        place.map(Self::At)
    }
}

/// Returns the value of a fraction or an integer.
fn number(value: &DeValue<'_>) -> Option<f64> {
    let text = match value {
        DeValue::Float(float) => float.as_str(),
        DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
        _ => return None,
    };
    text.parse().ok()
}
