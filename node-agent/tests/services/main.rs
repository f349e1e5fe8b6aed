//! Services from objects to tables: categorisation, compilation and the plan, all
//! in memory.

mod adopt;
mod categorize;
mod claims;
mod cluster;
mod compile;
mod full_tables;
mod history;
mod judge;
mod manifests;
mod proxy_cases;
mod small_steps;
mod tables;
