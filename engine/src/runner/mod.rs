//! Running a task: the protocol between a build and its child processes, from both ends.
//!
//! `protocol` is the wire, `context` the end inside a built-in kind, `process` the end outside, `spawn` the birth of the
//! child, `bounds` how much it may say, `group` how its processes are ended and `orphans` how those are reaped that lost
//! their parents. What to run and what to keep of it is `build`'s.

mod bounds;
mod context;
mod group;
// Public for the fuzz targets alone.
#[doc(hidden)]
pub mod lines;
mod orphans;
mod process;
mod protocol;
mod spawn;

pub use context::{Artifact, AtPath, Context, Failure, Part, Recorder, request, serve};
pub(crate) use group::place;
pub use group::{Attempt, MARK, Process};
pub use orphans::adopt_orphans;
pub use process::{EVENTS_AT_ONCE, Ended, Launch, Stdin, Stop, can_start_threads, run, tail};
pub use protocol::{Event, FailureClass, PROTOCOL, PartRequest, Request, RequestInput};
