//! What no name, title or address may have in it.

/// Whether a character can do harm because nobody sees it: line breaks and other controls, what has no width, and what turns
/// the direction of the text around it. Joiners, which some scripts need, are none of these.
pub fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_sees_is_found_and_every_script_may_be_written() {
        for text in ["a\nb", "a\u{200b}b", "a\u{202e}b", "\u{feff}", "a\u{2028}b", "\u{3164}", "a\u{ad}b", "a\0"] {
            assert!(text.chars().any(is_unseen), "{text:?}");
        }
        for text in ["Zoë", "می\u{200c}خواهم", "क्\u{200d}ष", "東京都", "Ünïcödé 1/2 — № 3", "👟"]
        {
            assert!(!text.chars().any(is_unseen), "{text:?}");
        }
    }
}
