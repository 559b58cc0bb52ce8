//! Which of the tokens minted for a session are valid: the owner's newest, and one per share link.
//!
//! Every minted token carries `shellbridgeId`, `GENERATION.NAME`. The generation is unique to the session, so tokens of
//! an earlier session with the same id do not open this one; the name is looked up here. Tokens from other issuers have
//! no id and are not tracked. The state lists valid tokens, so it stays bounded however many are revoked.

use std::{collections::VecDeque, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use shellbridge_protocol::times::UnixMs;

/// Maximum share links per session.
const MAX_SHARES: usize = 64;
/// How long connections with a superseded owner token live on: the client has to receive the new token and reconnect
/// with it.
pub(crate) const HANDOVER: Duration = Duration::from_secs(30);
/// Superseded tokens remembered for [`HANDOVER`]. Beyond that number, the oldest ends sooner.
const MAX_SUPERSEDED: usize = 8;

/// The tokens of one session.
#[derive(Debug)]
pub(crate) struct Tokens {
    generation: String,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    /// Name of the owner's newest token.
    owner: Option<String>,
    superseded: VecDeque<Superseded>,
    shares: Vec<Share>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Superseded {
    name: String,
    until: UnixMs,
    /// Name of the token that it requested. A repeated request, after a lost answer, returns the same one.
    successor: Option<String>,
}

/// A view-only share link.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Share {
    /// Id for its revocation.
    pub(crate) id: String,
    pub(crate) created_at: UnixMs,
    pub(crate) expires_at: UnixMs,
}

/// Purpose for which a token is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// To connect, or to call the API.
    Door,
    /// To obtain a newer token.
    Renewal,
    /// By an established connection.
    Connection,
}

/// Why a minted token is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stale {
    /// The token belongs to an earlier session with this id.
    #[error("the token belongs to a session that has ended")]
    Earlier,
    /// The token was revoked, or replaced by a newer one.
    #[error("the token was revoked")]
    Revoked,
}

/// The session has [`MAX_SHARES`] share links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Tokens {
    /// Tokens of a new session.
    pub(crate) fn new() -> Self {
        Self { generation: random_name(), state: Mutex::default() }
    }

    /// Serializes the state for [`Tokens::restored`] in the next backend.
    pub(crate) fn notes(&self) -> String {
        let state = self.lock().clone();
        // Infallible: no map, no I/O.
        serde_json::to_string(&(&self.generation, state)).unwrap_or_default()
    }

    /// Restores the state from an earlier backend's notes. Without valid notes, no minted token is valid.
    pub(crate) fn restored(notes: &[u8]) -> Self {
        let noted: Option<(String, State)> = serde_json::from_slice(notes).ok();
        noted.map_or_else(Self::new, |(generation, state)| Self { generation, state: Mutex::new(state) })
    }

    /// Checks the token with this id. A token without an id was not minted here and passes.
    pub(crate) fn check(&self, id: Option<&str>, purpose: Use, now: UnixMs) -> Result<(), Stale> {
        let Some(id) = id else { return Ok(()) };
        let name = self.name(id).ok_or(Stale::Earlier)?;
        let state = self.lock();
        let superseded = |older: &Superseded| {
            older.name == name
                && now < older.until
                && match purpose {
                    Use::Door => false,
                    Use::Renewal => older.successor.is_some() && older.successor == state.owner,
                    Use::Connection => true,
                }
        };
        let good = state.owner.as_deref() == Some(name)
            || state.shares.iter().any(|share| share.id == name)
            || state.superseded.iter().any(superseded);
        if good { Ok(()) } else { Err(Stale::Revoked) }
    }

    /// An id for a token about to be minted. It is not valid yet.
    pub(crate) fn new_id(&self) -> String {
        self.id(&random_name())
    }

    fn id(&self, name: &str) -> String {
        format!("{}.{name}", self.generation)
    }

    /// Id of the token that `asked_by` already received, if that is still the owner's newest.
    pub(crate) fn successor(&self, asked_by: Option<&str>) -> Option<String> {
        self.lock().successor(self.name(asked_by?)?).map(|name| self.id(name))
    }

    /// Makes `id` the owner's token and supersedes the older one. `asked_by` is the token that requested it. If a
    /// concurrent request of `asked_by` already received a token, returns that token's id, and `id` stays invalid.
    pub(crate) fn renew(&self, id: &str, asked_by: Option<&str>, now: UnixMs) -> Option<String> {
        let mut state = self.lock();
        let name = self.name(id)?;
        if state.owner.as_deref() == Some(name) {
            return None;
        }
        let asked_by = asked_by.and_then(|id| self.name(id));
        if let Some(given) = asked_by.and_then(|name| state.successor(name)) {
            return Some(self.id(given));
        }
        state.superseded.retain(|older| now < older.until);
        if let Some(older) = state.owner.replace(name.to_owned()) {
            let successor = (asked_by == Some(older.as_str())).then(|| name.to_owned());
            state.superseded.push_back(Superseded {
                name: older,
                until: now.saturating_add(HANDOVER),
                successor,
            });
            if state.superseded.len() > MAX_SUPERSEDED {
                state.superseded.pop_front();
            }
        }
        None
    }

    /// Registers the token with this id as a share link.
    pub(crate) fn share(&self, id: &str, now: UnixMs, expires_at: UnixMs) -> Result<Share, TooMany> {
        let mut state = self.lock();
        state.shares.retain(|share| now < share.expires_at);
        if state.shares.len() >= MAX_SHARES {
            return Err(TooMany);
        }
        let name = self.name(id).unwrap_or_default().to_owned();
        let share = Share { id: name, created_at: now, expires_at };
        state.shares.push(share.clone());
        Ok(share)
    }

    /// The valid share links, oldest first.
    pub(crate) fn shares(&self, now: UnixMs) -> Vec<Share> {
        self.lock().shares.iter().filter(|share| now < share.expires_at).cloned().collect()
    }

    /// Revokes one share link, or all of them; false if none matched.
    pub(crate) fn revoke(&self, share: Option<&str>) -> bool {
        let mut state = self.lock();
        let before = state.shares.len();
        state.shares.retain(|known| share.is_some_and(|id| known.id != id));
        state.shares.len() < before
    }

    fn name<'a>(&self, id: &'a str) -> Option<&'a str> {
        id.split_once('.').filter(|(generation, _)| *generation == self.generation).map(|(_, name)| name)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Name of the token that `asked_by` received, if that is still the owner's newest.
    fn successor(&self, asked_by: &str) -> Option<&str> {
        let older = self.superseded.iter().find(|older| older.name == asked_by)?;
        older.successor.as_deref().filter(|name| self.owner.as_deref() == Some(*name))
    }
}

fn random_name() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: UnixMs = UnixMs(0);

    #[test]
    fn tokens_of_an_earlier_session_are_distinguished_from_revoked_ones() {
        let (earlier, tokens) = (Tokens::new(), Tokens::new());
        let id = earlier.new_id();
        earlier.renew(&id, None, T0);
        assert_eq!(earlier.check(Some(&id), Use::Door, T0), Ok(()));
        assert_eq!(tokens.check(Some(&id), Use::Door, T0), Err(Stale::Earlier));
        assert_eq!(tokens.check(Some("nonsense"), Use::Connection, T0), Err(Stale::Earlier));
        assert_eq!(tokens.check(Some(&tokens.new_id()), Use::Door, T0), Err(Stale::Revoked));
        assert_eq!(tokens.check(None, Use::Door, T0), Ok(()), "a token of another issuer");
    }

    #[test]
    fn a_newer_token_revokes_the_older_and_ends_its_connections_later() {
        let tokens = Tokens::new();
        let (first, second, third) = (tokens.new_id(), tokens.new_id(), tokens.new_id());
        tokens.renew(&first, None, T0);
        tokens.renew(&second, Some(&first), T0);
        assert_eq!(tokens.check(Some(&second), Use::Door, T0), Ok(()));
        assert_eq!(tokens.check(Some(&first), Use::Door, T0), Err(Stale::Revoked));
        let over = T0.saturating_add(HANDOVER);
        let just_before = over.saturating_sub(Duration::from_millis(1));
        for purpose in [Use::Connection, Use::Renewal] {
            assert_eq!(tokens.check(Some(&first), purpose, just_before), Ok(()), "{purpose:?}");
            assert_eq!(tokens.check(Some(&first), purpose, over), Err(Stale::Revoked), "{purpose:?}");
        }
        tokens.renew(&third, None, UnixMs(10));
        assert_eq!(tokens.check(Some(&second), Use::Connection, UnixMs(10)), Ok(()));
        let renewal = tokens.check(Some(&second), Use::Renewal, UnixMs(10));
        assert_eq!(renewal, Err(Stale::Revoked), "superseded at another's request");
    }

    /// Otherwise a token replaced by `extend` could take the session back from its successor during the handover.
    #[test]
    fn regression_a_repeated_renewal_returns_the_same_successor() {
        let tokens = Tokens::new();
        let (first, second, third) = (tokens.new_id(), tokens.new_id(), tokens.new_id());
        assert_eq!(tokens.renew(&first, None, T0), None);
        assert_eq!(tokens.renew(&second, Some(&first), T0), None);
        assert_eq!(tokens.successor(Some(&first)), Some(second.clone()));
        assert_eq!(tokens.renew(&third, Some(&first), T0), Some(second.clone()), "both asked at once");
        assert_eq!(tokens.renew(&second, Some(&first), T0), None, "minted again");
        assert_eq!(tokens.check(Some(&second), Use::Door, T0), Ok(()));
        assert_eq!(tokens.check(Some(&third), Use::Door, T0), Err(Stale::Revoked));
        assert_eq!(tokens.renew(&third, Some(&second), T0), None);
        assert_eq!(
            tokens.check(Some(&first), Use::Renewal, T0),
            Err(Stale::Revoked),
            "its successor was renewed"
        );
        assert_eq!(tokens.successor(Some(&first)), None);
    }

    #[test]
    fn share_links_are_bounded_and_can_be_revoked_singly_or_together() {
        let tokens = Tokens::new();
        let ids: Vec<_> = (0..MAX_SHARES).map(|_| tokens.new_id()).collect();
        let shares: Vec<_> = ids.iter().map(|id| tokens.share(id, T0, UnixMs(100)).unwrap()).collect();
        assert!(matches!(tokens.share(&tokens.new_id(), T0, UnixMs(100)), Err(TooMany)));
        assert!(tokens.revoke(Some(&shares[3].id)) && !tokens.revoke(Some(&shares[3].id)));
        assert_eq!(tokens.check(Some(&ids[3]), Use::Connection, T0), Err(Stale::Revoked));
        assert_eq!(tokens.check(Some(&ids[4]), Use::Connection, T0), Ok(()));
        assert_eq!((tokens.shares(UnixMs(99)).len(), tokens.shares(UnixMs(100)).len()), (MAX_SHARES - 1, 0));
        assert!(tokens.revoke(None) && !tokens.revoke(None));
        assert_eq!(tokens.check(Some(&ids[4]), Use::Door, T0), Err(Stale::Revoked));
    }

    #[test]
    fn restored_tokens_keep_their_validity() {
        let tokens = Tokens::new();
        let (first, second, viewer) = (tokens.new_id(), tokens.new_id(), tokens.new_id());
        tokens.renew(&first, None, T0);
        tokens.renew(&second, Some(&first), T0);
        tokens.share(&viewer, T0, UnixMs(100)).unwrap();
        for _ in 1..MAX_SHARES {
            tokens.share(&tokens.new_id(), T0, UnixMs(100)).unwrap();
        }
        let notes = tokens.notes();
        assert!(notes.len() < shellbridge_session::link::MAX_NOTES / 2, "{} bytes", notes.len());
        let next = Tokens::restored(notes.as_bytes());
        for good in [&second, &viewer] {
            assert_eq!(next.check(Some(good), Use::Door, T0), Ok(()));
        }
        assert_eq!(next.check(Some(&first), Use::Door, T0), Err(Stale::Revoked));
        assert_eq!(next.check(Some(&first), Use::Connection, T0), Ok(()), "until its handover is over");
        assert_eq!(next.successor(Some(&first)), Some(second.clone()));
        assert_eq!(Tokens::restored(b"").check(Some(&second), Use::Door, T0), Err(Stale::Earlier));
    }

    #[test]
    fn remembered_tokens_are_bounded_however_often_they_are_renewed() {
        let tokens = Tokens::new();
        for _ in 0..1_000 {
            tokens.renew(&tokens.new_id(), None, T0);
        }
        assert_eq!(tokens.lock().superseded.len(), MAX_SUPERSEDED);
    }
}
