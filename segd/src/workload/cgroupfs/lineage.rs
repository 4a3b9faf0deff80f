//! The way from the root to one cgroup: what stands above it decides who it is.

use super::{Cgroup, CgroupRoot, Place, is_locked, open};
use crate::workload::error::WorkloadError;

impl CgroupRoot {
    /// Every cgroup from the root to this one, as far as there are any.
    ///
    /// # Errors
    ///
    /// Those of [`CgroupRoot::walk`].
    pub fn way_to(&self, cgroup: &str) -> Result<Vec<Cgroup>, WorkloadError> {
        let mut way = Vec::new();
        self.lineage(cgroup, &mut |cgroup| way.push(cgroup.clone()))?;
        Ok(way)
    }

    /// Visits a cgroup and its ancestors, from the root on; the place of the cgroup if it is there and can be read.
    pub(super) fn lineage(
        &self,
        cgroup: &str,
        visit: &mut dyn FnMut(&Cgroup),
    ) -> Result<Option<Place>, WorkloadError> {
        let failed = |source| WorkloadError::io("walk", self.directory(cgroup), source);
        let mut place = Place::root(open(&self.path).map_err(failed)?).map_err(failed)?;
        visit(&place.cgroup);
        for name in cgroup.split('/').filter(|name| !name.is_empty()) {
            let child = match place.child(name.as_bytes()) {
                Err(error) if is_locked(&error) => {
                    place.hide(visit);
                    return Ok(None);
                }
                child => child.map_err(failed)?,
            };
            let Some(child) = child else {
                return Ok(None);
            };
            visit(&child.cgroup);
            if child.cgroup.is_hidden {
                return Ok(None);
            }
            place = child;
        }
        Ok(Some(place))
    }
}
