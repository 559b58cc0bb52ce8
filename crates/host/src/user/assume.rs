//! Makes this process another user, for good.

use std::io;

use nix::unistd::{getgroups, getresgid, getresuid};
use rustix::{
    fs::Mode,
    process::{Gid, Uid, umask},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, no_new_privs,
        remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs,
        set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

/// Becomes this user, without any capability.
pub(super) fn user(user: Uid) -> io::Result<()> {
    assume(user, user, CapabilitySet::empty())
}

/// Becomes this user but keeps `keep`, which no program that this process executes gets.
pub(super) fn user_with(user: Uid, keep: CapabilitySet) -> io::Result<()> {
    assume(user, user, keep)
}

/// May do what this user may, without its processes being able to signal this one: `real` is the other user that they
/// would have to be (kill(2)).
pub(super) fn user_behind(user: Uid, real: Uid) -> io::Result<()> {
    assume(user, real, CapabilitySet::empty())
}

fn assume(user: Uid, real: Uid, keep: CapabilitySet) -> io::Result<()> {
    umask(Mode::RWXG | Mode::RWXO);
    // Without CAP_SETPCAP the bounding set stays as it is, but no program can raise a capability from it any more, because
    // of no_new_privs.
    for capability in CapabilitySet::all().iter().filter(|capability| capability.bits().count_ones() == 1) {
        let _ = remove_capability_from_bounding_set(capability);
    }
    clear_ambient_capability_set()?;
    set_keep_capabilities(!keep.is_empty())?;
    let group = Gid::from_raw(user.as_raw());
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(real, user, real)?;
    set_keep_capabilities(false)?;
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    set_no_new_privs(true)?;
    check(user, real, keep)
}

/// Everything later relies on this, so nothing happens unless it is so.
fn check(user: Uid, real: Uid, keep: CapabilitySet) -> io::Result<()> {
    let (users, groups) = (getresuid()?, getresgid()?);
    let has = capabilities(None)?;
    let is = [users.real, users.effective, users.saved].map(nix::unistd::Uid::as_raw)
        == [real, user, real].map(Uid::as_raw)
        && [groups.real, groups.effective, groups.saved].iter().all(|group| group.as_raw() == user.as_raw())
        && getgroups()?.is_empty()
        && has.effective == keep
        && has.permitted == keep
        && has.inheritable.is_empty()
        && no_new_privs()?;
    if is { Ok(()) } else { Err(io::Error::other("the kernel did not change the user")) }
}
