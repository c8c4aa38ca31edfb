//! Sleeping until a port has something, and being woken by another thread.
//!
//! A worker that sleeps on descriptors wakes within microseconds and costs nothing meanwhile; one that
//! sleeps on a clock does neither. Level-triggered: what is left unread ends the next wait at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::KernelPortError;
use crate::syscall;

/// What ended a wait. Both are false when time ran out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Woken {
    /// A descriptor is readable.
    pub ready: bool,
    /// A [`Waker`] was used since the last wait.
    pub woken: bool,
}

/// One thread's set of descriptors to wait for.
pub struct Waiter {
    epoll: OwnedFd,
    event: Arc<OwnedFd>,
}

/// Ends a [`Waiter`]'s wait, from any thread.
#[derive(Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waiter {
    /// A waiter for its wakers alone.
    ///
    /// # Errors
    /// [`KernelPortError::Io`] when the process is out of descriptors.
    pub fn new() -> Result<Waiter, KernelPortError> {
        let failed = |error| KernelPortError::io("opening an epoll set", error);
        let epoll = syscall::epoll().map_err(failed)?;
        let event = Arc::new(syscall::event().map_err(failed)?);
        let waiter = Waiter { epoll, event };
        syscall::epoll_add(waiter.epoll.as_fd(), waiter.event.as_fd(), true).map_err(failed)?;
        Ok(waiter)
    }

    /// Waits for `fd` too, until it is closed or removed.
    ///
    /// # Errors
    /// [`KernelPortError::Io`] for a descriptor that is there already or cannot be waited for.
    pub fn add(&self, fd: BorrowedFd<'_>) -> Result<(), KernelPortError> {
        syscall::epoll_add(self.epoll.as_fd(), fd, false)
            .map_err(|error| KernelPortError::io("waiting for a descriptor", error))
    }

    /// Waits for `fd` no longer.
    ///
    /// # Errors
    /// [`KernelPortError::Io`] for a descriptor that was not added.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> Result<(), KernelPortError> {
        syscall::epoll_remove(self.epoll.as_fd(), fd)
            .map_err(|error| KernelPortError::io("no longer waiting for a descriptor", error))
    }

    /// Sleeps until a descriptor is readable, a waker is used, or `timeout` is over (`None`: never). To the
    /// microsecond from kernel 5.11 on, else to the next millisecond. A signal ends it early.
    ///
    /// # Errors
    /// [`KernelPortError::Io`], which no use of this type brings about.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Woken, KernelPortError> {
        let woken = syscall::epoll_wait(self.epoll.as_fd(), timeout)
            .map_err(|error| KernelPortError::io("waiting for ports", error))?;
        if woken.woken {
            syscall::event_take(self.event.as_fd());
        }
        Ok(woken)
    }

    /// A handle that ends this waiter's waits.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.event))
    }
}

impl Waker {
    /// Ends the wait in progress, or the next one.
    pub fn wake(&self) {
        syscall::event_put(self.0.as_fd());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Instant;

    const LONG: Option<Duration> = Some(Duration::from_secs(20));
    const NONE: Woken = Woken {
        ready: false,
        woken: false,
    };

    #[test]
    fn time_runs_out_to_the_microsecond() {
        let waiter = Waiter::new().unwrap();
        let start = Instant::now();
        let timeout = Duration::from_micros(300);
        assert_eq!(waiter.wait(Some(timeout)).unwrap(), NONE);
        assert!(start.elapsed() >= timeout);
        assert_eq!(waiter.wait(Some(Duration::ZERO)).unwrap(), NONE);
    }

    #[test]
    fn a_waker_ends_one_wait_from_another_thread() {
        let waiter = Waiter::new().unwrap();
        let waker = waiter.waker();
        let other = std::thread::spawn({
            let waker = waker.clone();
            move || waker.wake()
        });
        let woken = waiter.wait(LONG).unwrap();
        assert!(woken.woken && !woken.ready);
        other.join().unwrap();
        waker.wake();
        waker.wake();
        assert!(waiter.wait(Some(Duration::ZERO)).unwrap().woken);
        assert_eq!(waiter.wait(Some(Duration::ZERO)).unwrap(), NONE);
    }

    #[test]
    fn a_readable_descriptor_is_reported_until_it_is_read() {
        let waiter = Waiter::new().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        waiter.add(socket.as_fd()).unwrap();
        let to = socket.local_addr().unwrap();
        UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .send_to(b"x", to)
            .unwrap();
        for _ in 0..2 {
            let woken = waiter.wait(LONG).unwrap();
            assert!(woken.ready && !woken.woken);
        }
        socket.recv(&mut [0; 8]).unwrap();
        assert_eq!(waiter.wait(Some(Duration::ZERO)).unwrap(), NONE);
        assert!(waiter.add(socket.as_fd()).is_err());
        waiter.remove(socket.as_fd()).unwrap();
        assert!(waiter.remove(socket.as_fd()).is_err());
    }
}
