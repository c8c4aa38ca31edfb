//! Packets against a model: whatever is cut, chained, shared and pulled up, the bytes are those of a Vec.

// A test's own functions are tests too: clippy exempts only the marked ones.
#![allow(clippy::expect_used)]

mod support;

use std::sync::OnceLock;

use dpdk::{Burst, L4Checksum, Mbuf, Mempool, Offload, Segment};
use proptest::prelude::*;
use support::pool;

#[derive(Clone, Debug)]
enum Op {
    Prepend(Vec<u8>),
    Append(Vec<u8>),
    Advance(usize),
    Truncate(usize),
    Push(Vec<u8>),
    /// Shares a range, holds on to it, and checks it again at the end.
    Slice(usize, usize),
    /// Shares a range and chains it behind.
    PushSlice(usize, usize),
    PullUp(usize),
    Write(usize, u8),
    DropViews,
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..max)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        bytes(80).prop_map(Op::Prepend),
        bytes(120).prop_map(Op::Append),
        (0..300usize).prop_map(Op::Advance),
        (0..600usize).prop_map(Op::Truncate),
        bytes(200).prop_map(Op::Push),
        (0..300usize, 0..300usize).prop_map(|(at, len)| Op::Slice(at, len)),
        (0..100usize, 0..100usize).prop_map(|(at, len)| Op::PushSlice(at, len)),
        (0..400usize).prop_map(Op::PullUp),
        (0..300usize, any::<u8>()).prop_map(|(at, value)| Op::Write(at, value)),
        Just(Op::DropViews),
    ]
}

fn filled(pool: &Mempool, bytes: &[u8]) -> Mbuf {
    let mut mbuf = pool.alloc().expect("the pool has mbufs");
    assert!(mbuf.extend_from_slice(bytes));
    mbuf
}

fn contents(mbuf: &Mbuf) -> Vec<u8> {
    let mut all = vec![0; mbuf.pkt_len()];
    assert!(mbuf.copy_out(0, &mut all));
    assert_eq!(
        mbuf.segments().collect::<Vec<_>>().concat(),
        all,
        "copy_out and segments agree"
    );
    assert_eq!(mbuf.segments().count(), mbuf.segment_count());
    all
}

fn apply(
    op: Op,
    pool: &Mempool,
    mbuf: &mut Mbuf,
    model: &mut Vec<u8>,
    views: &mut Vec<(Mbuf, Vec<u8>)>,
) {
    match op {
        Op::Prepend(new) => {
            let room = mbuf.headroom();
            let done = mbuf
                .prepend(new.len())
                .map(|at| at.copy_from_slice(&new))
                .is_some();
            assert_eq!(done, new.len() <= room);
            if done {
                model.splice(0..0, new);
            }
        }
        Op::Append(new) => {
            let room = mbuf.tailroom();
            let done = mbuf.extend_from_slice(&new);
            // A shared segment takes not even nothing.
            assert_eq!(done, new.len() <= room && (room > 0 || done));
            if done {
                model.extend(new);
            }
        }
        Op::Advance(n) => {
            assert_eq!(mbuf.advance(n), n <= model.len());
            if n <= model.len() {
                model.drain(..n);
            }
        }
        Op::Truncate(n) => {
            mbuf.truncate(n);
            model.truncate(n);
        }
        Op::Push(new) => {
            mbuf.push_segment(filled(pool, &new))
                .expect("far from 65535 segments");
            model.extend(new);
        }
        Op::Slice(at, len) => {
            let view = mbuf.slice(pool, at, len);
            assert_eq!(view.is_some(), at + len <= model.len());
            if let Some(view) = view {
                assert_eq!(contents(&view), model[at..at + len]);
                views.push((view, model[at..at + len].to_vec()));
            }
        }
        Op::PushSlice(at, len) => {
            if let Some(mut view) = mbuf.slice(pool, at, len) {
                assert!(
                    len == 0 || view.data_mut().is_empty(),
                    "shared bytes cannot be written"
                );
                mbuf.push_segment(view).expect("far from 65535 segments");
                model.extend_from_within(at..at + len);
            }
        }
        Op::PullUp(n) => {
            let done = mbuf.pull_up(n);
            assert!(
                done || n > 256 || n > model.len(),
                "{n} bytes fit in an mbuf"
            );
            if done {
                assert!(mbuf.data_mut().len() >= n);
            }
        }
        Op::Write(at, value) => {
            let data = mbuf.data_mut();
            if let Some(byte) = data.get_mut(at) {
                *byte = value;
                model[at] = value;
            }
        }
        Op::DropViews => views.clear(),
    }
    assert_eq!(mbuf.pkt_len(), model.len());
    assert_eq!(contents(mbuf), *model);
    for (view, expected) in views {
        assert_eq!(contents(view), *expected, "a view sees no later write");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chains_behave_like_a_vec(start in bytes(250), ops in prop::collection::vec(op(), 0..25)) {
        static POOL: OnceLock<Mempool> = OnceLock::new();
        let pool = POOL.get_or_init(|| pool(16383, 256));
        let mut model = start;
        let mut mbuf = filled(pool, &model);
        let mut views = Vec::new();
        for op in ops {
            apply(op, pool, &mut mbuf, &mut model, &mut views);
        }
        drop((mbuf, views));
        prop_assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn offloads_travel_with_the_packet(kind in 0..4u8, cut in 0..3u8, size: u16, l3_len in 0..512u16, l4_len: u8, tag: u64) {
        static POOL: OnceLock<Mempool> = OnceLock::new();
        let pool = POOL.get_or_init(|| pool(63, 256));
        let offload = Offload {
            checksum: [L4Checksum::Complete, L4Checksum::PartialTcp, L4Checksum::PartialUdp, L4Checksum::PartialSctp][usize::from(kind)],
            segment: [Segment::None, Segment::Tcp { mss: size }, Segment::Udp { size }][usize::from(cut)],
            l3_len,
            l4_len,
        };
        let mut mbuf = filled(pool, b"packet");
        mbuf.set_tag(tag);
        mbuf.set_offload(offload);
        prop_assert_eq!(mbuf.offload(), offload);
        // A view that makes the bytes unwritable, so that pull_up replaces the head.
        let view = mbuf.slice(pool, 0, 6).expect("within the packet");
        prop_assert_eq!((view.offload(), view.tag()), (Offload::default(), 0));
        prop_assert!(mbuf.pull_up(3));
        prop_assert_eq!((mbuf.offload(), mbuf.tag()), (offload, tag));
        mbuf.set_frame(14, true);
        prop_assert_eq!(mbuf.offload(), offload);
        drop((mbuf, view));
        let fresh = pool.alloc().expect("the pool has mbufs");
        prop_assert_eq!((fresh.offload(), fresh.tag(), fresh.pkt_len()), (Offload::default(), 0, 0));
    }
}

#[test]
fn header_length_beyond_its_field_is_unknown() {
    let pool = pool(63, 256);
    let mut mbuf = filled(&pool, b"packet");
    mbuf.set_offload(Offload {
        l3_len: 512,
        l4_len: 20,
        ..Offload::default()
    });
    assert_eq!(
        mbuf.offload(),
        Offload {
            l3_len: 0,
            l4_len: 20,
            ..Offload::default()
        }
    );
}

#[test]
fn bytes_can_be_written_again_when_the_last_view_is_gone() {
    let pool = pool(63, 256);
    let mut mbuf = filled(&pool, b"packet");
    let view = mbuf.slice(&pool, 2, 3).expect("within the packet");
    let second = view.slice(&pool, 1, 1).expect("a view of a view");
    drop(view);
    assert!(mbuf.data_mut().is_empty());
    assert_eq!(
        (mbuf.headroom(), mbuf.tailroom(), mbuf.spare_mut().len()),
        (0, 0, 0)
    );
    assert!(!mbuf.set_len(3));
    assert_eq!(second.data(), b"k");
    let freed_elsewhere = std::thread::spawn(move || drop(second));
    freed_elsewhere.join().expect("freeing needs no lcore");
    assert_eq!(mbuf.data_mut(), b"packet");
    drop(mbuf);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_view_outlives_its_packet() {
    let pool = pool(63, 256);
    let mut mbuf = filled(&pool, b"packet");
    mbuf.push_segment(filled(&pool, b" and more"))
        .expect("two segments");
    let mut view = mbuf.slice(&pool, 3, 7).expect("within the packet");
    drop(mbuf);
    assert_eq!(contents(&view), b"ket and");
    assert_eq!(view.segment_count(), 2);
    assert!(view.pull_up(7));
    view.data_mut()[0] = b'K';
    assert_eq!((view.data(), view.segment_count()), (&b"Ket and"[..], 1));
    drop(view);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn room_of_a_single_segment_can_be_filled() {
    let pool = pool(63, 256);
    let mut mbuf = pool.alloc().expect("the pool has mbufs");
    assert_eq!(mbuf.headroom(), usize::from(dpdk::HEADROOM));
    assert_eq!(mbuf.spare_mut().len(), 256);
    mbuf.spare_mut()[..4].copy_from_slice(b"read");
    assert!(mbuf.set_len(4));
    assert!(!mbuf.set_len(257));
    assert_eq!((mbuf.data(), mbuf.pkt_len()), (&b"read"[..], 4));
}

#[test]
fn an_empty_pool_says_so() {
    let pool = pool(3, 64);
    let mut burst = Burst::<8>::new();
    assert!(!pool.alloc_bulk(&mut burst, 4), "all or none");
    assert!(burst.is_empty());
    assert!(pool.alloc_bulk(&mut burst, 3));
    assert_eq!((pool.available(), pool.in_use()), (0, 3));
    assert!(pool.alloc().is_none());
    assert!(burst[0].slice(&pool, 0, 0).is_none());
    burst.clear();
    assert_eq!((pool.available(), pool.in_use()), (3, 0));
}

#[test]
fn a_burst_keeps_order_and_frees_what_is_left() {
    let pool = pool(63, 64);
    let mut burst = Burst::<4>::new();
    for byte in 0..4u8 {
        burst.push(filled(&pool, &[byte])).expect("there is room");
    }
    assert!(burst.is_full());
    let fifth = burst.push(filled(&pool, &[9])).expect_err("there is none");
    assert_eq!(fifth.data(), [9]);
    drop(fifth);
    assert!(!pool.alloc_bulk(&mut burst, 1));

    let first = |burst: &Burst<4>| burst.iter().map(|mbuf| mbuf.data()[0]).collect::<Vec<_>>();
    assert_eq!(burst.take(1).expect("in range").data(), [1]);
    assert_eq!(first(&burst), [0, 2, 3]);
    assert!(burst.take(3).is_none());
    assert_eq!(burst.swap_remove(0).data(), [0]);
    assert_eq!(first(&burst), [3, 2]);
    burst.push(filled(&pool, &[7])).expect("there is room");
    assert_eq!(burst.drain().next().expect("not empty").data(), [3]);
    assert!(burst.is_empty());
    assert_eq!(pool.in_use(), 0, "what drain did not give out is freed");

    burst.push(filled(&pool, &[1])).expect("there is room");
    drop(burst);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn many_views_of_one_buffer_end_in_a_refusal_not_in_an_overflow() {
    let pool = pool(65_535, 0);
    let small = support::pool(3, 64);
    let mbuf = filled(&small, b"shared");
    let mut views = Vec::new();
    while let Some(view) = mbuf.slice(&pool, 0, 6) {
        views.push(view);
    }
    assert!(
        views.len() < 65_000,
        "refused with {} views, before the counter wraps",
        views.len()
    );
    assert!(pool.available() > 0, "not for want of mbufs");
    drop(mbuf);
    assert_eq!(
        views.iter().filter(|view| view.data() == b"shared").count(),
        views.len()
    );
    drop(views);
    assert_eq!((pool.in_use(), small.in_use()), (0, 0));
}
