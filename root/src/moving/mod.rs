//! Moving in and out: `import` takes over what a reference root knew (or a backup of ours), so that
//! an upgrade renumbers nobody; `export` writes such a backup.
//!
//! All or nothing: every document is read and checked before anything is written, and until the
//! last key is written the store has no epoch, without which nobody uses it.

mod document;
mod plan;
mod read;
mod write;

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::store::Store;
use plan::Plan;

/// Redis must answer within this; a person waits.
const WAIT: Duration = Duration::from_secs(10);

/// What to do instead of serving.
#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Command {
    /// Take over addresses, services and clusters from a reference root or a backup.
    ///
    /// Reads what `mongoexport` writes (lines or --jsonArray) of the reference's collections jobs
    /// (database jobs), netcache (database netcache) and cluster (database cluster), in any order,
    /// or what `export` wrote. Nothing is stored unless everything can be.
    Import {
        /// The files; - is standard input.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Throw away what the store holds now.
        #[arg(long)]
        replace: bool,
    },
    /// Write a backup that `import` takes back: one document a line.
    ///
    /// It is the store at one moment, though the managers go on meanwhile. After an import every
    /// cluster reads its jobs again.
    Export {
        /// The file, which must not exist yet; standard output without it.
        file: Option<PathBuf>,
    },
}

/// Runs a command.
pub(crate) async fn run(command: Command, store: &Store) -> anyhow::Result<()> {
    match command {
        Command::Import { files, replace } => {
            let mut plan = Plan::default();
            for file in &files {
                read_file(&mut plan, file)?;
            }
            let ready = plan.check()?;
            answer_soon(store).await?;
            write::write(store, &ready, replace).await?;
            eprintln!("imported {ready}");
            Ok(())
        }
        Command::Export { file } => {
            answer_soon(store).await?;
            let backup = read::read(store).await?;
            match file {
                None => read::print(&backup, std::io::stdout().lock())?,
                Some(path) => save(&backup, &path)?,
            }
            eprintln!("exported {backup}");
            Ok(())
        }
    }
}

/// Beside its place first, so that a half-written backup never has a backup's name.
fn save(backup: &read::Backup, path: &Path) -> anyhow::Result<()> {
    let what = || format!("cannot write {}", path.display());
    anyhow::ensure!(!path.exists(), "{} is there already", path.display());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let mut to = BufWriter::new(File::create(&part).with_context(what)?);
    read::print(backup, &mut to)?;
    to.flush().with_context(what)?;
    to.get_ref().sync_all().with_context(what)?;
    std::fs::rename(&part, path).with_context(what)
}

fn read_file(plan: &mut Plan, path: &Path) -> anyhow::Result<()> {
    let from: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        Box::new(BufReader::with_capacity(1 << 20, file))
    };
    let source: Arc<str> = path.display().to_string().into();
    let mut number = 0;
    protocol::mongo_export::documents(from, |document| {
        number += 1;
        plan.add(document, &source, number)
    })
    .with_context(|| path.display().to_string())?;
    Ok(())
}

async fn answer_soon(store: &Store) -> anyhow::Result<()> {
    match tokio::time::timeout(WAIT, store.answers()).await {
        Ok(()) => Ok(()),
        Err(_) => {
            anyhow::bail!("Redis does not answer; check that it runs and that REDIS_URL is right")
        }
    }
}
