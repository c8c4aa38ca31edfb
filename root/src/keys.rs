//! What the root keeps in Redis. All state is there, so that any number of replicas may run; a
//! replica holds nothing that another could not rebuild.
//!
//! Every key begins with `{oak:root}:`, whose braces put all of them into one slot of a Redis
//! Cluster, so that a script may touch any of them. Scripts alone write (`scripts/*.lua`); each is
//! atomic. Addresses are hex digits (8 for IPv4, 32 for IPv6).
//!
//! | key | type | holds |
//! |---|---|---|
//! | `schema` | text | version of this layout, [`SCHEMA_VERSION`]; another one stops the root; [`IMPORT_UNDER_WAY`] while `import` writes |
//! | `epoch` | text | names this store; made once, and made anew when the server that holds it may have lost something |
//! | `server` | text | run id of the server that held the store last: another one is looked at before it is used |
//! | `revision` | counter | grows by one with every change of any job |
//! | `id:<_id>` | text | the job's name |
//! | `job:<name>` | hash | `id`, `app`, `rev`, `node` (host jobs only), `s<policy>` = `v4 TAB v6`, `i<number>` = nine fields, see below |
//! | `jobs` | zset | every job → revision of its last change |
//! | `ip:<hex without its last digit>` | hash | last digit → owner: `<job>` for a Service IP, `<job>/<number>` for an Instance IP or namespace IP |
//! | `next` | hash | pool → first index never handed out |
//! | `rest:<pool>` | zset | given-back address → when (ms since 1970) |
//! | `rest:subnet` | zset | given-back subnetwork index → when |
//! | `cluster:<id>` | hash | `address`, `port`, `known` (TAB-separated), `status`, `since`, `seen`, `prev` (last revision on its channel) |
//! | `clusters` | set | ids |
//! | `at:<address>` | set | ids of the clusters known by that address or host name |
//! | `watch:<job>` | set | ids of the interested clusters |
//! | `feed:<id>` | zset | the cluster's interests → revision of the job's last change |
//! | `gone:<id>` | zset | tombstones: jobs deleted while watched → revision |
//! | `queue:<id>` | zset | undelivered notification `kind TAB job TAB number` → revision |
//! | `due` | set | ids of the clusters whose queue is not empty |
//! | `lease:<id>` | text, expiring | the replica that delivers this queue |
//! | `beat` | text, expiring | one replica sends heartbeats at a time |
//!
//! The nine fields of an instance, TAB-separated: Instance IPv4, Instance IPv6, weight, draining
//! (`1`), namespace IPv4, namespace IPv6, host, port, cluster id.
//!
//! What always holds:
//! - `id:<x>` = n exactly when `job:<n>`.`id` = x.
//! - An address never has an owner and rests at once; below `next` it does one of the two. At or
//!   above `next` it may have an owner (who chose it), or rest after that, and the sequence skips
//!   it. A subnetwork below `next` that does not rest is in use.
//! - Each address in a job has that job (or instance) as owner; each owner has the address.
//! - `jobs` has exactly the jobs, each with its `rev`.
//! - c is in `watch:<j>` exactly when j is in `feed:<c>`, and then `feed` has the job's `rev`.
//! - `queue:<c>` is not empty only if c is in `due`.

/// Tag of every key.
pub(crate) const TAG: &str = "{oak:root}:";
/// A key that says which slot is ours.
pub(crate) const SLOT_KEY: &str = "{oak:root}:schema";
/// Version of the layout above.
pub(crate) const SCHEMA_VERSION: &str = "1";

/// What `schema` says until an import is complete; nothing else is done with the store meanwhile.
pub(crate) const IMPORT_UNDER_WAY: &str = "import";

/// The set of clusters whose queue is not empty.
pub(crate) fn due() -> String {
    format!("{TAG}due")
}
