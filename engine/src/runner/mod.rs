//! Running a task: the protocol between a build and its child processes, from both ends.
//!
//! `protocol` is the wire, `context` the end inside a built-in kind. What to run and what to keep of it is `build`'s.

mod context;
mod protocol;

pub use context::{Artifact, AtPath, Context, Failure, Part, Recorder, request, serve};
pub use protocol::{Event, FailureClass, PROTOCOL, PartRequest, Request, RequestInput};
