use super::*;
use crate::{
    limits::{INPUT_RETRY, MAX_FRAME, OUTPUT_ACK_WITHIN},
    payload::Payload,
};

const NOW: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const ID: &str = "client-0123456789";

fn attached(epoch: u64, input_offset: u64) -> ServerFrame {
    let (cols, rows) = (80, 24);
    ServerFrame::Attached {
        epoch: Epoch(epoch),
        output_offset: 0,
        input_offset,
        cols,
        rows,
        read_only: false,
        gap: None,
        exit: None,
    }
}

fn output(epoch: u64, offset: u64, bytes: &[u8]) -> ServerFrame {
    ServerFrame::Output { epoch: Epoch(epoch), offset, payload: Payload::new(bytes), input_offset: None }
}

fn ready() -> Client {
    let mut client = Client::new(ID, 80, 24);
    assert_eq!(attach(&mut client, 1, 0), Event::Attached);
    client
}

fn all_frames(client: &mut Client, now: Duration) -> Vec<ClientFrame> {
    std::iter::from_fn(|| client.poll(now)).collect()
}

fn attach(client: &mut Client, epoch: u64, input_offset: u64) -> Event {
    client.connected(NOW);
    assert!(matches!(client.poll(NOW), Some(ClientFrame::Attach { .. })));
    client.receive(attached(epoch, input_offset), NOW)
}

#[test]
fn a_forgotten_client_continues_under_a_new_id() {
    let mut client = Client::new(ID, 80, 24);
    attach(&mut client, 1, 0);
    client.write(b"abc");
    assert!(matches!(client.poll(NOW), Some(ClientFrame::Input { offset: 0, .. })));
    let ack = ServerFrame::InputAck { epoch: Epoch(1), client_id: ID.into(), input_offset: 2 };
    client.receive(ack, NOW);
    client.disconnected();
    assert_eq!(attach(&mut client, 1, 0), Event::Forgotten);
    client.rename("client-9876543210", NOW);
    assert!(matches!(client.poll(NOW), Some(ClientFrame::Attach { .. })));
    assert_eq!(client.receive(attached(1, 0), NOW), Event::Attached);
    let Some(ClientFrame::Input { client_id, offset: 0, payload, .. }) = client.poll(NOW) else {
        panic!("no input")
    };
    assert_eq!((client_id.as_str(), payload.data.as_deref()), ("client-9876543210", Some("c")));
}

#[test]
fn output_of_a_shell_replaced_before_attached_is_dropped() {
    let mut client = Client::new(ID, 80, 24);
    client.connected(NOW);
    client.poll(NOW);
    client.receive(output(1, 0, b"old"), NOW);
    assert_eq!(client.take_output(), b"old");
    client.receive(attached(2, 0), NOW);
    assert_eq!(client.output_offset(), 0);
}

#[test]
fn a_repeated_attach_has_a_higher_seq_and_the_newest_offset() {
    let mut client = Client::new(ID, 80, 24);
    client.connected(NOW);
    let asked = |frame: Option<ClientFrame>| match frame {
        Some(ClientFrame::Attach { seq, output_offset, .. }) => (seq, output_offset),
        other => panic!("{other:?}"),
    };
    assert_eq!(asked(client.poll(NOW)), (Some(1), None));
    client.receive(output(1, 0, b"early"), NOW);
    assert_eq!(asked(client.poll(NOW + ATTACH_AGAIN)), (Some(2), Some(5)));
    client.disconnected();
    client.connected(NOW + 2 * ATTACH_AGAIN);
    assert_eq!(asked(client.poll(NOW + 2 * ATTACH_AGAIN)), (Some(1), Some(5)), "a counter per connection");
}

#[test]
fn input_leaves_in_chunks_that_fit_a_frame_whatever_is_in_them() {
    for (bytes, text) in [(b"a".repeat(55_000), true), (b"\x01".repeat(55_000), false)] {
        let mut client = ready();
        client.write(&bytes);
        let frames = all_frames(&mut client, NOW);
        assert_eq!(frames.len(), 3);
        for frame in &frames {
            assert!(serde_json::to_string(frame).unwrap().len() <= MAX_FRAME);
            let ClientFrame::Input { payload, output_offset, .. } = frame else { panic!("{frame:?}") };
            assert_eq!((payload.data.is_some(), *output_offset), (text, Some(0)));
        }
    }
}

#[test]
fn one_input_frame_is_resent_and_the_rest_follows_its_acknowledgement() {
    let mut client = ready();
    client.write(&b"a".repeat(45_000));
    assert_eq!(all_frames(&mut client, NOW).len(), 3);
    let due = client.deadline().unwrap();
    assert_eq!(due, NOW + INPUT_RETRY);
    let again = all_frames(&mut client, due);
    assert!(matches!(again[..], [ClientFrame::Input { offset: 0, .. }]), "{} frames", again.len());
    assert_eq!(client.deadline(), Some(due + INPUT_RETRY * 2));
    let ack = ServerFrame::InputAck { epoch: Epoch(1), client_id: ID.into(), input_offset: 20_000 };
    client.receive(ack, due);
    assert_eq!(all_frames(&mut client, due).len(), 2);
}

#[test]
fn repeated_output_is_acknowledged_at_once_but_a_burst_only_once() {
    let mut client = ready();
    client.receive(output(1, 0, b"abc"), NOW);
    assert_eq!(client.deadline(), Some(NOW + OUTPUT_ACK_WITHIN.saturating_sub(10 * MS)));
    client.receive(output(1, 0, b"abc"), NOW);
    assert!(matches!(all_frames(&mut client, NOW)[..], [ClientFrame::Ack { output_offset: 3, .. }]));
    client.receive(output(1, 0, b"abc"), NOW + MS);
    client.receive(output(1, 0, b"abc"), NOW + 2 * MS);
    assert_eq!(client.deadline(), Some(NOW + 50 * MS));
    assert_eq!(all_frames(&mut client, NOW + 50 * MS).len(), 1);
}

#[test]
fn a_hole_in_the_output_makes_the_client_attach_again() {
    let mut client = ready();
    client.receive(output(1, 5, b"late"), NOW);
    let due = client.deadline().unwrap();
    assert_eq!(due, NOW + Duration::from_secs(3));
    let frames = all_frames(&mut client, due);
    assert!(matches!(frames[..], [ClientFrame::Attach { output_offset: Some(0), .. }]), "{frames:?}");
}
