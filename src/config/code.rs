//! The rules of a configuration, each with its stable code.

macro_rules! codes {
    ($( #[doc = $meaning:literal] $code:ident = $word:literal, )*) => {
        /// The rule that was broken. The codes (`C0102`) are stable: scripts and documentation may use them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $( #[doc = $meaning] $code, )*
        }

        impl Code {
            /// Every rule, in the order of the codes.
            pub const ALL: &[Self] = &[$( Self::$code ),*];

            /// Returns the stable code, such as `C0102`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $( Self::$code => $word, )*
                }
            }

            /// Returns the subject of the rule, as a sentence.
            pub fn meaning(self) -> &'static str {
                match self {
                    $( Self::$code => $meaning.trim_ascii_start(), )*
                }
            }
        }
    };
}

codes! {
    /// The file cannot be opened or read, or is too large.
    Unreadable = "C0100",
    /// The text is not TOML.
    Syntax = "C0101",
    /// A key that is not allowed in this table.
    UnknownKey = "C0102",
    /// A key or table that is written twice.
    DuplicateKey = "C0103",
    /// A value of the wrong type, such as a string where a number is needed.
    WrongType = "C0104",
    /// A required key or table that is missing.
    MissingKey = "C0105",
    /// A string that is not one of the key's words.
    UnknownWord = "C0201",
    /// A string that is not a duration.
    BadDuration = "C0202",
    /// A number or duration outside of its range.
    OutOfRange = "C0203",
    /// A string that is not an address, or an address that cannot be used here.
    BadAddress = "C0204",
    /// A string that is neither a host name nor a pattern of host names.
    BadServerName = "C0205",
    /// A name of a listener, pool or backend with invalid characters or an invalid length.
    BadName = "C0206",
    /// A `hash_key` that is not 32 hexadecimal digits.
    BadHashKey = "C0207",
    /// A text, path, host or user of a check that cannot be sent.
    BadScript = "C0208",
    /// A string that is not a DNS name.
    BadDnsName = "C0230",
    /// A value that a condition of a route cannot have.
    BadCondition = "C0240",
    /// A string that is not a rate of connections.
    BadRate = "C0250",
    /// A line in the file of a list that is not a network.
    BadEntry = "C0260",
    /// A string that is not the code of a country.
    BadCountry = "C0261",
    /// A file of a list that has no countries, is broken, or has no network of one of the listed countries.
    BadCountryFile = "C0262",
    /// A file of a list that has no entries, although `allow_empty` is not set.
    EmptyList = "C0263",
    /// A `ca_file` without certificates of authorities.
    BadCaFile = "C0270",
    /// A check over TLS, in a program that is built without TLS for checks.
    NoTlsChecks = "C0271",
    /// A site whose place is neither coordinates nor countries, or sites with places of both kinds.
    BadPlace = "C0280",
    /// A database of `near` that has no places of the kind that the sites have, is broken, or is too large.
    BadNearFile = "C0281",
    /// A pool that no table defines.
    UnknownPool = "C0301",
    /// Two routes of one listener that match equally well.
    EqualRoutes = "C0302",
    /// A pool that hashes the server name, used by a listener without server names.
    HashWithoutKey = "C0303",
    /// Every backend of a pool has weight 0.
    NoWeight = "C0304",
    /// A pool without backends.
    NoBackends = "C0305",
    /// Two backends of one pool with the same identity.
    DoubledBackend = "C0306",
    /// An address that is bound twice.
    DoubledBind = "C0307",
    /// A key for listeners of another protocol, or for other kinds of checks.
    MisplacedKey = "C0308",
    /// A listener that would reject every client.
    RejectsAll = "C0309",
    /// A configuration without listeners.
    NoListener = "C0310",
    /// A timeout that can never expire, because another timeout expires first.
    TimeoutOrder = "C0311",
    /// A health check whose steps expect nothing or cannot be made.
    IdleScript = "C0312",
    /// A Unix socket in a pool whose connections come from the addresses of clients.
    SocketWithSource = "C0313",
    /// A backend that is a listener of the same process and leads back to its own pool.
    BackendCycle = "C0314",
    /// A zone that has no backend.
    UnknownZone = "C0320",
    /// A zone that is listed twice.
    DoubledZone = "C0321",
    /// A queue in which no connection ever waits, because no backend has a limit.
    QueueWithoutLimit = "C0322",
    /// A `discover` table without exactly one source, or with a key that is not for its source.
    BadSource = "C0330",
    /// A pool that forwards by name and has keys for pools with backends.
    BackendsOfForward = "C0340",
    /// A pool that forwards by name, used for clients that send no name.
    ForwardWithoutName = "C0341",
    /// A pool that forwards by name, among the pools that the node needs.
    NeededForward = "C0342",
    /// A pool that forwards to requested hosts, used for clients that request none.
    ForwardWithoutRequest = "C0343",
    /// A pool that does not forward to requested hosts, used for clients that request tunnels.
    TunnelToBackends = "C0344",
    /// A listener that would be an open proxy.
    OpenProxy = "C0345",
    /// A route without exactly one of `pool`, `split` and `action`.
    RouteTarget = "C0350",
    /// Too many routes with conditions for one name, or too many expressions: they are compared one by one.
    ManyAlternatives = "C0351",
    /// A route with both `sni` and `sni_regex`.
    NameAndRegex = "C0352",
    /// An admin listener that other machines may reach and that requires no token.
    OpenAdmin = "C0360",
    /// A `token_file` that does not contain a valid token.
    BadToken = "C0361",
    /// An access log that cannot be opened.
    BadAccessLog = "C0362",
    /// A list that no table defines.
    UnknownList = "C0370",
    /// A pool that nothing uses.
    UnusedPool = "C0401",
    /// A setting that has no effect beside the other settings.
    IdleSetting = "C0402",
    /// A timeout of peers that another timeout overrides, or leaves without effect.
    OverriddenTimeout = "C0403",
    /// A pool in which all backends are drained or in maintenance.
    NothingReady = "C0410",
    /// A backend that is a listener of the same process and may lead back to its own pool.
    PossibleCycle = "C0411",
    /// A listener that waits for a PROXY header, although its server sends first. The header may come too late.
    LateHeader = "C0421",
    /// A listener that uses the PROXY headers of all peers.
    TrustsEverybody = "C0420",
    /// A list that nothing uses.
    UnusedList = "C0440",
    /// Requests to cancel a query that may miss the session's backend, or that are refused although no key says so.
    LostCancel = "C0430",
    /// A route that refuses hellos of every name, on a listener that serves clients without a hello too.
    RefusesHellosOnly = "C0450",
    /// A route whose conditions leave a part of a name's connections to a wider route, or to `unmatched`.
    LeftToWider = "C0451",
    /// A listener that denies every address of IPv4 or of IPv6.
    DeniesFamily = "C0452",
    /// A file with the admin listener's token that the user of `check` may not read.
    UnseenToken = "C0460",
    /// A file that the user of `check` may not read or write.
    UnseenFile = "C0461",
    /// A file of `discover` that does not exist yet.
    MissingDiscoveryFile = "C0462",
    /// A file of `discover` that cannot be read or has no backends. A process that starts then serves without it.
    BadDiscoveryFile = "C0463",
}

impl Code {
    /// Returns the level: a fault stops the start, a warning does not.
    pub fn level(self) -> Level {
        match self {
            Self::UnusedPool
            | Self::IdleSetting
            | Self::OverriddenTimeout
            | Self::NothingReady
            | Self::PossibleCycle
            | Self::LostCancel
            | Self::RefusesHellosOnly
            | Self::LeftToWider
            | Self::DeniesFamily
            | Self::UnusedList
            | Self::TrustsEverybody
            | Self::LateHeader
            | Self::UnseenToken
            | Self::UnseenFile
            | Self::MissingDiscoveryFile
            | Self::BadDiscoveryFile => Level::Warning,
            _ => Level::Fault,
        }
    }

    /// Returns true if the rule is about one written value, whatever the rest of the file has. The other rules are
    /// about missing keys or combinations of values. These rules cannot be checked if a part of the file cannot be
    /// read.
    pub(super) fn is_about_a_word(self) -> bool {
        matches!(
            self,
            Self::UnknownKey
                | Self::WrongType
                | Self::UnknownWord
                | Self::BadDuration
                | Self::OutOfRange
                | Self::BadAddress
                | Self::BadServerName
                | Self::BadName
                | Self::BadHashKey
                | Self::BadScript
                | Self::BadDnsName
                | Self::BadCondition
                | Self::BadEntry
                | Self::BadCountry
                | Self::BadPlace
                | Self::BadRate
        )
    }
}

/// The meaning of a diagnostic for the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The configuration cannot be used.
    Fault,
    /// The configuration can be used, but this setting is hardly intended.
    Warning,
}
