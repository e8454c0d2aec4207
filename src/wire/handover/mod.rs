//! The messages between two programs when the newer one takes over: from bytes to values and back, pure.
//!
//! The running program is the *incumbent*, the new program is the *successor*. The successor connects, asks, and
//! receives the listening sockets, then the state of the process, then the open connections in batches.
//!
//! ```text
//! successor                    incumbent
//!   Hello            ->                          the successor has checked its configuration
//!                    <-   Welcome or Refused
//!                    <-   Sockets ...            with the listening sockets
//!                    <-   ProcessState ...       the state of the process, in parts
//!   Ready            ->                          the successor has built all; the incumbent stops to accept
//!                    <-   Go                     the successor accepts
//!                    <-   Batch n                with the sockets of some connections
//!   Adopted n        ->                          before the successor reads or writes a byte of them; or `Declined n`
//!                    <-   Rest                   the connections that can move have moved
//!                    <-   Batch n ...            connections that became able to move
//!                    <-   Done                   the incumbent has no connection left
//! ```
//!
//! Instead of `Hello`, a command may send `Query`, which gets `Welcome`, or `Reload`, which gets `Reloaded`.
//!
//! Each message is a frame ([`crate::sys::frames`]): a kind, JSON, and raw bytes. Fields may be added within a protocol
//! version: a reader ignores fields that it does not know, and a missing field has its default. So each struct here has
//! `serde(default)`, and no field ever changes its meaning. `tests/fixtures/handover` has the messages of each release.

mod connection;
mod state;

use serde::{Deserialize, Serialize};

pub use connection::{
    HandedConnection, HandedFlow, HandedIntervals, HandedLog, HandedOffer, HandedOptions, HandedPeerTimeouts,
    HandedReading, HandedRelay,
};
pub use state::{
    CountsByWord, HandedAddition, HandedBackend, HandedBackendCounts, HandedChecks, HandedCounter,
    HandedDiscovered, HandedDiscovery, HandedDrain, HandedEjection, HandedEjections, HandedFailure,
    HandedHealth, HandedHold, HandedMarkKey, HandedNeed, HandedOverride, HandedRate, HandedRouteCounts,
    HandedSource, ProcessState, from_millis, left_millis, micros, millis,
};

/// The versions of the protocol that this program speaks.
pub const PROTOCOLS: Protocols = Protocols { min: 1, max: 1 };

/// A range of protocol versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Protocols {
    /// The lowest version.
    pub min: u32,
    /// The highest version.
    pub max: u32,
}

impl Protocols {
    /// Returns the highest version that both ranges contain.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u32> {
        let highest = self.max.min(other.max);
        (highest >= self.min.max(other.min)).then_some(highest)
    }
}

/// A message of either program.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The request of a successor.
    Hello(Hello),
    /// The description of the incumbent. It answers a `Query`, then with the standard output and the standard error of the
    /// incumbent, or it accepts a `Hello`.
    Welcome(Box<Welcome>),
    /// The incumbent refuses, or stops the hand-over.
    Refused(Refused),
    /// Some listening sockets, with their descriptors.
    Sockets(Sockets),
    /// A part of the state of the process.
    ProcessState(Box<StatePart>),
    /// The successor can accept.
    Ready(Ready),
    /// The successor may accept.
    Go(Go),
    /// Some connections, with their descriptors and the bytes that they hold.
    Batch(Batch),
    /// The successor has the batch of this number.
    Adopted(Adopted),
    /// The successor does not take the batch of this number.
    Declined(Declined),
    /// All connections that could move have moved.
    Rest(Rest),
    /// The incumbent has no connection left.
    Done(Done),
    /// A question for the incumbent's [`Welcome`], without a hand-over.
    Query(Query),
    /// A request to reload the configuration of the incumbent.
    Reload(Reload),
    /// The result of that reload.
    Reloaded(Reloaded),
}

/// The request of a successor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hello {
    /// The protocols that the successor speaks.
    pub protocols: Protocols,
    /// Its version.
    pub version: String,
    /// Its commit.
    pub commit: String,
    /// Its process id.
    pub pid: u32,
    /// The number of descriptors that it may have open (RLIMIT_NOFILE).
    pub nofile: u64,
    /// Its control groups, as the kernel lists them; `None` if they are unknown.
    pub cgroup: Option<String>,
}

/// The incumbent, as it describes itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Welcome {
    /// The chosen protocol; `None` if there is no common one. Then only the sockets are handed over.
    pub protocol: Option<u32>,
    /// Its version.
    pub version: String,
    /// Its commit.
    pub commit: String,
    /// Its process id.
    pub pid: u32,
    /// The namespace of process ids in which `pid` has its meaning.
    pub pid_namespace: Option<String>,
    /// The time at which it started, in milliseconds since 1970.
    pub started_ms: u64,
    /// Its open connections.
    pub connections: u64,
    /// The file of its configuration, if it has one.
    pub config_file: Option<String>,
    /// The address of `run --admin`, if it was given.
    pub admin: Option<String>,
    /// Its working directory, where a relative `config_file` begins.
    pub directory: Option<String>,
    /// The socket of the service manager, if it has one.
    pub notify_socket: Option<String>,
    /// The interval of the service manager's watchdog in microseconds, if it has one.
    pub watchdog_us: Option<u64>,
    /// Its control group, as in `/proc/self/cgroup`.
    pub cgroup: Option<String>,
    /// The time that it may need to end, `shutdown.drain`, in milliseconds.
    pub drain_ms: u64,
}

/// The reason why the incumbent refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Refused {
    /// The cause, and the command to use instead.
    pub reason: String,
}

/// Some listening sockets. The descriptors come in the order of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sockets {
    /// The sockets of this message.
    pub sockets: Vec<HandedSocket>,
    /// True if further messages with sockets follow.
    pub more: bool,
}

/// A listening socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedSocket {
    /// The part of the program that listens there: `listener`, `admin` or `handover`.
    pub part: String,
    /// The name of the listener; empty for the other parts.
    pub listener: String,
    /// The address as configured. It differs from `address` for a port that the kernel chose.
    pub configured: String,
    /// The address at which the socket listens.
    pub address: String,
    /// The device of the file of a Unix socket. 0 if the file is not known.
    pub device: u64,
    /// The inode of that file.
    pub inode: u64,
}

/// A part of the state of the process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatePart {
    /// The part.
    pub state: ProcessState,
    /// True if further parts follow.
    pub more: bool,
}

/// The successor is built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ready {}

/// The successor may accept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Go {
    /// The number of the successor's first own connection. All numbers of the incumbent are lower.
    pub next_id: u64,
    /// The entries that were added to lists, as they are now. Some may have come after the [`ProcessState`].
    pub additions: Vec<HandedAddition>,
}

/// Some connections. Each has one descriptor or two, in the order of the list: the client's, then the backend's. The raw
/// bytes of the frame are the bytes that they hold, in the same order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Batch {
    /// The number of the batch, from 1.
    pub number: u64,
    /// The connections.
    pub connections: Vec<HandedConnection>,
    /// The options of relays, to which connections refer by index.
    pub options: Vec<HandedOptions>,
}

/// A batch was adopted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Adopted {
    /// The number of the batch.
    pub number: u64,
    /// The numbers of its connections that the successor cannot serve. They go on in the incumbent.
    pub declined: Vec<u64>,
}

/// A batch was not adopted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Declined {
    /// The number of the batch.
    pub number: u64,
    /// The reason.
    pub reason: String,
}

/// The connections that can move have moved. The successor is now the main process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rest {
    /// The connections that moved.
    pub moved: u64,
    /// The connections that remain in the incumbent.
    pub remaining: u64,
    /// Those that remain, by the word of their stage. A connection that has just ended may be missing here.
    #[serde(deserialize_with = "state::by_word")]
    pub stages: CountsByWord,
    /// Microseconds from the first batch to the last acknowledgement.
    pub moved_in_us: u64,
    /// The longest time in which a moved connection stood still, in microseconds.
    pub longest_pause_us: u64,
    /// The 99th percentile of these times, in microseconds.
    pub p99_pause_us: u64,
}

/// The incumbent has no connection left.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Done {
    /// The counts since the [`ProcessState`] was sent.
    pub state: ProcessState,
}

/// A question for the [`Welcome`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Query {
    /// The protocols that the program that asks speaks.
    pub protocols: Protocols,
}

/// A request to reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reload {}

/// The result of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reloaded {
    /// The changes, if the reload succeeded.
    pub changes: Option<String>,
    /// The reason why the earlier configuration stays.
    pub fault: Option<String>,
}

/// The fault of a message.
#[derive(Debug, thiserror::Error)]
pub enum MessageFault {
    /// The kind is not known.
    #[error("a message of the unknown kind {0}")]
    Kind(u8),
    /// The JSON does not fit the kind.
    #[error("a message {kind} that cannot be read: {source}")]
    Json {
        /// The name of the kind.
        kind: &'static str,
        /// The fault of the JSON.
        source: serde_json::Error,
    },
}

/// Makes the functions of [`Message`] from one list.
macro_rules! messages {
    ($($number:literal $name:ident $read:expr;)*) => {
        impl Message {
            /// Reads a message.
            ///
            /// # Errors
            ///
            /// An unknown kind, or JSON that does not fit the kind.
            pub fn decode(kind: u8, json: &[u8]) -> Result<Self, MessageFault> {
                match kind {
                    $($number => serde_json::from_slice(json).map($read).map(Self::$name).map_err(|source| {
                        MessageFault::Json { kind: stringify!($name), source }
                    }),)*
                    kind => Err(MessageFault::Kind(kind)),
                }
            }

            /// Returns the kind and the JSON of the message.
            ///
            /// # Panics
            ///
            /// Never: every message can be written as JSON.
            #[must_use]
            pub fn encode(&self) -> (u8, Vec<u8>) {
                match self {
                    $(Self::$name(message) => {
                        ($number, serde_json::to_vec(message).expect("a message has only texts and numbers"))
                    })*
                }
            }

            /// Returns the name of the kind.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)*
                }
            }
        }
    };
}

messages! {
    1 Hello std::convert::identity;
    2 Welcome Box::new;
    3 Refused std::convert::identity;
    4 Sockets std::convert::identity;
    5 ProcessState Box::new;
    6 Ready std::convert::identity;
    7 Go std::convert::identity;
    8 Batch std::convert::identity;
    9 Adopted std::convert::identity;
    10 Declined std::convert::identity;
    11 Rest std::convert::identity;
    12 Done std::convert::identity;
    13 Query std::convert::identity;
    14 Reload std::convert::identity;
    15 Reloaded std::convert::identity;
}

#[cfg(test)]
mod tests;
