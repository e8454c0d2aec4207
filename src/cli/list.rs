//! `pointsman list`: adds, removes and shows entries of lists while the process runs.

use std::net::IpAddr;
use std::process::ExitCode;

use clap::Subcommand;

use super::admin_client::{AdminArgs, change, escaped, query, show_page};

/// The commands for lists.
#[derive(Subcommand)]
pub(super) enum ListCommand {
    /// Add a network or an address to a list; it stays until its time is over or the process ends
    Add {
        /// The list, as `[list.NAME]` in the configuration
        list: String,
        /// The network or address, such as 192.0.2.0/24
        entry: String,
        /// The time that the entry stays, such as `1h` or `7days`; the default is until the process ends
        #[arg(long, value_name = "TIME")]
        ttl: Option<String>,
        /// Allow a network with a prefix shorter than /8 (IPv4) or /16 (IPv6), which has a large part of all addresses
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Remove an added entry from a list; remove an entry of a file in the file itself
    Remove {
        /// The list
        list: String,
        /// The network or address as it was added
        entry: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show as JSON: all lists, one list with its added entries, or the reason why a list has an address
    Show {
        /// The list; the default is all lists
        list: Option<String>,
        /// The address to check
        #[arg(long, requires = "list")]
        address: Option<IpAddr>,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// Runs a command.
pub(super) fn list(command: &ListCommand) -> ExitCode {
    match command {
        ListCommand::Add { list, entry, ttl, force, admin } => {
            let query = query([("ttl", ttl.as_deref()), ("force", force.then_some("true"))]);
            change(admin, "POST", &format!("{}/{}{query}", page(list), escaped(entry)))
        }
        ListCommand::Remove { list, entry, admin } => {
            change(admin, "DELETE", &format!("{}/{}", page(list), escaped(entry)))
        }
        ListCommand::Show { list: None, admin, .. } => show_page(admin, "/api/v1/lists"),
        ListCommand::Show { list: Some(list), address: None, admin } => show_page(admin, &page(list)),
        ListCommand::Show { list: Some(list), address: Some(address), admin } => {
            show_page(admin, &format!("{}?address={address}", page(list)))
        }
    }
}

fn page(list: &str) -> String {
    format!("/api/v1/lists/{}", escaped(list))
}
