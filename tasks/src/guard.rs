//! What libraries do with a stranger's file: a panic of theirs is an error of the file, said once and quietly.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

/// Stack of a thread that reads what may be nested deeply. It is address space until it is used.
const DEEP_STACK: usize = 1 << 30;

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `action` on this thread. A panic is given back as its message, and nothing is printed.
pub fn quietly<T>(action: impl FnOnce() -> T) -> Result<T, String> {
    install();
    let before = IS_QUIET.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(action));
    IS_QUIET.set(before);
    outcome.map_err(|payload| message(payload.as_ref()))
}

/// The same on a thread of its own, whose stack is large.
pub fn deeply<T: Send>(action: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(DEEP_STACK)
            .spawn_scoped(scope, || quietly(action))
            .map_err(|error| format!("no thread can be started: {error}"))?
            .join()
            .unwrap_or_else(|payload| Err(message(payload.as_ref())))
    })
}

/// The deepest nesting of brackets in a JSON text. Brackets in strings do not count.
pub fn json_depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut is_escaped) = (false, false);
    for byte in text {
        match (in_string, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Panics print as before, but for those of a quiet thread.
fn install() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !IS_QUIET.get() {
                before(panic);
            }
        }));
    });
}

fn message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a library gave up".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_message() {
        assert_eq!(quietly(|| 3), Ok(3));
        assert_eq!(
            quietly(|| panic!("no {}", 4)),
            Err::<(), _>("no 4".to_owned())
        );
        assert_eq!(deeply(|| panic!("no")), Err::<(), _>("no".to_owned()));
    }

    #[test]
    fn brackets_in_strings_are_text() {
        assert_eq!(json_depth(br#"{"a": ["[[\"{{", []]}"#), 3);
    }
}
