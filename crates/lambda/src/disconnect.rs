//! `$disconnect`: deletes the record and tells the backend. Best effort, like API Gateway's delivery of the event.

use aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest as Event;
use shellbridge_protocol::bridge::{DISCONNECT_PATH, DisconnectRequest};

use crate::{App, event::Invocation, metrics::InvocationStats};

/// Longest close reason forwarded, in characters. RFC 6455 allows 123 bytes.
const MAX_REASON: usize = 128;

impl App {
    pub(crate) async fn disconnect(
        &self,
        event: &Event,
        invocation: &Invocation,
        stats: &mut InvocationStats,
    ) {
        let deleted = self.connections.delete(&invocation.connection_id, invocation.deadline).await;
        let Some(record) = deleted else {
            // The handshake was rejected, or the record's deletion told the backend already.
            stats.outcome = "no_record";
            return;
        };
        stats.set_session(&record.session_id);
        let reason = event.request_context.disconnect_reason.as_ref();
        let request = DisconnectRequest {
            connection_id: record.connection_id.clone(),
            session_id: record.session_id.clone(),
            user_id: record.user_id.clone(),
            status_code: event.request_context.disconnect_status_code,
            reason: reason.map(|reason| reason.chars().take(MAX_REASON).collect()),
        };
        let Ok(body) = serde_json::to_vec(&request) else { return };
        if let Err(error) = self.backend.post(DISCONNECT_PATH, body, invocation, stats).await {
            // Failing pushes will tell the backend.
            stats.outcome = error.cause();
        }
    }
}
