//! NetworkPolicy from manifests to tables, judged by the datapath's own decision and
//! compared with what the API's text says, which a plain and slow oracle evaluates.

mod bad_input;
mod cases;
mod cluster_oracle;
mod cluster_policies;
mod naming;
mod oracle;
mod product;
mod random;
mod scale;
mod world;
