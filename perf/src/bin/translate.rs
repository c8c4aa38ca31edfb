//! What one packet costs the pipeline, without any port: parse, flow lookup, both rewrites, checksums, and the decision
//! where it goes. Mbufs come from a real mempool; each is filled with a 64-byte frame, sent through and freed.
//!
//! The cost of filling and freeing is measured alone in the same run and printed beside it. Cases are interleaved, and
//! medians reported: machines like the one this runs on are shared and noisy.

#![forbid(unsafe_code)]

use std::io::IsTerminal;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use dataplane::Policy;
use dataplane::counters::{Counter, Counters};
use dataplane::pipeline::{GATEWAY_MAC, Output, Pipeline, Settings};
use dataplane::tables::Tables;
use dataplane::tables::arena::Allocator;
use dataplane::tables::region::{Backend, Layout, Location, Region};
use dataplane::tables::routes::{Route, set_cells, write_set};
use dataplane::tables::slots::AccessSlot;
use dataplane::uplink::{Received, template};
use dpdk::{Burst, Eal, EalOptions, Mbuf, Memory, Mempool};
use net::Address;
use net::ethernet::{self, EtherType, Mac};
use serde::Serialize;
use std::sync::atomic::AtomicU64;

const IFINDEX: u32 = 7;
const CONTAINER: u32 = 0x0a12_0002;
const OWN_INSTANCE: u32 = 0x0a1e_fd00;
const BURST: usize = 64;

/// Packets per second and cycles per packet of the pipeline by itself.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Numbers of flows to run with.
    #[arg(long, value_delimiter = ',', default_values_t = [1usize, 1024, 65536])]
    flows: Vec<usize>,
    /// Packets in each measurement.
    #[arg(long, default_value_t = 2_000_000)]
    packets: usize,
    /// Measurements of each case, interleaved.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Print JSON, whatever standard output is.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    case: &'static str,
    flows: usize,
    pps: f64,
    cycles_per_packet: f64,
    spread_percent: f64,
}

#[derive(Serialize)]
struct Report {
    rows: Vec<Row>,
}

/// Takes what the pipeline sends, and frees it in bursts as a driver would.
#[derive(Default)]
struct Sink {
    burst: Burst<BURST>,
    tunnelled: usize,
    sample: Option<Vec<u8>>,
    outer: [[AtomicU64; template::WORDS]; 10],
}

impl Output for Sink {
    fn access(&mut self, _: Mbuf, _: u32) {}
    fn tunnel(&mut self, packet: Mbuf, _: (Address, u16), _: u8) {
        if self.sample.is_none() {
            self.sample = Some(packet.data().to_vec());
        }
        self.frame(packet);
    }
    fn outer(&self, host: u32) -> Option<&[AtomicU64; template::WORDS]> {
        self.outer.get(host as usize)
    }
    fn frame(&mut self, packet: Mbuf) {
        self.tunnelled += 1;
        if let Err(packet) = self.burst.push(packet) {
            self.burst.clear();
            let _ = self.burst.push(packet);
        }
    }
    fn host(&mut self, _: Mbuf) {}
    fn host_mac(&self) -> Mac {
        Mac([0; 6])
    }
    fn hand_over(&mut self, packet: Mbuf, _: u16) -> Result<(), Mbuf> {
        Err(packet)
    }
    fn open(&mut self, _: Mbuf) -> Option<Received> {
        None
    }
    fn opened(&mut self, _: usize) {}
    fn unresolved(&mut self, _: Address) {}
}

fn service(n: usize) -> u32 {
    0x0a1e_0000 + u32::try_from(n).unwrap_or(0)
}

/// A thousand services of ten instances each, on ten other hosts.
fn tables(flows: usize) -> Result<Tables> {
    let layout = Layout::for_flows(2 * flows.max(1024), 1);
    let tables = Tables::new(Region::on_heap(layout, 42), 1);
    let mut allocator = Allocator::default();
    let port = AccessSlot {
        ifindex: IFINDEX,
        worker: 0,
        number: 1,
        mac: [2, 0, 0, 0, 0, 9],
        namespace_v4: CONTAINER,
        namespace_v6: Address(0),
        instance_v4: OWN_INSTANCE,
        instance_v6: Address(0),
    };
    tables.slots.fill(1, &port);
    tables.interfaces.set(
        &tables.arena,
        &mut allocator,
        Address(u128::from(IFINDEX)),
        1,
    )?;
    for host in 0..10 {
        ensure!(
            tables
                .region
                .publish_host(host, Address::from_v4_bits(0xc0a8_0002 + host), 50103)
        );
    }
    for n in 0..1000u32 {
        let mut turns = Vec::new();
        for i in 0..10 {
            let id = n * 10 + i;
            let backend = Backend {
                location: Location::Host(i),
                namespace: (0x0a13_0000 + id, Address(0)),
                instance: (0x0a1e_4000 + id, Address(0)),
                draining: false,
                load: 0,
                job: n,
                number: i,
            };
            turns.push(
                tables
                    .region
                    .publish_backend(id, &backend)
                    .context("the backend table is full")?,
            );
        }
        let set = allocator
            .allocate(&tables.arena, set_cells(turns.len()))
            .context("the arena is full")?;
        write_set(tables.arena.words(set), Policy::RoundRobin, &turns);
        let route = Route::Service { service: n, set };
        let address = Address::from_v4_bits(service(n as usize));
        tables
            .routes
            .set(&tables.arena, &mut allocator, address, route.to_word())?;
    }
    Ok(tables)
}

/// A 64-byte frame (60 without its check sequence): UDP from the container to a Service IP, without a checksum.
fn frame(flow: usize) -> Result<[u8; 60]> {
    let mut frame = [0u8; 60];
    let header = ethernet::Header {
        destination: GATEWAY_MAC,
        source: Mac([2, 0, 0, 0, 0, 9]),
        ethertype: EtherType::IPV4,
    };
    header.write(&mut frame).context("frame")?;
    let ip = net::ipv4::Build {
        source: Address::from_v4_bits(CONTAINER),
        destination: Address::from_v4_bits(service(flow % 1000)),
        protocol: 17,
        ttl: 64,
        tos: 0,
        id: 0,
        dont_fragment: true,
        total_len: 46,
    };
    let low = u16::try_from(flow % 60_000)? + 1024;
    let high = u16::try_from(flow / 60_000)?;
    frame
        .get_mut(14..34)
        .context("frame")?
        .copy_from_slice(&ip.to_bytes());
    frame
        .get_mut(34..42)
        .context("frame")?
        .copy_from_slice(&net::udp::header(low, 1000 + high, 26, 0));
    Ok(frame)
}

struct Case<'a> {
    pipeline: Pipeline<'a, Sink>,
    frames: Vec<[u8; 60]>,
    together: Vec<(Mbuf, u32)>,
}

/// Cycles for `packets` packets; with `work` false only the filling and freeing of mbufs.
fn run(case: &mut Case<'_>, pool: &Mempool, packets: usize, work: bool) -> Result<u64> {
    let mut burst = Burst::<BURST>::new();
    let mut next = case.frames.iter().cycle();
    let begin = dpdk::cycles();
    for _ in 0..packets / BURST {
        ensure!(pool.alloc_bulk(&mut burst, BURST), "the pool is empty");
        for mbuf in burst.iter_mut() {
            let Some(frame) = next.next() else { break };
            mbuf.spare_mut()
                .get_mut(..60)
                .context("mbuf")?
                .copy_from_slice(frame);
            mbuf.set_len(60);
        }
        if work {
            case.together
                .extend(burst.drain().map(|mbuf| (mbuf, IFINDEX)));
            case.pipeline.burst_from_access(&mut case.together);
        } else {
            burst.clear();
        }
    }
    Ok(dpdk::cycles() - begin)
}

fn median(values: &mut [f64]) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |n: usize| values.get(n).copied().unwrap_or(0.0);
    let middle = at(values.len() / 2);
    (middle, (at(values.len() - 1) - at(0)) / middle * 100.0)
}

// Loss of precision of a count of cycles or packets does not matter to a rate.
#[allow(clippy::cast_precision_loss)]
fn rate(value: u64, packets: usize) -> f64 {
    value as f64 / packets as f64
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        arguments.packets >= BURST && arguments.rounds > 0,
        "--packets must be at least 64 and --rounds 1"
    );
    let eal = Eal::init(EalOptions {
        file_prefix: format!("oakestra-perf-{}", std::process::id()),
        memory: Memory::NoHuge { megabytes: 256 },
        ..EalOptions::default()
    })?;
    let pool = Mempool::create("perf", 8191, 256, 2048 + dpdk::HEADROOM, None)?;
    let counters = Counters::default();
    let worlds = arguments
        .flows
        .iter()
        .map(|&flows| tables(flows))
        .collect::<Result<Vec<_>>>()?;
    let mut cases = Vec::new();
    for (tables, &flows) in worlds.iter().zip(&arguments.flows) {
        let settings = Settings {
            worker: 0,
            mtu: 1450,
        };
        let mut pipeline = Pipeline::new(tables, &counters, &pool, settings, Sink::default())
            .context("no shard")?;
        pipeline.tick(1000);
        cases.push(Case {
            pipeline,
            frames: (0..flows).map(frame).collect::<Result<_>>()?,
            together: Vec::with_capacity(BURST),
        });
    }
    // Opens the flows.
    for case in &mut cases {
        let flows = case.frames.len().next_multiple_of(BURST);
        run(case, &pool, flows, true)?;
    }
    let mut measured: Vec<(Vec<f64>, Vec<f64>)> =
        cases.iter().map(|_| Default::default()).collect();
    for _ in 0..arguments.rounds {
        for (case, (whole, bare)) in cases.iter_mut().zip(&mut measured) {
            let packets = arguments.packets / BURST * BURST;
            let before = case.pipeline.output.tunnelled;
            whole.push(rate(run(case, &pool, packets, true)?, packets));
            ensure!(
                case.pipeline.output.tunnelled - before == packets,
                "not every packet left by the tunnel"
            );
            bare.push(rate(run(case, &pool, packets, false)?, packets));
        }
    }
    // A fast wrong answer is no answer.
    for case in &cases {
        let sample = case
            .pipeline
            .output
            .sample
            .as_deref()
            .context("no packet left")?;
        let headers = net::Headers::parse(sample, sample.len())?;
        ensure!(
            headers.source == Address::from_v4_bits(OWN_INSTANCE),
            "the source was not translated: {headers:?}"
        );
        ensure!(
            headers.destination.v4_bits() >> 16 == 0x0a13,
            "the destination was not translated: {headers:?}"
        );
    }
    ensure!(
        counters.get(Counter::FlowsOpened) >= arguments.flows.iter().map(|&f| f as u64).sum(),
        "flows are missing"
    );
    let hz = rate(dpdk::cycles_hz(), 1);
    let mut rows = Vec::new();
    for (&flows, (whole, bare)) in arguments.flows.iter().zip(&mut measured) {
        for (case, values) in [("out-v4", whole), ("fill-and-free", bare)] {
            let (cycles_per_packet, spread_percent) = median(values);
            rows.push(Row {
                case,
                flows,
                pps: hz / cycles_per_packet,
                cycles_per_packet,
                spread_percent,
            });
        }
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&Report { rows })?);
    } else {
        let bold = if std::io::stdout().is_terminal() {
            ("\x1b[1m", "\x1b[0m")
        } else {
            ("", "")
        };
        println!(
            "{}{:<14} {:>8} {:>12} {:>15} {:>9}{}",
            bold.0, "case", "flows", "Mpackets/s", "cycles/packet", "spread %", bold.1
        );
        for row in rows {
            println!(
                "{:<14} {:>8} {:>12.2} {:>15.1} {:>9.1}",
                row.case,
                row.flows,
                row.pps / 1e6,
                row.cycles_per_packet,
                row.spread_percent
            );
        }
    }
    drop(cases);
    drop(pool);
    drop(eal);
    Ok(())
}
