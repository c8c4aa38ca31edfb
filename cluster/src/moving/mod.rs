//! Moving in and out: `import` takes over what a reference cluster manager knew of its nodes (or a
//! backup of ours), `export` writes such a backup. Jobs themselves are the root's: of them only
//! what nodes said is kept, and everything is read from the root, and reported to it, after that.

mod plan;

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::store::{Exported, Store, StoreError};
use plan::{MANAGER, Plan, Refused};

/// Redis must answer within this; a person waits.
const WAIT: Duration = Duration::from_secs(10);

/// What to do instead of serving.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Take over nodes' subnetworks, interests and instances from a reference manager or a backup.
    ///
    /// Reads what `mongoexport` writes (lines or --jsonArray) of the reference's collections nodes
    /// (database nodes) and jobs (database jobs), in any order, or what `export` wrote. Nothing is
    /// stored unless everything can be. Export before the reference manager starts again: it drops
    /// its jobs then. Stop this manager meanwhile.
    Import {
        /// The files; - is standard input.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Throw away what the store holds now.
        #[arg(long)]
        replace: bool,
    },
    /// Write a backup that `import` takes back: one document a line.
    Export {
        /// The file, which must not exist yet; standard output without it.
        file: Option<PathBuf>,
    },
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum MovingError {
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file holds something else.
    #[error("{}: {reason}; nothing was imported", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What.
        reason: String,
    },
    /// The documents contradict each other.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store is in use.
    #[error(
        "the store is in use: {0}; import into an empty one, or throw its contents away with --replace"
    )]
    InUse(String),
    /// Redis does not answer.
    #[error("Redis does not answer; check that it runs and that REDIS_URL is right")]
    Away,
    /// The store's part.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Runs a command.
///
/// # Errors
/// See [`MovingError`].
pub async fn run(command: Command, store: &Store) -> Result<(), MovingError> {
    match command {
        Command::Import { files, replace } => {
            let mut plan = Plan::default();
            for file in &files {
                read(&mut plan, file)?;
            }
            let documents = plan.check()?;
            answer_soon(store).await?;
            let count = documents.len();
            match store.import(&documents, replace).await?.as_str() {
                "OK" => eprintln!("imported {count} nodes and jobs"),
                in_the_way => return Err(MovingError::InUse(in_the_way.to_owned())),
            }
        }
        Command::Export { file } => {
            answer_soon(store).await?;
            let exported = store.export().await?;
            let failed = |path: &Path| {
                let path = path.to_owned();
                move |error| MovingError::File { path, error }
            };
            match file {
                None => print(&exported, std::io::stdout().lock()).map_err(failed("-".as_ref()))?,
                Some(path) => save(&exported, &path).map_err(failed(&path))?,
            }
            eprintln!(
                "exported {} nodes and {} jobs",
                exported.nodes.len(),
                exported.jobs.len()
            );
        }
    }
    Ok(())
}

/// Beside its place first, so that a half-written backup never has a backup's name.
fn save(exported: &Exported, path: &Path) -> std::io::Result<()> {
    if path.exists() {
        return Err(std::io::ErrorKind::AlreadyExists.into());
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let mut to = BufWriter::new(File::create(&part)?);
    print(exported, &mut to)?;
    to.get_ref().sync_all()?;
    std::fs::rename(&part, path)
}

fn print(exported: &Exported, mut to: impl Write) -> std::io::Result<()> {
    let mut line = |document: serde_json::Value| writeln!(to, "{document}");
    line(json!({"backup_of": MANAGER}))?;
    for (node, pairs, host) in &exported.nodes {
        let subnets: Vec<Vec<&str>> = pairs.iter().map(|pair| pair.split(' ').collect()).collect();
        let mut document = json!({"_id": node, "subnets": subnets});
        if !host.is_empty() {
            document["host"] = json!(host);
        }
        line(document)?;
    }
    for (job, interested, locals) in &exported.jobs {
        line(json!({"job_name": job, "interested_nodes": interested, "locals": locals}))?;
    }
    for (kind, pairs) in [
        ("free_subnet", &exported.free),
        ("owed_subnet", &exported.owed),
    ] {
        for pair in pairs {
            line(json!({"type": kind, "subnet": pair}))?;
        }
    }
    to.flush()
}

fn read(plan: &mut Plan, path: &Path) -> Result<(), MovingError> {
    let from: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let file = File::open(path).map_err(|error| MovingError::File {
            path: path.to_owned(),
            error,
        })?;
        Box::new(BufReader::new(file))
    };
    protocol::mongo_export::documents(from, |document| plan.add(&document))
        .map(drop)
        .map_err(|error| MovingError::Document {
            path: path.to_owned(),
            reason: error.to_string(),
        })
}

async fn answer_soon(store: &Store) -> Result<(), MovingError> {
    match tokio::time::timeout(WAIT, store.open()).await {
        Ok(opened) => Ok(opened?),
        Err(_) => Err(MovingError::Away),
    }
}
