//! A deploy is all or nothing: each step that changes the machine leaves here how to take it back.

use std::future::Future;
use std::pin::Pin;

type Step = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Steps that take back what was done, latest last.
#[derive(Default)]
pub struct Undo {
    steps: Vec<(&'static str, Step)>,
}

impl Undo {
    /// Remembers how to take something back.
    pub fn push(
        &mut self,
        name: &'static str,
        step: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        self.steps.push((name, Box::pin(step)));
    }

    /// Takes everything back, latest first. A step that fails is logged, and the others still run.
    pub async fn run(mut self) {
        while let Some((name, step)) = self.steps.pop() {
            if let Err(error) = step.await {
                tracing::error!(step = name, %error, "taking back a failed deploy: this step failed; its remains go at the next start");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[tokio::test]
    async fn steps_run_backwards_and_past_a_failure() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::default();
        for name in ["first", "second", "third"] {
            let log = Arc::clone(&log);
            undo.push(name, async move {
                log.lock().unwrap().push(name);
                if name == "second" {
                    Err("no".to_owned())
                } else {
                    Ok(())
                }
            });
        }
        undo.run().await;
        assert_eq!(*log.lock().unwrap(), ["third", "second", "first"]);
    }
}
