//! The zone's own answers: what the names of the contract (section 1) stand for, as far as the cluster knows.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::limits::{Limits, Share};
use super::names::{ABSENT, JobNames, Names};
use super::question::{self, Asked, Kind, Wanted};
use super::reverse;
use crate::forwarding::Pair;

/// Seconds that an answer may be kept: instances come and go.
pub const TTL: u32 = 5;
/// How long the cluster may take to answer for a name that is not known here.
const PATIENCE: Duration = Duration::from_millis(2500);
/// Names that the cluster is asked for at one time.
const LOOKUPS: usize = 32;
/// Instances that `any.instance` names at most, so that the answer fits a datagram.
const SEVERAL: usize = 8;
/// What we take in a datagram (DNS flag day 2020), in bytes.
const PAYLOAD: u16 = 1232;

/// A question to the cluster: a job's name or an address. Answered, by nothing, once what the cluster said is in the
/// [`Names`].
#[derive(Debug)]
pub struct Lookup {
    /// As a table query has it.
    pub key: String,
    /// Told when there was an answer.
    pub done: oneshot::Sender<()>,
}

/// What becomes of a query.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is answered, with this code and so many records.
    Answer(Vec<u8>, ResponseCode, usize),
    /// It is for another zone.
    Elsewhere,
    /// It is no query.
    Nothing,
}

/// The answers of one zone.
pub struct Zone {
    name: Name,
    names: Arc<Names>,
    lookups: mpsc::Sender<Lookup>,
    room: Semaphore,
    limits: Arc<Limits>,
}

/// What was found for a name.
enum Found {
    /// Records of the type that was asked for; none when the name has others.
    Records(Vec<RData>),
    /// There is no such name.
    Nothing,
    /// It could not be found out.
    Unknown,
}

impl Zone {
    pub fn new(
        name: Name,
        names: Arc<Names>,
        lookups: mpsc::Sender<Lookup>,
        limits: Arc<Limits>,
    ) -> Self {
        Self {
            name,
            names,
            lookups,
            room: Semaphore::new(LOOKUPS),
            limits,
        }
    }

    /// The zone's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Answers a query, in `longest` bytes at most if it asks for no more by itself.
    pub async fn answer(
        &self,
        query: &[u8],
        asker: IpAddr,
        gateway: Pair,
        longest: Option<u16>,
    ) -> Verdict {
        // A response is nobody's query, and what is shorter than a header has no sender to tell.
        let Some((metadata, asked)) = first_question(query) else {
            return Verdict::Nothing;
        };
        let code = match (metadata.op_code, &asked) {
            (OpCode::Query, Some(_)) => None,
            (OpCode::Query, None) => Some(ResponseCode::FormErr),
            _ => Some(ResponseCode::NotImp),
        };
        if let Some(code) = code {
            return finish(&empty(&metadata, code), longest);
        }
        let Some(asked) = asked else {
            return Verdict::Nothing;
        };
        let below = question::read(asked.name(), &self.name);
        let reverse = reverse::address(asked.name());
        // A transfer of the zone, or of any other through this node: a message here is one query and one answer.
        if matches!(asked.query_type(), RecordType::AXFR | RecordType::IXFR) {
            return finish(&with(&metadata, &asked, ResponseCode::Refused), longest);
        }
        if below.is_none() && reverse.is_none() {
            return Verdict::Elsewhere;
        }
        let Ok(whole) = Message::from_vec(query) else {
            return finish(&with(&metadata, &asked, ResponseCode::FormErr), longest);
        };
        let mut response = with(&metadata, &asked, ResponseCode::NoError);
        response.metadata.authoritative = true;
        let longest = longest.map(|longest| longest.max(whole.max_payload().min(PAYLOAD)));
        if let Some(edns) = &whole.edns {
            let mut own = Edns::new();
            own.set_max_payload(PAYLOAD);
            own.set_dnssec_ok(edns.flags().dnssec_ok);
            response.set_edns(own);
            if edns.version() > 0 {
                response.metadata.authoritative = false;
                response.metadata.response_code = ResponseCode::BADVERS;
                if let Some(own) = &mut response.edns {
                    own.set_rcode_high(ResponseCode::BADVERS.high());
                }
                return finish(&response, longest);
            }
        }
        if asked.query_class() != DNSClass::IN && asked.query_class() != DNSClass::ANY {
            response.metadata.authoritative = false;
            response.metadata.response_code = ResponseCode::Refused;
            return finish(&response, longest);
        }
        let (found, apex) = match (below, reverse) {
            (Some(below), _) => (
                self.find(below, asked.query_type(), asker, gateway).await,
                self.name.clone(),
            ),
            (None, Some((address, apex))) => {
                (self.pointer(address, asked.query_type(), asker).await, apex)
            }
            (None, None) => return Verdict::Elsewhere,
        };
        self.fill(&mut response, found, &asked, apex);
        finish(&response, longest)
    }

    fn fill(&self, response: &mut Message, found: Found, asked: &Query, apex: Name) {
        match found {
            Found::Records(records) if !records.is_empty() => {
                let name = asked.name();
                response.add_answers(
                    records
                        .into_iter()
                        .map(|data| Record::from_rdata(name.clone(), TTL, data)),
                );
            }
            Found::Unknown => {
                response.metadata.authoritative = false;
                response.metadata.response_code = ResponseCode::ServFail;
            }
            nothing => {
                if matches!(nothing, Found::Nothing) {
                    response.metadata.response_code = ResponseCode::NXDomain;
                }
                let negative = self.authority();
                let ttl = negative.minimum;
                response.add_authority(Record::from_rdata(apex, ttl, RData::SOA(negative)));
            }
        }
    }

    /// The start of authority, whose last number says how long a negative answer may be kept (RFC 2308).
    fn authority(&self) -> SOA {
        let at = |label: &str| {
            Name::from_ascii(label)
                .and_then(|label| label.append_domain(&self.name))
                .unwrap_or_else(|_| self.name.clone())
        };
        let keep = u32::try_from(ABSENT.as_secs()).unwrap_or(TTL);
        SOA::new(at("ns"), at("hostmaster"), 1, 3600, 600, 86_400, keep)
    }

    async fn find(&self, below: Asked, kind: RecordType, asker: IpAddr, gateway: Pair) -> Found {
        let any = kind == RecordType::ANY;
        match below {
            Asked::Apex => {
                let server = self.authority().mname;
                let mut records = Vec::new();
                if any || kind == RecordType::SOA {
                    records.push(RData::SOA(self.authority()));
                }
                if any || kind == RecordType::NS {
                    records.push(RData::NS(NS(server)));
                }
                Found::Records(records)
            }
            Asked::NameServer => Found::Records(of_kind(gateway, kind)),
            Asked::Part(labels) if self.names.any_below(&labels) => Found::Records(Vec::new()),
            Asked::Part(_) | Asked::Nothing => Found::Nothing,
            Asked::Wanted(wanted) => match self.job(&wanted.job, asker).await {
                Ok(Some(names)) => addresses(&names, &wanted, kind),
                Ok(None) => Found::Nothing,
                Err(()) => Found::Unknown,
            },
        }
    }

    /// The job's names, asked for at the cluster where they are not known.
    async fn job(&self, job: &str, asker: IpAddr) -> Result<Option<Arc<JobNames>>, ()> {
        let lower = job.to_ascii_lowercase();
        // As it is spelled, then as most are: DNS may have lost how the job spells it.
        let spellings = [
            Some(job),
            Some(lower.as_str()).filter(|lower| *lower != job),
        ];
        for spelling in spellings.into_iter().flatten() {
            if let Some(names) = self.names.find(spelling) {
                return Ok(Some(names));
            }
            if !self.names.is_absent(spelling) {
                self.ask(spelling, asker).await?;
                if let Some(names) = self.names.find(spelling) {
                    return Ok(Some(names));
                }
            }
        }
        Ok(None)
    }

    async fn pointer(&self, address: IpAddr, kind: RecordType, asker: IpAddr) -> Found {
        let key = address.to_string();
        let mut name = self.names.name_of(address);
        if name.is_none() && !self.names.is_absent(&key) {
            if self.ask(&key, asker).await.is_err() {
                return Found::Unknown;
            }
            name = self.names.name_of(address);
        }
        let whole = name
            .and_then(|name| Name::from_ascii(name).ok())
            .and_then(|name| name.append_domain(&self.name).ok());
        match whole {
            Some(name) if matches!(kind, RecordType::PTR | RecordType::ANY) => {
                Found::Records(vec![RData::PTR(PTR(name))])
            }
            Some(_) => Found::Records(Vec::new()),
            None => Found::Nothing,
        }
    }

    /// Asks the cluster, and waits no longer than the asker would.
    async fn ask(&self, key: &str, asker: IpAddr) -> Result<(), ()> {
        let _share = self.limits.take(asker, Share::Lookup).ok_or(())?;
        let asked = async {
            let _room = self.room.acquire().await.map_err(drop)?;
            let (done, answered) = oneshot::channel();
            let key = key.to_owned();
            self.lookups.try_send(Lookup { key, done }).map_err(drop)?;
            answered.await.map_err(drop)
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .unwrap_or(Err(()))
    }
}

fn addresses(names: &JobNames, wanted: &Wanted, kind: RecordType) -> Found {
    match wanted.kind {
        Kind::Service(policy) => match names.services.get(&policy) {
            Some(pair) => Found::Records(of_kind(*pair, kind)),
            None => Found::Nothing,
        },
        Kind::Instance(Some(number)) => match names.instances.get(&number) {
            Some(pair) => Found::Records(of_kind(*pair, kind)),
            None => Found::Nothing,
        },
        Kind::Instance(None) if names.instances.is_empty() => Found::Nothing,
        Kind::Instance(None) => {
            let mut records: Vec<RData> = names
                .instances
                .values()
                .flat_map(|pair| of_kind(*pair, kind))
                .collect();
            // Whoever takes the first one shall not always take the same.
            let turn = usize::from(super::wire::random_id()).checked_rem(records.len());
            records.rotate_left(turn.unwrap_or(0));
            records.truncate(SEVERAL);
            Found::Records(records)
        }
    }
}

/// The records of a type (or all, which RFC 8482 allows to be few) that addresses make.
fn of_kind(pair: Pair, kind: RecordType) -> Vec<RData> {
    let any = kind == RecordType::ANY;
    let v4 = pair.v4.filter(|_| any || kind == RecordType::A);
    let v6 = pair.v6.filter(|_| any || kind == RecordType::AAAA);
    let v4 = v4.map(|address| RData::A(A(address)));
    v4.into_iter()
        .chain(v6.map(|address| RData::AAAA(AAAA(address))))
        .collect()
}

/// The header and the one question of a query; the question is missing where there is not exactly one. `None` for what
/// is no message.
fn first_question(query: &[u8]) -> Option<(Metadata, Option<Query>)> {
    let mut decoder = BinDecoder::new(query);
    let header = hickory_proto::op::Header::read(&mut decoder).ok()?;
    if header.metadata.message_type != MessageType::Query {
        return None;
    }
    let asked = match header.counts.queries {
        1 => Query::read(&mut decoder).ok(),
        _ => None,
    };
    Some((header.metadata, asked))
}

fn empty(query: &Metadata, code: ResponseCode) -> Message {
    let mut response = Message::response(query.id, query.op_code);
    response.metadata = Metadata::response_from_request(query);
    response.metadata.recursion_available = true;
    response.metadata.response_code = code;
    response
}

fn with(query: &Metadata, asked: &Query, code: ResponseCode) -> Message {
    let mut response = empty(query, code);
    response.add_query(asked.clone());
    response
}

/// The response as bytes; without its records where it is too long.
fn finish(response: &Message, longest: Option<u16>) -> Verdict {
    let (code, records) = (response.metadata.response_code, response.answers.len());
    let fits = |bytes: &Vec<u8>| longest.is_none_or(|longest| bytes.len() <= usize::from(longest));
    let bytes = response.to_vec();
    match bytes {
        Ok(bytes) if fits(&bytes) => Verdict::Answer(bytes, code, records),
        Ok(_) => match response.truncate().to_vec() {
            Ok(bytes) => Verdict::Answer(bytes, code, records),
            Err(_) => Verdict::Nothing,
        },
        Err(error) => {
            tracing::debug!(%error, "an answer could not be written");
            Verdict::Nothing
        }
    }
}
