//! The examples of a Markdown text: fenced blocks, and the commands of a block of shell.

/// A fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Of its first line, from 1.
    pub line: usize,
    pub language: String,
    pub text: String,
}

/// One command of a block of shell, as it would be typed: with its continuation lines or its here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    pub line: usize,
    /// Without the comment.
    pub text: String,
    /// What stands behind `#`, here and on the lines below that are comments only.
    pub comment: String,
}

/// In reading order. A fence begins with three backticks and the language at the start of a line.
pub fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (n, line) in markdown.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(language), None) => {
                open = Some(Block { line: n + 2, language: language.to_owned(), text: String::new() });
            }
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert_eq!(open, None, "a fence is not closed");
    blocks
}

impl Block {
    pub fn commands(&self) -> Vec<Command> {
        let mut commands: Vec<Command> = Vec::new();
        let mut lines = self.text.lines().zip(self.line..);
        while let Some((first, line)) = lines.next() {
            let (code, comment) = without_comment(first);
            if code.is_empty() {
                if let Some(last) = commands.last_mut() {
                    last.comment = format!("{} {comment}", last.comment).trim().to_owned();
                }
                continue;
            }
            let mut text = code.to_owned();
            while text.ends_with('\\') {
                let (more, _) = lines.next().expect("a continuation line");
                text.push('\n');
                text.push_str(more);
            }
            if let Some((_, word)) = text.split_once("<<'") {
                let end = word.split('\'').next().unwrap_or_default().to_owned();
                for (more, _) in lines.by_ref() {
                    text.push('\n');
                    text.push_str(more);
                    if more == end {
                        break;
                    }
                }
            }
            commands.push(Command { line, text, comment: comment.to_owned() });
        }
        commands
    }
}

/// The code of a line, and its comment: `#` at the start or behind a space, not within quotes.
fn without_comment(line: &str) -> (&str, &str) {
    let (mut quote, mut before) = (None, ' ');
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') if before == ' ' => return (line[..at].trim_end(), line[at + 1..].trim()),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if c == open => quote = None,
            _ => {}
        }
        before = c;
    }
    (line.trim_end(), "")
}

#[test]
fn blocks_and_commands_are_found() {
    let markdown = "text\n\n```sh\na \"# no\" 'b'   # why\n            # and more\n\nc \\\n  d\n\
        tee x <<'E'\n# kept\nE\n```\n```toml\nx = 1\n```\n";
    let blocks = blocks(markdown);
    let languages: Vec<_> = blocks.iter().map(|b| (b.line, b.language.as_str())).collect();
    assert_eq!(languages, [(4, "sh"), (14, "toml")]);
    let commands: Vec<_> = blocks[0].commands().into_iter().map(|c| (c.line, c.text, c.comment)).collect();
    let of = |line, text: &str, comment: &str| (line, text.to_owned(), comment.to_owned());
    assert_eq!(
        commands,
        [
            of(4, "a \"# no\" 'b'", "why and more"),
            of(7, "c \\\n  d", ""),
            of(9, "tee x <<'E'\n# kept\nE", "")
        ]
    );
}
