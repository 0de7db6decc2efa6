//! What must end the process, or wants a switchboard of its own: each in a child process.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

const CHILD: &str = "SOFTMETAL_ABORT_CHILD";

/// Runs `action` in a child process, which must abort with a message that holds `text`. To be called
/// once in a test.
pub(crate) fn aborts(text: &str, action: impl FnOnce()) {
    let output = child(action);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(6), "no abort, but {}:\n{errors}", output.status);
    assert!(errors.contains(text), "the message does not hold {text:?}:\n{errors}");
}

/// Runs `action` in a child process, where the switchboard is its own; it must succeed.
pub(crate) fn alone(action: impl FnOnce()) {
    let output = child(action);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}:\n{errors}", output.status);
}

fn child(action: impl FnOnce()) -> Output {
    let thread = std::thread::current();
    let name = thread.name().expect("tests have names");
    if std::env::var(CHILD).as_deref() == Ok(name) {
        action();
        std::process::exit(0);
    }
    Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, name)
        .output()
        .unwrap()
}
