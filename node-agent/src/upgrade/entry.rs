//! One entry on its way from another version's table into ours.

use super::tables::{Keep, Stamp};

/// Which look at the other version's table this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// The first: ours is empty, or as an agent that was interrupted left it.
    First,
    /// One for what has changed.
    Again {
        /// Monotonic seconds before which nothing has. What is missing here and was last used
        /// before then was carried, and has been removed since.
        since: u32,
        /// Our programs are in force.
        in_force: bool,
    },
}

/// A value as long as ours: what ours has more is zero, what ours hasn't is cut off.
pub fn fit(theirs: &[u8], len: usize, value: &mut Vec<u8>) {
    value.clear();
    value.extend_from_slice(&theirs[..theirs.len().min(len)]);
    value.resize(len, 0);
}

/// Whether a table can have news for this look at it.
pub fn has_news(keep: Keep, pass: Pass) -> bool {
    match (keep, pass) {
        (Keep::Rebuilt, _) => false,
        (_, Pass::First) => true,
        (Keep::Copied, _) => false,
        (Keep::Counted, Pass::Again { in_force, .. }) => !in_force,
        (Keep::Latest(_) | Keep::Standing | Keep::Bits(_), _) => true,
    }
}

/// Whether an entry can be news, whatever stands in ours.
pub fn is_news(keep: Keep, pass: Pass, theirs: &[u8]) -> bool {
    match (keep, pass) {
        (Keep::Latest(stamp), Pass::Again { since, .. }) => stamp.seconds(theirs) >= since,
        _ => has_news(keep, pass),
    }
}

/// Makes of their value, already as long as ours, what is to be written in the place of `ours`;
/// false: nothing is.
pub fn merge(keep: Keep, pass: Pass, theirs: &mut [u8], ours: Option<&[u8]>) -> bool {
    if !is_news(keep, pass, theirs) || ours.is_some_and(|ours| ours == theirs) {
        return false;
    }
    match (keep, ours) {
        (Keep::Rebuilt, _) => false,
        (Keep::Copied, _) | (Keep::Latest(_) | Keep::Counted, None) => true,
        (Keep::Bits(_), None) => pass == Pass::First,
        (Keep::Standing, ours) => ours.is_none(),
        // Of the same time that whose programs were at work.
        (Keep::Latest(stamp), Some(ours)) => match pass {
            Pass::Again { in_force: true, .. } => stamp.of(theirs) > stamp.of(ours),
            _ => stamp.of(theirs) >= stamp.of(ours),
        },
        (Keep::Bits(at), Some(ours)) => {
            let bits = word(theirs, at) | word(ours, at);
            let news = bits != word(ours, at);
            theirs.copy_from_slice(ours);
            theirs[at..at + 4].copy_from_slice(&bits.to_ne_bytes());
            news
        }
        (Keep::Counted, Some(ours)) => keep_larger(theirs, ours),
    }
}

/// For each CPU the larger count; true if one is larger than ours.
fn keep_larger(theirs: &mut [u8], ours: &[u8]) -> bool {
    let mut news = false;
    for (theirs, ours) in theirs.chunks_exact_mut(8).zip(ours.chunks_exact(8)) {
        match long(theirs, 0) > long(ours, 0) {
            true => news = true,
            false => theirs.copy_from_slice(ours),
        }
    }
    news
}

impl Stamp {
    /// In its own unit.
    fn of(self, value: &[u8]) -> u64 {
        match self {
            Self::Seconds(at) => word(value, at).into(),
            Self::Nanos(at) => long(value, at),
        }
    }

    fn seconds(self, value: &[u8]) -> u32 {
        match self {
            Self::Seconds(_) => self.of(value) as u32,
            Self::Nanos(_) => (self.of(value) / 1_000_000_000) as u32,
        }
    }
}

fn word(value: &[u8], at: usize) -> u32 {
    value.get(at..at + 4).map_or(0, |bytes| u32::from_ne_bytes(bytes.try_into().expect("there are four")))
}

fn long(value: &[u8], at: usize) -> u64 {
    value.get(at..at + 8).map_or(0, |bytes| u64::from_ne_bytes(bytes.try_into().expect("there are eight")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AGAIN: Pass = Pass::Again { since: 50, in_force: false };
    const IN_FORCE: Pass = Pass::Again { since: 50, in_force: true };
    const SECONDS: Keep = Keep::Latest(Stamp::Seconds(4));

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn longs(longs: &[u64]) -> Vec<u8> {
        longs.iter().flat_map(|long| long.to_ne_bytes()).collect()
    }

    /// What it is, how and when it is carried, what they and we have, and what is written.
    type Case<'a> = (&'a str, Keep, Pass, Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>);

    #[test]
    fn what_is_written() {
        let (w, l) = (words, longs);
        let cases: Vec<Case> = vec![
            ("objects say it", Keep::Rebuilt, Pass::First, w(&[1]), None, None),
            ("an agent's, at first", Keep::Copied, Pass::First, w(&[1]), Some(w(&[0])), Some(w(&[1]))),
            ("an agent's, later", Keep::Copied, AGAIN, w(&[1]), None, None),
            ("a flow", SECONDS, Pass::First, w(&[1, 9]), None, Some(w(&[1, 9]))),
            ("a flow that began meanwhile", SECONDS, AGAIN, w(&[1, 50]), None, Some(w(&[1, 50]))),
            ("a flow that is over here", SECONDS, AGAIN, w(&[1, 49]), None, None),
            ("a flow that went on there", SECONDS, AGAIN, w(&[1, 60]), Some(w(&[2, 59])), Some(w(&[1, 60]))),
            ("a flow that went on here", SECONDS, AGAIN, w(&[1, 60]), Some(w(&[2, 61])), None),
            ("a flow that ended in that second", SECONDS, AGAIN, w(&[2, 60]), Some(w(&[1, 60])), Some(w(&[2, 60]))),
            ("a flow that ended here", SECONDS, IN_FORCE, w(&[1, 60]), Some(w(&[2, 60])), None),
            ("a flow that is the same", SECONDS, Pass::First, w(&[1, 60]), Some(w(&[1, 60])), None),
            ("a socket", Keep::Standing, AGAIN, w(&[1]), None, Some(w(&[1]))),
            ("a socket that is known", Keep::Standing, Pass::First, w(&[1]), Some(w(&[2])), None),
            ("a pod", Keep::Bits(4), Pass::First, w(&[7, 1]), None, Some(w(&[7, 1]))),
            ("a pod that is gone", Keep::Bits(4), AGAIN, w(&[7, 1]), None, None),
            ("a pod that was a client there", Keep::Bits(4), AGAIN, w(&[7, 1]), Some(w(&[8, 4])), Some(w(&[8, 5]))),
            ("a pod that was a client here", Keep::Bits(4), AGAIN, w(&[7, 1]), Some(w(&[8, 5])), None),
            ("a counter", Keep::Counted, Pass::First, l(&[3, 5]), Some(l(&[0, 0])), Some(l(&[3, 5]))),
            ("a counter that both have", Keep::Counted, AGAIN, l(&[3, 5]), Some(l(&[4, 1])), Some(l(&[4, 5]))),
            ("a counter that is in force", Keep::Counted, IN_FORCE, l(&[3, 5]), Some(l(&[0, 0])), None),
            ("a rule that denied", Keep::Counted, AGAIN, l(&[1]), None, Some(l(&[1]))),
        ];
        for (what, keep, pass, mut theirs, ours, expected) in cases {
            let written = merge(keep, pass, &mut theirs, ours.as_deref()).then_some(theirs);
            assert_eq!(written, expected, "{what}");
        }
    }

    #[test]
    fn values_grow_by_zeros_and_lose_their_end() {
        let mut value = vec![9; 3];
        for (len, expected) in [(2, &[1, 2][..]), (3, &[1, 2, 3]), (5, &[1, 2, 3, 0, 0]), (0, &[])] {
            fit(&[1, 2, 3], len, &mut value);
            assert_eq!(value, expected);
        }
    }

    fn keeps() -> impl Strategy<Value = Keep> {
        prop::sample::select(vec![
            Keep::Rebuilt,
            Keep::Copied,
            SECONDS,
            Keep::Latest(Stamp::Nanos(8)),
            Keep::Standing,
            Keep::Bits(4),
            Keep::Counted,
        ])
    }

    proptest! {
        /// An interrupted carrying is begun again, and what was swapped may be swapped back.
        #[test]
        fn carrying_twice_is_as_good_as_once(
            keep in keeps(),
            theirs: [u8; 16],
            ours in prop::option::of(any::<[u8; 16]>()),
            again: bool,
        ) {
            let pass = if again { AGAIN } else { Pass::First };
            let mut once = theirs;
            let ours: Option<Vec<u8>> = match merge(keep, pass, &mut once, ours.as_ref().map(<[u8; 16]>::as_slice)) {
                true => Some(once.to_vec()),
                false => ours.map(Into::into),
            };
            let mut twice = theirs;
            prop_assert!(!merge(keep, pass, &mut twice, ours.as_deref()));
        }

        /// A value that is carried to a longer layout and back is what it was.
        #[test]
        fn a_longer_layout_and_back_loses_nothing(value: Vec<u8>, more in 0..64_usize) {
            let (mut longer, mut back) = (Vec::new(), Vec::new());
            fit(&value, value.len() + more, &mut longer);
            fit(&longer, value.len(), &mut back);
            prop_assert_eq!(back, value);
        }
    }
}
