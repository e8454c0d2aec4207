//! Families of address lists. They are read at each scrape: see [`crate::telemetry::Exposition`].

use super::families::MetricKind::{Counter, Gauge};
use super::families::{MetricDoc, doc};

pub(crate) const LIST_ENTRIES: MetricDoc = doc(
    "pointsman_list_entries",
    Gauge,
    &["list", "part"],
    "Entries of the list: `written` in the configuration, in its `file`, or `added` while the process runs.",
);
pub(crate) const LIST_LOADS: MetricDoc = doc(
    "pointsman_list_loads_total",
    Counter,
    &["list", "result"],
    "Reads of the list's file: `ok`, `failed`, or `empty` (no entries, and `allow_empty` is not set). Only a read \
     with `ok` changes the entries in force.",
);
pub(crate) const LIST_LAST_LOAD: MetricDoc = doc(
    "pointsman_list_last_load_timestamp_seconds",
    Gauge,
    &["list"],
    "Unix time of the last good read of the list's file. 0 means that no read was good yet.",
);
pub(crate) const LIST_REFUSALS: MetricDoc = doc(
    "pointsman_list_refusals_total",
    Counter,
    &["list"],
    "Connections that were refused because their address is in the list.",
);
