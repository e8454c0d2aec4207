//! A DNS server with answers that a test sets, on a loopback port that the kernel chooses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SRV: u16 = 33;

const NAME_ERROR: u8 = 3;

/// The answer to questions about a name.
#[derive(Clone, Debug)]
pub(crate) enum DnsAnswer {
    /// A and AAAA records, in this order.
    Addresses(Vec<IpAddr>),
    /// SRV records: priority, weight, port, target.
    Services(Vec<(u16, u16, u16, &'static str)>),
    /// A CNAME record, and the A and AAAA records of the name that it has.
    Alias(&'static str, Vec<IpAddr>),
    /// A response code: 2 is SERVFAIL, 3 is NXDOMAIN.
    Code(u8),
    /// An A record, and no answer to questions for AAAA.
    OnlyV4(Ipv4Addr),
    /// No answer.
    Silence,
}

/// The server; it ends when dropped.
pub(crate) struct Dns {
    pub(crate) address: SocketAddr,
    zone: Arc<Mutex<BTreeMap<String, DnsAnswer>>>,
    questions: Arc<AtomicUsize>,
    ttl: Arc<AtomicU32>,
    is_over: Arc<AtomicBool>,
}

impl Dns {
    pub(crate) fn new() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub(crate) fn at(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let server = Self {
            address: socket.local_addr().unwrap(),
            zone: Arc::default(),
            questions: Arc::default(),
            ttl: Arc::default(),
            is_over: Arc::default(),
        };
        let (zone, questions, is_over) =
            (Arc::clone(&server.zone), Arc::clone(&server.questions), Arc::clone(&server.is_over));
        let ttl = Arc::clone(&server.ttl);
        thread::spawn(move || {
            let mut query = [0; 512];
            while !is_over.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut query) else { continue };
                if let Some(answer) =
                    answer(&query[..length], &zone.lock().unwrap(), ttl.load(Ordering::Relaxed))
                {
                    socket.send_to(&answer, client).unwrap();
                }
                questions.fetch_add(1, Ordering::Relaxed);
            }
        });
        server
    }

    /// Sets the TTL of later answers in seconds; at first it is 0.
    pub(crate) fn hold(&self, seconds: u32) {
        self.ttl.store(seconds, Ordering::Relaxed);
    }

    /// Sets the answer for `name`.
    pub(crate) fn set_answer(&self, name: &str, said: DnsAnswer) {
        self.zone.lock().unwrap().insert(name.to_owned(), said);
    }

    pub(crate) fn set_addresses(&self, name: &str, addresses: &[IpAddr]) {
        self.set_answer(name, DnsAnswer::Addresses(addresses.to_vec()));
    }

    /// Returns the number of questions so far, with and without an answer.
    pub(crate) fn questions(&self) -> usize {
        self.questions.load(Ordering::Relaxed)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn answer(query: &[u8], zone: &BTreeMap<String, DnsAnswer>, ttl: u32) -> Option<Vec<u8>> {
    let (name, kind, question_end) = question(query);
    let (code, records) = match zone.get(&name) {
        None => (NAME_ERROR, Vec::new()),
        Some(DnsAnswer::Code(code)) => (*code, Vec::new()),
        Some(DnsAnswer::Silence) => return None,
        Some(DnsAnswer::OnlyV4(_)) if kind == AAAA => return None,
        Some(DnsAnswer::OnlyV4(ip)) => (0, address((*ip).into(), kind).into_iter().collect()),
        Some(DnsAnswer::Addresses(addresses)) => {
            (0, addresses.iter().filter_map(|ip| address(*ip, kind)).collect())
        }
        Some(DnsAnswer::Alias(_, addresses)) => {
            (0, addresses.iter().filter_map(|ip| address(*ip, kind)).collect())
        }
        Some(DnsAnswer::Services(services)) if kind == SRV => (0, services.iter().map(service).collect()),
        Some(DnsAnswer::Services(_)) => (0, Vec::new()),
    };
    let mut bytes = query[..2].to_vec();
    let alias = match zone.get(&name) {
        Some(DnsAnswer::Alias(target, _)) => Some(labels(target)),
        _ => None,
    };
    let count = records.len() + usize::from(alias.is_some());
    bytes.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(count).unwrap(), 0, 0, 0, 0]);
    bytes.extend(&query[12..question_end]);
    let owner = alias.clone().unwrap_or_else(|| vec![0xc0, 12]);
    let alias = alias.map(|target| (vec![0xc0, 12], CNAME, target));
    for (owner, kind, record) in
        alias.into_iter().chain(records.into_iter().map(|record| (owner.clone(), kind, record)))
    {
        // The owner, the type, class IN, the TTL.
        bytes.extend(owner);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend(u16::try_from(record.len()).unwrap().to_be_bytes());
        bytes.extend(record);
    }
    Some(bytes)
}

/// Returns the name, the type, and the offset of the end of the question.
fn question(query: &[u8]) -> (String, u16, usize) {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] > 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
        at = end;
    }
    (labels.join("."), u16::from_be_bytes([query[at + 1], query[at + 2]]), at + 5)
}

fn address(ip: IpAddr, kind: u16) -> Option<Vec<u8>> {
    match ip {
        IpAddr::V4(ip) if kind == A => Some(ip.octets().to_vec()),
        IpAddr::V6(ip) if kind == AAAA => Some(ip.octets().to_vec()),
        _ => None,
    }
}

fn service(&(priority, weight, port, target): &(u16, u16, u16, &str)) -> Vec<u8> {
    let mut record: Vec<u8> =
        [priority, weight, port].iter().flat_map(|number| number.to_be_bytes()).collect();
    record.extend(labels(target));
    record
}

/// Returns a name as a message has it.
fn labels(name: &str) -> Vec<u8> {
    let mut labels = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        labels.push(u8::try_from(label.len()).unwrap());
        labels.extend(label.bytes());
    }
    labels.push(0);
    labels
}
