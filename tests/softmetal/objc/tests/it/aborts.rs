//! What must end the process, each in a child process of its own.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

const CHILD: &str = "SOFTMETAL_ABORT_CHILD";

/// Runs `action` in a child process, which must abort with a message that holds `text`. To be called
/// once in a test.
pub(crate) fn aborts(text: &str, action: impl FnOnce()) {
    let thread = std::thread::current();
    let name = thread.name().expect("tests have names");
    if std::env::var(CHILD).as_deref() == Ok(name) {
        action();
        std::process::exit(0);
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, name)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(6), "no abort, but {}:\n{errors}", output.status);
    assert!(errors.contains(text), "the message does not hold {text:?}:\n{errors}");
}
