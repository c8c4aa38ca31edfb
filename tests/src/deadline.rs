//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// Nothing to wait for any more: [`wait_for`] gives up at once.
#[derive(Debug)]
pub struct Hopeless(pub String);

impl std::fmt::Display for Hopeless {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Hopeless {}

/// Looks until `condition` answers a value, at most `limit` long.
///
/// # Errors
/// When the time is over: names `what`, and the last reason that `condition` gave; at once when that
/// is [`Hopeless`].
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        let last = match condition() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) if error.is::<Hopeless>() => {
                return Err(error).context(format!("waiting for {what}"));
            }
            Err(error) => Some(error),
        };
        crate::signals::check()?;
        if Instant::now() >= end {
            let waited = format!("waited {} s for {what}", limit.as_secs_f32());
            match last {
                Some(error) => return Err(error).context(waited),
                None => bail!("{waited}"),
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// [`wait_for`] with a plain yes or no.
///
/// # Errors
/// When the time is over.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, limit, || Ok(condition().then_some(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reason_is_told_when_the_time_is_over() {
        let error =
            wait_for::<()>("rain", Duration::from_millis(1), || bail!("no cloud")).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("rain") && text.contains("no cloud"), "{text}");
    }

    #[test]
    fn nobody_waits_for_what_cannot_come() {
        let mut looks = 0;
        let error = wait_for::<()>("the dead", Duration::from_secs(60), || {
            looks += 1;
            Err(Hopeless("it has ended".into()).into())
        });
        assert!(format!("{:#}", error.unwrap_err()).contains("it has ended"));
        assert_eq!(looks, 1);
    }

    #[test]
    fn a_condition_that_comes_true_is_seen() {
        let mut looks = 0;
        wait_until("three looks", Duration::from_secs(5), || {
            looks += 1;
            looks == 3
        })
        .unwrap();
        assert_eq!(looks, 3);
    }
}
