//! Checks the order of a pool's zones by distance: the sites and their places.

use std::sync::Arc;

use super::pool::PoolChecker;
use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::findings::Findings;
use crate::config::near_keys::{NearWords, SiteWord};
use crate::config::read::{Key, NamedTable, TableEntry};
use crate::config::words::name_fault;
use crate::pool::near::{MOST_SITES, NearSource, NearSpec, Sites};
use crate::route::Country;

impl PoolChecker<'_> {
    /// Returns the order by distance; `None` if none is written, or if it has faults.
    pub(super) fn near(&self, found: &mut Findings<'_>) -> Option<NearSpec> {
        let near = self.words.near.entry()?;
        self.require(
            near,
            "database",
            &near.value.database,
            "add: database = \"/PATH/TO/GeoLite2-City.mmdb\"",
            found,
        );
        let example = "add: sites = { eu-west = [52.37, 4.90], us-east = [38.95, -77.45] }";
        self.require(near, "sites", &near.value.sites, example, found);
        let path = near.value.database.value()?.0.as_path().into();
        let sites = Arc::new(self.sites(near.value.sites.entry()?, found)?);
        Some(NearSpec { source: NearSource { path, sites }, read: None })
    }

    fn require<T>(
        &self,
        near: &TableEntry<NearWords>,
        key: &str,
        value: &Key<T>,
        help: &str,
        found: &mut Findings<'_>,
    ) {
        if value.is_absent() {
            let message = format!("`near` of pool `{}` has no `{key}`", self.name);
            let fault = Diagnostic::new(Code::MissingKey, self.key(&format!("near.{key}")), message);
            found.add(fault.label(near.key, format!("`{key}` is missing")).help(help));
        }
    }

    /// Returns the sites, sorted by name.
    fn sites(
        &self,
        written: &TableEntry<crate::config::read::NamedTables<SiteWord>>,
        found: &mut Findings<'_>,
    ) -> Option<Sites> {
        let path = self.key("near.sites");
        let sites = &written.value.0;
        for site in sites {
            if let Some(fault) = name_fault(&site.name, &path) {
                found.add(fault.label(site.place, "the name of a zone"));
            }
        }
        if sites.is_empty() || sites.len() > MOST_SITES {
            let message = format!("`near` of pool `{}` has {} sites", self.name, sites.len());
            let fault = Diagnostic::new(Code::OutOfRange, &path, message);
            found.add(fault.label(written.at, format!("1 to {MOST_SITES}")));
            return None;
        }
        let at = sites.iter().filter_map(|site| match &site.table {
            Some(SiteWord::At(place)) => Some((site.name.as_str().into(), *place)),
            _ => None,
        });
        let at: Vec<_> = at.collect();
        let by_country: Vec<_> = sites.iter().filter_map(|site| self.countries(site, &path, found)).collect();
        match (at.len(), by_country.len()) {
            (count, 0) if count == sites.len() => Some(Sites::At(at)),
            (0, count) if count == sites.len() => Some(Sites::For(by_country)),
            (0, _) | (_, 0) => None,
            _ => {
                let place = |is_at| {
                    let site = sites.iter().find(|site| match &site.table {
                        Some(word) => matches!(word, SiteWord::At(_)) == is_at,
                        None => false,
                    });
                    site.map_or(written.at, |site| site.place)
                };
                let message = format!("the sites of pool `{}` have coordinates and countries", self.name);
                let fault = Diagnostic::new(Code::BadPlace, &path, message);
                found.add(fault.label(place(true), "coordinates").label(place(false), "countries").help(
                    "write the places of all sites in the same way, because a distance needs two coordinates",
                ));
                None
            }
        }
    }

    /// Returns the countries of a site, and adds a fault for each country that is listed twice or is no code of ISO 3166-1.
    fn countries(
        &self,
        site: &NamedTable<SiteWord>,
        path: &str,
        found: &mut Findings<'_>,
    ) -> Option<(Arc<str>, Vec<Country>)> {
        let Some(SiteWord::For(items)) = &site.table else { return None };
        let mut seen: Vec<(Country, Span)> = Vec::new();
        for item in items {
            let country = item.value.0;
            if let Some((_, first)) = seen.iter().find(|(other, _)| *other == country) {
                let message = format!("site \"{}\" lists {country} twice", site.name);
                let fault = Diagnostic::new(Code::BadCountry, path, message);
                found.add(fault.label(item.at, "again here").label(*first, "first here"));
                continue;
            }
            if let Some(meant) = country.meant() {
                let message = format!("{country} is not the code of a country");
                let fault = Diagnostic::new(Code::BadCountry, path, message);
                found.add(fault.label(item.at, format!("the ISO 3166-1 code is {meant}")));
            }
            seen.push((country, item.at));
        }
        Some((site.name.as_str().into(), seen.into_iter().map(|(country, _)| country).collect()))
    }
}
