//! How long threads have been running, as the scheduler counts it: to the nanosecond, where `/proc/stat` samples by ticks.

use std::collections::HashMap;
use std::fs;
use std::io;

use nix::unistd::Pid;

/// Of each thread of a process, by its number, in nanoseconds. One that is just ending is left out.
///
/// # Errors
/// When there is no such process.
pub fn times(pid: Pid) -> io::Result<HashMap<u32, u64>> {
    let mut times = HashMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?;
        let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        let id = thread
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let (Some(id), Some(time)) = (id, first(&text)) {
            times.insert(id, time);
        }
    }
    Ok(times)
}

fn first(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_of_a_process_is_there() {
        assert_eq!(first("123 4 5\n"), Some(123));
        assert_eq!(first(""), None);
        let own = times(Pid::this()).unwrap();
        assert!(own.contains_key(&std::process::id()));
        assert!(times(Pid::from_raw(i32::MAX)).is_err());
    }
}
