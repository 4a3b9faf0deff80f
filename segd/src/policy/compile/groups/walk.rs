//! Which bundles hold in which cell, one row after another.

use super::{Bundle, End, Groups, Held};
use crate::policy::compile::CompileError;

/// Who is shown the bundles of a cell.
pub type Visit<'v> = dyn FnMut(Held<'_>) -> Result<(), CompileError> + 'v;

/// A walk over cells, and what rules of `any` hold in them.
pub(super) struct Walk<'g> {
    groups: &'g Groups,
    any: End,
    /// From `any` to `any`.
    everybody: Vec<Bundle>,
    /// By column, what `any` may initiate to it.
    admitted: Vec<Vec<Bundle>>,
    /// The columns to which it may initiate something.
    open: Vec<u16>,
    /// Room for what is shown, and for what is put together for it.
    held: Vec<Bundle>,
    met: Vec<(u16, Option<Bundle>)>,
    to_any: Vec<Bundle>,
    own: Vec<Bundle>,
}

impl<'g> Walk<'g> {
    pub(super) fn new(groups: &'g Groups) -> Walk<'g> {
        let any = groups.any.unwrap_or(End::MAX);
        let everybody = groups.from(any).filter(|(_, to)| *to == any);
        let everybody = everybody.map(|(bundle, _)| bundle).collect();
        let mut admitted: Vec<Vec<Bundle>> = vec![Vec::new(); groups.columns.ends.len()];
        for (bundle, to) in groups.from(any).filter(|(_, to)| *to != any) {
            for column in groups.reach.get(to as usize).into_iter().flatten() {
                if let Some(bundles) = admitted.get_mut(usize::from(*column)) {
                    bundles.push(bundle);
                }
            }
        }
        let open = (0..=u16::MAX).zip(&admitted).filter(|(_, held)| !held.is_empty());
        let open = open.map(|(column, _)| column).collect();
        Walk {
            groups,
            any,
            everybody,
            admitted,
            open,
            held: Vec::new(),
            met: Vec::new(),
            to_any: Vec::new(),
            own: Vec::new(),
        }
    }

    /// The cells of row 0.
    pub(super) fn of_everybody(&mut self, visit: &mut Visit<'_>) -> Result<(), CompileError> {
        show(&mut self.held, visit, 0, 0, [&self.everybody, &[], &[], &[]])?;
        for column in &self.open {
            let admitted = self
                .admitted
                .get(usize::from(*column))
                .map_or(&[][..], Vec::as_slice);
            show(
                &mut self.held,
                visit,
                0,
                *column,
                [admitted, &self.everybody, &[], &[]],
            )?;
        }
        Ok(())
    }

    /// The cells of another row.
    pub(super) fn of_row(&mut self, row: u16, visit: &mut Visit<'_>) -> Result<(), CompileError> {
        let groups = self.groups;
        let ends = groups.rows.ends.get(usize::from(row)).into_iter().flatten();
        self.met.clear();
        self.to_any.clear();
        for (bundle, to) in ends.flat_map(|end| groups.from(*end)) {
            if to == self.any {
                self.to_any.push(bundle);
            } else {
                let columns = groups.reach.get(to as usize).into_iter().flatten();
                self.met.extend(columns.map(|column| (*column, Some(bundle))));
            }
        }
        if !self.to_any.is_empty() {
            show(
                &mut self.held,
                visit,
                row,
                0,
                [&self.to_any, &self.everybody, &[], &[]],
            )?;
            self.met.extend(self.open.iter().map(|column| (*column, None)));
        }
        self.met.sort_unstable();
        for cell in self.met.chunk_by(|(one, _), (other, _)| one == other) {
            let Some((column, _)) = cell.first() else { continue };
            self.own.clear();
            self.own.extend(cell.iter().filter_map(|(_, bundle)| *bundle));
            let admitted = self
                .admitted
                .get(usize::from(*column))
                .map_or(&[][..], Vec::as_slice);
            let parts = [&self.own, &self.to_any, admitted, &self.everybody];
            show(&mut self.held, visit, row, *column, parts)?;
        }
        Ok(())
    }
}

/// Shows what holds in a cell, if anything does.
fn show(
    held: &mut Vec<Bundle>,
    visit: &mut Visit<'_>,
    row: u16,
    column: u16,
    parts: [&[Bundle]; 4],
) -> Result<(), CompileError> {
    held.clear();
    for part in parts {
        held.extend_from_slice(part);
    }
    held.sort_unstable();
    match held.is_empty() {
        true => Ok(()),
        false => visit(Held {
            row,
            column,
            bundles: held,
        }),
    }
}
