//! `$disconnect`.

use serde_json::json;

use crate::bed::*;

#[tokio::test]
async fn the_record_is_deleted_and_the_backend_disconnects() {
    let bed = Bed::new().await;
    bed.connected().await;
    assert_eq!(bed.handle(disconnect_event()).await.status_code, 200);
    assert!(bed.items().await.is_empty());
    let requests = bed.backend.taken();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].path, "/api/ws/disconnect");
    assert_eq!(
        requests[0].json(),
        json!({"connectionId":CONNECTION,"sessionId":"session-1","userId":"ann","statusCode":1005,
            "reason":"Client-side close frame status not set"})
    );
    assert!(bed.connections.taken().is_empty());
}

#[tokio::test]
async fn an_unknown_connection_is_not_forwarded() {
    let bed = Bed::new().await;
    assert_eq!(bed.handle(disconnect_event()).await.status_code, 200);
    assert!(bed.backend.taken().is_empty());
}

#[tokio::test]
async fn the_status_is_200_without_backend_or_table() {
    let bed = Bed::new().await;
    bed.connected().await;
    bed.backend.always(|_| (500, String::new()));
    bed.dynamo.delete_table().table_name(TABLE).send().await.unwrap();
    assert_eq!(bed.handle(disconnect_event()).await.status_code, 200);
    assert_eq!(bed.backend.taken()[0].path, "/api/ws/disconnect", "the cache has the session");
}
