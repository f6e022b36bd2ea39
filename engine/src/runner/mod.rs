//! Running a task: the protocol between a build and its child processes, from both ends.
//!
//! `protocol` is the wire, `context` the end inside a built-in kind, `process` the end outside, `spawn` the birth of the
//! child and `group` what becomes of its processes. What to run and what to keep of it is `build`'s.

mod context;
mod group;
// Public for the fuzz targets alone.
#[doc(hidden)]
pub mod lines;
mod process;
mod protocol;
mod spawn;

pub use context::{Artifact, AtPath, Context, Failure, Part, Recorder, request, serve};
pub(crate) use group::place;
pub use group::{Attempt, MARK, Process};
pub use process::{Ended, Launch, Stdin, Stop, run, tail};
pub use protocol::{Event, FailureClass, PROTOCOL, PartRequest, Request, RequestInput};
