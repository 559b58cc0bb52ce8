//! `$disconnect`.

use serde_json::json;

use crate::bed::*;

#[tokio::test]
async fn the_record_goes_and_the_backend_is_told() {
    let bed = Bed::new().await;
    bed.connected().await;
    assert_eq!(bed.handle(disconnect_event()).await.status_code, 200);
    assert!(bed.items().await.is_empty());
    let asked = bed.backend.taken();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].path, "/api/ws/disconnect");
    assert_eq!(
        asked[0].json(),
        json!({"connectionId":CONNECTION,"sessionId":"session-1","userId":"ann","statusCode":1005,
            "reason":"Client-side close frame status not set"})
    );
    assert!(bed.connections.taken().is_empty());
}

#[tokio::test]
async fn an_unknown_connection_is_nothing_to_tell() {
    let bed = Bed::new().await;
    assert_eq!(bed.handle(disconnect_event()).await.status_code, 200);
    assert!(bed.backend.taken().is_empty());
}

#[tokio::test]
async fn a_dead_backend_or_table_still_answers_200() {
    let bed = Bed::new().await;
    bed.connected().await;
    bed.backend.always(|_| (500, String::new()));
    bed.dynamo.delete_table().table_name(TABLE).send().await.unwrap();
    assert_eq!(bed.handle(disconnect_event()).await.status_code, 200);
    assert_eq!(bed.backend.taken()[0].path, "/api/ws/disconnect", "the cache knew the session");
}
