//! Loads a configuration from a file, a text or a command line.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::fault::{Faults, Warnings};
use super::findings::Findings;
use super::named_files::{FileFindings, Naming};
use super::read::{self, Read as _, Value};
use super::text::{CONFIGURATION, read_opened_text};
use super::written::{WrittenKeys, WrittenSource};
use super::{
    Config, ConfigWithPlaces, RoutePlaces, check, document, file, list_file, near_file, routes_file,
};
use crate::pool::DiscoverSource;
use crate::sys;

/// Reads and checks a configuration file.
///
/// # Errors
///
/// All faults of the file at once; one fault if it cannot be read, is not a regular file, is larger than 256 MiB or
/// is not UTF-8. If the file has no faults, all faults of the files that are read with it: files of routes, of
/// lists, and of certificate authorities.
pub fn load(path: &Path) -> Result<(Config, Warnings), Faults> {
    let directory = path.parent().unwrap_or(Path::new(""));
    load_from(path, directory, sys::file::open, Files::Read).map(LoadedText::without_text)
}

/// Loads a configuration as [`load`] does, from a file in a command line, which may be `-`, `/dev/stdin` or a shell's
/// `<(...)`. Such a stream is read until its other end is closed, and paths in it are relative to the working
/// directory.
///
/// # Errors
///
/// As [`load`].
pub fn load_given(path: &Path) -> Result<(Config, Warnings), Faults> {
    load_given_with(path, Files::Read).map(LoadedText::without_text)
}

/// Loads a configuration as [`load_given`] does, and returns the lines of its routes too.
///
/// # Errors
///
/// As [`load`].
pub fn load_with_places(path: &Path) -> Result<ConfigWithPlaces, Faults> {
    let LoadedText { config, warnings, text } = load_given_with(path, Files::Read)?;
    let places = RoutePlaces::read(&config, &path.display().to_string(), &text);
    Ok(ConfigWithPlaces { config, warnings, places })
}

/// Loads a configuration as [`load`] does, and also checks every other file that a process with this configuration
/// reads or writes. It opens nothing for writing and binds nothing.
///
/// # Errors
///
/// As [`load`], with the faults of all these files.
pub fn check_given(path: &Path) -> Result<(Config, Warnings), Faults> {
    load_given_with(path, Files::All).map(LoadedText::without_text)
}

/// A configuration and the text that it was read from.
struct LoadedText {
    config: Config,
    warnings: Warnings,
    text: String,
}

impl LoadedText {
    fn without_text(self) -> (Config, Warnings) {
        (self.config, self.warnings)
    }
}

/// The selection of the files to check: a configuration names more files than loading reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Files {
    /// The files that are read with the configuration.
    Read,
    /// These files, and the files that the process reads or writes later.
    All,
}

fn load_given_with(path: &Path, files: Files) -> Result<LoadedText, Faults> {
    let path = if path == Path::new("-") { Path::new("/dev/stdin") } else { path };
    let directory = match sys::file::is_descriptor(path) {
        true => None,
        false => path.parent(),
    };
    load_from(path, directory.unwrap_or(Path::new("")), sys::file::open_given, files)
}

fn load_from(
    path: &Path,
    directory: &Path,
    open: impl FnOnce(&Path) -> io::Result<File>,
    files: Files,
) -> Result<LoadedText, Faults> {
    let name = path.display().to_string();
    let text = read_opened_text(path, CONFIGURATION, open(path))?;
    let (mut config, warnings) = parse(&name, &text)?;
    place_files(&mut config, directory);
    let mut found = FileFindings::new(Naming { source_name: &name, text: &text }, warnings);
    routes_file::read_all(&mut config, &mut found);
    list_file::read_all(&mut config, &mut found);
    near_file::read_all(&mut config, &mut found);
    #[cfg(feature = "tls-checks")]
    super::ca_file::read_all(&mut config, &mut found);
    if files == Files::All {
        found.check_others(&config);
    }
    let warnings = found.conclude()?;
    Ok(LoadedText { config, warnings, text })
}

/// Makes the paths in a file relative to its directory.
fn place_files(config: &mut Config, directory: &Path) {
    for discover in config.pools.iter_mut().flat_map(|pool| &mut pool.discover) {
        if let DiscoverSource::File(file) = &mut discover.source {
            *file = directory.join(&*file).into();
        }
    }
    for file in config.admin.iter_mut().filter_map(|admin| admin.token_file.as_mut()) {
        *file = directory.join(&*file);
    }
    #[cfg(feature = "tls-checks")]
    for file in config.pools.iter_mut().filter_map(super::ca_file::of_pool) {
        file.path = directory.join(&*file.path).into();
    }
    for file in config.listeners.iter_mut().filter_map(|listener| listener.policy.routes_file.as_mut()) {
        file.path = directory.join(&*file.path).into();
    }
    for file in config.lists.iter_mut().filter_map(|list| list.file.as_mut()) {
        file.source.path = directory.join(&*file.source.path).into();
    }
    for near in config.pools.iter_mut().filter_map(|pool| pool.tiers.near.as_mut()) {
        near.source.path = directory.join(&*near.source.path).into();
    }
}

/// Checks the text of a configuration; messages use `source_name` as its path. Relative paths in it are left
/// unchanged, and the files that it names are not read.
///
/// # Errors
///
/// All faults of the text at once.
pub fn parse(source_name: &str, text: &str) -> Result<(Config, Warnings), Faults> {
    let mut found = Findings::new(text);
    let document = document::parse(&mut found);
    settle(source_name, &document, found)
}

/// Returns the configuration of a command line. It has a `tcp` listener `main` with all addresses of `listen` and a
/// pool `main` with all of `backends`. All other keys have their defaults.
///
/// # Errors
///
/// All faults of the arguments at once, shown in the text of the command line.
pub fn one_liner(listen: &[String], backends: &[String]) -> Result<Config, Faults> {
    let mut line = CommandLine::default();
    let listen: Vec<_> = listen.iter().map(|argument| line.push("--listen", argument)).collect();
    let backends: Vec<_> = backends.iter().map(|argument| line.push("--backend", argument)).collect();
    let all = 0..line.text.len();

    let string = |at: &Range<usize>| Spanned::new(at.clone(), text_value(&line.text[at.clone()]));
    let array = |ranges: &[Range<usize>]| {
        let mut items = DeArray::new();
        ranges.iter().for_each(|at| items.push(string(at)));
        DeValue::Array(items)
    };
    let main = |table| one_key("main", table, &all);
    let mut listener = one_table("bind", array(&listen), &all);
    listener.insert(spanned("pool".into(), &all), spanned(text_value("main"), &all));
    let pool = one_table("backends", array(&backends), &all);
    let mut document = one_table("listener", main(listener), &all);
    document.insert(spanned("pool".into(), &all), spanned(main(pool), &all));

    let document = spanned(DeValue::Table(document), &all);
    settle("arguments", &document, Findings::of_command_line(&line.text)).map(|(config, _)| config)
}

fn settle(
    source_name: &str,
    document: &Value<'_>,
    mut found: Findings<'_>,
) -> Result<(Config, Warnings), Faults> {
    let file = file::File::read(document, read::Path::ROOT, &mut found);
    let config = file.map(|file| check::check(&file, &mut found));
    let (text, is_command_line) = (found.text(), found.is_of_command_line());
    let warnings = found.conclude(source_name)?;
    let mut config = config.expect("a document is a table, and a table without faults has a configuration");
    let source =
        if is_command_line { WrittenSource::CommandLine } else { WrittenSource::of_file(source_name) };
    config.written = WrittenKeys::of(document, text, source, &config.pools);
    Ok((config, warnings))
}

/// Arguments joined to one line, so that faults have a text with positions.
#[derive(Default)]
struct CommandLine {
    text: String,
}

impl CommandLine {
    /// Adds an option and returns the position of its argument.
    fn push(&mut self, option: &str, argument: &str) -> Range<usize> {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(option);
        self.text.push(' ');
        let start = self.text.len();
        self.text.push_str(argument);
        start..self.text.len()
    }
}

fn text_value(text: &str) -> DeValue<'_> {
    DeValue::String(text.into())
}

fn spanned<T>(value: T, at: &Range<usize>) -> Spanned<T> {
    Spanned::new(at.clone(), value)
}

fn one_table<'i>(key: &'i str, value: DeValue<'i>, at: &Range<usize>) -> DeTable<'i> {
    let mut table = DeTable::new();
    table.insert(spanned(key.into(), at), spanned(value, at));
    table
}

fn one_key<'i>(key: &'i str, table: DeTable<'i>, at: &Range<usize>) -> DeValue<'i> {
    DeValue::Table(one_table(key, DeValue::Table(table), at))
}
