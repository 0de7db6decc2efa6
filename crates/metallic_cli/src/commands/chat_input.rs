//! Where a conversation's lines come from: a line editor with history, or piped lines.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use metallic::config::process_env;
use rustyline::error::ReadlineError;

use crate::error::{Error, Result};
use crate::inputs;
use crate::output::note;

/// A line, or the end of the conversation.
pub(super) enum Line {
    Text(String),
    End,
}

/// The source of lines.
pub(super) enum Input {
    Editor { editor: Box<rustyline::DefaultEditor>, history: Option<PathBuf> },
    Piped,
}

impl Input {
    /// The editor on a terminal, plain lines otherwise.
    ///
    /// # Errors
    /// [`Error::Editor`] when the terminal cannot be set up.
    pub(super) fn open() -> Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Input::Piped);
        }
        let mut editor = rustyline::DefaultEditor::new().map_err(editor_error)?;
        let history = history_file();
        if let Some(history) = &history {
            // There is none before the first conversation.
            let _ = editor.load_history(history);
        }
        Ok(Input::Editor { editor: Box::new(editor), history })
    }

    pub(super) fn is_interactive(&self) -> bool {
        matches!(self, Input::Editor { .. })
    }

    /// The next line.
    ///
    /// # Errors
    /// [`Error::Editor`], [`Error::Read`].
    pub(super) fn read(&mut self) -> Result<Line> {
        match self {
            Input::Editor { editor, .. } => match editor.readline("> ") {
                Ok(line) => {
                    let _ = editor.add_history_entry(line.trim());
                    Ok(Line::Text(line))
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(Line::End),
                Err(error) => Err(editor_error(error)),
            },
            Input::Piped => {
                let line = inputs::read_line()?;
                Ok(if line.is_empty() { Line::End } else { Line::Text(line.trim_end().to_owned()) })
            }
        }
    }

    /// Keeps the history for the next conversation.
    pub(super) fn save(&mut self) {
        let Input::Editor { editor, history: Some(history) } = self else { return };
        let made = history.parent().map_or(Ok(()), std::fs::create_dir_all);
        let saved = made.map_err(ReadlineError::from).and_then(|()| editor.save_history(history));
        if let Err(error) = saved {
            note!("warning: the history was not saved to {}: {error}", history.display());
        }
    }
}

fn editor_error(error: ReadlineError) -> Error {
    Error::Editor { reason: error.to_string() }
}

/// `$XDG_STATE_HOME/metallic/chat-history`.
fn history_file() -> Option<PathBuf> {
    let state = process_env("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| process_env("HOME").map(|home| PathBuf::from(home).join(".local/state")));
    state.map(|state| state.join("metallic/chat-history"))
}
