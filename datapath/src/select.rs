//! Which backend serves a new connection.

use crate::{
    abi::{Addr, AffinityKey, AffinityValue, Backend, Be16, BlockRef, DropReason, FrontendValue},
    tables::Tables,
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Where a client is, by which its traffic policy is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In the cluster: a pod or a node.
    Internal,
    /// Outside.
    External,
}

impl Scope {
    #[inline(always)]
    fn block(self, frontend: &FrontendValue) -> BlockRef {
        match self {
            Self::Internal => frontend.internal,
            Self::External => frontend.external,
        }
    }

    #[inline(always)]
    fn drops(self, frontend: &FrontendValue) -> bool {
        let bit = match self {
            Self::Internal => FrontendValue::DROP_INTERNAL,
            Self::External => FrontendValue::DROP_EXTERNAL,
        };
        frontend.flags & bit != 0
    }

    /// The flag of backends that a frontend may choose in this scope.
    #[inline(always)]
    const fn member_flag(self, frontend: &FrontendValue) -> u16 {
        let local = match self {
            Self::Internal => FrontendValue::INTERNAL_LOCAL,
            Self::External => FrontendValue::EXTERNAL_LOCAL,
        };
        if frontend.flags & local != 0 { Backend::IN_LOCAL } else { Backend::IN_CLUSTER }
    }
}

/// A backend as a flow remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its id.
    pub id: u32,
    /// The id's generation.
    pub generation: u32,
    /// Its address.
    pub addr: Addr,
    /// Its port.
    pub port: Be16,
}

/// Why a frontend serves nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Tell the client at once.
    Reject,
    /// Say nothing.
    Drop(DropReason),
}

/// A new connection, as all nodes see it alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// The client's own address.
    pub client: Addr,
    /// Its port; 0: not known yet.
    pub client_port: Be16,
    /// The port that it dials.
    pub port: Be16,
    /// An IP protocol number.
    pub protocol: u8,
}

impl Dial {
    /// A number by which the connection finds its place in a Maglev table; with affinity
    /// all connections of a client have one.
    ///
    /// Neither the dialled address is in it, which for a NodePort is each node's own, nor
    /// anything that a node numbers by itself.
    #[inline(always)]
    fn hash(&self, affinity: bool) -> u32 {
        let [a, b, c, d] = self.client.0;
        let mut hash = mix(join(a, b));
        hash = mix(hash ^ join(c, d));
        if !affinity {
            let ports = u32::from(self.client_port.get()) << 16 | u32::from(self.port.get());
            hash = mix(hash ^ join(ports, u32::from(self.protocol)));
        }
        (hash >> 32) as u32
    }
}

#[inline(always)]
const fn join(low: u32, high: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

/// SplitMix64's finaliser: every bit of the input changes half of the output's.
#[inline(always)]
const fn mix(input: u64) -> u64 {
    let mut z = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Chooses a backend for a new connection (`None` where its client can't be known, and
/// then affinity is not kept).
///
/// # Errors
/// What to do with the client when there is no backend.
#[inline(never)]
pub fn select<T: Tables>(
    tables: &mut T,
    frontend: &FrontendValue,
    scope: Scope,
    dial: Option<&Dial>,
) -> Result<Chosen, Refusal> {
    if scope.block(frontend).len == 0 {
        return Err(if scope.drops(frontend) { Refusal::Drop(DropReason::NoLocalEndpoint) } else { Refusal::Reject });
    }
    let Some(dial) = dial.filter(|_| frontend.affinity_seconds != 0) else {
        return pick(tables, frontend, scope, dial);
    };
    let key = AffinityKey { client: dial.client, service: frontend.service };
    let now = tables.now();
    let chosen = match remembered(tables, frontend, scope, &key, now) {
        Some(chosen) => chosen,
        None => pick(tables, frontend, scope, Some(dial))?,
    };
    let bound = AffinityValue { backend: chosen.id, generation: chosen.generation, last_used: now };
    tables.set_affinity(&key, &bound);
    Ok(chosen)
}

/// The backend that a client is bound to, if that still holds.
#[inline(always)]
fn remembered<T: Tables>(
    tables: &T,
    frontend: &FrontendValue,
    scope: Scope,
    key: &AffinityKey,
    now: u64,
) -> Option<Chosen> {
    let bound = *tables.affinity(key)?;
    let idle = now.saturating_sub(bound.last_used);
    if idle > u64::from(frontend.affinity_seconds) * NANOS_PER_SECOND {
        return None;
    }
    let backend = tables.backend(bound.backend)?;
    let holds = backend.generation == bound.generation
        && backend.service == frontend.service
        && backend.flags & scope.member_flag(frontend) != 0;
    holds.then_some(Chosen { id: bound.backend, generation: bound.generation, addr: backend.addr, port: backend.port })
}

/// A backend of the frontend's block, by the frontend's way to choose.
#[inline(always)]
fn pick<T: Tables>(
    tables: &mut T,
    frontend: &FrontendValue,
    scope: Scope,
    dial: Option<&Dial>,
) -> Result<Chosen, Refusal> {
    let block = scope.block(frontend);
    let hashed = dial.filter(|_| scope == Scope::External && frontend.flags & FrontendValue::MAGLEV != 0);
    let number = match hashed {
        Some(dial) => dial.hash(frontend.affinity_seconds != 0),
        None => tables.random(),
    };
    let mut id = at(tables, block, number)?;
    if hashed.is_none() && frontend.flags & FrontendValue::LEAST_CONNECTIONS != 0 {
        let number = tables.random();
        let other = at(tables, block, number)?;
        if tables.connections(other) < tables.connections(id) {
            id = other;
        }
    }
    let missing = Refusal::Drop(DropReason::BackendMissing);
    let backend = tables.backend(id).ok_or(missing)?;
    if backend.flags == 0 {
        return Err(missing);
    }
    Ok(Chosen { id, generation: backend.generation, addr: backend.addr, port: backend.port })
}

/// The id at a place of a block that a number out of 2^32 falls on: for a random one
/// uniform to within len/2^32.
#[inline(always)]
fn at<T: Tables>(tables: &T, block: BlockRef, number: u32) -> Result<u32, Refusal> {
    let index = (u64::from(number) * u64::from(block.len)) >> 32;
    let id = tables.block_entry(block.base.wrapping_add(index as u32));
    id.ok_or(Refusal::Drop(DropReason::BackendMissing))
}
