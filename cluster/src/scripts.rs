//! The Lua scripts: every change of more than one key is one of them, so replicas never interleave.

use std::sync::LazyLock;

use redis_link::Script;

macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {$(
        pub static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(
                include_str!("scripts/prelude.lua"),
                include_str!(concat!("scripts/", $file)),
            ))
        });
    )*};
}

scripts! {
    DEPLOYED = "deployed.lua";
    UNDEPLOYED = "undeployed.lua";
    ADDRESS_CHANGED = "address_changed.lua";
    LOOKUP = "lookup.lua";
    STORE_JOB = "store_job.lua";
    JOB_UNKNOWN = "job_unknown.lua";
    DELETE_DEPLOYMENT = "delete_deployment.lua";
    INTEREST_REMOVE = "interest_remove.lua";
    REPORTED = "reported.lua";
    FORGOTTEN = "forgotten.lua";
    LOAD = "load.lua";
    NODE_STATUS = "node_status.lua";
    LIVENESS = "liveness.lua";
    DEPART = "depart.lua";
    SEEN = "seen.lua";
    SIGN = "sign.lua";
    FORGET_NODE = "forget_node.lua";
    SUBNET_GET = "subnet_get.lua";
    SUBNET_ASSIGN = "subnet_assign.lua";
    SUBNET_DELETE = "subnet_delete.lua";
    SUBNET_REST = "subnet_rest.lua";
    OWE = "owe.lua";
    CLAIM = "claim.lua";
    FINISH = "finish.lua";
    EPOCH_CHANGED = "epoch_changed.lua";
    LEASE = "lease.lua";
    SETTLE = "settle.lua";
    IMPORT = "import.lua";
    EXPORT = "export.lua";
}
