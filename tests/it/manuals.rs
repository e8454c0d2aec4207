//! Files of the packages that are made from the program: manual pages and completions.
//!
//! They are in `dist`, so that packages need no further step. UPDATE_DIST=1 writes them.

use std::{env, fs};

use clap::Command;
use pointsman::telemetry::VERSION;
use roff::{Inline, Roff, bold, italic, roman};
use serde_json::{Map, Value};

use crate::process::run;
use crate::support::repository;

/// Ends of the page of the program: headings and entries.
const ENDS: [(&str, &[(&str, &str)]); 4] = [
    (
        "SIGNALS",
        &[
            (
                "SIGHUP",
                "Reads the configuration file again. If the file has faults, nothing changes, and the log has the faults.",
            ),
            (
                "SIGTERM, SIGINT",
                "Ends the process. It accepts no new connections, and open connections get `shutdown.drain` to end.",
            ),
            ("SIGUSR1", "Opens the file of the access log again, after a rotation."),
        ],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "All is well."),
            ("1", "A failure while running."),
            ("2", "A fault in the configuration or in the usage."),
            ("3", "The connection that `explain` explains is refused."),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            (
                "POINTSMAN_ADMIN",
                "The admin listener that `status`, `top`, `health`, `config`, `list` and `explain --running` query if `--admin` is not given.",
            ),
            ("NO_COLOR", "If it is set, `top` uses no colours."),
            ("POINTSMAN_LOG", "The level of the log. It overrides `log.level`."),
            (
                "RUNTIME_DIRECTORY",
                "The directory of `handover.sock`, the socket of the hand-over, if `[handover] socket` is not set.",
            ),
        ],
    ),
    (
        "FILES",
        &[
            ("/etc/pointsman/config.toml", "The configuration that the systemd unit uses."),
            (
                "/run/pointsman/admin.sock",
                "The admin listener that the systemd unit opens, for root and members of the group pointsman.",
            ),
            (
                "/run/pointsman/handover.sock",
                "The socket at which a new program takes over, under the systemd unit and in the image.",
            ),
            (
                "/var/log/pointsman",
                "A directory for the access log: under the systemd unit, the program may write to it.",
            ),
        ],
    ),
];

/// Turns words between backticks bold.
fn inlines(text: &str) -> Vec<Inline> {
    text.split('`').enumerate().map(|(at, part)| if at % 2 == 1 { bold(part) } else { roman(part) }).collect()
}

fn entry(roff: &mut Roff, head: Vec<Inline>, text: &str) {
    roff.control("TP", []).text(head).text(inlines(text));
}

/// Returns the day of this version, which its heading in CHANGELOG.md has.
fn day_of_version() -> String {
    let changelog = fs::read_to_string(repository("CHANGELOG.md")).unwrap();
    let heading = format!("## {VERSION} - ");
    let day = changelog.lines().find_map(|line| line.strip_prefix(&heading));
    day.unwrap_or_else(|| panic!("CHANGELOG.md has no heading `{heading}DAY`")).to_owned()
}

fn start(title: &str, section: &str, manual: &str, about: &str) -> Roff {
    let mut roff = Roff::new();
    let (day, source) = (day_of_version(), format!("pointsman {VERSION}"));
    roff.control("TH", [title.to_uppercase().as_str(), section, day.as_str(), source.as_str(), manual]);
    roff.control("SH", ["NAME"]).text([roman(format!("{title} - {about}"))]);
    roff
}

fn see_also(roff: &mut Roff, page: &str, section: &str) {
    roff.control("SH", ["SEE ALSO"]).text([
        bold(page),
        roman(format!("({section}), ")),
        bold("systemctl"),
        roman("(1)"),
    ]);
}

/// Returns the page of the program: every command with its options.
fn program_page() -> String {
    let mut command = pointsman::cli::command();
    command.build();
    let about = command.get_about().unwrap().to_string();
    let mut roff =
        start("pointsman", "8", "System Administration", "layer-4 TCP and TLS-passthrough load balancer");
    roff.control("SH", ["SYNOPSIS"]).text([
        bold("pointsman"),
        roman(" "),
        italic("COMMAND"),
        roman(" ["),
        italic("OPTIONS"),
        roman("]"),
    ]);
    roff.control("SH", ["DESCRIPTION"]).text(inlines(&format!("{about}.")));
    roff.control("PP", [])
        .text([bold("pointsman.toml"), roman("(5) has the keys of the configuration file.")]);
    roff.control("SH", ["OPTIONS"]);
    entry(
        &mut roff,
        vec![bold("-h"), roman(", "), bold("--help")],
        "Print the help of the program or of a command.",
    );
    entry(&mut roff, vec![bold("-V"), roman(", "), bold("--version")], "Print the version and the commit.");
    roff.control("SH", ["COMMANDS"]);
    let mut commands = 0;
    each_leaf(&command, &mut |leaf| {
        commands += 1;
        write_command(&mut roff, leaf);
    });
    assert!(commands >= 10, "only {commands} commands");
    for (heading, entries) in ENDS {
        roff.control("SH", [heading]);
        for (head, text) in entries {
            entry(&mut roff, vec![bold(*head)], text);
        }
    }
    see_also(&mut roff, "pointsman.toml", "5");
    roff.render()
}

/// Calls `act` with each command that has no commands below it.
fn each_leaf(command: &Command, act: &mut dyn FnMut(&Command)) {
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        if below.has_subcommands() { each_leaf(below, act) } else { act(below) }
    }
}

fn write_command(roff: &mut Roff, command: &Command) {
    let name = command.get_bin_name().unwrap();
    roff.control("SS", [name]);
    let usage = command.clone().render_usage().to_string();
    roff.control("nf", []);
    for line in usage.trim_start_matches("Usage:").lines() {
        roff.text([roman(line.trim())]);
    }
    roff.control("fi", []);
    let about = command.get_long_about().or(command.get_about()).unwrap().to_string();
    roff.control("PP", []).text(inlines(&format!("{about}.")));
    for argument in
        command.get_arguments().filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()))
    {
        let values: Vec<_> =
            argument.get_value_names().unwrap_or_default().iter().map(|name| italic(name.as_str())).collect();
        let takes_values = argument.get_action().takes_values();
        let mut head: Vec<_> =
            argument.get_short().map(|short| bold(format!("-{short}"))).into_iter().collect();
        if let Some(long) = argument.get_long() {
            if !head.is_empty() {
                head.push(roman(", "));
            }
            head.push(bold(format!("--{long}")));
            if takes_values {
                head.push(roman(" "));
            }
        }
        if takes_values {
            head.extend(values);
        }
        let help =
            argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
        let words: Vec<_> =
            argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        let words =
            if takes_values && !words.is_empty() { format!(": {}", words.join(", ")) } else { String::new() };
        entry(roff, head, &format!("{help}{words}."));
    }
}

/// Returns the page of the configuration file: every key of the schema.
fn config_page() -> String {
    let schema: Value = serde_json::from_slice(&fs::read(repository("config.schema.json")).unwrap()).unwrap();
    let mut roff = start("pointsman.toml", "5", "File Formats", "configuration file of pointsman");
    roff.control("SH", ["DESCRIPTION"]).text(inlines(schema["description"].as_str().unwrap()));
    roff.control("PP", []).text(inlines(
        "The file is TOML. The systemd unit uses `/etc/pointsman/config.toml`. `pointsman check FILE` reports all \
         faults of a file and changes nothing; a reload puts a changed file in force: `systemctl reload pointsman`. \
         Durations are numbers with units, such as `\"500ms\"` or `\"1h 30m\"`. A name that you choose is written \
         as NAME below.",
    ));
    roff.control("SH", ["KEYS"]);
    let mut keys = 0;
    write_table(&mut roff, "", &schema, &mut keys);
    assert!(keys > 200, "only {keys} keys");
    see_also(&mut roff, "pointsman", "8");
    roff.render()
}

/// Writes the keys of a table, then the tables in it.
fn write_table(roff: &mut Roff, path: &str, table: &Value, keys: &mut usize) {
    let no_keys = Map::new();
    let properties = table["properties"].as_object().unwrap_or(&no_keys);
    if !path.is_empty() {
        roff.control("SS", [path]);
        if let Some(text) = table["description"].as_str() {
            roff.text(inlines(text));
        }
    }
    for (key, value) in properties {
        *keys += 1;
        let text = value["description"].as_str().unwrap_or_else(|| panic!("{path}.{key} has no description"));
        entry(roff, vec![bold(key)], text);
    }
    for (key, value) in properties {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if let Some((path, table)) = table_in(&path, value) {
            write_table(roff, &path, table, keys);
        }
    }
}

/// Returns the first table that a value may be, or consist of.
fn table_in<'a>(path: &str, value: &'a Value) -> Option<(String, &'a Value)> {
    if value["properties"].is_object() {
        return Some((path.to_owned(), value));
    }
    let named = value.get("additionalProperties").filter(|named| named.is_object());
    named
        .and_then(|named| table_in(&format!("{path}.NAME"), named))
        .or_else(|| table_in(&format!("{path}[]"), value.get("items")?))
        .or_else(|| value["anyOf"].as_array()?.iter().find_map(|value| table_in(path, value)))
}

/// Compares a file of `dist` with the text that the program makes. With UPDATE_DIST=1, writes the file.
fn check(name: &str, made: &str) {
    let path = repository("dist").join(name);
    if env::var_os("UPDATE_DIST").is_some() {
        fs::write(&path, made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == made, "dist/{name} is not current; run: UPDATE_DIST=1 cargo test --test it manuals");
}

#[test]
fn manual_pages_fit_the_commands_and_the_schema() {
    check("man/pointsman.8", &program_page());
    check("man/pointsman.toml.5", &config_page());
}

#[test]
fn completions_fit_the_commands() {
    for (shell, name) in [("bash", "pointsman.bash"), ("zsh", "_pointsman"), ("fish", "pointsman.fish")] {
        let made = run(&["completions", shell]);
        assert!(made.status.success(), "{shell}");
        check(&format!("completions/{name}"), &String::from_utf8(made.stdout).unwrap());
    }
}
