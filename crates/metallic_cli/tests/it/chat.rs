//! `metallic chat` with piped lines.

use crate::support::{folder, metallic_with, text};

#[test]
fn every_turn_only_processes_what_is_new() {
    let question = "Tell me a story about a dog named Rex.";
    let chat = |input: &str| metallic_with(&["chat", "--temp", "0", "-n", "20"], &[], input).ok();
    let one = chat(&format!("{question}\n"));
    assert_eq!(one.stdout.lines().count(), 1);
    assert!(one.stdout.contains("Rex"), "{}", one.stdout);
    let two = chat(&format!("{question}\nWhat is his name?\n"));
    assert_eq!(two.stdout.lines().count(), 2);
    let prompt = |summary: &str| {
        let word = summary.split_whitespace().nth(1).unwrap_or_default();
        word.parse::<usize>().unwrap()
    };
    // The second turn adds the end of the answer, its own frame and a few words, not the first
    // turn again.
    assert!(prompt(two.summary()) < 2 * prompt(one.summary()), "{}", two.summary());
    let again = chat(&format!("{question}\n/clear\n{question}\n/exit\nnever read\n"));
    let lines: Vec<&str> = again.stdout.lines().collect();
    assert!(lines.len() == 2 && lines[0] == lines[1], "{lines:?}");
    let regenerated = chat(&format!("{question}\n/regen\n"));
    let lines: Vec<&str> = regenerated.stdout.lines().collect();
    assert!(lines.len() == 2 && lines[0] == lines[1], "{lines:?}");
}

#[test]
fn an_answer_ends_where_the_context_does() {
    // More is asked for than there is room: a bound, no demand.
    let input = "Tell me a story about a dog named Rex.\n";
    let chat =
        |n: &str| metallic_with(&["chat", "--temp", "0", "-n", n, "-c", "40"], &[], input).ok();
    let all = chat("-1");
    assert!(all.stderr.contains("the context is full"), "{}", all.stderr);
    assert_eq!(chat("300").stdout, all.stdout);
    assert_ne!(chat("3").stdout, all.stdout);
}

#[test]
fn penalties_do_not_count_an_answer_that_was_taken_back() {
    let input = "Tell me a story about a dog named Rex.\n/regen\n/regen\n";
    // The second answer reuses the cache of the prompt. Rounded, its kernels differ in a near tie.
    let penalty = ["chat", "--exact", "--temp", "0", "-n", "20", "--repeat-penalty", "1.8"];
    let chat = metallic_with(&penalty, &[], input).ok();
    let lines: Vec<&str> = chat.stdout.lines().collect();
    assert!(lines.len() == 3 && lines.iter().all(|line| *line == lines[0]), "{lines:?}");
}

#[test]
fn a_conversation_that_outgrows_its_context_says_so() {
    let input = "Tell me a story about a dog named Rex.\n".repeat(3);
    let run = metallic_with(&["chat", "-c", "24", "-n", "4"], &[], &input);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("/clear"), "{}", run.stderr);
    assert!(run.stderr.contains("the context holds 24"), "{}", run.stderr);
}

#[test]
fn commands_are_not_sent_to_the_model() {
    let dir = folder();
    let state = [("XDG_STATE_HOME", text(dir.path()))];
    let run = metallic_with(&["chat"], &state, "/help\n/nonsense\n/regen\n\n").ok();
    assert_eq!(run.stdout, "");
    for words in ["/exit ends", "unknown command /nonsense", "no answer yet"] {
        assert!(run.stderr.contains(words), "no `{words}` in: {}", run.stderr);
    }
}
