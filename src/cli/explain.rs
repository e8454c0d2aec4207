//! `pointsman explain`: shows what happens to a connection and why, from a configuration or in a running process.
//!
//! Exit codes: 0 the connection is served, 3 it is refused, 2 a fault in the configuration or the usage.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fmt, io};

use clap::Args;
use serde_json::Value;

use super::admin_client::{AdminArgs, ask_page, complain_of, escaped};
use super::{FAILED, FAULTY, answer, complain, explain_text, report_faults};
use crate::config::{self, ConfigWithPlaces, RoutePlaces};
use crate::conn::explain::{ExplainRequest, ExplainedHello, ExplainedSource};
use crate::server::ExplainedConfig;
use crate::sys::file;
use crate::telemetry::program_log::as_text;
use crate::wire::{HelloFault, HelloReader, ServerName, TunnelTarget};

/// The exit code if the connection is refused.
const REFUSED: u8 = 3;

/// The largest hello that a listener may accept.
const LARGEST_HELLO: usize = 64 * 1024;

/// The largest hello that fits into a request to the admin listener, whose bound is 16 KiB.
const LARGEST_SENT: usize = 7 * 1024;

/// The beginning of the answer of a version that has no such page.
pub(super) const UNKNOWN_PATH: &str = "this path does not exist";

/// The options of `explain`.
#[derive(Args)]
#[command(override_usage = "pointsman explain <FILE> --listener <NAME> --source <ADDRESS> [OPTIONS]
       pointsman explain [FILE] --running --listener <NAME> --source <ADDRESS> [OPTIONS]")]
pub(super) struct ExplainArgs {
    /// The configuration file; `-` is standard input. With --running it only adds the lines of the routes
    #[arg(required_unless_present = "running")]
    file: Option<PathBuf>,
    /// The listener, as `[listener.NAME]` in the configuration
    #[arg(long, value_name = "NAME")]
    listener: String,
    /// The client's address, such as `203.0.113.7` or `203.0.113.7:4711`; `unix` for a client of a Unix socket
    #[arg(long, value_name = "ADDRESS")]
    source: ExplainedSource,
    /// The server name in the client's hello
    #[arg(long, value_name = "NAME", value_parser = server_name)]
    sni: Option<ServerName>,
    /// A protocol that the hello offers by ALPN, such as `h2`; may be repeated, or be a list with commas
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',')]
    alpn: Vec<String>,
    /// A file with a captured hello: the first bytes of a client, as TLS records
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sni", "alpn"])]
    hello: Option<PathBuf>,
    /// The address that the client connects to, if the listener has several
    #[arg(long, value_name = "ADDRESS:PORT")]
    destination: Option<SocketAddr>,
    /// The host and the port that the client requests by SOCKS or CONNECT, such as `api.test:443`
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["sni", "alpn", "hello"])]
    request: Option<TunnelTarget>,
    /// Ask the running pointsman, with the present states of its backends
    #[arg(long)]
    running: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

fn server_name(text: &str) -> Result<ServerName, String> {
    ServerName::from_client(text.as_bytes()).map_err(|fault| fault.to_string())
}

/// Explains what happens to a connection.
pub(super) fn explain(args: &ExplainArgs) -> ExitCode {
    match report(args) {
        Ok(report) => print(&report, args.json),
        Err(code) => code,
    }
}

/// Returns the report as JSON. Faults are printed.
fn report(args: &ExplainArgs) -> Result<Value, ExitCode> {
    if args.admin.is_given() && !args.running {
        return Err(faulty("--admin and --token-file have an effect only with --running"));
    }
    let hello = match &args.hello {
        Some(path) => ExplainedHello::Captured(read_hello(path).map_err(faulty)?),
        None => ExplainedHello::Made { server_name: args.sni.clone(), alpn: args.alpn.clone() },
    };
    let (source, destination, requested) = (args.source.0, args.destination, args.request.clone());
    let request = ExplainRequest { source, destination, hello, requested };
    let loaded = args.file.as_deref().map(load).transpose()?;
    let mut report = match (&loaded, args.running) {
        (Some((config, _)), false) => {
            let explanation = config.explain(&args.listener, &request).map_err(faulty)?;
            serde_json::to_value(explanation).expect("it has string keys only and no map")
        }
        _ => ask(args, &request)?,
    };
    if let Some((config, places)) = &loaded {
        add_places(&mut report, config, places);
    }
    Ok(report)
}

/// Prints a fault of the usage.
fn faulty(fault: impl fmt::Display) -> ExitCode {
    complain(&fault.to_string());
    ExitCode::from(FAULTY)
}

/// Reads a configuration and builds it.
fn load(path: &Path) -> Result<(ExplainedConfig, RoutePlaces), ExitCode> {
    let loaded = config::load_with_places(path)
        .map(|ConfigWithPlaces { config, warnings, places }| ((config, places), warnings));
    let (config, places) = report_faults(loaded, &complain)?;
    Ok((ExplainedConfig::build(config).map_err(faulty)?, places))
}

/// Reads the file of a captured hello.
///
/// # Errors
///
/// A message, if the file cannot be read or has no whole hello. A hello with a bad server name is no fault: a listener
/// refuses it.
fn read_hello(path: &Path) -> Result<Vec<u8>, String> {
    let fault = |reason: &dyn fmt::Display| {
        format!(
            "--hello {}: {reason}; the file must have the first bytes of a TLS client, as they come over TCP: a record \
             that begins with 16 03",
            path.display()
        )
    };
    let mut reader = HelloReader::new(LARGEST_HELLO);
    let most = reader.max_raw() as u64;
    let mut bytes = Vec::new();
    let read = file::open_given(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    read.map_err(|error: io::Error| fault(&format!("it cannot be read: {error}")))?;
    match reader.read(&bytes) {
        Ok(Some(_)) | Err(HelloFault::BadName(_) | HelloFault::TooLarge) => Ok(bytes),
        Ok(None) => {
            Err(fault(&format!("the hello is not whole: the file has only {} bytes of it", bytes.len())))
        }
        Err(reason @ (HelloFault::NotTls | HelloFault::Malformed(_))) => Err(fault(&reason)),
    }
}

/// Asks the running process.
fn ask(args: &ExplainArgs, request: &ExplainRequest) -> Result<Value, ExitCode> {
    let path = path(&args.listener, request).map_err(faulty)?;
    let (status, page) = ask_page(&args.admin, &path).map_err(complain_of)?;
    match (status, serde_json::from_str(&page)) {
        (200, Ok(report)) => Ok(report),
        (200, Err(_)) => {
            complain(
                "the answer is no report: another program, or a version without `explain`, uses this address",
            );
            Err(ExitCode::from(FAILED))
        }
        (404, _) if page.starts_with(UNKNOWN_PATH) => {
            complain("the running pointsman cannot explain: its version is older than this command");
            Err(ExitCode::from(FAILED))
        }
        (status, _) => {
            complain(&format!("the running pointsman answered {status}: {}", as_text(page.trim_end())));
            Err(ExitCode::from(if matches!(status, 400 | 404) { FAULTY } else { FAILED }))
        }
    }
}

/// Returns the path and the query of a request.
fn path(listener: &str, request: &ExplainRequest) -> Result<String, String> {
    let source = match request.source {
        None => "unix".to_owned(),
        Some(source) if source.port() == 0 => source.ip().to_string(),
        Some(source) => source.to_string(),
    };
    let mut path = format!("/api/v1/explain?listener={}&source={}", escaped(listener), escaped(&source));
    if let Some(destination) = request.destination {
        path += &format!("&destination={}", escaped(&destination.to_string()));
    }
    if let Some(requested) = &request.requested {
        path += &format!("&request={}", escaped(&requested.to_string()));
    }
    match &request.hello {
        ExplainedHello::Captured(bytes) if bytes.len() > LARGEST_SENT => {
            return Err(format!(
                "--hello: the file has {} bytes, and a request to the running pointsman may have {LARGEST_SENT}: write \
                 --sni and --alpn instead",
                bytes.len()
            ));
        }
        ExplainedHello::Captured(bytes) => {
            path += "&hello=";
            path.extend(bytes.iter().map(|byte| format!("{byte:02x}")));
        }
        ExplainedHello::Made { server_name, alpn } => {
            path.extend(server_name.iter().map(|name| format!("&sni={}", escaped(name.as_str()))));
            if !alpn.is_empty() {
                path += &format!("&alpn={}", escaped(&alpn.join(",")));
            }
        }
    }
    Ok(path)
}

/// Adds the lines of the routes. A running process may have other routes than the file, so only routes with equal names
/// at equal positions get a line.
fn add_places(report: &mut Value, config: &ExplainedConfig, places: &RoutePlaces) {
    let listener = report["listener"].as_str().unwrap_or_default().to_owned();
    let add = |route: &mut Value| {
        let Some(index) = route["index"].as_u64().and_then(|index| usize::try_from(index).ok()) else {
            return;
        };
        let is_same = config.route_name(&listener, index).as_deref() == route["route"].as_str();
        if let Some(place) = places.of(&listener, index).filter(|_| is_same) {
            route["place"] = place.into();
        }
    };
    let Some(route) = report.get_mut("route").filter(|route| route.is_object()) else { return };
    add(route);
    route["others"].as_array_mut().into_iter().flatten().for_each(add);
}

/// Prints the report. The exit code says if the connection is served.
fn print(report: &Value, is_json: bool) -> ExitCode {
    let text = match is_json {
        true => serde_json::to_string_pretty(report).map(|text| text + "\n").unwrap_or_default(),
        false => explain_text::text(report),
    };
    // A server name may have any bytes that a terminal would obey; the report comes from another process.
    let printed = answer(&as_text(&text));
    match (report["served"].as_bool(), printed == ExitCode::SUCCESS) {
        (_, false) => printed,
        (Some(true), true) => ExitCode::SUCCESS,
        (_, true) => ExitCode::from(REFUSED),
    }
}
