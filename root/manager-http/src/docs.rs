//! The description of a manager's interface: the page that shows it, and what this crate's server adds to what the
//! handlers say of themselves.

use axum::http::header::CONTENT_SECURITY_POLICY;
use axum::response::{Html, IntoResponse};
use utoipa::Modify;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, ResponseBuilder};

use crate::guard::GUARDED;

/// For our pages: nothing from elsewhere, and nothing of ours anywhere else.
pub const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A page that shows the description at `/docs/openapi.json`.
pub async fn page() -> impl IntoResponse {
    (
        [(CONTENT_SECURITY_POLICY, POLICY)],
        Html(include_str!("docs/page.html")),
    )
}

/// Adds the answers that the server gives before a handler is asked. Their body is the schema `ErrorMessage`.
#[derive(Debug)]
pub struct Refusals;

impl Modify for Refusals {
    fn modify(&self, description: &mut OpenApi) {
        for (path, item) in &mut description.paths.paths {
            let operations = [
                &mut item.get,
                &mut item.put,
                &mut item.post,
                &mut item.delete,
                &mut item.patch,
            ];
            for operation in operations.into_iter().flatten() {
                if path.starts_with(GUARDED) {
                    let text = "No token or certificate, where this manager wants one";
                    add(operation, "401", text);
                }
                if operation.request_body.is_some() {
                    add(operation, "408", "The body did not come in time");
                    add(operation, "413", "The body is larger than MAX_BODY_BYTES");
                }
                let text = "More than MAX_REQUESTS_PER_SECOND from this address";
                add(operation, "429", text);
            }
        }
    }
}

fn add(operation: &mut Operation, status: &str, text: &str) {
    let body = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("ErrorMessage")))
        .build();
    operation
        .responses
        .responses
        .entry(status.to_owned())
        .or_insert_with(|| {
            ResponseBuilder::new()
                .description(text)
                .content("application/json", body)
                .build()
                .into()
        });
}

/// For tests: `method path` of what only one of the two has, a description and the source of a router (from its first
/// `.route(` on). Pages for people, and a path with a slash too many, need no description.
#[must_use]
pub fn differences(description: &OpenApi, router: &str) -> Vec<String> {
    let text: String = router.chars().filter(|c| !c.is_whitespace()).collect();
    let served: Vec<String> = text
        .split(".route(\"")
        .skip(1)
        .filter_map(|route| {
            let (path, rest) = route.split_once('"')?;
            let method = rest.trim_start_matches(',').split('(').next()?;
            let method = method.rsplit("::").next()?;
            let for_people = ["/docs/openapi.json", "/api/docs"].contains(&path);
            (!path.ends_with('/') && !for_people).then(|| format!("{method} {path}"))
        })
        .collect();
    let mut described = Vec::new();
    for (path, item) in &description.paths.paths {
        let methods = [
            ("get", &item.get),
            ("put", &item.put),
            ("post", &item.post),
            ("delete", &item.delete),
            ("patch", &item.patch),
        ];
        for (method, operation) in methods {
            if operation.is_some() {
                described.push(format!("{method} {path}"));
            }
        }
    }
    let missing = |these: &[String], those: &[String]| {
        let only = these.iter().filter(|one| !those.contains(one));
        only.cloned().collect::<Vec<_>>()
    };
    let mut found = missing(&served, &described);
    found.extend(missing(&described, &served));
    found
}
