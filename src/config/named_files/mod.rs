//! Collects the faults of all files that a configuration names, with the position of the key of each file. Also
//! checks the files that loading does not read.

use std::io;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::Config;
use super::code::Code;
use super::fault::{Diagnostic, Faults, Report, Span, Warnings};
use super::findings::Findings;
use super::load::reason;
use super::token;
use crate::pool::DiscoverSource;
use crate::pool::discover::{FileFault, read_file};
use crate::sys::file;
use crate::telemetry::AccessLogTarget;

/// The configuration that names files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Naming<'t> {
    /// The name of the configuration in messages: its path.
    pub(super) source_name: &'t str,
    /// Its text, which has no faults.
    pub(super) text: &'t str,
}

/// The findings in the files that a configuration names, so that all faults of all files are reported at once.
pub(super) struct FileFindings<'t> {
    naming: Naming<'t>,
    /// The diagnostics that are shown in the configuration: its warnings, and faults of files without a position of
    /// their own.
    found: Findings<'t>,
    /// The reports of files whose faults have a position in them.
    broken: Vec<Report>,
}

impl<'t> FileFindings<'t> {
    /// Returns findings with the warnings of the configuration.
    pub(super) fn new(naming: Naming<'t>, warnings: Warnings) -> Self {
        let mut found = Findings::new(naming.text);
        warnings.0.diagnostics.into_iter().for_each(|warning| found.add(warning));
        Self { naming, found, broken: Vec::new() }
    }

    /// Adds the faults of a file, with the position of the key that names it. Faults without a position of their own
    /// are shown at that key.
    pub(super) fn add(&mut self, Faults(reports): Faults, keys: &[&str]) {
        let Naming { source_name, text } = self.naming;
        let place = place(text, keys);
        for mut report in reports {
            let has_places = report.diagnostics.iter().any(|fault| !fault.labels.is_empty());
            match (place, has_places) {
                (Some(place), false) => {
                    let file = &report.source_name;
                    for mut fault in report.diagnostics {
                        if fault.path.is_empty() {
                            fault.path = keys.join(".");
                        }
                        self.found.add(fault.label(place, file.clone()));
                    }
                    continue;
                }
                (Some(place), true) => {
                    let line = text[..place.start].matches('\n').count() + 1;
                    let help = format!("{source_name}:{line} names the file, by {}", keys.join("."));
                    report.diagnostics.last_mut().into_iter().for_each(|last| last.help.push(help.clone()));
                }
                (None, _) => {}
            }
            self.broken.push(report);
        }
    }

    /// Adds a warning about a file, at the key that names it.
    pub(super) fn warn(&mut self, warning: Diagnostic, keys: &[&str], file: &Path) {
        let warning = match place(self.naming.text, keys) {
            Some(place) => warning.label(place, file.display().to_string()),
            None => warning,
        };
        self.found.add(warning);
    }

    /// Checks the files that loading does not read.
    pub(super) fn check_others(&mut self, config: &Config) {
        check(config, &mut self.found);
    }

    /// Returns the warnings, or the faults of all files, those in the configuration first.
    pub(super) fn conclude(self) -> Result<Warnings, Faults> {
        let own = match self.found.conclude(self.naming.source_name) {
            Ok(warnings) if self.broken.is_empty() => return Ok(warnings),
            Ok(warnings) if warnings.is_empty() => Vec::new(),
            Ok(Warnings(report)) => vec![report],
            Err(Faults(reports)) => reports,
        };
        Err(Faults(own.into_iter().chain(self.broken).collect()))
    }
}

/// Returns the position of a key's value in the text of a configuration without faults. A key in an array is a
/// number; the key of an array of one value may be left out.
fn place(text: &str, keys: &[&str]) -> Option<Span> {
    let (document, _) = DeTable::parse_recoverable(text);
    let (first, keys) = keys.split_first()?;
    let mut value = document.get_ref().get(*first)?;
    for key in keys {
        value = match value.get_ref() {
            DeValue::Table(inner) => inner.get(*key)?,
            DeValue::Array(array) => match key.parse::<usize>() {
                Ok(at) => array.get(at)?,
                Err(_) => array.first()?.get_ref().as_table()?.get(*key)?,
            },
            _ => return None,
        };
    }
    Some(value.span().into())
}

/// Checks the files that loading does not read: the token of admin, files of discovery, and the access log. It opens
/// nothing for writing.
fn check(config: &Config, found: &mut Findings<'_>) {
    if let Some(path) = config.admin.first().and_then(|admin| admin.token_file.as_deref()) {
        let fault = token::fault(token::read_token(path));
        add(fault, path, &["admin", "token_file"], found);
    }
    for pool in &config.pools {
        let listed: Vec<_> = pool.discover.iter().filter(|source| source.host.is_none()).collect();
        for (at, source) in listed.iter().enumerate() {
            let DiscoverSource::File(path) = &source.source else { continue };
            let fault = read_file(path).err().map(|fault| discovery(&pool.name, &fault));
            match listed.len() {
                1 => add(fault, path, &["pool", &pool.name, "discover", "file"], found),
                _ => add(fault, path, &["pool", &pool.name, "discover", &at.to_string(), "file"], found),
            }
        }
    }
    if let AccessLogTarget::File(path) = &config.access_log.to {
        let fault = file::check_appendable(path).err().map(|error| access_log(&error));
        add(fault, path, &["access_log", "to"], found);
    }
}

fn add(fault: Option<Diagnostic>, file: &Path, keys: &[&str], found: &mut Findings<'_>) {
    let Some(mut fault) = fault else { return };
    fault.path = keys.join(".");
    if let Some(place) = place(found.text(), keys) {
        fault = fault.label(place, file.display().to_string());
    }
    found.add(fault);
}

fn discovery(pool: &str, fault: &FileFault) -> Diagnostic {
    match fault {
        FileFault::Unreadable(error) if error.kind() == io::ErrorKind::NotFound => {
            let message = format!("the file with the backends of pool `{pool}` does not exist yet");
            Diagnostic::new(Code::MissingDiscoveryFile, "", message)
                .help("until another program writes the file, the pool has no backends from it")
        }
        FileFault::Unreadable(error) if error.kind() == io::ErrorKind::PermissionDenied => unseen(format!(
            "the file with the backends of pool `{pool}` may not be read by the user of this command"
        )),
        FileFault::Unreadable(error) => {
            let message =
                format!("the file with the backends of pool `{pool}` cannot be read: {}", reason(error));
            Diagnostic::new(Code::BadDiscoveryFile, "", message)
        }
        fault => {
            let message = format!("the file with the backends of pool `{pool}` is broken: {fault}");
            Diagnostic::new(Code::BadDiscoveryFile, "", message).help(
                "a running process keeps the backends of its last good version; docs/guide/discovery.md has the form",
            )
        }
    }
}

fn access_log(error: &io::Error) -> Diagnostic {
    let why = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            return unseen("the access log may not be written by the user of this command".to_owned());
        }
        io::ErrorKind::NotFound => "its directory does not exist".to_owned(),
        io::ErrorKind::NotADirectory => "the path of its directory is not a directory".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    };
    Diagnostic::new(Code::BadAccessLog, "", format!("the access log cannot be opened: {why}"))
        .help("create the directory, or name another file; access_log.to = \"off\" turns the access log off")
}

fn unseen(message: String) -> Diagnostic {
    Diagnostic::new(Code::UnseenFile, "", message)
        .help("run `check` as the user that runs the process, so that it can check this file too")
}

#[cfg(test)]
mod tests;
