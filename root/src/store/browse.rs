//! What a person looks at: clusters, and the jobs that changed last or are searched for.

use protocol::root_http::{Overview as Page, OverviewCluster};

use super::{Store, StoreError, table};
use crate::keys::TAG;

/// Jobs in one answer at most.
pub(crate) const MOST: usize = 300;
/// Names looked at in one step of a search.
const STEP: usize = 2000;

impl Store {
    /// The jobs that changed last, or those whose name holds a text.
    pub(crate) async fn browse(&self, search: &str) -> Result<Page, StoreError> {
        type Cluster = (String, String, String, String, u64, u64);
        type Jobs = Vec<(String, Vec<(String, String)>)>;
        let most = MOST.to_string();
        let names = if search.is_empty() {
            Vec::new()
        } else {
            self.search(search).await?
        };
        let named = if search.is_empty() { "0" } else { "1" };
        let mut args = vec![most.as_str(), named];
        args.extend(names.iter().map(String::as_str));
        let (epoch, revision, jobs_stored, next, resting, clusters, jobs): (
            String,
            u64,
            u64,
            u64,
            u64,
            Vec<Cluster>,
            Jobs,
        ) = self.call(|all| &all.browse, &args).await?;
        let mut clusters: Vec<OverviewCluster> = clusters
            .into_iter()
            .map(
                |(cluster_id, cluster_address, port, status, pending, interests)| OverviewCluster {
                    cluster_id,
                    cluster_address,
                    cluster_port: port.parse().ok(),
                    status,
                    pending,
                    interests,
                },
            )
            .collect();
        clusters.sort_unstable_by(|a, b| a.cluster_id.cmp(&b.cluster_id));
        Ok(Page {
            epoch,
            revision,
            jobs_stored,
            subnets_in_use: next.saturating_sub(resting),
            clusters,
            jobs: jobs
                .into_iter()
                .map(|(name, fields)| table::stored_job(&name, None, &fields))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Names that hold a text, in their order, up to [`MOST`].
    async fn search(&self, text: &str) -> Result<Vec<String>, StoreError> {
        let mut found = Vec::new();
        let mut cursor = String::from("0");
        loop {
            let mut scan = redis_link::cmd("ZSCAN");
            scan.arg(format!("{TAG}jobs"))
                .arg(&cursor)
                .arg("MATCH")
                .arg(format!("*{text}*"))
                .arg("COUNT")
                .arg(STEP);
            let (next, page): (String, Vec<(String, f64)>) = self.ask(&scan).await?;
            found.extend(page.into_iter().map(|(name, _)| name));
            if next == "0" || found.len() >= MOST {
                found.sort_unstable();
                found.dedup();
                found.truncate(MOST);
                return Ok(found);
            }
            cursor = next;
        }
    }

    /// A text that is another one whenever [`Store::browse`] would answer something else.
    pub(crate) async fn pulse(&self) -> Result<String, StoreError> {
        self.call(|all| &all.pulse, &[]).await
    }
}
