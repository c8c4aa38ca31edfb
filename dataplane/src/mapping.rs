//! Where the flow mapping lies: on a hugetlbfs where packets are on hugepages too, else on tmpfs.
//!
//! A table of megabytes on 4 KB pages costs a page walk for nearly every packet; on hugepages it costs none. Either file
//! system outlives the process and neither is on a disk. When hugepages come or go between two starts, the flows move.

use std::io;
use std::path::{Path, PathBuf};

use dpdk::Memory;
use kernel_port::KernelPortError;

use crate::api::{Config, StartError};
use crate::clock;
use crate::memory::free_megabytes;
use crate::tables::flows::Shard;
use crate::tables::region::{Layout, Opened, Region};

/// Megabytes of hugepages that are left to ports which are plugged in later.
const LEFT_TO_PORTS: u64 = 32;

/// Where the flows of `instance` may lie when `shared_dir` is the tmpfs, for who removes them when no data plane runs.
#[must_use]
pub fn places(shared_dir: &Path, instance: &str) -> Vec<PathBuf> {
    let name = format!("oakestra-{instance}.flows");
    let mut places = vec![shared_dir.join(&name)];
    places.extend(Memory::mounted().map(|dir| dir.join(&name)));
    places
}

/// Removes the mapping; one that is not there is no failure.
///
/// # Errors
/// The place that could not be removed, and why.
pub fn remove(places: &[PathBuf]) -> Result<(), (PathBuf, io::Error)> {
    for place in places {
        match std::fs::remove_file(place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err((place.clone(), error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Opens the mapping, with the flows of an earlier process wherever it left them. `memory` is what EAL has taken its
/// own memory from.
pub fn open(config: &Config, memory: &Memory, seed: u64) -> Result<Region, StartError> {
    let layout = Layout {
        backends: config.instances,
        ..Layout::for_flows(config.flows, config.workers)
    };
    let mut places = places(&config.shared_dir, &config.instance);
    let huge = match memory {
        Memory::Hugepages { dir: Some(dir) } => Some(dir.clone()),
        _ => None,
    };
    let there = |place: &PathBuf| place.exists();
    if let Some(dir) = huge
        && let Some(at) = places.iter().position(|place| place.starts_with(&dir))
        && (places.get(at).is_some_and(there)
            || free_megabytes() >= layout.megabytes() + LEFT_TO_PORTS)
    {
        places.swap(0, at);
    }
    open_first(&places, layout, seed, config.namespace)
}

/// Opens the mapping at the first of these places that has room, and moves there what lies at another.
fn open_first(
    places: &[PathBuf],
    layout: Layout,
    seed: u64,
    namespace: u64,
) -> Result<Region, StartError> {
    let mut opened = None;
    for place in places {
        match Region::open(place, layout, seed, namespace) {
            Ok(region) => {
                tracing::info!(
                    "flow table: {} MB at {}",
                    layout.megabytes(),
                    place.display()
                );
                opened = Some((place, region));
                break;
            }
            Err(KernelPortError::WordsNoRoom { .. }) => {
                // It was emptied; an empty file would only be in the way.
                let _ = std::fs::remove_file(place);
            }
            Err(error) => return Err(StartError::SharedFlows(error.to_string())),
        }
    }
    let Some((place, (mut region, mut found))) = opened else {
        // A node that forgets its flows at a crash is better than none.
        tracing::warn!(
            "flows will not survive this process: there are no {} MB of shared memory for them; make one of these places larger: {places:?}",
            layout.megabytes(),
        );
        return Ok(Region::on_heap(layout, seed));
    };
    for other in places
        .iter()
        .filter(|other| *other != place && other.exists())
    {
        if found == Opened::New
            && let Ok((old, Opened::TakenOver)) = Region::open(other, layout, seed, namespace)
        {
            region.move_from(&old);
            found = Opened::TakenOver;
        }
        if let Err((place, error)) = remove(std::slice::from_ref(other)) {
            tracing::warn!(path = %place.display(), "an old flow mapping could not be removed: {error}");
        }
    }
    match found {
        Opened::New => {}
        Opened::Discarded(why) => {
            tracing::warn!(path = %place.display(), "the flow mapping of an earlier process was thrown away: {why}");
        }
        Opened::TakenOver => {
            let now = clock::seconds();
            let (mut kept, mut dropped) = (0, 0);
            for shard in (0..layout.shards).filter_map(|n| region.shard(n)) {
                let (k, d) = Shard::new(shard, region.seed()).recover(now);
                kept += k;
                dropped += d;
            }
            tracing::info!(kept, dropped, "took over the flows of an earlier process");
        }
    }
    Ok(region)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::flows::Tuple;
    use crate::tables::region::BackendRef;
    use net::address::Address;
    use net::packet::Protocol;

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn tuple(source: u32, destination: u32, ports: (u16, u16)) -> Tuple {
        Tuple {
            source: Address::from_v4_bits(source),
            destination: Address::from_v4_bits(destination),
            source_port: ports.0,
            destination_port: ports.1,
            protocol: Protocol::UDP,
        }
    }

    #[test]
    fn flows_move_with_the_mapping() {
        let folder = Folder(PathBuf::from(format!(
            "/dev/shm/oakmap{}",
            std::process::id()
        )));
        let places: Vec<PathBuf> = ["ordinary", "huge"]
            .map(|name| folder.0.join(name).join("flows"))
            .into();
        for place in &places {
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        }
        let layout = Layout {
            backends: 16,
            ..Layout::for_flows(1, 1)
        };
        let now = clock::seconds();
        let forward = tuple(0x0a12_0002, 0x0a1e_0001, (4000, 80));
        let backend = BackendRef {
            id: 3,
            generation: 5,
        };
        let region = open_first(&places[..1], layout, 7, 1).unwrap();
        let reverse = tuple(0x0a1e_0002, 0x0a12_0002, (80, 4000));
        Shard::new(region.shard(0).unwrap(), region.seed())
            .open(&forward, backend, &reverse, now)
            .unwrap();
        drop(region);

        // The other place comes first now, as when hugepages have come; and then goes again.
        for turn in [[1, 0], [0, 1]] {
            let order: Vec<PathBuf> = turn.map(|n: usize| places[n].clone()).into();
            let region = open_first(&order, layout, 8, 1).unwrap();
            assert_eq!(region.seed(), 7, "the flows' hash stays theirs");
            let shard = Shard::new(region.shard(0).unwrap(), region.seed());
            assert_eq!(shard.forward(&forward, now).unwrap().1, backend);
            assert!(order[0].exists() && !order[1].exists());
        }

        // Those of another network namespace are nobody's.
        let region = open_first(&places, layout, 9, 2).unwrap();
        let shard = Shard::new(region.shard(0).unwrap(), region.seed());
        assert_eq!((shard.live(), region.seed()), (0, 9));
        drop(region);
        remove(&places).unwrap();
        assert!(places.iter().all(|place| !place.exists()));
    }
}
