//! `$disconnect`: forgets the connection and tells the backend. Best effort, as its delivery is.

use aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest as Event;
use shellbridge_protocol::bridge::{DISCONNECT_PATH, DisconnectRequest};

use crate::{App, event::Invocation, metrics::Tally};

/// Longest close reason passed on. RFC 6455 allows 123 bytes.
const MAX_REASON: usize = 128;

impl App {
    pub(crate) async fn disconnect(&self, event: &Event, invocation: &Invocation, tally: &mut Tally) {
        let deleted = self.connections.delete(&invocation.connection_id, invocation.deadline).await;
        let Some(record) = deleted else {
            // Refused, or deleted before with the backend told then.
            tally.outcome = "no_record";
            return;
        };
        tally.is_about(&record.session_id);
        let reason = event.request_context.disconnect_reason.as_ref();
        let request = DisconnectRequest {
            connection_id: record.connection_id.clone(),
            session_id: record.session_id.clone(),
            user_id: record.user_id.clone(),
            status_code: event.request_context.disconnect_status_code,
            reason: reason.map(|reason| reason.chars().take(MAX_REASON).collect()),
        };
        let Ok(body) = serde_json::to_vec(&request) else { return };
        if let Err(failure) = self.backend.post(DISCONNECT_PATH, body, invocation, tally).await {
            // The backend notices by itself, from failing pushes.
            tally.outcome = failure.cause();
        }
    }
}
