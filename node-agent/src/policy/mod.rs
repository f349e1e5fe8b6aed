//! NetworkPolicies become the tables by which local pods' packets are judged.
//!
//! Whatever a rule says of its peers is a *clause*; the clauses that hold for an address
//! are its *class*; the policies that select a local pod are its *set*. The tables say
//! each address' class, each pod's set, and what each set says of each class: exactly,
//! and no more than there really is.
//!
//! Invariant: pure; writes come out, nothing is written. This module must not know
//! maps, packets or where objects come from.

mod blocks;
mod classify;
mod clause;
mod denials;
mod engine;
mod ids;
mod op;
mod outcome;
mod set;
mod sizes;
mod verdicts;

pub use engine::{PodFacts, PolicyEngine};
pub use op::PolicyOp;
pub use set::{DeniedBy, Direction, RuleName};
pub use sizes::Sizes;
