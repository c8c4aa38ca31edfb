//! The description of this interface, for programs and for people. The page loads nothing from
//! elsewhere, so it works where there is no way out.

use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse};

/// OpenAPI 3.
pub(crate) async fn description() -> impl IntoResponse {
    (
        [(CONTENT_TYPE, "application/json")],
        include_str!("../docs/openapi.json"),
    )
}

/// A page that shows it.
pub(crate) async fn page() -> Html<&'static str> {
    Html(include_str!("../docs/page.html"))
}
