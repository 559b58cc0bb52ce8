//! Which of the tokens minted for a session are good: the owner's newest, and one per share link.
//!
//! Every minted token carries `shellbridgeId`, `GENERATION.NAME`: the generation is this session's alone, so that no
//! token of an earlier session of the same id opens this one; the name is looked up here. Tokens that others minted
//! have none, and nothing here is about them. What is kept is what is allowed, so that it is bounded whatever was
//! revoked.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use shellbridge_protocol::times::UnixMs;

/// Share links of one session at once.
const MAX_SHARES: usize = 64;
/// After a newer token of the owner is made, connections by the older one live on for this long: whoever asked
/// for it has to get it and to connect with it.
pub(crate) const HANDOVER: Duration = Duration::from_secs(30);
/// Older tokens remembered for that long. Beyond, the oldest ends sooner.
const MAX_SUPERSEDED: usize = 8;

/// The tokens of one session.
#[derive(Debug)]
pub(crate) struct Tokens {
    generation: String,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    /// The owner's newest.
    owner: Option<String>,
    superseded: VecDeque<Superseded>,
    shares: Vec<Share>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Superseded {
    name: String,
    until: UnixMs,
    /// The token it asked for. It may ask again, since the answer can be lost, and is given the same one.
    successor: Option<String>,
}

/// A link to watch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Share {
    /// What it is revoked by.
    pub(crate) id: String,
    pub(crate) created_at: UnixMs,
    pub(crate) expires_at: UnixMs,
}

/// What a token is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// To be let in, or to ask something.
    Door,
    /// To get a newer one.
    Renewal,
    /// By a connection that was let in before.
    Connection,
}

/// Why a minted token is no good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stale {
    /// It is of an earlier session of this id.
    #[error("the token is of a session that has ended")]
    Earlier,
    /// It was revoked, or replaced by a newer one.
    #[error("the token was revoked")]
    Revoked,
}

/// There are as many share links as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Tokens {
    /// Of a new session.
    pub(crate) fn new() -> Self {
        Self { generation: random_name(), state: Mutex::default() }
    }

    /// What [`Tokens::restored`] makes the same of, in the next backend.
    pub(crate) fn notes(&self) -> Bytes {
        let state = self.lock().clone();
        // Infallible: no map, no I/O.
        serde_json::to_vec(&(&self.generation, state)).unwrap_or_default().into()
    }

    /// As an earlier backend noted them. Without notes no minted token is good.
    pub(crate) fn restored(notes: &[u8]) -> Self {
        let noted: Option<(String, State)> = serde_json::from_slice(notes).ok();
        noted.map_or_else(Self::new, |(generation, state)| Self { generation, state: Mutex::new(state) })
    }

    /// Whether the token of this id is good. One without an id was not minted here.
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

    /// An id for a token that is being minted. It is good for nothing yet.
    pub(crate) fn new_id(&self) -> String {
        self.id(&random_name())
    }

    fn id(&self, name: &str) -> String {
        format!("{}.{name}", self.generation)
    }

    /// The id of the token that `asked_by` was given before, if it is still the owner's newest.
    pub(crate) fn successor(&self, asked_by: Option<&str>) -> Option<String> {
        self.lock().successor(self.name(asked_by?)?).map(|name| self.id(name))
    }

    /// The owner has a new token, `id`; the older one is revoked. `asked_by`: the token that asked for it. Gives back
    /// the id of the token that `asked_by` was given meanwhile, by another request of its own: `id` is then good for
    /// nothing.
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

    /// The token of this id is a share link's from now on.
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

    /// The share links that are good, oldest first.
    pub(crate) fn shares(&self, now: UnixMs) -> Vec<Share> {
        self.lock().shares.iter().filter(|share| now < share.expires_at).cloned().collect()
    }

    /// Revokes one share link, or all of them. False if there was none.
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
    /// The name of the token that `asked_by` was given, if it is still the owner's newest.
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
    fn tokens_of_an_earlier_session_are_told_from_those_that_were_revoked() {
        let (earlier, tokens) = (Tokens::new(), Tokens::new());
        let id = earlier.new_id();
        earlier.renew(&id, None, T0);
        assert_eq!(earlier.check(Some(&id), Use::Door, T0), Ok(()));
        assert_eq!(tokens.check(Some(&id), Use::Door, T0), Err(Stale::Earlier));
        assert_eq!(tokens.check(Some("nonsense"), Use::Connection, T0), Err(Stale::Earlier));
        assert_eq!(tokens.check(Some(&tokens.new_id()), Use::Door, T0), Err(Stale::Revoked));
        assert_eq!(tokens.check(None, Use::Door, T0), Ok(()), "one that others minted");
    }

    #[test]
    fn a_newer_token_ends_the_older_and_soon_its_connections() {
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
        assert_eq!(renewal, Err(Stale::Revoked), "it was revoked by somebody else");
    }

    /// Else a token that `extend` has replaced could take the session back from its successor for the handover.
    #[test]
    fn regression_a_token_that_asks_again_is_given_the_same_successor() {
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
            "its successor has one"
        );
        assert_eq!(tokens.successor(Some(&first)), None);
    }

    #[test]
    fn share_links_are_bounded_and_revoked_one_by_one_or_all() {
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
    fn the_next_backend_knows_what_is_good() {
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
        let next = Tokens::restored(&notes);
        for good in [&second, &viewer] {
            assert_eq!(next.check(Some(good), Use::Door, T0), Ok(()));
        }
        assert_eq!(next.check(Some(&first), Use::Door, T0), Err(Stale::Revoked));
        assert_eq!(next.check(Some(&first), Use::Connection, T0), Ok(()), "until its handover is over");
        assert_eq!(next.successor(Some(&first)), Some(second.clone()));
        assert_eq!(Tokens::restored(b"").check(Some(&second), Use::Door, T0), Err(Stale::Earlier));
    }

    #[test]
    fn however_often_a_token_is_renewed_little_is_remembered() {
        let tokens = Tokens::new();
        for _ in 0..1_000 {
            tokens.renew(&tokens.new_id(), None, T0);
        }
        assert_eq!(tokens.lock().superseded.len(), MAX_SUPERSEDED);
    }
}
