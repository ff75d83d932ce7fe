//! A `libnvidia-ml.so` for machines without a GPU: it says what a script tells it to, through NVML's own functions.
//!
//! Owns the exported C functions that `nvml-wrapper` needs for what the agent asks, and nothing else: what is not here
//! is "function not found" there, as with an old driver. The script's path comes from the environment, else it
//! is `script.json` beside the library; it may be rewritten (by rename) at any time.
//!
//! The one crate with `unsafe`: its functions are called from C's side and write through the pointers they are given.
//! Every pointer is checked for null and written once; handles are numbers in a pointer's clothes, never followed.

mod answer;
mod calls;
mod events;
mod host;
pub mod script;
mod topology;
