//! Writes the seed corpus into dataplane/fuzz/corpus.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, seeds) in [
        ("net", fuzz::seeds::packets()),
        ("pipeline", fuzz::seeds::scripts()),
    ] {
        std::fs::create_dir_all(corpus.join(target))?;
        for (name, seed) in seeds {
            std::fs::write(corpus.join(target).join(name), seed)?;
        }
    }
    Ok(())
}
