//! Lives of a node that end as by `kill -9`.

use std::time::Duration;

/// Runs a life of the node that ends as by `kill -9`: its tasks are gone in the middle of what they do.
pub fn killed<F: Future<Output = ()>>(life: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(life());
        runtime.shutdown_timeout(Duration::from_secs(5));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
