//! Which states a disk may be in when the power is cut while an image is written.

use image::marker;

use crate::common::*;

/// The writer puts the first bytes in place last, and zeroes both ends first.
const FIRST_BYTES: usize = 24 * 1024;

/// What there was, what shall be, and what the marker says meanwhile.
pub struct States<'a> {
    pub old: &'a [u8],
    pub finished: &'a [u8],
    pub marker: &'a [u8],
    pub sector: usize,
    /// Whether an earlier attempt may have left the finished data. Then both ends of it are being zeroed, as those of the old data.
    pub restarted: bool,
}

impl States<'_> {
    /// What is wrong with this medium, if anything.
    pub fn violation(&self, medium: &[u8]) -> Option<String> {
        if medium == self.old || medium == self.finished {
            return None;
        }
        let marked = marker::decode(medium).is_some_and(|payload| payload == self.marker);
        if medium[510..512] == [0x55, 0xaa] {
            return Some("a boot sector is valid, but the disk is neither the old nor the finished one".to_owned());
        }
        if !marked {
            return Some("neither the marker, nor the old, nor the finished disk".to_owned());
        }
        // The marker keeps firmware from believing a GPT. Some may not care, so a GPT may be valid only over whole data.
        let last = medium.len() / self.sector - 1;
        let backup_at = (last - 128 * 128 / self.sector) * self.sector;
        let body = MIB..medium.len() - MIB;
        let old_is_whole = medium[body.clone()] == self.old[body.clone()];
        let new_was_whole = self.restarted && medium[body.clone()] == self.finished[body];
        let new_is_whole = |end: usize| new_was_whole || medium[FIRST_BYTES..end] == self.finished[FIRST_BYTES..end];
        if gpt_is_valid(medium, last, self.sector) && !old_is_whole && !new_is_whole(backup_at) {
            return Some("the backup GPT is valid over data that is neither the old nor the new".to_owned());
        }
        if gpt_is_valid(medium, 1, self.sector) && !old_is_whole && !new_is_whole(medium.len()) {
            return Some("the primary GPT is valid over a disk that is neither the old nor the new".to_owned());
        }
        None
    }
}
