//! What is imitated, where it is known from, and which test shows it.
//!
//! Sources: DG = API Gateway Developer Guide; § = section of `apigateway-websocket.md`, which names the captures,
//! issues and SDK models behind each statement. **(U)**: unconfirmed by any public source; the harsher behaviour is
//! imitated. Tests are in `tests/conformance/`, unless a file is named.
//!
//! | behaviour | source | test |
//! |---|---|---|
//! | CONNECT, MESSAGE, DISCONNECT events have exactly the captured fields | DG integration-requests, aws-lambda-go fixtures, § 1 | `events::connect_is_as_captured`, `events::message_is_as_captured`, `events::disconnect_is_as_captured`, `events::events_of_a_real_connection_have_the_captured_fields` |
//! | `userAgent`, query and `body` are absent where there is none | § 1 | `events::what_the_client_did_not_send_is_absent` |
//! | header names keep their case; the last of several values counts | § 1 | `events::header_names_keep_their_case` |
//! | ids: 16 characters of base64url with `=` | § 1 | `id::tests` |
//! | any 2xx of `$connect` opens, any other status passes through, without a body **(U)** | § 2 | `handshake::the_functions_status_passes_through` |
//! | exception, crash, malformed answer → 502 | § 2 | `handshake::a_failing_function_is_502` |
//! | the function's own timeout → 502 **(U)** | § 2 | `handshake::the_functions_own_timeout_is_502` |
//! | integration timeout → 504 **(U)** | § 2 | `handshake::the_integration_timeout_is_504` |
//! | the upgrade waits for `$connect`; no message is handled before | DG connect-disconnect, § 2 | `handshake::no_frame_is_handled_before_connect_returned` |
//! | a push inside `$connect` → 410 | chalice#1772, § 2 | `handshake::the_id_is_unknown_to_connections_before_the_101` |
//! | a subprotocol only if the function returned it | DG connect-route-subprotocol, § 2 | `handshake::a_subprotocol_is_only_the_functions_choice` |
//! | no extension is negotiated **(U)** | § 2: captures show offers only | `events::events_of_a_real_connection_have_the_captured_fields` |
//! | `$connect` needs no integration | DG, § 2 | `handshake::connect_without_an_integration_is_accepted` |
//! | a client that leaves during `$connect` gets a `$disconnect` if `$connect` accepted it **(U)** | § 2 | `handshake::a_client_that_leaves_during_connect_is_told_to_disconnect` |
//! | connections over the rate → 429 | § 2, § 7 | `handshake::connections_over_the_rate_get_429` |
//! | a rejected `$connect` has no `$disconnect` **(U)** | § 2 | `handshake::a_rejected_connect_has_no_disconnect` |
//! | exact route, else `$default`; what is not JSON goes to `$default` | DG develop-routes, § 3 | `routing::exact_route_then_default`, `routing::other_selection_expressions_work`, `route::tests` |
//! | no route → `Forbidden` frame, the socket stays | § 3 | `routing::no_route_is_a_forbidden_frame_and_the_socket_stays` |
//! | exception, timeout, malformed answer **(U)** → `Internal server error` frame, the socket stays | § 3 | `routing::a_failing_integration_is_an_error_frame_and_the_socket_stays` |
//! | a returned status is silent on a one-way route | § 3 | `routing::a_one_way_route_says_nothing_whatever_it_returned` |
//! | a refusal's body with a route response for `$connect`, else none | serverless-offline#1301 | `handshake::a_refusal_has_the_functions_body_where_connect_has_a_route_response` |
//! | a route response is the body verbatim, at any status | DG route-response, § 3 | `routing::a_route_response_is_the_body_verbatim_at_any_status` |
//! | frames of a connection are invoked concurrently | § 4 | `dispatch::concurrent_is_the_default_and_frames_overtake_each_other` |
//! | `serial` and `shuffle`, to compare | own | `dispatch::serial_keeps_the_order_of_a_connection_only`, `dispatch::shuffle_changes_the_order_and_loses_nothing` |
//! | POST 200, GET 200, DELETE 204; 400, 403, 410, 413, 429 as the SDKs expect | Smithy model, § 5 | `management::the_rust_sdk_posts_gets_and_deletes`, `management::the_rust_sdk_understands_every_error`, `management::boto3_agrees` |
//! | 410 without body, malformed id → 400, stage missing → 403 | § 5 | `management::answers_have_the_statuses_and_bodies_of_aws` |
//! | `%3D`, `=`, `%40`, `@` in the path | aws-sdk-rust#300, § 5 | `management::every_encoding_of_the_path_is_accepted` |
//! | a client that reads slowly → 429 | model: "client side buffer is full", § 5 | `limits::a_slow_reader_gets_429_for_its_pushes_and_nobody_else` |
//! | messages to clients come in frames of at most 32 KiB | § 5 | `limits::long_messages_to_the_client_come_in_frames_of_32_kib` |
//! | frame > 32 KiB → 1009; message > 128 KiB → 1009 | DG limits, § 6 | `limits::a_frame_over_32_kib_closes_with_1009`, `limits::a_message_over_128_kib_closes_with_1009` |
//! | binary frame → 1003 | DG binary-media-types, § 6 | `limits::a_binary_frame_closes_with_1003` |
//! | idle 10 min → 1001 "Going away", told to `$disconnect` | § 6 | `limits::an_idle_connection_is_closed_with_1001` |
//! | messages either way are activity | § 6 | `limits::messages_either_way_are_activity` |
//! | protocol pings are answered and are no activity **(U)** | § 6 | `limits::protocol_pings_are_answered_and_are_no_activity` |
//! | 2 h → 1001 | § 6 | `limits::a_connection_ends_at_its_maximum_age` |
//! | messages and calls share the account's rate: error frame (text **(U)**), 429 | DG limits, § 5 | `limits::messages_over_the_rate_get_an_error_frame` |
//! | DELETE → 1000, `$disconnect` runs, then 410 | boto3#3789, § 6 | `disconnect::delete_closes_with_1000_and_disconnect_runs` |
//! | the client's close code and reason are told; none → 1005 | DG, § 6 | `disconnect::a_close_of_the_client_is_told_with_its_code_and_answered` |
//! | lost TCP → `$disconnect` with 1006 **(U)** | § 6 | `disconnect::a_lost_connection_is_told_as_1006` |
//! | `$disconnect` is best effort | DG, § 6 | `disconnect::disconnect_can_be_lost` |
//! | RFC 6455, but for extensions | RFC 6455, Autobahn | `tests/autobahn.rs` |
//! | broken frames → 1002, broken UTF-8 → 1007 | RFC 6455, 7.4.1 | `wrong_use::frames_that_break_rfc_6455_close_with_1002_or_1007` |
//! | unknown stage → 403; a slash behind it too **(U)** | § 5, § 8 | `wrong_use::an_unknown_stage_is_403` |
//! | `{api}.execute-api.{region}.localhost` must name the API | § 5 | `tls::a_virtual_host_must_name_the_api` |
//! | wss | § 7 | `tls::wss_works_and_management_stays_plain` |
//! | garbage → 400, long heads → 431, long URLs → 414 **(U)** | RFC 9110 | `wrong_use::garbage_is_400_and_the_gateway_lives` |
//! | half-open sockets are given up **(U)** | own | `wrong_use::a_half_open_socket_is_given_up` |
//! | plain HTTP at the stage → 426 **(U)**, elsewhere 403 | RFC 9110 | `wrong_use::a_request_that_is_no_handshake_is_told_so` |
//! | one event per process at a time; the rest wait, at most the integration timeout | Lambda DG concurrency | `function::a_process_gets_one_event_at_a_time_and_the_rest_wait`, `function::waiting_in_the_queue_counts_against_the_integration_timeout` |
//! | more than 10,000 waiting events are throttled: `Internal server error` frame, 500 at the handshake **(U)** | Lambda DG throttling, § 3 | `function::the_queue_is_bounded_and_beyond_it_events_are_throttled` |
//! | `Lambda-Runtime-Deadline-Ms` is when the process is killed | Lambda DG runtimes-api | `function::the_deadline_is_true`, `function::a_hung_process_is_killed_at_its_timeout` |
//! | a crashed process is started again, its invocation fails; a panic costs no process | Lambda DG | `function::a_crashed_process_is_started_again`, `function::a_panic_costs_no_process` |
//! | over its memory, a process is killed | Lambda DG limits | `function::a_process_over_its_memory_is_killed` |
//! | a function that does not start → 502 at once | § 2 | `function::a_function_that_does_not_start_is_502_at_once` |
//! | the environment of a function | Lambda DG envvars-runtime | `function::the_function_has_lambdas_environment` |
//! | Invoke endpoints, as of `cargo lambda watch` | Lambda API Invoke | `function::an_invoke_endpoint_serves_as_well`, `function::an_invoke_endpoint_that_is_down_is_502` |
//! | `DynamoDB` with the Lambda's table, counted by operation | wire contract § 7 | `control::dynamodb_works_and_is_counted` |
//! | faults and counters | wire contract § 8 | `faults`, `control` |
//! | 10,000 idle connections; 1,000 with a frame a second | DG: no cap | `tests/load.rs` |
//!
//! Not imitated: authorizers, IAM, models, throttling per route, access logs, custom domains, and that a message
//! sent while the gateway itself fails is lost.

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    /// `module::name` of all tests in `tests/conformance`.
    fn existing() -> BTreeSet<String> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
        let mut tests = BTreeSet::new();
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let module = path.file_stem().unwrap().to_string_lossy().into_owned();
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let mut lines = text.lines();
            while let Some(line) = lines.next() {
                if !line.starts_with("#[test]") && !line.starts_with("#[tokio::test") {
                    continue;
                }
                let name = lines.next().unwrap().split("fn ").nth(1).unwrap().split('(').next().unwrap();
                tests.insert(format!("{module}::{name}"));
            }
        }
        tests
    }

    #[test]
    fn every_row_names_tests_that_exist() {
        let existing = existing();
        let rows = include_str!("conformance.rs").lines().filter(|line| line.starts_with("//! | "));
        let named: BTreeSet<String> = rows
            .flat_map(|row| row.split('`'))
            .filter(|text| {
                text.contains("::")
                    && !text.ends_with("::tests")
                    && !text.contains(|c: char| c.is_whitespace() || c == '$')
            })
            .map(str::to_owned)
            .collect();
        assert!(named.len() > 50, "{named:?}");
        let missing: Vec<_> = named.difference(&existing).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
