//! The bytes of a terminal's keys, turned into events. It reads no terminal itself.
//!
//! The library of the terminal has a reader of its own. It never returns if the terminal is gone, and its thread is then busy
//! for ever.

use super::event::{TopEvent, TopKey};

/// The longest sequence of a key. A longer one is no key.
const LONGEST_SEQUENCE: usize = 32;

/// The longest text that is taken from one paste. The rest is dropped.
const LONGEST_PASTE: usize = 4096;

/// The sequences around a pasted text.
const PASTE_END: &[u8] = b"\x1b[201~";

const ESCAPE: u8 = 0x1b;

/// An event of the terminal.
#[derive(Clone, Debug)]
pub(super) enum TerminalEvent {
    /// An event that changes the state.
    Top(TopEvent),
    /// The whole screen must be drawn.
    Redraw,
    /// The operator suspends the view.
    Suspend,
}

/// Reads keys. A key may come in several pieces.
#[derive(Debug, Default)]
pub(super) struct KeyReader {
    /// Bytes that are not a whole key yet.
    rest: Vec<u8>,
    /// The text of a paste that has begun.
    paste: Option<Vec<u8>>,
}

/// The start of some bytes.
enum KeyStart {
    /// A key of so many bytes.
    Whole(Option<TerminalEvent>, usize),
    /// The beginning of a pasted text, behind so many bytes.
    Paste(usize),
    /// More bytes may follow.
    Part,
}

impl KeyReader {
    /// Returns the events of further bytes.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Vec<TerminalEvent> {
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        while !self.rest.is_empty() {
            if self.paste.is_some() {
                match self.read_paste() {
                    Some(event) => events.push(event),
                    None => break,
                }
                continue;
            }
            match start(&self.rest) {
                KeyStart::Whole(event, length) => {
                    events.extend(event);
                    self.rest.drain(..length);
                }
                KeyStart::Paste(length) => {
                    self.rest.drain(..length);
                    self.paste = Some(Vec::new());
                }
                KeyStart::Part => break,
            }
        }
        events
    }

    /// Returns true if more bytes would decide what the last ones are.
    pub(super) fn is_undecided(&self) -> bool {
        !self.rest.is_empty() && self.paste.is_none()
    }

    /// Returns the events of the bytes that are left, as no others follow them: the key Esc is the start of other keys.
    pub(super) fn decide(&mut self) -> Vec<TerminalEvent> {
        if !self.is_undecided() {
            return Vec::new();
        }
        let rest = std::mem::take(&mut self.rest);
        match rest[0] {
            ESCAPE => [key(TopKey::Esc)].into_iter().chain(self.read(&rest[1..])).collect(),
            // A part of a character.
            _ => self.read(&rest[1..]),
        }
    }

    /// Reads a pasted text up to its end. Returns `None` if the end has not come.
    fn read_paste(&mut self) -> Option<TerminalEvent> {
        let paste = self.paste.as_mut()?;
        let end = self.rest.windows(PASTE_END.len()).position(|window| window == PASTE_END);
        // The last bytes may be the first ones of the end.
        let length = end.unwrap_or(self.rest.len().saturating_sub(PASTE_END.len() - 1));
        let text = self.rest.drain(..length);
        let free = LONGEST_PASTE.saturating_sub(paste.len());
        paste.extend(text.take(free));
        end?;
        self.rest.drain(..PASTE_END.len());
        let text = String::from_utf8_lossy(&self.paste.take()?).into_owned();
        Some(TerminalEvent::Top(TopEvent::Paste(text)))
    }
}

fn key(key: TopKey) -> TerminalEvent {
    TerminalEvent::Top(TopEvent::Key(key))
}

/// Reads the first key of some bytes, which are not empty.
fn start(bytes: &[u8]) -> KeyStart {
    match bytes[0] {
        ESCAPE => sequence(bytes),
        b'\r' | b'\n' => KeyStart::Whole(Some(key(TopKey::Enter)), 1),
        b'\t' => KeyStart::Whole(Some(key(TopKey::Tab)), 1),
        0x7f | 0x08 => KeyStart::Whole(Some(key(TopKey::Backspace)), 1),
        // Ctrl-C, Ctrl-L and Ctrl-Z. Other control characters are no commands.
        0x03 => KeyStart::Whole(Some(key(TopKey::Interrupt)), 1),
        0x0c => KeyStart::Whole(Some(TerminalEvent::Redraw), 1),
        0x1a => KeyStart::Whole(Some(TerminalEvent::Suspend), 1),
        ..0x20 => KeyStart::Whole(None, 1),
        _ => character(bytes),
    }
}

/// Reads a character of UTF-8.
fn character(bytes: &[u8]) -> KeyStart {
    let length = match bytes[0] {
        ..0x80 => 1,
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0..0xf8 => 4,
        _ => return KeyStart::Whole(None, 1),
    };
    let Some(bytes) = bytes.get(..length) else { return KeyStart::Part };
    match str::from_utf8(bytes).ok().and_then(|text| text.chars().next()) {
        Some(c) => KeyStart::Whole(Some(key(TopKey::Char(c))), length),
        None => KeyStart::Whole(None, 1),
    }
}

/// Reads a sequence that begins with the escape character.
fn sequence(bytes: &[u8]) -> KeyStart {
    match bytes.get(1) {
        None => KeyStart::Part,
        Some(b'[') => control_sequence(bytes),
        Some(b'O') => match bytes.get(2) {
            None => KeyStart::Part,
            Some(last) => KeyStart::Whole(named(*last).map(key), 3),
        },
        Some(&ESCAPE) => KeyStart::Whole(Some(key(TopKey::Esc)), 1),
        // A character with Alt is a command that the view does not have.
        Some(_) => match character(&bytes[1..]) {
            KeyStart::Whole(_, length) => KeyStart::Whole(None, 1 + length),
            other => other,
        },
    }
}

/// Reads a sequence of parameters and a last byte.
fn control_sequence(bytes: &[u8]) -> KeyStart {
    let Some(length) = bytes[2..].iter().position(|byte| (0x40..=0x7e).contains(byte)) else {
        return if bytes.len() > LONGEST_SEQUENCE {
            KeyStart::Whole(None, bytes.len())
        } else {
            KeyStart::Part
        };
    };
    let (parameters, last) = (&bytes[2..2 + length], bytes[2 + length]);
    let whole = 3 + length;
    // A second parameter says which keys are held, such as Ctrl.
    let first = parameters.split(|byte| *byte == b';').next().unwrap_or_default();
    let pressed = match (last, first) {
        (b'~', b"200") => return KeyStart::Paste(whole),
        (b'~', b"1" | b"7") => Some(TopKey::Home),
        (b'~', b"4" | b"8") => Some(TopKey::End),
        (b'~', b"5") => Some(TopKey::PageUp),
        (b'~', b"6") => Some(TopKey::PageDown),
        (b'Z', _) => Some(TopKey::BackTab),
        (last, _) => named(last),
    };
    KeyStart::Whole(pressed.map(key), whole)
}

/// Returns the key of the last byte of a sequence.
fn named(last: u8) -> Option<TopKey> {
    Some(match last {
        b'A' => TopKey::Up,
        b'B' => TopKey::Down,
        b'C' => TopKey::Right,
        b'D' => TopKey::Left,
        b'H' => TopKey::Home,
        b'F' => TopKey::End,
        b'M' => TopKey::Enter,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(events: &[TerminalEvent]) -> String {
        let word = |event: &TerminalEvent| match event {
            TerminalEvent::Top(TopEvent::Key(TopKey::Char(c))) => c.to_string(),
            TerminalEvent::Top(TopEvent::Key(key)) => format!("<{key:?}>"),
            TerminalEvent::Top(TopEvent::Paste(text)) => format!("<Paste {text}>"),
            other => format!("<{other:?}>"),
        };
        events.iter().map(word).collect()
    }

    /// Reads bytes whole, and in all pairs of pieces.
    #[track_caller]
    fn check(bytes: &[u8], expected: &str) {
        for at in 0..=bytes.len() {
            let mut reader = KeyReader::default();
            let mut events = reader.read(&bytes[..at]);
            events.extend(reader.read(&bytes[at..]));
            events.extend(reader.decide());
            assert_eq!(words(&events), expected, "{:?} | {:?}", bytes[..at].escape_ascii(), at);
            assert!(!reader.is_undecided());
        }
    }

    #[test]
    fn keys_are_read_in_any_pieces() {
        check(b"jk /", "jk /");
        check("\u{e9}\u{6f22}x".as_bytes(), "\u{e9}\u{6f22}x");
        check(b"\r\t\x7f\x08", "<Enter><Tab><Backspace><Backspace>");
        check(b"\x03\x0c\x1a\x01\x00", "<Interrupt><Redraw><Suspend>");
        check(b"\x1b[A\x1b[B\x1b[C\x1b[D\x1b[H\x1b[F\x1b[Z", "<Up><Down><Right><Left><Home><End><BackTab>");
        check(b"\x1bOA\x1bOB\x1bOH\x1bOF\x1bOM", "<Up><Down><Home><End><Enter>");
        check(b"\x1b[1~\x1b[4~\x1b[5~\x1b[6~\x1b[7~\x1b[8~", "<Home><End><PageUp><PageDown><Home><End>");
        check(b"\x1b[1;5Ax\x1b[3~\x1b[15~\x1b[?1;2cy", "<Up>xy");
        check(b"\x1b", "<Esc>");
        check(b"\x1b\x1b[A", "<Esc><Up>");
        check(b"\x1bxq", "q");
    }

    #[test]
    fn a_pasted_text_is_one_event() {
        check(b"a\x1b[200~dy\r\x1b[A\x1b[201~b", "a<Paste dy\r\x1b[A>b");
        check(b"\x1b[200~\x1b[201~", "<Paste >");
        let mut reader = KeyReader::default();
        assert!(reader.read(b"\x1b[200~").is_empty());
        for _ in 0..100 {
            assert!(reader.read(&[b'x'; 1000]).is_empty());
            assert!(reader.rest.len() < 1100 && reader.paste.as_ref().unwrap().len() <= LONGEST_PASTE);
            assert!(!reader.is_undecided() && reader.decide().is_empty(), "the end may come later");
        }
        let events = reader.read(b"\x1b[201~q");
        assert_eq!(words(&events), format!("<Paste {}>q", "x".repeat(LONGEST_PASTE)));
    }

    #[test]
    fn no_sequence_is_kept_for_ever() {
        let mut reader = KeyReader::default();
        for _ in 0..1000 {
            reader.read(b"\x1b[");
            reader.read(b"1;1;1;");
            assert!(reader.rest.len() <= LONGEST_SEQUENCE + 8);
        }
        assert_eq!(words(&reader.read(b"\xff\xffq")), "q");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>(), at in 0_usize..100) {
            let mut reader = KeyReader::default();
            let at = at.min(bytes.len());
            reader.read(&bytes[..at]);
            reader.read(&bytes[at..]);
            reader.decide();
        }
    }
}
