//! Makes the JSON Schema of the file, for editors. It is made in tests only: the program never needs it.

use std::borrow::Cow;
use std::collections::BTreeSet;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use super::address::{AdminAddress, BackendAddress, Bind, OpenNetwork, ResolverAddress, SourceAddress};
use super::answers::{AnswerPattern, HeaderValue, HttpMethod, Statuses};
use super::conditions::{Fingerprint, Network, ProtocolName, Reached, SniRegex};
use super::file::{Backend, BackendWords, File, RoutesFile};
use super::forward_keys::{HostWord, Ports};
use super::limits::RateWord;
use super::list_keys::{AccessWord, CountryCode};
use super::near_keys::SiteWord;
use super::proxy::{CheckHeaderWord, PassWords, ProxyOut, ProxyOutWords, TlvKind, TrustedPeer};
use super::read::{ArrayOf, Key, NamedTables, OneOrMany};
use super::script::{Hex, HttpHost, HttpPath, TargetAddress, Text, TlsName, User};
use super::words::{
    DnsName, Factor, FileMode, FilePath, HashKey, Keyword, KeywordEnum, LogTarget, Name, Number, Percent,
    SniPattern, SocketPath, Time, TimeOrOff,
};

const DURATION: &str = r"^\s*([0-9]+(\.[0-9]+)?\s*[A-Za-zµ]+\s*)+$";
const NAME: &str = r"^[A-Za-z0-9._-]{1,64}$";

/// Defines the schema of each type of value. It is placed inline, under the description of its key.
macro_rules! described {
    ($( impl [$($generics:tt)*] $type:ty = |$generator:ident| $schema:expr; )*) => { $(
        impl<$($generics)*> JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                let _ = &$generator;
                $schema
            }
        }
    )* };
}

described! {
    impl [T: JsonSchema] Key<T> = |made| made.subschema_for::<T>();
    impl [T: JsonSchema] ArrayOf<T> = |made| json_schema!({ "type": "array", "items": made.subschema_for::<T>() });
    impl [T: JsonSchema] OneOrMany<T> = |made| {
        let one = made.subschema_for::<T>();
        json_schema!({ "anyOf": [one.clone(), { "type": "array", "items": one, "minItems": 1 }] })
    };
    impl [T: JsonSchema] NamedTables<T> = |made| json_schema!({
        "type": "object",
        "propertyNames": { "pattern": NAME },
        "additionalProperties": made.subschema_for::<T>(),
    });
    impl [] BackendWords = |made| json_schema!({
        "anyOf": [made.subschema_for::<BackendAddress>(), made.subschema_for::<Backend>()],
    });
    impl [] ProxyOutWords = |made| json_schema!({
        "anyOf": [{ "type": "string", "enum": ["v1", "v2"] }, made.subschema_for::<ProxyOut>()],
    });
    impl [] AccessWord = |_made| json_schema!({ "type": "string", "pattern": r"^([A-Za-z0-9._-]{1,64}|[0-9A-Fa-f.:]+(/[0-9]{1,3})?)$" });
    impl [] TrustedPeer = |_made| json_schema!({ "type": "string", "pattern": r"^(unix|[0-9A-Fa-f.:]+(/[0-9]+)?)$" });
    impl [] TlvKind = |_made| {
        let words = TlvKind::WORDS.map(|(word, _)| word).join("|");
        json_schema!({ "type": "string", "pattern": format!("^({words}|0x[0-9A-Fa-f]{{2}})$") })
    };
    impl [] PassWords = |made| json_schema!({
        "anyOf": [{ "type": "boolean" }, { "type": "array", "items": made.subschema_for::<TlvKind>() }],
    });
    impl [T: KeywordEnum] Keyword<T> = |_made| {
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        json_schema!({ "type": "string", "enum": words })
    };
    impl [const MIN: u64, const MAX: u64] Number<MIN, MAX> = |_made| json_schema!({
        "type": "integer", "minimum": MIN, "maximum": MAX,
    });
    impl [const MIN: u32, const MAX: u32] Factor<MIN, MAX> = |_made| json_schema!({
        "type": "number", "minimum": f64::from(MIN) / 100.0, "maximum": f64::from(MAX) / 100.0,
    });
    impl [const MIN: u64, const MAX: u64] Percent<MIN, MAX> = |_made| json_schema!({
        "anyOf": [
            { "type": "string", "pattern": "^[0-9]+%$" },
            { "type": "integer", "minimum": MIN, "maximum": MAX },
        ],
    });
    impl [const MIN: u64, const MAX: u64] Time<MIN, MAX> = |_made| json_schema!({
        "type": "string", "pattern": DURATION,
    });
    impl [const MIN: u64, const MAX: u64] TimeOrOff<MIN, MAX> = |_made| json_schema!({
        "anyOf": [{ "type": "string", "pattern": DURATION }, { "const": "off" }],
    });
    impl [] HashKey = |_made| json_schema!({ "type": "string", "pattern": "^[0-9A-Fa-f]{32}$" });
    impl [] Name = |_made| json_schema!({ "type": "string", "pattern": NAME });
    impl [] SniPattern = |_made| json_schema!({ "type": "string", "minLength": 1 });
    impl [] HostWord = |_made| json_schema!({ "type": "string", "minLength": 1 });
    impl [] Ports = |_made| json_schema!({
        "anyOf": [
            { "type": "string", "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?$" },
            { "type": "integer", "minimum": 1, "maximum": 65535 },
        ],
    });
    impl [] DnsName = |_made| json_schema!({ "type": "string", "pattern": r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?$" });
    impl [] FileMode = |_made| json_schema!({ "type": "string", "pattern": "^0?[0-7]{3}$" });
    impl [] FilePath = |_made| json_schema!({ "type": "string", "pattern": "[^/]$" });
    impl [] ResolverAddress = |_made| json_schema!({ "type": "string", "minLength": 2 });
    impl [] OpenNetwork = |_made| json_schema!({ "type": "string", "pattern": "^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$" });
    impl [] SourceAddress = |_made| json_schema!({ "type": "string", "pattern": "^(client|[0-9A-Fa-f.:]+)$" });
    impl [] SniRegex = |_made| json_schema!({ "type": "string", "minLength": 1, "format": "regex" });
    impl [] Network = |_made| json_schema!({ "type": "string", "pattern": r"^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$" });
    impl [] SiteWord = |made| json_schema!({ "anyOf": [
        { "type": "array", "items": { "type": "number" }, "minItems": 2, "maxItems": 2 },
        made.subschema_for::<OneOrMany<CountryCode>>(),
    ] });
    impl [] CountryCode = |_made| json_schema!({ "type": "string", "pattern": "^[A-Za-z]{2}$" });
    impl [] Reached = |_made| json_schema!({ "type": "string", "pattern": r"^[0-9A-Fa-f.:\[\]]+$" });
    impl [] ProtocolName = |_made| json_schema!({ "type": "string", "minLength": 1, "maxLength": 255 });
    impl [] Fingerprint = |_made| json_schema!({ "type": "string", "pattern": r"^([0-9A-Za-z_]{36}|[0-9A-Za-z_]{1,35}\*)$" });
    impl [] RateWord = |_made| json_schema!({ "type": "string", "pattern": r"^ *[0-9]+ */ *[sm] *$" });
    impl [] LogTarget = |_made| json_schema!({ "type": "string", "pattern": "^(stdout|off|.*/.*[^/])$" });
    impl [] SocketPath = |_made| json_schema!({ "type": "string", "pattern": "^(off|/.*[^/])$" });
    impl [] Bind = |_made| json_schema!({ "type": "string", "pattern": r"^(unix:/.+|.*:[0-9]+(-[0-9]+)?)$" });
    impl [] AdminAddress = |_made| json_schema!({ "type": "string", "pattern": r"^(unix:/.+|.+:[0-9]+)$" });
    impl [] TargetAddress = |_made| json_schema!({ "type": "string", "pattern": r"^(unix:/.+|[0-9A-Fa-f.:\[\]]+|[A-Za-z0-9_.-]+(:[0-9]+)?)$" });
    impl [] Text = |_made| json_schema!({ "type": "string", "minLength": 1, "maxLength": 4096 });
    impl [] Hex = |_made| json_schema!({ "type": "string", "pattern": r"^[0-9A-Fa-f ]+$" });
    impl [] CheckHeaderWord = |_made| json_schema!({ "enum": ["local", "proxy", true, false] });
    impl [] Statuses = |_made| json_schema!({
        "anyOf": [
            { "type": "string", "pattern": "^[2-9][0-9]{2}(-[2-9][0-9]{2})?$" },
            { "type": "integer", "minimum": 200, "maximum": 999 },
        ],
    });
    impl [] HttpMethod = |_made| json_schema!({ "type": "string", "pattern": "^[A-Z]{1,16}$" });
    impl [] HeaderValue = |_made| json_schema!({ "type": "string", "pattern": r"^[ \t!-~]*$" });
    impl [] AnswerPattern = |_made| json_schema!({ "type": "string", "minLength": 1, "format": "regex" });
    impl [] HttpPath = |_made| json_schema!({ "type": "string", "pattern": "^/[!-~]*$" });
    impl [] HttpHost = |_made| json_schema!({ "type": "string", "pattern": r"^[A-Za-z0-9._:\[\]-]+$" });
    impl [] TlsName = |_made| json_schema!({ "type": "string", "minLength": 1 });
    impl [] User = |_made| json_schema!({ "type": "string", "minLength": 1, "maxLength": 63 });
    impl [] BackendAddress = |_made| json_schema!({
        "type": "string", "pattern": r"^(unix:/.+|.+:[0-9]+|[0-9a-fA-F:.]+|\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)$"
    });
}

/// Returns the schema in draft 7, which the TOML plug-ins of editors support, without references.
fn schema() -> Value {
    schema_of::<File>()
}

fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    unwrap_lines(&mut schema);
    schema
}

/// Joins the lines of descriptions, which are broken for the source only.
fn unwrap_lines(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == "description" => *text = text.replace('\n', " "),
                    _ => unwrap_lines(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(unwrap_lines),
        _ => {}
    }
}

/// Calls `visit` with the path and the schema of every key; names that the operator chooses are `*`.
fn each_key(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    for (key, value) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        visit(&path, value);
        each_key(value, &path, visit);
    }
    let inner = schema["anyOf"].as_array().into_iter().flatten().chain(schema.get("items"));
    inner.for_each(|inner| each_key(inner, path, visit));
    if schema["additionalProperties"].is_object() {
        each_key(&schema["additionalProperties"], &format!("{path}.*"), visit);
    }
}

/// Returns every key that the file can have, such as `listener.*.bind`.
pub(super) fn keys() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    each_key(&schema(), "", &mut |path, _| {
        keys.insert(path.to_owned());
    });
    keys
}

#[test]
fn the_committed_schemas_are_current() {
    check("config.schema.json", &schema());
    check("docs/reference/routes.schema.json", &schema_of::<RoutesFile>());
}

fn check(file: &str, schema: &Value) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let current = serde_json::to_string_pretty(schema).unwrap() + "\n";
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == current, "{file} is out of date; run: UPDATE_SCHEMA=1 cargo test --lib config::");
}

#[test]
fn every_key_of_the_schema_is_described() {
    let mut seen = 0;
    each_key(&schema(), "", &mut |path, schema| {
        let description = schema["description"].as_str().unwrap_or_default();
        assert!(description.ends_with('.'), "{path}: {description:?}");
        let is_value = schema["properties"].is_null() && schema["additionalProperties"].is_null();
        let names_default =
            ["Default", "(default)", "Required", "Needed"].iter().any(|word| description.contains(word));
        assert!(!is_value || names_default, "{path} says no default: {description:?}");
        seen += 1;
    });
    assert!(seen > 40, "only {seen} keys");
}
