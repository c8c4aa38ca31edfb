//! The scripts, each behind the same prelude.

use std::sync::LazyLock;

use redis_link::Script;

/// Which script to run.
pub(crate) type Source = fn(&Scripts) -> &Script;

macro_rules! scripts {
    ($($name:ident)*) => {
        /// Every script of `src/scripts`.
        pub(crate) struct Scripts {
            /// Makes the store; the only one without the prelude.
            pub(crate) init: Script,
            $(pub(crate) $name: Script,)*
        }

        /// The scripts, hashed once.
        pub(crate) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
            init: Script::new(include_str!("../scripts/init.lua")),
            $($name: Script::new(concat!(
                include_str!("../scripts/prelude.lua"),
                include_str!(concat!("../scripts/", stringify!($name), ".lua")),
            )),)*
        });
    };
}

scripts! {
    available
    changes
    cluster_expire
    cluster_register
    cluster_seen
    cluster_status
    deploy_status
    heartbeat
    host
    instance_delete
    instance_deploy
    instance_drain
    interest_delete
    overview
    queue_leave
    queue_step
    resolve
    service_delete
    service_deploy
    subnet_return
    subnet_take
}
