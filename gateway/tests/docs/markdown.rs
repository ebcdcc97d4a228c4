//! Fenced blocks of a document, and the commands in them with the output that the document shows.

/// One fenced block.
#[derive(Debug)]
pub(super) struct Block {
    language: String,
    pub(super) text: String,
    /// Where it begins, counted from 1.
    pub(super) line: usize,
    /// The next block under the same heading, if that is ```text: what this one prints.
    shown: Vec<String>,
}

/// One command, over as many lines as it has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ShellCommand {
    pub(super) text: String,
    /// What the document says it prints, each somewhere behind the one before.
    pub(super) shown: Vec<String>,
}

pub(super) fn blocks(document: &str) -> Vec<Block> {
    let mut found = Vec::<Block>::new();
    let mut lines = document.lines().enumerate();
    // Whether no heading lies behind the last block.
    let mut follows = false;
    while let Some((number, line)) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            follows &= !line.starts_with('#');
            continue;
        };
        let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| !line.starts_with("```"));
        let inside = inside.collect::<Vec<_>>();
        match found.last_mut() {
            Some(last) if follows && language == "text" && last.language == "sh" => {
                last.shown = inside.iter().map(|line| (*line).to_owned()).collect();
            }
            _ => found.push(Block {
                language: language.to_owned(),
                text: inside.iter().map(|line| format!("{line}\n")).collect(),
                line: number + 1,
                shown: Vec::new(),
            }),
        }
        follows = true;
    }
    found
}

impl Block {
    pub(super) fn is_shell(&self) -> bool {
        matches!(self.language.as_str(), "sh" | "bash" | "console")
    }

    /// What the whole block prints, as the document shows it.
    pub(super) fn shown(&self) -> &[String] {
        &self.shown
    }

    /// `# → words` behind a command, or lines below it in a ```console block, are what it prints.
    pub(super) fn commands(&self) -> Vec<ShellCommand> {
        let mut commands = Vec::<ShellCommand>::new();
        let mut open = ShellCommand::default();
        for line in self.text.lines() {
            let line = match (self.language.as_str(), line.strip_prefix("$ ")) {
                ("console", None) if open.text.is_empty() => {
                    let last = commands.last_mut().expect("a console block begins with a command");
                    last.shown.push(line.to_owned());
                    continue;
                }
                (_, stripped) => stripped.unwrap_or(line),
            };
            open.text += &format!("{line}\n");
            let (is_whole, comment) = look(&open.text);
            if let Some(shown) = comment.and_then(|comment| comment.trim_start().strip_prefix("→ ")) {
                open.shown = vec![shown.trim().to_owned()];
            }
            if is_whole {
                commands.push(std::mem::take(&mut open));
            }
        }
        assert!(open.text.trim().is_empty(), "a command does not end: {}", open.text);
        commands.retain(|command| !command.text.trim().is_empty());
        commands
    }
}

/// Whether these lines are a whole command: no quote is open, no here-document, no loop, and no line goes on. And the comment at
/// its end, without `#`.
fn look(text: &str) -> (bool, Option<&str>) {
    let (mut quote, mut comment, mut loops) = (None::<char>, None, 0);
    let (mut here, mut word) = (None::<String>, String::new());
    let mut goes_on = false;
    for line in text.split_inclusive('\n') {
        if here.is_some() {
            here = here.filter(|end| line.trim_end() != end);
            continue;
        }
        (goes_on, comment) = (false, None);
        let mut characters = line.char_indices().peekable();
        while let Some((at, character)) = characters.next() {
            match (quote, character) {
                (Some('\''), '\'') | (Some('"'), '"') => quote = None,
                (Some('\''), _) => {}
                (_, '\\') => goes_on = matches!(characters.next(), Some((_, '\n')) | None),
                (Some(_), _) => {}
                (None, '\'' | '"') => quote = Some(character),
                (None, '#') if word.is_empty() => {
                    comment = Some(line[at + 1..].trim_end());
                    break;
                }
                (None, _) if character.is_whitespace() || character == ';' => {
                    loops += i32::from(word == "do") - i32::from(word == "done");
                    word.clear();
                    continue;
                }
                (None, _) => {}
            }
            word.push(character);
        }
        word.clear();
        if let Some((_, end)) = line.split_once("<<") {
            here = Some(end.split_whitespace().next().unwrap_or_default().trim_matches('\'').to_owned());
        }
    }
    (quote.is_none() && here.is_none() && loops == 0 && !goes_on, comment)
}

/// Whether a line shows this: `…` stands for anything, and ids, times and addresses are not compared.
pub(super) fn shows(line: &str, shown: &str) -> bool {
    let (line, shown) = (masked(line), masked(shown));
    let mut rest = line.as_str();
    shown.split('…').map(str::trim).all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

/// Ids, times and addresses become one word each, and spaces one space: no two runs have the same.
fn masked(text: &str) -> String {
    let is_part = |character: char| character.is_ascii_alphanumeric() || "-:.+".contains(character);
    let mut masked = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|character| !is_part(character)).unwrap_or(rest.len());
        if end == 0 {
            if !(first == ' ' && masked.ends_with(' ')) {
                masked.push(first);
            }
            rest = &rest[first.len_utf8()..];
            continue;
        }
        masked += match &rest[..end] {
            id if id.trim_end_matches([':', '.']).len() == 36 && id.matches('-').count() == 4 => "ID",
            time if time.len() > 10 && time.as_bytes()[4] == b'-' && time.contains('T') && time.contains(':') => "TIME",
            address if address.starts_with("127.") && address.contains(':') => "ADDRESS",
            word => word,
        };
        rest = &rest[end..];
    }
    masked
}

#[test]
fn commands_are_read_as_a_shell_reads_them() {
    let text = "```sh\necho \"a\n b\" 'c # → d' # → e\ncat > f <<END\nit's\nEND\nfor x in 1 2; do\n  echo $x\ndone\na \\\n  b\n```\n\nIt prints:\n\n\
                ```text\nshown …\n```\n";
    let [block] = &blocks(text)[..] else { panic!("one block") };
    let commands = block.commands();
    let texts = commands.iter().map(|command| command.text.as_str()).collect::<Vec<_>>();
    let expected = [
        "echo \"a\n b\" 'c # → d' # → e\n",
        "cat > f <<END\nit's\nEND\n",
        "for x in 1 2; do\n  echo $x\ndone\n",
        "a \\\n  b\n",
    ];
    assert_eq!(texts, expected);
    assert_eq!((commands[0].shown.as_slice(), block.shown()), (&["e".to_owned()][..], &["shown …".to_owned()][..]));
}

#[test]
fn what_differs_in_each_run_is_not_compared_and_the_rest_is() {
    let line = "01a217b7-cecc-7252-a29a-a25874df18a6  CONFIRMED  149.00 EUR at 2026-11-25T00:20:16Z on 127.0.0.1:4711";
    assert!(shows(
        line,
        "00000001-b783-89ee-829b-29f01c65266e CONFIRMED 149.00 EUR at 2025-01-01T00:00:00Z on 127.0.0.1:1"
    ));
    assert!(shows(line, "… CONFIRMED … on 127.0.0.1:8080"));
    assert!(!shows(line, "00000001-b783-89ee-829b-29f01c65266e CONFIRMED 148.00 EUR"));
    assert!(!shows(line, "EUR … CONFIRMED"));
}
