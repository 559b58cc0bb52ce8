//! Answers that are late or too large.

use shellbridge_protocol::frame::ServerFrame;

use super::*;
use crate::sessions::outlet::push;

#[tokio::test]
async fn a_late_answer_to_an_abandoned_request_is_pushed() {
    let (handle, mut actor, _) = started().await;
    let (route, mut said) = noted();
    let mut asked = Box::pin(frame(&handle, "c", &route));
    let request = tokio::select! {
        request = actor.frame() => request,
        _ = &mut asked => panic!("answered without the host"),
    };
    actor.say(answer(request, Reply::Later)).await;
    // The session learned of this connection only from the frame.
    actor.push(1, "c", "first").await;
    assert_eq!(timeout(PATIENCE, said.recv()).await.unwrap().unwrap(), "first");
    drop(asked);
    actor.say(answer(request, Reply::Frame(Bytes::from_static(b"late")))).await;
    assert_eq!(timeout(PATIENCE, said.recv()).await.unwrap().unwrap(), "late");
}

/// Accepts only small frames.
struct Narrow(UnboundedSender<String>);

impl Outlet for Narrow {
    fn send(&self, frame: Bytes) -> Boxed<Sent> {
        let fits = frame.len() <= 1000;
        if fits {
            let _ = self.0.send(String::from_utf8(frame.to_vec()).unwrap());
        }
        Box::pin(async move { if fits { Sent::Delivered } else { Sent::TooLarge } })
    }

    fn close(&self, _: Option<ErrorCode>) -> Boxed<()> {
        Box::pin(async {})
    }

    fn exists(&self) -> Boxed<bool> {
        Box::pin(async { true })
    }
}

#[tokio::test]
async fn an_oversized_answer_is_replaced_by_an_error_with_its_id() {
    let (sender, mut said) = mpsc::unbounded_channel();
    let frame = ServerFrame::CommandResult {
        result: "x".repeat(2000),
        exit_code: 0,
        timestamp: UnixMs(1),
        id: "my-command".to_owned(),
        duration_ms: 1,
        signal: None,
        truncated: None,
    };
    let narrow = Narrow(sender);
    assert_eq!(push(&narrow, frame.to_json(), true).await, Sent::Delivered);
    let error: serde_json::Value = serde_json::from_str(&said.recv().await.unwrap()).unwrap();
    assert_eq!((&error["code"], &error["ref"]), (&"TOO_LARGE".into(), &"my-command".into()));
    assert_eq!(push(&narrow, frame.to_json(), false).await, Sent::TooLarge, "output is never replaced");
}
