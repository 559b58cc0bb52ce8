//! One push, and what becomes of it.

use std::sync::Arc;

use bytes::Bytes;
use shellbridge_protocol::{
    ErrorCode,
    frame::{ErrorFrame, FrameHead},
};

use crate::{
    outlet::{Outlet, Sent},
    session::{connection::encode, core::PushKind},
};

/// Pushes a frame. In place of an answer that is too large goes an error that says so.
pub(super) async fn push(outlet: Arc<dyn Outlet>, frame: Bytes, kind: PushKind) -> Sent {
    match outlet.send(frame.clone()).await {
        Sent::TooLarge if kind == PushKind::Other => {
            let reference = FrameHead::read(&frame).ok().and_then(|head| head.reference());
            let error =
                ErrorFrame::new(ErrorCode::TooLarge, "the answer is larger than the way to you takes");
            outlet.send(encode(&error.answering(reference).into())).await
        }
        sent => sent,
    }
}
