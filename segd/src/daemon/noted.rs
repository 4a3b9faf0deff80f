//! What the next daemon finds beside the tables: where their lines are pinned, and whose each index is.

use std::sync::Arc;

use super::{engine::Engine, error::ApplyError};
use crate::policy::compiled::SegmentIndexes;

impl Engine {
    /// Pins a slot's lines, and guards them before anything is written to them.
    pub(super) fn pin_lines(&mut self, slot: u32) -> Result<(), ApplyError> {
        if let Some(array) = self.tables.array(slot) {
            self.maps.keep_lines(slot, array)?;
        }
        if let Some(guard) = &mut self.guard {
            guard.follow(&self.maps, &self.options.pin_dir)?;
        }
        Ok(())
    }

    /// Pins the names of indexes that are new, and that nobody bears any more.
    pub(super) fn note_names(&self, before: &SegmentIndexes) -> Result<(), ApplyError> {
        if Arc::ptr_eq(&self.indexes.by_name, &before.by_name) {
            return Ok(());
        }
        for (name, index) in self.indexes.by_name.iter() {
            if before.by_name.get(name) != Some(index) {
                self.tables.note_name(*index, name)?;
            }
        }
        let used = self.names();
        for index in before.by_name.values() {
            if !used.contains_key(index) {
                self.tables.note_name(*index, "")?;
            }
        }
        Ok(())
    }
}
