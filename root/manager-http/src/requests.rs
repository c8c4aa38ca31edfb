//! What was asked of a manager, how it was answered and how long that took, in Prometheus' conventions.
//!
//! A series per path would be one per job; so a request counts for its route, as the router has it
//! (`/api/net/service/{name}/instances`). The router alone knows it, and what never got there (refused, or at no path of
//! ours) has none.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

/// The route of what has none.
const NONE: &str = "none";
/// Upper bounds, in seconds.
const BOUNDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// Counters of requests since the start.
#[derive(Debug, Default)]
pub struct Requests(Mutex<HashMap<String, Route>>);

/// What is counted of one route.
#[derive(Debug, Default)]
struct Route {
    /// By method and status.
    answers: BTreeMap<(&'static str, u16), u64>,
    /// Those within each bound and above the one before; what is slower is in none.
    within: [u64; BOUNDS.len()],
    spent: Duration,
    count: u64,
}

/// A layer for a router: leaves with the answer which of its routes gave it.
pub async fn known_route(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut answer = next.run(request).await;
    if let Some(route) = route {
        answer.extensions_mut().insert(route);
    }
    answer
}

impl Requests {
    pub(crate) fn count(
        &self,
        method: &Method,
        route: Option<&MatchedPath>,
        status: StatusCode,
        took: Duration,
    ) {
        let name = route.map_or(NONE, MatchedPath::as_str);
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !routes.contains_key(name) {
            routes.insert(name.to_owned(), Route::default());
        }
        let Some(route) = routes.get_mut(name) else {
            return;
        };
        *route
            .answers
            .entry((known(method), status.as_u16()))
            .or_default() += 1;
        let seconds = took.as_secs_f64();
        let bound = BOUNDS.iter().position(|bound| seconds <= *bound);
        if let Some(within) = bound.and_then(|at| route.within.get_mut(at)) {
            *within += 1;
        }
        route.spent += took;
        route.count += 1;
    }

    /// All of it, in the Prometheus text format.
    #[must_use]
    pub fn text(&self) -> String {
        let routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sorted: BTreeMap<_, _> = routes.iter().collect();
        // Writing to a String cannot fail.
        let mut out = String::from(
            "# HELP http_requests_total Requests, by route of the interface and status of the answer.\n# TYPE http_requests_total counter\n",
        );
        for (name, route) in &sorted {
            for ((method, status), count) in &route.answers {
                let _ = writeln!(
                    out,
                    "http_requests_total{{method=\"{method}\",route=\"{name}\",status=\"{status}\"}} {count}"
                );
            }
        }
        out.push_str("# HELP http_request_duration_seconds Time from a request's head to its answer's, by route.\n# TYPE http_request_duration_seconds histogram\n");
        for (name, route) in &sorted {
            let mut below = 0;
            for (bound, within) in BOUNDS.iter().zip(route.within) {
                below += within;
                let _ = writeln!(
                    out,
                    "http_request_duration_seconds_bucket{{route=\"{name}\",le=\"{bound}\"}} {below}"
                );
            }
            let _ = writeln!(
                out,
                "http_request_duration_seconds_bucket{{route=\"{name}\",le=\"+Inf\"}} {count}\nhttp_request_duration_seconds_sum{{route=\"{name}\"}} {seconds}\nhttp_request_duration_seconds_count{{route=\"{name}\"}} {count}",
                count = route.count,
                seconds = route.spent.as_secs_f64()
            );
        }
        out
    }
}

/// A caller may invent methods, and would make a series of each.
fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_all_that_was_faster_and_invented_methods_are_one() {
        let requests = Requests::default();
        for (method, status, milliseconds) in [
            ("GET", 200, 2),
            ("GET", 404, 80),
            ("BREW", 405, 20_000),
            ("X", 405, 1),
        ] {
            requests.count(
                &method.parse().unwrap(),
                None,
                StatusCode::from_u16(status).unwrap(),
                Duration::from_millis(milliseconds),
            );
        }
        let text = requests.text();
        for line in [
            "http_requests_total{method=\"GET\",route=\"none\",status=\"404\"} 1",
            "http_requests_total{method=\"other\",route=\"none\",status=\"405\"} 2",
            "http_request_duration_seconds_bucket{route=\"none\",le=\"0.001\"} 1",
            "http_request_duration_seconds_bucket{route=\"none\",le=\"0.05\"} 2",
            "http_request_duration_seconds_bucket{route=\"none\",le=\"10\"} 3",
            "http_request_duration_seconds_bucket{route=\"none\",le=\"+Inf\"} 4",
            "http_request_duration_seconds_sum{route=\"none\"} 20.083",
            "http_request_duration_seconds_count{route=\"none\"} 4",
        ] {
            assert!(text.lines().any(|is| is == line), "{line} in\n{text}");
        }
    }
}
