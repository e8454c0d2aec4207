//! The state of the process that a successor gets beside its sockets and connections.

use serde::{Deserialize, Serialize};

/// The state of the process. A large one is sent in several messages, which the reader joins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct World {}
