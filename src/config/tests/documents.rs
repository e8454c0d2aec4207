//! Tests of the recipes in the documentation, and of the example.

use std::collections::BTreeMap;

use super::*;
use crate::pool::{ForwardTo, HostPattern};
use crate::sys::socket::KernelBuffers;

/// Returns the front page and the pages of the book, by their paths.
fn pages() -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut rest = vec![root.join("README.md"), root.join("docs")];
    let mut pages = BTreeMap::new();
    while let Some(path) = rest.pop() {
        if path.is_dir() {
            rest.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.insert(path.clone(), std::fs::read_to_string(&path).unwrap());
        }
    }
    pages
}

/// The recipes of the documentation are valid: its blocks of TOML that are whole configurations. Recipes of a
/// protocol have at most ten lines.
#[test]
fn the_recipes_are_right() {
    let pages = pages();
    /// Protocols that have a recipe of at most ten lines in docs/start/recipes.md.
    const SHORT: [&str; 6] = ["tls", "postgres", "smtp", "imap", "pop3", "auto"];
    let is_short = |block: &str| block.lines().filter(|line| !line.trim().is_empty()).count() <= 10;
    let mut seen = 0;
    for text in pages.values() {
        let blocks = text.split("```toml\n").skip(1).filter_map(|block| block.split("```").next());
        for block in blocks.filter(|block| block.contains("[listener.") && block.contains("pool.")) {
            good(block);
            seen += 1;
            if ["postgres", "smtp", "auto"].iter().any(|word| block.contains(&format!("= \"{word}\"\n"))) {
                assert!(is_short(block), "{block}");
            }
        }
    }
    assert!(seen >= 30, "only {seen} recipes");
    let recipes = pages.iter().find(|(path, _)| path.ends_with("docs/start/recipes.md")).unwrap().1;
    let blocks = || recipes.split("```toml\n").skip(1).filter_map(|block| block.split("```").next());
    for protocol in SHORT {
        let is_of = |block: &&str| is_short(block) && block.contains(&format!("= \"{protocol}\""));
        assert!(
            blocks().filter(is_of).any(|block| block.contains("\n[pool.")),
            "no short recipe for {protocol}"
        );
    }
}

#[test]
fn the_example_is_right_and_its_comments_are_the_defaults() {
    let config = good(EXAMPLE);
    let mut full = good(&example_with_every_key());
    // These keys have no fixed default; the example shows a value.
    assert_eq!(full.max_connections.take(), Some(100_000));
    let shown = full.admin.remove(0);
    assert_eq!(shown.listen, "unix:/run/pointsman/admin.sock".parse().unwrap());
    assert_eq!(shown.token_file.as_deref(), Some(Path::new("/etc/pointsman/token")));
    assert_eq!((shown.hosts.as_slice(), shown.mode), (&["lb-1.example.com".to_owned()][..], AdminSpec::MODE));
    assert_eq!((shown.token_for, shown.open_metrics), (TokenFor::All, false));
    assert!(!shown.open_changes && full.admin.is_empty());
    assert_eq!(full.landlock.take(), Some(true));
    assert_eq!(std::mem::take(&mut full.ready.needs), ["mail".into()]);
    let socket = std::mem::take(&mut full.handover);
    assert_eq!(socket, HandoverSpec::At(Path::new("/run/pointsman/handover.sock").into()));
    let shown: Vec<_> = full.listeners.iter_mut().filter_map(|l| l.policy.max_connections.take()).collect();
    assert_eq!(shown, [50_000]);
    let shown: Vec<_> = full.listeners.iter_mut().filter_map(|l| l.policy.admission.take()).collect();
    let of = |number, burst| Some(Rate::new(number, Duration::from_secs(1), burst));
    let limits = SourceLimits { connections: Some(100), rate: of(50, 100), hellos: Some(20) };
    let (prefix, over) = (PrefixLengths::default(), OverLimit::Reject);
    let expected =
        AdmissionSpec { per_source: Some(limits), by: SourceBy::Address, prefix, rate: of(5000, 5000), over };
    assert_eq!(shown, [expected]);
    let shown: Vec<_> = full.pools.iter_mut().filter_map(|pool| pool.limits.take()).collect();
    assert_eq!(shown, [QuotaSpec { connections: Some(500), rate: of(100, 200), over }]);
    let of_listeners = full.listeners.iter_mut().map(|listener| std::mem::take(&mut listener.buffers));
    let of_pools = full.pools.iter_mut().map(|pool| std::mem::take(&mut pool.dial.buffers));
    let shown = of_listeners.chain(of_pools).filter(|buffers| *buffers != KernelBuffers::default());
    let mebibyte = KernelBuffers { max_unsent: Some(1 << 20), max_unread: Some(1 << 20) };
    assert_eq!(shown.collect::<Vec<_>>(), [mebibyte; 2]);
    let tls = full.pools.iter_mut().filter_map(|pool| pool.health.as_mut()?.tls.as_mut());
    let shown: Vec<_> = tls.filter_map(|tls| tls.ca.take()).map(|ca| ca.path.to_path_buf()).collect();
    assert_eq!(shown, [Path::new("ca.pem")]);
    let sources = full.pools.iter_mut().map(|pool| std::mem::take(&mut pool.dial.source));
    let shown: Vec<_> = sources.filter(|source| *source != DialSource::Any).collect();
    assert_eq!(shown, [DialSource::Client]);
    let shown: Vec<_> = full.listeners.iter_mut().filter_map(|l| l.mode.take()).collect();
    assert_eq!(shown, [0o660]);
    let files: Vec<_> = full.listeners.iter_mut().filter_map(|l| l.policy.routes_file.take()).collect();
    assert_eq!(&*files[0].path, Path::new("routes.toml"));
    let files: Vec<_> = full.lists.iter_mut().filter_map(|list| list.file.take()).collect();
    assert_eq!(&*files[0].source.path, Path::new("bad.txt"));
    assert_eq!(&*files[1].source.path, Path::new("GeoLite2-Country.mmdb"));
    assert_eq!(files[1].source.countries.len(), 2);
    let shown: Vec<_> = full.pools.iter_mut().filter_map(|pool| pool.max_load.take()).collect();
    assert_eq!(shown, [MaxLoad::of_percent(125)]);
    for pool in &mut full.pools {
        if let Some(forward) = &mut pool.forward {
            let rules = &mut forward.rules;
            if forward.to == ForwardTo::Requested {
                let denied = "internal.example.org".parse().unwrap();
                assert_eq!(std::mem::take(&mut rules.deny), [HostPattern::Names(denied)]);
                assert_eq!(std::mem::take(&mut rules.allow_networks), ["203.0.113.0/24".parse().unwrap()]);
                assert_eq!(std::mem::take(&mut rules.deny_networks), ["198.51.100.0/24".parse().unwrap()]);
                continue;
            }
            assert_eq!(std::mem::take(&mut forward.allow_private), ["10.1.0.0/16".parse().unwrap()]);
            assert_eq!(std::mem::take(&mut forward.resolvers), ["10.0.0.53:53".parse().unwrap()]);
            continue;
        }
        let tiers = std::mem::take(&mut pool.tiers);
        assert_eq!(tiers.near.is_some(), &*pool.name == "apps");
        assert_eq!((tiers.zone, tiers.zones), (Some("eu-west".into()), vec!["eu-north".into()]));
        let is_mail = &*pool.name == "mail";
        assert_eq!(tiers.panic_threshold, is_mail.then_some(50));
        let queue = QueueSpec { length: 1000, timeout: Duration::from_secs(5) };
        assert_eq!(pool.queue.take(), is_mail.then_some(queue));
        for backend in &mut pool.backends {
            let limit = backend.max_connections.take();
            assert!(limit.is_none_or(|limit| limit == if is_mail { 100 } else { 50 }));
            assert_eq!(backend.zone.take().is_some(), &*pool.name == "apps");
        }
    }
    // The table alone turns ejection on; its keys are the defaults.
    let ejections: Vec<_> = full.pools.iter_mut().filter_map(|pool| pool.ejection.take()).collect();
    assert_eq!(ejections, [EjectionSpec::default()]);
    let sources = full.pools.iter_mut().flat_map(|pool| &mut pool.discover);
    let shown: Vec<_> = sources.filter_map(|discover| discover.drain.take()).collect();
    assert_eq!(shown, [Duration::from_secs(30); 3]);
    let each_minute =
        AccessLogEvents { interval: Some(Duration::from_secs(60)), ..AccessLogEvents::default() };
    assert_eq!(std::mem::take(&mut full.access_log.events), each_minute);
    // The default depends on whether standard output is a terminal.
    assert_eq!(full.access_log.format.take(), Some(AccessLogFormat::Json));
    assert_eq!(full, config);
}

#[test]
fn the_example_names_every_key() {
    fn collect(value: &toml::Value, path: &str, keys: &mut BTreeSet<String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let key = if ["listener", "pool", "list"].contains(&path) { "*" } else { key };
                    let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                    collect(value, &path, keys);
                    keys.insert(path);
                }
            }
            toml::Value::Array(items) => items.iter().for_each(|item| collect(item, path, keys)),
            _ => {}
        }
    }
    let mut named = BTreeSet::new();
    collect(&example_with_every_key().parse::<toml::Table>().unwrap().into(), "", &mut named);
    let known = schema::keys();
    assert!(known.contains("listener.*.routes.sni") && known.len() > 40, "{known:?}");
    let missing: Vec<_> = known.difference(&named).collect();
    assert!(missing.is_empty(), "not in config.example.toml: {missing:?}");
}
