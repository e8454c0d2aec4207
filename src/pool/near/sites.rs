//! The sites of a pool: zones with their places. For the place of a client they are in an order.

use std::sync::Arc;

use super::distance::Coordinates;
use crate::route::Country;

/// The most sites of a pool. It bounds the size of an order.
pub const MOST_SITES: usize = 64;

/// The position of a zone in a list of zones. All zones in no list have the position after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in super::super) struct ZoneRank(u16);

impl ZoneRank {
    /// Returns the rank of a position. The positions above 65,535 are one rank.
    pub(in super::super) fn of(position: usize) -> Self {
        Self(u16::try_from(position).unwrap_or(u16::MAX))
    }

    /// The position.
    pub(in super::super) fn index(self) -> usize {
        self.0.into()
    }
}

/// Zones with their places, sorted by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sites {
    /// Each zone has coordinates. The nearest zone comes first.
    At(Vec<(Arc<str>, Coordinates)>),
    /// Each zone has the countries whose clients it serves, in order of preference. The zone that lists a country earliest
    /// comes first for its clients.
    For(Vec<(Arc<str>, Vec<Country>)>),
}

/// The place of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientPlace {
    /// Its coordinates.
    At(Coordinates),
    /// Its country.
    In(Country),
}

impl Sites {
    /// The zones, sorted by name.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        (0..self.len()).map(move |at| match self {
            Self::At(sites) => &sites[at].0,
            Self::For(sites) => &sites[at].0,
        })
    }

    /// The number of sites.
    pub fn len(&self) -> usize {
        match self {
            Self::At(sites) => sites.len(),
            Self::For(sites) => sites.len(),
        }
    }

    /// Returns true if there is no site.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the distance from a client to each site, in metres; `None` if the sites have no coordinates.
    pub fn distances(&self, client: Coordinates) -> Option<Vec<u32>> {
        match self {
            Self::At(sites) => Some(sites.iter().map(|(_, site)| site.distance(client)).collect()),
            Self::For(_) => None,
        }
    }

    /// Returns the order of the zones for a client, the zones without a site last. Zones that are equally near are in the
    /// order of their names. `None` if the place decides nothing: no site lists the country, or the sites have
    /// places of another kind.
    pub(super) fn order(&self, client: ClientPlace) -> Option<Box<[ZoneRank]>> {
        let keys: Vec<usize> = match (self, client) {
            (Self::At(sites), ClientPlace::At(client)) => {
                sites.iter().map(|(_, site)| site.distance(client) as usize).collect()
            }
            (Self::For(sites), ClientPlace::In(country)) => {
                let position = |countries: &[Country]| countries.iter().position(|listed| *listed == country);
                let positions = sites.iter().map(|(_, countries)| position(countries).unwrap_or(usize::MAX));
                Some(positions.collect::<Vec<_>>()).filter(|all| all.iter().any(|one| *one < usize::MAX))?
            }
            (Self::At(_), ClientPlace::In(_)) | (Self::For(_), ClientPlace::At(_)) => return None,
        };
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|site| keys[*site]);
        Some(order.into_iter().chain([self.len()]).map(ZoneRank::of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sites written as `name=latitude,longitude` or `name=COUNTRY,COUNTRY`.
    fn sites(text: &str) -> Sites {
        let pairs: Vec<_> = text.split_whitespace().map(|site| site.split_once('=').unwrap()).collect();
        let countries = |text: &str| text.split(',').map(str::parse).collect::<Result<Vec<Country>, _>>();
        match pairs.iter().map(|(name, text)| Ok(((*name).into(), countries(text)?))).collect() {
            Ok(sites) => Sites::For(sites),
            Err(crate::route::CountryFault) => {
                Sites::At(pairs.iter().map(|(name, text)| ((*name).into(), place(text))).collect())
            }
        }
    }

    fn place(text: &str) -> Coordinates {
        let (latitude, longitude) = text.split_once(',').unwrap();
        Coordinates::new(latitude.parse().unwrap(), longitude.parse().unwrap()).unwrap()
    }

    fn check(text: &str, client: &str, expected: Option<&str>) {
        let sites = sites(text);
        let names: Vec<_> = sites.names().map(|name| &**name).chain(["*"]).collect();
        let place = client.parse().map_or_else(|_| ClientPlace::At(place(client)), ClientPlace::In);
        let order = sites.order(place);
        let order =
            order.map(|order| order.iter().map(|rank| names[rank.index()]).collect::<Vec<_>>().join(" "));
        assert_eq!(order.as_deref(), expected, "{text} for {client}");
    }

    #[test]
    fn the_nearest_site_comes_first() {
        let all = "east=1.35,103.8 north=59.3,18.1 west=37.4,-122.1";
        check(all, "52.5,13.4", Some("north west east *"));
        check(all, "35.7,139.7", Some("east north west *"));
        check(all, "21.3,-157.9", Some("west east north *"));
        check("only=0,0", "1,1", Some("only *"));
    }

    #[test]
    fn ties_are_decided_by_the_name() {
        check("a=10,0 b=-10,0 c=0,5", "0,0", Some("c a b *"));
        check("a=0,-90 b=0,90 c=0,0", "0,180", Some("a b c *"));
        check("a=1,1 b=1,1", "50,50", Some("a b *"));
        check("a=DE,CH b=AT,DE c=CH,DE d=DE", "DE", Some("a d b c *"));
    }

    #[test]
    fn a_country_is_at_the_site_that_lists_it_first() {
        let all = "a=NL,BE,DE b=SE,DE c=US";
        check(all, "NL", Some("a b c *"));
        check(all, "DE", Some("b a c *"));
        check(all, "US", Some("c a b *"));
        check(all, "FR", None);
    }

    #[test]
    fn a_place_of_another_kind_decides_nothing() {
        check("a=DE", "1,1", None);
        check("a=1,1", "DE", None);
    }
}
