//! Conversion between a connection as the session knows it, and as the link describes it.

use std::time::Duration;

use super::Peer;
use crate::{ConnectionInfo, OutletLimits};

impl Peer {
    /// Describes a connection with this [`Peer::address`].
    pub fn new(info: ConnectionInfo, address: String) -> Self {
        Self {
            id: info.id,
            read_only: info.read_only,
            user: info.user,
            token_id: info.token_id.as_deref().map(str::to_owned),
            connected_at: info.connected_at,
            token_lasts: u64::try_from(info.token_lasts.as_millis()).unwrap_or(u64::MAX),
            max_frame: u32::try_from(info.limits.max_frame).unwrap_or(u32::MAX),
            in_flight: u32::try_from(info.limits.in_flight).unwrap_or(u32::MAX),
            address,
        }
    }
}

impl From<Peer> for ConnectionInfo {
    fn from(peer: Peer) -> Self {
        Self {
            id: peer.id,
            read_only: peer.read_only,
            user: peer.user,
            token_id: peer.token_id.map(Into::into),
            connected_at: peer.connected_at,
            token_lasts: Duration::from_millis(peer.token_lasts),
            limits: OutletLimits {
                max_frame: usize::try_from(peer.max_frame).unwrap_or(usize::MAX),
                in_flight: usize::try_from(peer.in_flight).unwrap_or(usize::MAX),
            },
        }
    }
}
