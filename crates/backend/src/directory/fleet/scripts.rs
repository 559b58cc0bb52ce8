//! The scripts, each applied atomically. Each names its keys, arguments and result in its first lines.

use std::sync::LazyLock;

use redis::Script;

macro_rules! scripts {
    ($($name:ident $file:literal)*) => {
        $(pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(include_str!(concat!("scripts/", $file, ".lua"))));)*
    };
}

scripts! {
    RENEW "renew"
    CLAIM "claim"
    ASSERT "assert"
    CONNECTIONS "connections"
    RELEASE "release"
    FIND "find"
    REAP "reap"
    BURY "bury"
    FORGET "forget"
    LEAVE "leave"
}
