//! Which network namespace this is, in a way that is never used again.
//!
//! The number of `/proc/self/ns/net` goes to the next namespace as soon as one is gone. What a process left for its
//! successor must not be taken over by a stranger that happens to get the same number.

use std::os::fd::AsFd;

use crate::syscall;

/// `SO_NETNS_COOKIE` of `linux/socket.h`, which the `libc` crate does not have on every target.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of the calling thread's network namespace, unique within a boot; `None` before kernel 5.14.
#[must_use]
pub fn cookie() -> Option<u64> {
    let socket = syscall::socket(libc::AF_INET, libc::SOCK_DGRAM).ok()?;
    let [a, b] = syscall::option::<2>(socket.as_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE).ok()?;
    let ([a, b, c, d], [e, f, g, h]) = (a.to_ne_bytes(), b.to_ne_bytes());
    Some(u64::from_ne_bytes([a, b, c, d, e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_namespace_has_another_cookie() {
        let here = cookie();
        assert_eq!(here, cookie());
        let there = std::thread::spawn(|| {
            leave();
            cookie()
        });
        assert_ne!(here, there.join().unwrap());
    }

    #[allow(unsafe_code)]
    fn leave() {
        // SAFETY: only this thread moves, and it ends with the test.
        let left = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(left, 0, "the tests of this crate run as root");
    }
}
