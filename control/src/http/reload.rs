//! `POST /reload`: settings that change without a restart.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};

use crate::config::ConfigError;
use crate::node::Refusal;
use crate::reload::{Reload, Reloaded};

async fn reload(State(reload): State<Arc<Reload>>) -> Result<Json<Reloaded>, Refusal> {
    let outcome = tokio::task::spawn_blocking(move || reload.reload())
        .await
        .map_err(super::show::failed)?;
    match outcome {
        Ok(report) => {
            tracing::info!(changed = ?report.changed, after_a_restart = ?report.restart, "settings read again");
            Ok(Json(report))
        }
        Err(errors) => {
            let message = errors
                .0
                .iter()
                .map(ConfigError::to_string)
                .collect::<Vec<_>>();
            Err(Refusal {
                status: 400,
                message: format!("nothing has changed:\n{}", message.join("\n")),
            })
        }
    }
}

/// The route, for a node whose settings can be read again.
pub fn router(reload_from: Arc<Reload>) -> Router {
    Router::new()
        .route("/reload", post(reload))
        .with_state(reload_from)
}
