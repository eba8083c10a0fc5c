//! A hash that is the same in every process and every version: replicas choose the same address and agree on whose turn it is by it.
//!
//! FNV-1a with the finishing step of MurmurHash3 over it, because FNV's high bits mix badly. Not for tables that an attacker may fill: those
//! use the standard library's.

/// The hash of `bytes`, one of a family numbered by `seed`.
pub(crate) fn stable(seed: u64, bytes: &[u8]) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut hash = bytes
        .iter()
        .fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// A number below `bound` from a hash, evenly (multiply and shift, without division).
pub(crate) fn below(hash: u64, bound: u32) -> u32 {
    ((u128::from(hash) * u128::from(bound)) >> 64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_changes() {
        // Replicas of two versions answer side by side while they are being replaced.
        assert_eq!(stable(0, b""), 0xefd0_1f60_ba99_2926);
        assert_eq!(stable(1, b"kube"), 0x9f7b_abe3_6b41_5fe1);
        assert_eq!(below(u64::MAX, 10), 9);
        assert_eq!(below(0, 10), 0);
    }

    #[test]
    fn macs_in_a_row_are_spread() {
        let mut counts = [0; 16];
        for i in 0..16_000u32 {
            let [.., a, b] = i.to_be_bytes();
            counts[below(stable(1, &[0x52, 0x54, 0, 0x12, a, b]), 16) as usize] += 1;
        }
        assert!(counts.iter().all(|c| (850..1150).contains(c)), "{counts:?}");
    }
}
