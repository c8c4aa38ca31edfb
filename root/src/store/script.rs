//! The scripts, each behind the parts that it needs: a script is compiled once by Redis, but its
//! functions are made anew on every call, so none carries what it does not use.

use std::sync::LazyLock;

use redis_link::Script;

/// Which script to run.
pub(crate) type Source = fn(&Scripts) -> &Script;

/// Run on each new connection, see `settle.lua`.
pub(crate) fn settle() -> Script {
    let schema = crate::keys::SCHEMA_VERSION;
    let subnets = protocol::address_plan::SUBNET_V4_COUNT;
    Script::new(&format!(
        "local SCHEMA, SUBNETS = '{schema}', {subnets}\n{}{}{}{}",
        include_str!("../scripts/parts/unmade.lua"),
        include_str!("../scripts/parts/prelude.lua"),
        include_str!("../scripts/parts/pools.lua"),
        include_str!("../scripts/settle.lua"),
    ))
}

macro_rules! scripts {
    ($($name:ident: $($part:ident)*;)*) => {
        /// Every script of `src/scripts`.
        pub(crate) struct Scripts {
            /// Makes the store; without the prelude.
            pub(crate) init: Script,
            /// Reserves the store; without the prelude, too.
            pub(crate) import_begin: Script,
            /// Opens it again.
            pub(crate) import_end: Script,
            $(pub(crate) $name: Script,)*
        }

        /// The scripts, hashed once.
        pub(crate) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
            init: Script::new(include_str!("../scripts/init.lua")),
            import_begin: Script::new(include_str!("../scripts/import_begin.lua")),
            import_end: Script::new(include_str!("../scripts/import_end.lua")),
            $($name: Script::new(concat!(
                include_str!("../scripts/parts/prelude.lua"),
                $(include_str!(concat!("../scripts/parts/", stringify!($part), ".lua")),)*
                include_str!(concat!("../scripts/", stringify!($name), ".lua")),
            )),)*
        });
    };
}

scripts! {
    available: pools;
    browse: ;
    changes: callers;
    cluster_expire: ;
    cluster_register: ;
    cluster_seen: ;
    cluster_status: ;
    deploy_status: telling;
    export_page: ;
    heartbeat: ;
    host: pools telling;
    instance_delete: pools telling;
    instance_deploy: pools telling;
    instance_drain: telling;
    interest_delete: callers;
    overview: ;
    pulse: ;
    queue_leave: ;
    queue_step: ;
    resolve: callers;
    service_delete: pools telling;
    service_deploy: pools telling;
    subnet_return: ;
    subnet_take: ;
}
