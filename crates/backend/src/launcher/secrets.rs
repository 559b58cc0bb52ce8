//! Hides the backend's secrets from its children.

use nix::unistd::Uid;
use rustix::{
    process::{DumpableBehavior, getpid, set_child_subreaper, set_dumpable_behavior},
    thread::{
        CapabilitySet, capability_is_in_bounding_set, clear_ambient_capability_set,
        remove_capability_from_bounding_set,
    },
};

/// Capabilities that give access to the memory of other processes or of the kernel. Since Linux 6.14, `CAP_PERFMON`, and
/// with it `CAP_SYS_ADMIN`, permits the same reads as `CAP_SYS_PTRACE` (`may_access_mm` in kernel/fork.c).
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
/// Root owns the `/proc` files of a process that is not dumpable, so a shell of the same user cannot read `environ` or
/// attach (proc(5), ptrace(2)). A root shell still could with one of [`PRYING`]. These are dropped from the bounding
/// set, which every child inherits, and from the ambient set, which grants them to any user. Restricting root further
/// takes a container. Descriptors that the backend inherited are closed in every child.
///
/// Call before any thread is started, because capability sets are per thread.
///
/// # Errors
/// When the kernel refuses to make the process non-dumpable, or a root shell would keep one of [`PRYING`].
pub fn keep_secrets() -> std::io::Result<()> {
    protect()?;
    clear_ambient_capability_set()?;
    for capability in PRYING {
        // Fails without root, but then no shell can gain the capability from this set either.
        let removed = remove_capability_from_bounding_set(capability);
        // A kernel that does not know a capability cannot grant it.
        let left = capability_is_in_bounding_set(capability).unwrap_or(false);
        if left && Uid::effective().is_root() {
            let why = removed.err().map(|error| error.to_string()).unwrap_or_default();
            return Err(std::io::Error::other(format!(
                "a root shell would keep {capability:?} ({why}): run as another user, or with CAP_SETPCAP"
            )));
        }
    }
    Ok(())
}

/// The part that an init needs, which starts no shells. The backend that it starts has capabilities that shells lack, if
/// there are any to drop, so that they cannot access it before it protects itself.
///
/// # Errors
/// When the kernel refuses to make the process non-dumpable.
pub fn protect() -> std::io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // The processes of a killed host become children of this process, which ends them (`reap`, `init`).
    set_child_subreaper(Some(getpid()))?;
    close_fds::set_fds_cloexec(3, &[]);
    Ok(())
}
