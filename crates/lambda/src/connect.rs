//! `$connect`: token, origin, the backend's word, then the record. In this order, so that nothing is written
//! for somebody who is not let in. Nothing is pushed here: the connection does not exist until we answer.

use aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest as Event;
use shellbridge_protocol::{
    ErrorCode,
    bridge::{CONNECT_PATH, ConnectRequest, DISCONNECT_PATH, DisconnectRequest},
};

use crate::{
    App, Response,
    auth::subprotocol,
    backend::Answer,
    connections::{Record, Stored},
    deadline::now_ms,
    event::{Headers, Invocation},
    metrics::Tally,
};

/// The status of the handshake, the code that says why, and what to count it as.
type Refusal = (u16, ErrorCode, &'static str);

impl App {
    pub(crate) async fn connect(
        &self,
        event: &Event,
        invocation: &Invocation,
        tally: &mut Tally,
    ) -> Response {
        match self.admit(event, invocation, tally).await {
            Ok(()) => {
                let headers = subprotocol(event).map(|subprotocol| Headers { subprotocol });
                Response { headers, ..Response::OK }
            }
            Err((status, code, cause)) => {
                tally.outcome = cause;
                Response::refusal(status, code, cause)
            }
        }
    }

    async fn admit(&self, event: &Event, invocation: &Invocation, tally: &mut Tally) -> Result<(), Refusal> {
        let grant = self.auth.admit(event, now_ms() / 1_000, invocation.deadline).await;
        let grant = grant.map_err(|refused| (refused.status(), refused.code(), refused.cause()))?;
        tally.is_about(&grant.session_id);
        let request = ConnectRequest {
            connection_id: invocation.connection_id.clone(),
            session_id: grant.session_id,
            user_id: grant.user_id,
            username: grant.username,
            read_only: grant.read_only,
            names_session: grant.names_session,
            connected_at: invocation.connected_at,
            token_expires_at: grant.expires_at,
            callback_url: invocation.callback_url.clone(),
            token_id: grant.token_id,
            source_ip: event.request_context.identity.source_ip.clone(),
        };
        let body =
            serde_json::to_vec(&request).map_err(|_| (500, ErrorCode::Internal, "request_unwritable"))?;
        match self.backend.post(CONNECT_PATH, body, invocation, tally).await {
            Ok(Answer::Object(_) | Answer::Nothing) => {}
            // Its 401 is for our own signature, so that it says this with 403.
            Ok(Answer::Refused(403, code @ ErrorCode::TokenExpired)) => {
                return Err((401, code, "token_revoked"));
            }
            Ok(Answer::Refused(403, _)) => return Err((403, ErrorCode::Forbidden, "session_of_another")),
            Ok(Answer::Refused(404, _)) => return Err((404, ErrorCode::SessionInvalid, "session_unknown")),
            Ok(Answer::Refused(..)) => return Err((503, ErrorCode::BackendUnavailable, "backend_refused")),
            Err(failure) => return Err((503, failure.code(), failure.cause())),
        }
        let record = Record {
            connection_id: request.connection_id,
            session_id: request.session_id,
            user_id: request.user_id,
            username: request.username,
            read_only: request.read_only,
            connected_at: request.connected_at,
            token_expires_at: request.token_expires_at,
            callback_url: request.callback_url,
            token_id: request.token_id,
        };
        let refusal = match self.connections.put(&record, invocation.deadline).await {
            Ok(Stored::Yes) => return Ok(()),
            Ok(Stored::Taken) => (409, ErrorCode::Internal, "connection_id_taken"),
            Err(_) => (503, ErrorCode::BackendUnavailable, "record_not_stored"),
        };
        self.take_back(record, invocation, tally).await;
        Err(refusal)
    }

    /// Tells the backend that the connection it just took will not come.
    async fn take_back(&self, record: Record, invocation: &Invocation, tally: &mut Tally) {
        let request = DisconnectRequest {
            connection_id: record.connection_id,
            session_id: record.session_id,
            user_id: record.user_id,
            status_code: None,
            reason: Some("the handshake was refused".to_owned()),
        };
        if let Ok(body) = serde_json::to_vec(&request) {
            // It is logged where it fails; the backend notices an absent connection by itself.
            let _ = self.backend.post(DISCONNECT_PATH, body, invocation, tally).await;
        }
    }
}
