//! `union_count(hashes)`: how many different 64-bit hashes the lists of a group hold.
//!
//! Promise: the answer does not depend on the order of rows or on how they were split between partial aggregations
//! (INV-2); a list that is NULL adds nothing, a group without hashes counts 0.
//!
//! All groups share one table of (hash, group) pairs, so a million small groups cost no million allocations. The
//! partial state of a group is its list of different hashes, which is what the input was: partial aggregation may be
//! skipped for free.

use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListArray};
use arrow::datatypes::{DataType, Field, FieldRef, UInt64Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use hashbrown::HashTable;
use tidemill_tables::{hash_list_type, hash_lists};

/// The aggregate function `union_count(List<UInt64>) -> Int64`.
#[must_use]
pub fn union_count() -> AggregateUDF {
    AggregateUDF::from(UnionCount { signature: Signature::exact(vec![hash_list_type()], Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct UnionCount {
    signature: Signature,
}

impl AggregateUDFImpl for UnionCount {
    fn name(&self) -> &'static str {
        "union_count"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn is_nullable(&self) -> bool {
        false
    }

    fn default_value(&self, _data_type: &DataType) -> Result<ScalarValue> {
        Ok(ScalarValue::Int64(Some(0)))
    }

    fn accumulator(&self, _args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::<Union>::default())
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "hashes"), hash_list_type(), true))])
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, _args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::<Unions>::default())
    }
}

/// The hashes of all groups.
#[derive(Default)]
struct Unions {
    seen: HashTable<(u64, u32)>,
    /// How many different hashes each group has.
    counts: Vec<i64>,
}

/// Where (hash, group) goes in the table: one multiplication, its halves folded together.
fn place(&(hash, group): &(u64, u32)) -> u64 {
    let mixed = hash ^ u64::from(group).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let product = u128::from(mixed) * 0xa076_1d64_78bd_642f;
    let halves = product.to_le_bytes();
    let (low, high) = halves.split_at(8);
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("half of sixteen bytes is eight"));
    word(low) ^ word(high)
}

impl Unions {
    fn insert(&mut self, hash: u64, group: usize) -> Result<()> {
        let number = u32::try_from(group).map_err(|_| exec_datafusion_err!("union_count holds at most 2^32 groups"))?;
        let pair = (hash, number);
        if let hashbrown::hash_table::Entry::Vacant(slot) = self.seen.entry(place(&pair), |other| *other == pair, place)
        {
            slot.insert(pair);
            self.counts[group] += 1;
        }
        Ok(())
    }

    /// Takes the first groups out, gives each (group, hash) of them to `taken`, and renumbers the others.
    fn take(&mut self, emit_to: EmitTo, mut taken: impl FnMut(usize, u64)) -> Vec<i64> {
        let counts = emit_to.take_needed(&mut self.counts);
        let pairs = std::mem::take(&mut self.seen);
        for (hash, group) in pairs {
            let group = group as usize;
            if group < counts.len() {
                taken(group, hash);
            } else {
                let left = u32::try_from(group - counts.len()).expect("a group number only becomes smaller");
                self.seen.insert_unique(place(&(hash, left)), (hash, left), place);
            }
        }
        counts
    }
}

impl GroupsAccumulator for Unions {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.counts.resize(total_num_groups, 0);
        let lists = Lists::of(&values[0]);
        for (row, &group) in group_indices.iter().enumerate() {
            if opt_filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row)) {
                for &hash in lists.row(row) {
                    self.insert(hash, group)?;
                }
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        Ok(Arc::new(Int64Array::from(self.take(emit_to, |_, _| ()))))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let mut pairs: Vec<(usize, u64)> = Vec::with_capacity(self.seen.len());
        let counts = self.take(emit_to, |group, hash| pairs.push((group, hash)));
        let lengths = || counts.iter().map(|&count| usize::try_from(count).expect("a count only goes up from zero"));
        let mut next: Vec<usize> = Vec::with_capacity(counts.len());
        let total = lengths().fold(0, |start, length| {
            next.push(start);
            start + length
        });
        i32::try_from(total)
            .map_err(|_| exec_datafusion_err!("union_count met 2^31 hashes; group by less at a time"))?;
        let mut hashes = vec![0; total];
        for (group, hash) in pairs {
            hashes[next[group]] = hash;
            next[group] += 1;
        }
        Ok(vec![Arc::new(hash_lists(lengths(), hashes))])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.update_batch(values, group_indices, None, total_num_groups)
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let Some(filter) = opt_filter else {
            return Ok(values.to_vec());
        };
        let lists = Lists::of(&values[0]);
        let kept = |row: usize| if filter.is_valid(row) && filter.value(row) { lists.row(row) } else { &[] };
        let hashes = (0..filter.len()).flat_map(|row| kept(row).iter().copied()).collect();
        Ok(vec![Arc::new(hash_lists((0..filter.len()).map(|row| kept(row).len()), hashes))])
    }

    fn size(&self) -> usize {
        // A slot of the table is a pair and one byte of its control word.
        self.seen.capacity() * (size_of::<(u64, u32)>() + 1) + self.counts.capacity() * size_of::<i64>()
    }
}

/// One group on its own, for queries without GROUP BY.
#[derive(Debug, Default)]
struct Union {
    seen: hashbrown::HashSet<u64>,
}

impl Accumulator for Union {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let lists = Lists::of(&values[0]);
        (0..values[0].len()).for_each(|row| self.seen.extend(lists.row(row)));
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Int64(i64::try_from(self.seen.len()).ok()))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.seen.allocation_size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let hashes: Vec<u64> = self.seen.iter().copied().collect();
        Ok(vec![ScalarValue::List(Arc::new(hash_lists([hashes.len()], hashes)))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }
}

/// A column of hash lists, read by row.
struct Lists<'a> {
    lists: &'a ListArray,
    hashes: &'a [u64],
}

impl<'a> Lists<'a> {
    fn of(column: &'a ArrayRef) -> Self {
        let lists = column.as_list::<i32>();
        Self { lists, hashes: lists.values().as_primitive::<UInt64Type>().values() }
    }

    fn row(&self, row: usize) -> &'a [u64] {
        if self.lists.is_null(row) {
            return &[];
        }
        let offset = |at: usize| {
            usize::try_from(self.lists.value_offsets()[at]).expect("Arrow keeps list offsets at or above zero")
        };
        &self.hashes[offset(row)..offset(row + 1)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn column(rows: &[(usize, Vec<u64>)]) -> Vec<ArrayRef> {
        let hashes = rows.iter().flat_map(|row| row.1.clone()).collect();
        vec![Arc::new(hash_lists(rows.iter().map(|row| row.1.len()), hashes))]
    }

    fn feed(into: &mut Unions, rows: &[(usize, Vec<u64>)]) {
        let groups: Vec<usize> = rows.iter().map(|row| row.0).collect();
        into.update_batch(&column(rows), &groups, None, 5).unwrap();
    }

    fn naive(rows: &[(usize, Vec<u64>)]) -> Vec<i64> {
        let mut sets: BTreeMap<usize, BTreeSet<u64>> = (0..5).map(|group| (group, BTreeSet::new())).collect();
        rows.iter().for_each(|(group, hashes)| sets.entry(*group).or_default().extend(hashes));
        sets.values().map(|set| i64::try_from(set.len()).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn counts_do_not_depend_on_how_rows_are_split(
            rows in prop::collection::vec((0..5_usize, prop::collection::vec(0..9_u64, 0..5)), 0..40),
            at in 0..40_usize,
            first in 0..5_usize,
        ) {
            let (left, right) = rows.split_at(at.min(rows.len()));
            let mut partial = Unions::default();
            feed(&mut partial, left);
            // The state leaves in two pieces, the rest of the rows never went through partial aggregation.
            let mut states = Vec::new();
            for emit in [EmitTo::First(first), EmitTo::All] {
                states.push(partial.state(emit).unwrap());
            }
            let mut whole = Unions::default();
            let groups: Vec<usize> = (0..5).collect();
            whole.merge_batch(&states[0], &groups[..first], 5).unwrap();
            whole.merge_batch(&states[1], &groups[first..], 5).unwrap();
            let converted = whole.convert_to_state(&column(right), None).unwrap();
            let of_right: Vec<usize> = right.iter().map(|row| row.0).collect();
            whole.merge_batch(&converted, &of_right, 5).unwrap();
            let expected = naive(&rows);
            let counted = |array: ArrayRef| array.as_primitive::<arrow::datatypes::Int64Type>().values().to_vec();
            prop_assert_eq!(counted(whole.evaluate(EmitTo::First(first)).unwrap()), &expected[..first]);
            prop_assert_eq!(counted(whole.evaluate(EmitTo::All).unwrap()), &expected[first..]);
        }
    }

    #[test]
    fn filtered_rows_add_nothing() {
        let rows = [(0, vec![1, 2]), (0, vec![3]), (1, vec![4])];
        let filter = BooleanArray::from(vec![Some(true), Some(false), None]);
        let mut unions = Unions::default();
        unions.update_batch(&column(&rows), &[0, 0, 1], Some(&filter), 2).unwrap();
        assert_eq!(unions.counts, [2, 0]);
        let state = unions.convert_to_state(&column(&rows), Some(&filter)).unwrap();
        assert_eq!(state, column(&[(0, vec![1, 2]), (0, vec![]), (1, vec![])]));
    }

    #[test]
    fn one_group_alone_counts_the_same() {
        let (mut left, mut right) = (Union::default(), Union::default());
        left.update_batch(&column(&[(0, vec![1, 2]), (0, vec![2])])).unwrap();
        right.update_batch(&column(&[(0, vec![2, 3])])).unwrap();
        let state = right.state().unwrap()[0].to_array().unwrap();
        left.merge_batch(&[state]).unwrap();
        assert_eq!(left.evaluate().unwrap(), ScalarValue::Int64(Some(3)));
    }
}
