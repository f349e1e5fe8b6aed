//! The Kubernetes API as a source, against a server that speaks HTTP and misbehaves.
//!
//! Each test says what a user would see of the cluster: the agent's model, what it
//! reports as wrong, and that nothing which exists is ever taken away.

mod agent;
mod api_server;
mod changes;
mod trouble;
