//! What the backend's children cannot see.

use nix::unistd::Uid;
use rustix::{
    process::{DumpableBehavior, getpid, set_child_subreaper, set_dumpable_behavior},
    thread::{
        CapabilitySet, capability_is_in_bounding_set, clear_ambient_capability_set,
        remove_capability_from_bounding_set,
    },
};

/// Capabilities that open other processes' memory, or the kernel's. Since Linux 6.14 `CAP_PERFMON`, and with it
/// `CAP_SYS_ADMIN`, is as good as `CAP_SYS_PTRACE` for reading (`may_access_mm` in kernel/fork.c).
const PRYING: [CapabilitySet; 6] = [
    CapabilitySet::SYS_PTRACE,
    CapabilitySet::PERFMON,
    CapabilitySet::SYS_ADMIN,
    CapabilitySet::BPF,
    CapabilitySet::SYS_RAWIO,
    CapabilitySet::SYS_MODULE,
];

/// Keeps the backend's memory and environment from the shells that it starts.
///
/// A process that is not dumpable owns its `/proc` files as root, so that a shell of the same user cannot read
/// `environ` or attach (proc(5), ptrace(2)). A shell of root could all the same with one of [`PRYING`]; they are taken
/// from the bounding set, which every child inherits, and from the ambient set, by which any user may have them. What
/// root can do beyond that needs a container's limits. Descriptors that were left open by whoever started the backend are
/// closed in every child.
///
/// Must be called before any thread is started: these sets belong to a thread.
///
/// # Errors
/// When the kernel refuses to make the process non-dumpable, or a shell of root would have one of [`PRYING`].
pub fn keep_secrets() -> std::io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // What a host leaves when it is killed comes here, and is ended (`reap`).
    set_child_subreaper(Some(getpid()))?;
    close_fds::set_fds_cloexec(3, &[]);
    clear_ambient_capability_set()?;
    for capability in PRYING {
        // Not being root, there is no right to remove it, and no shell gets it from this set.
        let removed = remove_capability_from_bounding_set(capability);
        // A kernel that does not know a capability gives it to nobody.
        let left = capability_is_in_bounding_set(capability).unwrap_or(false);
        if left && Uid::effective().is_root() {
            let why = removed.err().map(|error| error.to_string()).unwrap_or_default();
            return Err(std::io::Error::other(format!(
                "a shell of root would have {capability:?} ({why}): run as another user, or with CAP_SETPCAP"
            )));
        }
    }
    Ok(())
}
