//! A table of packets, judged by the host build of the datapath and by the kernel programs.
//!
//! ```text
//! cases ──► host ──► records ──► kernel
//!           │ verdict, packet and tables as the case says
//!           └ and the same again from the programs, byte for byte
//! ```
//!
//! [`place`], [`world`] and [`policies`] say who is where and what is allowed, [`build`] writes packets, [`check`] reads them with a
//! library that the datapath doesn't use, [`case`] is the table's shape and [`cases`] the table,
//! [`stream`] makes random worlds and packets. [`host`] and [`kernel`] run them,
//! the latter by the [`object`].

mod ages;
pub mod build;
pub mod case;
pub mod cases;
pub mod check;
pub mod encode;
pub mod host;
pub mod kernel;
pub mod object;
pub mod place;
pub mod policies;
pub mod stream;
pub mod wire;
pub mod world;
