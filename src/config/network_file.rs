//! Walks over the networks of a file in MaxMind's format (`.mmdb`).

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use maxminddb::{LookupResult, MaxMindDbError, Reader, WithinOptions};

use super::code::Code;
use super::fault::{self, Diagnostic, Faults};
use crate::route::IpPrefix;

/// The most networks that a walk may visit, for each node of the tree. A valid tree has no more networks than nodes. A
/// walk visits the networks of IPv4 again at each alias of IPv4 in IPv6, and writers use three aliases. A broken or
/// malicious tree can have any number of paths.
const MOST_WAYS: usize = 16;

/// The most records whose value is cached. Files have some hundred records, or hundreds of thousands with cities.
const MOST_RECORDS: usize = 1 << 20;

/// The longest time of a walk. A valid file takes seconds at most. A malicious file can make each record cost milliseconds.
const LONGEST_WALK: Duration = Duration::from_secs(30);

/// The networks between two looks at the clock.
const LOOK_AT_CLOCK: usize = 1024;

/// The reason for which a file cannot be walked.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetworkFileFault {
    #[error("not in MaxMind's format, or not whole: {0}")]
    Format(MaxMindDbError),
    #[error("broken: {0}")]
    Broken(#[from] MaxMindDbError),
    #[error("broken: its tree has far more paths than nodes")]
    Tangled,
    #[error("broken: it takes more than {} s to read", LONGEST_WALK.as_secs())]
    Slow,
}

/// The most characters of a message. A message may contain pieces of the file, so its further characters are cut off.
const LONGEST_MESSAGE: usize = 200;

/// Returns the one fault of a file; messages use `source_name` as its path.
pub(super) fn faults(
    source_name: &str,
    code: Code,
    fault: &impl fmt::Display,
    help: Option<String>,
) -> Faults {
    let message: String = fault.to_string().chars().take(LONGEST_MESSAGE).collect();
    let mut diagnostic = Diagnostic::new(code, "", message);
    if let Some(help) = help {
        diagnostic = diagnostic.help(help);
    }
    fault::about_text(source_name, String::new(), diagnostic)
}

/// A file whose tree can be walked in bounded time.
pub(super) struct NetworkFile<'b> {
    reader: Reader<&'b [u8]>,
    /// The longest time of a walk.
    longest: Duration,
}

impl<'b> NetworkFile<'b> {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// It is not of this format, or has too many paths.
    pub(super) fn open(bytes: &'b [u8]) -> Result<Self, NetworkFileFault> {
        let reader = Reader::from_source(bytes).map_err(NetworkFileFault::Format)?;
        refuse_tangles(&reader)?;
        Ok(Self { reader, longest: LONGEST_WALK })
    }

    /// The kind of the file, as its metadata has it.
    pub(super) fn kind(&self) -> &str {
        &self.reader.metadata().database_type
    }

    /// Calls `take` with each network and the value of its record. `value` is called about once for each record. The networks
    /// do not overlap.
    ///
    /// # Errors
    ///
    /// The file is broken, the walk takes longer than [`LONGEST_WALK`], or a fault of `value` or `take`.
    pub(super) fn each<V: Copy, F: From<NetworkFileFault>>(
        &self,
        mut value: impl FnMut(&LookupResult<'_, &'b [u8]>) -> Result<V, F>,
        mut take: impl FnMut(&IpPrefix, V) -> Result<(), F>,
    ) -> Result<(), F> {
        let reader = &self.reader;
        let broken = |fault: MaxMindDbError| F::from(fault.into());
        // The reader treats every path to the start of IPv4 as an alias of IPv4. If that start is a record and not a
        // subtree, other paths to the same record are not aliases.
        let start = reader.lookup(Ipv4Addr::UNSPECIFIED.into()).and_then(|start| start.network());
        let options = WithinOptions::default();
        let has_v4_tree = start.map_err(broken)?.is_ipv4();
        let options = if has_v4_tree { options } else { options.include_aliased_networks() };

        let deadline = Instant::now() + self.longest;
        let check = || if Instant::now() > deadline { Err(F::from(NetworkFileFault::Slow)) } else { Ok(()) };
        let mut records = HashMap::new();
        for (count, network) in reader.networks(options).map_err(broken)?.enumerate() {
            let network = network.map_err(broken)?;
            if count % LOOK_AT_CLOCK == 0 {
                check()?;
            }
            let Some(record) = network.offset() else { continue };
            let value = match records.get(&record) {
                Some(value) => *value,
                None => {
                    let value = value(&network)?;
                    check()?;
                    if records.len() >= MOST_RECORDS {
                        records.clear();
                    }
                    records.insert(record, value);
                    value
                }
            };
            let network = network.network().map_err(broken)?;
            let (address, length) = (network.ip(), network.prefix());
            // Readers search IPv4 at the start of IPv6, never here.
            if matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
                continue;
            }
            take(&IpPrefix::around(address, length), value)?;
            // A network of IPv6 that starts where IPv4 starts contains all of IPv4.
            if network.is_ipv6() && address.is_unspecified() && length <= 96 {
                take(&IpPrefix::around(Ipv4Addr::UNSPECIFIED.into(), 0), value)?;
            }
        }
        Ok(())
    }
}

/// Returns a fault if the tree has too many paths. A walk does not detect nodes that it has visited before. If a cycle
/// leads to aliases, or to nodes without a record, the walk would never end.
fn refuse_tangles(reader: &Reader<&[u8]>) -> Result<(), NetworkFileFault> {
    let every_way = WithinOptions::default().include_aliased_networks().include_networks_without_data();
    let most = (reader.metadata().node_count as usize + 1).saturating_mul(MOST_WAYS);
    let ways = reader.networks(every_way)?.take(most + 1).count();
    if ways > most { Err(NetworkFileFault::Tangled) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::country_file::tests::made::{CountryFile, by_code};

    /// A malicious file can make each record cost milliseconds, and has hundreds of thousands of records.
    #[test]
    fn a_walk_that_takes_too_long_ends() {
        let mut file = CountryFile::new();
        let record = file.record(&by_code("DE"));
        file.put("192.0.2.0/24", record);
        let bytes = file.bytes();
        let walk = |longest| {
            let file = NetworkFile { longest, ..NetworkFile::open(&bytes).unwrap() };
            file.each(|_| Ok::<_, NetworkFileFault>(()), |_, ()| Ok(()))
        };
        assert!(walk(LONGEST_WALK).is_ok());
        let slow = walk(Duration::ZERO).expect_err("the time is over");
        assert_eq!(slow.to_string(), "broken: it takes more than 30 s to read");
    }
}
