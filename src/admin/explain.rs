//! The page /api/v1/explain: the way of a connection through this process, and the reasons for it.

use std::net::SocketAddr;

use super::json;
use super::query::{self, QueryFault};
use crate::conn::explain::{ExplainRequest, ExplainedHello, ExplainedSource, SourceTextFault};
use crate::server::{UnknownListener, View, explain_running};
use crate::wire::{NameFault, ServerName, TargetTextFault};

/// The parameters of the query.
const WORDS: [&str; 7] = ["listener", "source", "sni", "alpn", "destination", "hello", "request"];

/// The reason for which a request is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExplainRefusal {
    /// There is no such listener.
    #[error(transparent)]
    Listener(#[from] UnknownListener),
    /// A parameter that is needed is absent.
    #[error(
        "the query needs `{0}`, such as /api/v1/explain?listener=tls&source=203.0.113.7&sni=db.example.com"
    )]
    Missing(&'static str),
    /// The source is no address.
    #[error("`source` is no address: {0}")]
    Source(#[from] SourceTextFault),
    /// The server name is no host name.
    #[error("`sni` is no host name: {0}")]
    Name(#[from] NameFault),
    /// The destination is no address with a port.
    #[error("`destination` is an address with a port, such as 192.0.2.1:443")]
    Destination,
    /// The request has no host or no port.
    #[error("`request` is wrong: {0}")]
    Request(#[from] TargetTextFault),
    /// The hello is not hexadecimal.
    #[error("`hello` has the bytes of a ClientHello record, each as two hexadecimal digits")]
    Hello,
    /// The hello and its fields are both given.
    #[error("`hello` contains the server name and the protocols: leave out `sni` and `alpn`")]
    HelloAndFields,
    /// The query has other parameters.
    #[error("the query may only have each of these once: {}", WORDS.join(", "))]
    Query,
    /// The query has a broken escape.
    #[error("in a query, % must come before two hexadecimal digits, and the bytes must be UTF-8")]
    Escape,
}

/// Returns the report about the client that a query describes.
pub(super) fn json(view: &View, query: Option<&str>) -> Result<String, ExplainRefusal> {
    let (listener, request) = parse(query)?;
    let explanation = explain_running(view, &listener, &request)?;
    Ok(json::page(&explanation))
}

fn parse(query: Option<&str>) -> Result<(String, ExplainRequest), ExplainRefusal> {
    let values = query::values(query, WORDS).map_err(|fault| match fault {
        QueryFault::Other => ExplainRefusal::Query,
        QueryFault::Escape => ExplainRefusal::Escape,
    })?;
    let [listener, source, sni, alpn, destination, hello, request] = values;
    let ExplainedSource(source) = source.ok_or(ExplainRefusal::Missing("source"))?.parse()?;
    let destination: Option<SocketAddr> =
        destination.map(|text| text.parse().map_err(|_| ExplainRefusal::Destination)).transpose()?;
    let hello = match hello {
        Some(_) if sni.is_some() || alpn.is_some() => return Err(ExplainRefusal::HelloAndFields),
        Some(hello) => ExplainedHello::Captured(bytes(&hello).ok_or(ExplainRefusal::Hello)?),
        None => ExplainedHello::Made {
            server_name: sni.map(|name| ServerName::from_client(name.as_bytes())).transpose()?,
            alpn: alpn.iter().flat_map(|alpn| alpn.split(',')).map(str::to_owned).collect(),
        },
    };
    let listener = listener.ok_or(ExplainRefusal::Missing("listener"))?;
    let requested = request.map(|text| text.parse()).transpose()?;
    Ok((listener, ExplainRequest { source, destination, hello, requested }))
}

/// Returns the bytes of a hexadecimal text.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let is_hex = text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let pairs = text.as_bytes().chunks(2);
    let byte =
        |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?, 16).ok();
    if is_hex { pairs.map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, expected: Result<ExplainRequest, &str>) {
        match (parse(Some(query)), expected) {
            (Ok((listener, request)), Ok(expected)) => {
                assert_eq!((&*listener, &request), ("tls", &expected), "{query}");
            }
            (Err(refusal), Err(part)) => {
                let message = refusal.to_string();
                assert!(message.contains(part), "{query}: no {part} in {message}");
            }
            (found, _) => panic!("{query}: {found:?}"),
        }
    }

    fn request(sni: Option<&str>, alpn: &[&str]) -> ExplainRequest {
        let alpn = alpn.iter().map(|&protocol| protocol.to_owned()).collect();
        ExplainRequest {
            source: Some("203.0.113.7:0".parse().unwrap()),
            destination: None,
            hello: ExplainedHello::Made { server_name: sni.map(|name| name.parse().unwrap()), alpn },
            requested: None,
        }
    }

    #[test]
    fn a_query_is_a_client() {
        let base = "listener=tls&source=203.0.113.7";
        check(base, Ok(request(None, &[])));
        check(&format!("{base}&sni=DB.example.com."), Ok(request(Some("db.example.com"), &[])));
        check(&format!("{base}&alpn=h2,http%2F1.1"), Ok(request(None, &["h2", "http/1.1"])));
        check(
            &format!("{base}&destination=192.0.2.1:443"),
            Ok(ExplainRequest { destination: Some("192.0.2.1:443".parse().unwrap()), ..request(None, &[]) }),
        );
        check(
            &format!("{base}&hello=160301"),
            Ok(ExplainRequest { hello: ExplainedHello::Captured(vec![22, 3, 1]), ..request(None, &[]) }),
        );
        check(
            &format!("{base}&request=api.test:443"),
            Ok(ExplainRequest { requested: Some("api.test:443".parse().unwrap()), ..request(None, &[]) }),
        );
        check("listener=tls&source=unix", Ok(ExplainRequest { source: None, ..request(None, &[]) }));
    }

    #[test]
    fn a_wrong_query_says_what_is_wrong() {
        let base = "listener=tls&source=203.0.113.7";
        check("", Err("the query needs `source`"));
        check("source=203.0.113.7", Err("the query needs `listener`"));
        check("listener=tls&source=10.0.0.0/8", Err("`source` is no address: a source is an address"));
        check(&format!("{base}&sni=a..b"), Err("`sni` is no host name: the name has an empty label"));
        check(&format!("{base}&destination=192.0.2.1"), Err("`destination` is an address with a port"));
        check(&format!("{base}&request=api.test"), Err("`request` is wrong: a target is a host with a port"));
        for hello in ["1", "16zz", "+1", "é"] {
            check(&format!("{base}&hello={hello}"), Err("two hexadecimal digits"));
        }
        check(&format!("{base}&hello=16&sni=a"), Err("leave out `sni`"));
        check(&format!("{base}&hello=16&alpn=h2"), Err("leave out `sni`"));
        check(&format!("{base}&name=a"), Err("listener, source, sni, alpn, destination, hello"));
        check(&format!("{base}&sni=%"), Err("in a query, %"));
    }
}
