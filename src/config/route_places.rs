//! The lines of the routes in the files of a configuration, for messages about a route that is in force.
//!
//! A checked route has no position: a moved line would make it another route in a reload. So the texts are parsed again.

use std::collections::BTreeMap;
use std::iter;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::document;
use super::findings::Findings;
use super::text::read_text;
use super::{Config, Warnings};
use crate::listener::ListenerSpec;

/// The lines of the routes of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutePlaces {
    /// By listener: the file and the line of each name of its routes, in the order of the routes.
    listeners: BTreeMap<Arc<str>, Vec<Arc<str>>>,
}

/// A configuration that was read to explain it.
#[derive(Clone, Debug)]
pub struct ConfigWithPlaces {
    /// The configuration.
    pub config: Config,
    /// Its warnings.
    pub warnings: Warnings,
    /// The lines of its routes.
    pub places: RoutePlaces,
}

impl RoutePlaces {
    /// Returns the file and the line of a route, such as `config.toml:14`. `index` is its position among the names of all
    /// routes of the listener.
    pub fn of(&self, listener: &str, index: usize) -> Option<&str> {
        Some(self.listeners.get(listener)?.get(index)?)
    }

    /// Returns the lines of a configuration that was read from this text. A file of routes that has changed since then
    /// gives no lines.
    pub(super) fn read(config: &Config, source_name: &str, text: &str) -> Self {
        let mut found = Findings::new(text);
        let document = document::parse(&mut found);
        let tables = document.get_ref().as_table().and_then(|root| table(root, "listener"));
        let lines =
            |name: &str| tables.and_then(|listeners| table(listeners, name)).map(|own| lines(own, text));
        let listeners = config.listeners.iter().map(|listener| {
            let own = lines(&listener.name).unwrap_or_default();
            let own = own.into_iter().map(|line| (source_name.to_owned(), line)).collect();
            (Arc::clone(&listener.name), places(listener, own))
        });
        Self { listeners: listeners.collect() }
    }
}

/// Returns the place of each name of the routes of a listener. `written` are the lines of the routes in the configuration.
fn places(listener: &ListenerSpec, mut written: Vec<(String, usize)>) -> Vec<Arc<str>> {
    let routes = listener.policy.protocol.routes();
    if let Some(file) = &listener.policy.routes_file
        && let Ok(text) = read_text(&file.path, "the file with routes")
    {
        let mut found = Findings::new(&text);
        let document = document::parse(&mut found);
        let own = document.get_ref().as_table().map(|root| lines(root, &text));
        let path = file.path.display().to_string();
        written.extend(own.into_iter().flatten().map(|line| (path.clone(), line)));
    }
    if written.len() != routes.len() {
        return Vec::new();
    }
    let names = routes.iter().zip(written).flat_map(|(route, (file, line))| {
        let place: Arc<str> = format!("{file}:{line}").into();
        iter::repeat_n(place, route.keys.len())
    });
    names.collect()
}

fn table<'d, 'i>(parent: &'d DeTable<'i>, name: &str) -> Option<&'d DeTable<'i>> {
    parent.get(name)?.get_ref().as_table()
}

/// Returns the lines of the routes in a table, from 1.
fn lines(parent: &DeTable<'_>, text: &str) -> Vec<usize> {
    let routes = parent.get("routes").map(|routes| routes.get_ref());
    let Some(DeValue::Array(routes)) = routes else { return Vec::new() };
    let (mut line, mut before) = (1, 0);
    let mut lines = Vec::with_capacity(routes.len());
    for route in routes.iter() {
        let start = route.span().start.min(text.len());
        // The positions grow, so the text is read once.
        if start < before {
            (line, before) = (1, 0);
        }
        line += text.as_bytes()[before..start].iter().filter(|byte| **byte == b'\n').count();
        before = start;
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places_of(text: &str) -> RoutePlaces {
        let (config, _) = super::super::parse("c.toml", text).unwrap_or_else(|faults| panic!("{faults}"));
        RoutePlaces::read(&config, "c.toml", text)
    }

    #[test]
    fn each_name_of_a_route_has_the_line_of_the_route() {
        let text = "[listener.tls]\nbind = ':1'\nprotocol = 'tls'\nroutes = [\n  { sni = 'a.example', pool = 'p' },\n  {\n    \
                    sni = ['b.example', 'c.example'],\n    pool = 'p',\n  }, { source = '10.0.0.0/8', pool = 'p' },\n]\n\
                    [pool.p]\nbackends = ['10.0.0.1:1']\n[listener.web]\nbind = ':2'\npool = 'p'\n";
        let places = places_of(text);
        let lines = [Some("c.toml:5"), Some("c.toml:6"), Some("c.toml:6"), Some("c.toml:9"), None];
        assert_eq!([0, 1, 2, 3, 4].map(|index| places.of("tls", index)), lines);
        assert_eq!((places.of("web", 0), places.of("other", 0)), (None, None));
    }

    #[test]
    fn tables_of_routes_have_lines_too() {
        let text = "[pool.p]\nbackends = ['10.0.0.1:1']\n[listener.tls]\nbind = ':1'\nprotocol = 'tls'\n\
                    [[listener.tls.routes]]\nsni = 'a.example'\npool = 'p'\n\n[[listener.tls.routes]]\nsni = \
                    'b.example'\npool = 'p'\n";
        let places = places_of(text);
        assert_eq!([0, 1].map(|index| places.of("tls", index)), [Some("c.toml:6"), Some("c.toml:10")]);
    }
}
