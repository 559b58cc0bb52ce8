//! `$connect`: checks token and origin, asks the backend, then stores the record, in this order, so that a rejected
//! handshake leaves no trace. It pushes nothing: the connection does not exist until the function has answered.

use aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest as Event;
use shellbridge_protocol::{
    ErrorCode,
    bridge::{CONNECT_PATH, ConnectRequest, DISCONNECT_PATH, DisconnectRequest},
};

use crate::{
    App, Response,
    auth::subprotocol,
    backend::BackendResponse,
    connections::{PutOutcome, Record},
    deadline::unix_ms,
    event::{Headers, Invocation},
    metrics::InvocationStats,
};

/// Status of the handshake, error code, and outcome in the metrics.
type Rejection = (u16, ErrorCode, &'static str);

impl App {
    pub(crate) async fn connect(
        &self,
        event: &Event,
        invocation: &Invocation,
        stats: &mut InvocationStats,
    ) -> Response {
        match self.admit(event, invocation, stats).await {
            Ok(()) => {
                let headers = subprotocol(event).map(|subprotocol| Headers { subprotocol });
                Response { headers, ..Response::OK }
            }
            Err((status, code, cause)) => {
                stats.outcome = cause;
                Response::rejection(status, code, cause)
            }
        }
    }

    async fn admit(
        &self,
        event: &Event,
        invocation: &Invocation,
        stats: &mut InvocationStats,
    ) -> Result<(), Rejection> {
        let grant = self.auth.admit(event, unix_ms().secs(), invocation.deadline).await;
        let grant = grant.map_err(|error| (error.status(), error.code(), error.cause()))?;
        stats.set_session(&grant.session_id);
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
        match self.backend.post(CONNECT_PATH, body, invocation, stats).await {
            Ok(BackendResponse::Object(_) | BackendResponse::Empty) => {}
            // The backend's 401 means a bad signature, so it rejects a revoked token with 403.
            Ok(BackendResponse::Error(403, code @ ErrorCode::TokenExpired)) => {
                return Err((401, code, "token_revoked"));
            }
            Ok(BackendResponse::Error(403, _)) => {
                return Err((403, ErrorCode::Forbidden, "session_of_another"));
            }
            Ok(BackendResponse::Error(404, _)) => {
                return Err((404, ErrorCode::SessionInvalid, "session_unknown"));
            }
            Ok(BackendResponse::Error(..)) => {
                return Err((503, ErrorCode::BackendUnavailable, "backend_refused"));
            }
            Err(error) => return Err((503, error.code(), error.cause())),
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
        let rejection = match self.connections.put(&record, invocation.deadline).await {
            Ok(PutOutcome::Created) => return Ok(()),
            Ok(PutOutcome::Conflict) => (409, ErrorCode::Internal, "connection_id_taken"),
            Err(_) => (503, ErrorCode::BackendUnavailable, "record_not_stored"),
        };
        self.revoke_connect(record, invocation, stats).await;
        Err(rejection)
    }

    /// Tells the backend that the connection it just accepted will not open.
    async fn revoke_connect(&self, record: Record, invocation: &Invocation, stats: &mut InvocationStats) {
        let request = DisconnectRequest {
            connection_id: record.connection_id,
            session_id: record.session_id,
            user_id: record.user_id,
            status_code: None,
            reason: Some("the handshake was refused".to_owned()),
        };
        if let Ok(body) = serde_json::to_vec(&request) {
            // `post` logs a failure, and the backend detects a missing connection itself.
            let _ = self.backend.post(DISCONNECT_PATH, body, invocation, stats).await;
        }
    }
}
