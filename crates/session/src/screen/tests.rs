//! The model compared with a terminal that received all output.

use proptest::prelude::*;

use shellbridge_protocol::limits::{MAX_COLS, MAX_ROWS};

use super::*;

impl Screen {
    /// Processes all bytes without a budget.
    pub(crate) fn feed_all(&mut self, bytes: &[u8]) {
        assert_eq!(self.feed(bytes, &mut { i64::MAX }), bytes.len());
    }
}

fn screen(cols: u16, rows: u16, text: &str) -> Screen {
    let mut screen = Screen::new(Size { cols, rows });
    screen.feed_all(text.as_bytes());
    screen
}

fn shown(terminal: &Terminal) -> Vec<String> {
    terminal.screen().text()
}

fn text(screen: &Screen) -> String {
    String::from_utf8(screen.snapshot()).unwrap()
}

/// A client's terminal after a reset and the snapshot.
fn restored(screen: &Screen) -> Terminal {
    let (cols, rows) = screen.terminal.size();
    let mut terminal = Terminal::with_scrollback(cols, rows, None).unwrap();
    terminal.feed(text(screen));
    terminal
}

#[test]
fn scrollback_stays_above_the_screen() {
    let screen = screen(10, 3, "one\r\ntwo\r\nthree\r\nfour\r\n\x1b[31mfive");
    let terminal = restored(&screen);
    assert_eq!(shown(&terminal), ["one", "two", "three", "four", "five"]);
    assert_eq!(terminal.cursor().position(), Some((4, 2)));
}

#[test]
fn a_nearly_empty_screen_stays_at_the_top() {
    let screen = screen(10, 5, "a\r\nb\r\nc\r\nd\r\ne\r\nf\x1b[H\x1b[J$ ");
    let terminal = restored(&screen);
    assert_eq!(terminal.screen().line(0).unwrap().text().trim_end(), "$");
    assert_eq!(terminal.cursor().position(), Some((2, 0)));
}

#[test]
fn quitting_vi_after_a_snapshot_brings_the_shell_back() {
    let screen = screen(20, 4, "$ vi x\r\n\x1b[?1049h\x1b[2J\x1b[H~ text\x1b[?2004h");
    let mut terminal = restored(&screen);
    assert_eq!(terminal.screen().line(0).unwrap().text().trim_end(), "~ text");
    terminal.feed("\x1b[?1049l");
    assert_eq!(terminal.screen().line(0).unwrap().text().trim_end(), "$ vi x");
    assert!(text(&screen).contains("\x1b[?2004h"));
}

#[test]
fn the_last_value_of_a_mode_wins_even_across_chunks() {
    let mut screen = screen(10, 3, "");
    for byte in b"\x1b[?1000;1006h\x1b]0;title\x07\x1b[?1000l\x1b=\x1b[5 q\x1b[?25l" {
        screen.feed_all(&[*byte]);
    }
    let snapshot = text(&screen);
    assert!(snapshot.contains("\x1b[?1006h\x1b=\x1b[5 q"), "{snapshot:?}");
    assert!(!snapshot.contains("1000"), "{snapshot:?}");
    screen.feed_all(b"\x1bc");
    assert!(!text(&screen).contains("1006"));
}

#[test]
fn characters_may_be_split_anywhere_and_invalid_bytes_are_skipped() {
    let mut screen = screen(10, 3, "");
    for byte in "añ界".bytes().chain([0xff, b'b', 0xe2, 0x82]).chain([b'c']) {
        screen.feed_all(&[byte]);
    }
    assert_eq!(shown(&restored(&screen))[0].trim_end(), "añ界bc");
}

#[test]
fn an_unfinished_character_ends_the_snapshot() {
    let mut screen = screen(10, 3, "a");
    screen.feed_all(&[0xe2, 0x82]);
    assert!(screen.snapshot().ends_with(&[0xe2, 0x82]));
}

#[test]
fn clearing_the_scrollback_clears_it_here_too() {
    let screen = screen(10, 2, "a\r\nb\r\nc\r\nd\x1b[3J");
    assert_eq!(screen.history.lines.len(), 0);
}

#[test]
fn scrollback_is_bounded() {
    let screen = screen(10, 2, &"x\r\n".repeat(SNAPSHOT_SCROLLBACK + 50));
    assert_eq!(screen.history.lines.len(), SNAPSHOT_SCROLLBACK);
    let colours = "\x1b[38;2;100;100;100mx\x1b[38;2;200;200;200my".repeat(400);
    let colourful = self::screen(1000, 2, &format!("{colours}\r\n").repeat(SNAPSHOT_SCROLLBACK));
    assert!(colourful.history.bytes <= history::MAX_HISTORY);
    let endless = self::screen(10, 2, &"x".repeat(100_000));
    assert!(endless.history.open.len() <= 17 * 1024);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Skipping plain lines leaves the same terminal as processing every byte.
    #[test]
    fn what_is_passed_over_leaves_no_trace(
        parts in proptest::collection::vec((
            prop_oneof![
                "\\x1b\\[[1-4];[1-5]r(\\x1b\\[[1-5]H)?",
                "\\x1b\\[r|\\x1bc|\\x1b\\[!p|\\x1b\\[3J|\\x1b\\[2J",
                "\\x1b\\[[?](1049|7|6)[hl]|\\x1b\\[4[hl]|\\x1b\\[20[hl]",
                "\\x1b\\[[1-5];[1-9]H|\\x1b\\[4[1-7]m|\\x1b\\[m|\\x0e|\\x1b[(]0|\\x1bH",
                "\\x1b|\\x1b\\[|\\x1b\\]0;|\\x1bP|\\x1b\\[?[0-9]{0,70}|\\x07|\\x1b\\\\|界|\u{9b}3",
                "[a-z]{0,30}",
            ],
            ("[a-z0-9 \t]{0,25}", "(\r\n|\n|\r)?", 0_usize..2600, "[a-z]{0,14}"),
        ), 1..5),
        cut: proptest::sample::Index,
        turn in 300_i64..20_000,
    ) {
        let mut text = String::new();
        for (before, (line, end, count, rest)) in &parts {
            text.push_str(before);
            for n in 0..*count {
                text.push_str(line.get(..line.len() - n % (line.len() + 1)).unwrap_or(line));
                text.push_str(if n % 3 == 0 { end } else { "\r\n" });
            }
            text.push_str(rest);
        }
        let (mut passing, mut following) = (screen(12, 5, ""), screen(12, 5, ""));
        passing.feed_all(text.as_bytes());
        following.follow(text.as_bytes(), &mut { i64::MAX });
        prop_assert_eq!(passing.snapshot(), following.snapshot());
        // In turns with a budget of `turn`, from two pieces of output.
        let text = &text[..text.floor_char_boundary(20_000)];
        let (mut turns, mut following) = (screen(12, 5, ""), screen(12, 5, ""));
        following.follow(text.as_bytes(), &mut { i64::MAX });
        let (a, b) = text.as_bytes().split_at(cut.index(text.len() + 1));
        for mut piece in [a, b] {
            while !piece.is_empty() {
                let read = turns.feed(piece, &mut { turn });
                piece = &piece[read..];
            }
        }
        prop_assert_eq!(turns.snapshot(), following.snapshot());
    }
}

#[test]
fn most_of_a_build_log_is_skipped() {
    let log: Vec<u8> = (0..20_000).flat_map(|n| format!("{n} compiling\r\n").into_bytes()).collect();
    let run = &log[..];
    let (proof, tail) = beyond(run, 1000).unwrap();
    assert_eq!(&log[proof - 2..proof], b"\r\n");
    assert!(log[tail..].starts_with(b"19000 compiling\r\n"), "{}", tail);
    let mut screen = screen(80, 24, "$ make\r\n");
    screen.feed_all(run);
    assert!(text(&screen).contains("18999 compiling") && !text(&screen).contains("18900 compiling"));
    assert!(screen.followed < log.len() / 10, "{} of {}", screen.followed, log.len());
}

/// Below the scrolling region, lines overwrite each other, and the ends of long ones remain.
#[test]
fn nothing_is_skipped_while_only_a_part_of_the_screen_scrolls() {
    let lines = ["x\r\n".repeat(60), "longer\r\n".repeat(200), "short\r\n".repeat(1_100)].concat();
    let mut screen = screen(12, 5, "\x1b[1;3r\x1b[5H");
    screen.feed_all(lines.as_bytes());
    assert!(text(&screen).contains("shortr"));
    screen.feed_all(b"\x1b[1;5r\x1b[5H");
    assert!(!screen.history.margins);
}

proptest! {
    /// For any output, the restored terminal shows the same screen, now and after more output.
    #[test]
    fn a_restored_terminal_equals_one_that_saw_everything(
        parts in proptest::collection::vec(prop_oneof![
            "[a-z界 ]{1,12}".prop_map(String::from),
            Just("\r\n".to_owned()),
            (0_u8..50).prop_map(|n| format!("\x1b[{n}m")),
            (1_u8..9, 1_u8..20).prop_map(|(r, c)| format!("\x1b[{r};{c}H")),
            prop_oneof!["\x1b\\[\\?1049[hl]", "\x1b\\[[0-2]?[JKLMP@]", "\x1b[78M]"].prop_map(String::from),
        ], 0..40),
        more in "[a-z\r\n]{0,20}",
    ) {
        let mut all = Terminal::new(12, 5).unwrap();
        let text = parts.concat();
        all.feed(text.as_str());
        let mut after = restored(&screen(12, 5, &text));
        for terminal in [&mut all, &mut after] {
            terminal.feed(more.as_str());
        }
        let cells = |t: &Terminal| t.screen().visible_lines().map(|l| l.cells().to_vec()).collect::<Vec<_>>();
        prop_assert_eq!(cells(&all), cells(&after));
        prop_assert_eq!(all.cursor(), after.cursor());
    }
}

/// Processor time of this thread, ns (`proc_pid_schedstat`, scheduler/sched-stats.rst).
fn processor_time() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

const LARGEST: (u16, u16) = (MAX_COLS, MAX_ROWS);

/// Once, a few bytes of output could cost ten seconds at some size.
#[test]
fn regression_a_turn_stays_within_its_budget_for_any_output() {
    let worst = [
        "\x1b[41m\x1b[2J\x1b[500S",
        "\x1b[500S",
        "\x1b[65535T\x1b[65535L\x1b[65535M",
        "x\x1b[65535b",
        "\x1b[65535@\x1b[65535P\x1b[65535X",
        "\x1b[?1049h\x1b[?1049l",
        "\x1b#8\x1bc",
        "\x1b[2;199r\x1b[H\x1bM\x1b[199H\n",
        "\x1b[4h\x1b[Hxyz",
    ];
    for (cols, rows) in [LARGEST, (80, 24), (1, MAX_ROWS), (MAX_COLS, 1)] {
        for text in worst {
            let text = text.repeat(24 * 1024 / text.len());
            let (mut screen, mut rest, mut turns) = (screen(cols, rows, ""), text.as_bytes(), 0);
            let (began, mut spent) = (processor_time(), 0);
            while !rest.is_empty() && turns < 20 {
                let mut cells = 100_000;
                let read = screen.feed(rest, &mut cells);
                rest = &rest[read..];
                turns += 1;
                spent += 100_000 - cells;
                assert!(read > 0 && cells > -2_000_000, "{:?} at {cols}x{rows}: {cells}", &text[..20]);
            }
            // A cell takes 2 ns in a release build; the test compares counted with actual work.
            let each = (processor_time() - began) / u64::try_from(spent).unwrap();
            assert!(each < 100, "{:?} at {cols}x{rows}: {each} ns a cell", &text[..20]);
        }
    }
}

proptest! {
    /// A shortened repetition leaves the same screen.
    #[test]
    fn a_long_repetition_looks_as_if_it_had_been_done_whole(
        size in (1_usize..14, 1_usize..6),
        before in "(\\x1b\\[4h|\\x1b\\[\\?7l|\\x1b\\[2;3r|\\x1b\\[[1-6];[1-9]H|[a-z]|界){0,6}[a-z界]",
        count in 1_u16..=u16::MAX,
    ) {
        let mut whole = Terminal::new(size.0, size.1).unwrap();
        let text = format!("{before}\x1b[{count}b");
        whole.feed(text.as_str());
        let cut = screen(u16::try_from(size.0).unwrap(), u16::try_from(size.1).unwrap(), &text);
        let cells = |t: &Terminal| t.screen().visible_lines().map(|l| l.cells().to_vec()).collect::<Vec<_>>();
        prop_assert_eq!(cells(&whole), cells(&cut.terminal));
        prop_assert_eq!(whole.cursor(), cut.terminal.cursor());
    }
}

#[test]
fn skipped_output_is_reported_once_in_its_place() {
    let mut screen = screen(20, 3, "one\r\ntwo\r\nthree\r\nfour\r\n\x1b[?2004h");
    screen.skip(5, b"\x1b[?1000h12");
    screen.skip(0, b"345");
    screen.feed_all(b"after\x1b[31m");
    let said = text(&screen);
    assert!(said.contains("one\x1b[m\r\n") && said.contains("[18 bytes of output"), "{said:?}");
    assert_eq!(said.matches("bytes of output").count(), 1, "{said:?}");
    assert!(said.contains("\x1b[?2004h\x1b[?1000h"), "modes are followed all the same: {said:?}");
    assert_eq!(restored(&screen).screen().line(0).unwrap().text().trim_end(), "after");
    screen.skip(0, b"\x1b[?1049h");
    let mut terminal = restored(&screen);
    assert_eq!(terminal.active_screen_kind(), avt::ScreenKind::Alternate);
    terminal.feed("\x1b[?1049l");
    assert_eq!(terminal.active_screen_kind(), avt::ScreenKind::Primary);
}
