//! `sum(..)` of integers, exact within 64 bits and refused beyond them; DataFusion's own wraps around.
//!
//! What is added up, and what partial aggregations hand on, are decimals of 128 bits, which no number of rows exceeds. Other
//! types are summed as they always are. The fold of a table adds up the same wide numbers, and narrows only the columns that
//! are asked for.

use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray};
use arrow::compute;
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Int64Type, UInt64Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err};
use datafusion::functions_aggregate::sum::{Sum, sum};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, EmitTo, Expr, GroupsAccumulator, ReversedUDAF,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, SetMonotonicity, Signature, Volatility, cast,
};

/// What integers are added up as.
const WIDE: DataType = DataType::Decimal128(38, 0);

/// The aggregate function `sum`.
#[must_use]
pub(crate) fn checked_sum() -> AggregateUDF {
    AggregateUDF::from(CheckedSum { inner: Sum::new() })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedSum {
    inner: Sum,
}

fn is_integer(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Int64 | DataType::UInt64)
}

/// The field of a sum, wide where integers are added up.
fn widened(field: &FieldRef) -> FieldRef {
    if is_integer(field.data_type()) { Arc::new(Field::clone(field).with_data_type(WIDE)) } else { Arc::clone(field) }
}

fn wide_args<'a>(args: &AccumulatorArgs<'a>) -> AccumulatorArgs<'a> {
    AccumulatorArgs { return_field: widened(&args.return_field), ..*args }
}

impl CheckedSum {
    /// The accumulator that `make` makes, of wide numbers where integers are added up.
    fn over(
        &self,
        args: &AccumulatorArgs<'_>,
        make: impl FnOnce(&Sum, AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>>,
    ) -> Result<Box<dyn Accumulator>> {
        let narrow = Narrow::of(args);
        let inner = make(&self.inner, wide_args(args))?;
        Ok(match narrow {
            Some(narrow) => Box::new(Checked { inner, narrow }),
            None => inner,
        })
    }
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.over(&args, Sum::accumulator)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.over(&args, Sum::create_sliding_accumulator)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(StateFieldsArgs { return_field: widened(&args.return_field), ..args })
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let narrow = Narrow::of(&args);
        let inner = self.inner.create_groups_accumulator(wide_args(&args))?;
        Ok(match narrow {
            Some(narrow) => Box::new(Checked { inner, narrow }),
            None => inner,
        })
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.inner.reverse_expr()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.set_monotonicity(data_type)
    }
}

/// A sum of integers as wide as no number of rows exceeds.
pub(crate) fn wide_sum(value: Expr) -> Expr {
    sum(cast(value, WIDE))
}

/// A wide sum that is called `name` as one of 64 bits; refused beyond them.
pub(crate) fn narrowed(name: &str, value: Expr) -> Expr {
    let narrow = Narrow { name: name.to_owned(), into: DataType::Int64 };
    ScalarUDF::from(Narrowed { narrow, signature: Signature::exact(vec![WIDE], Volatility::Immutable) })
        .call(vec![value])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Narrowed {
    narrow: Narrow,
    signature: Signature,
}

impl ScalarUDFImpl for Narrowed {
    fn name(&self) -> &'static str {
        "within_64_bits"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.narrow.into.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let sums = ColumnarValue::values_to_arrays(&args.args)?;
        self.narrow.array(&sums[0]).map(ColumnarValue::Array)
    }
}

/// From a wide sum to one of 64 bits.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Narrow {
    /// The sum, as the query has it.
    name: String,
    into: DataType,
}

impl Narrow {
    fn of(args: &AccumulatorArgs<'_>) -> Option<Narrow> {
        let into = args.return_field.data_type();
        is_integer(into).then(|| Narrow { name: args.name.to_owned(), into: into.clone() })
    }

    fn array(&self, sums: &ArrayRef) -> Result<ArrayRef> {
        match self.into {
            DataType::Int64 => self.primitive::<Int64Type>(sums),
            _ => self.primitive::<UInt64Type>(sums),
        }
    }

    fn primitive<T: ArrowPrimitiveType<Native: TryFrom<i128>>>(&self, sums: &ArrayRef) -> Result<ArrayRef> {
        let narrow = |sum: i128| {
            T::Native::try_from(sum).map_err(|_| {
                exec_datafusion_err!(
                    "{} is {sum}, beyond 64 bits; add up CAST(.. AS DECIMAL(38, 0)), of a folded table from the stored rows \
                     (stored.TABLE)",
                    self.name
                )
            })
        };
        let sums = sums.as_primitive::<Decimal128Type>();
        let narrowed: PrimitiveArray<T> = sums.try_unary::<_, T, _>(narrow)?;
        Ok(Arc::new(narrowed))
    }
}

/// Widens what goes into an accumulator, and narrows what comes out of it.
#[derive(Debug)]
struct Checked<A> {
    inner: A,
    narrow: Narrow,
}

fn widen(values: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
    values.iter().map(|values| Ok(compute::cast(values, &WIDE)?)).collect()
}

impl Accumulator for Checked<Box<dyn Accumulator>> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.update_batch(&widen(values)?)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let sum = self.inner.evaluate()?.to_array()?;
        ScalarValue::try_from_array(&self.narrow.array(&sum)?, 0)
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.retract_batch(&widen(values)?)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }
}

impl GroupsAccumulator for Checked<Box<dyn GroupsAccumulator>> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.inner.update_batch(&widen(values)?, group_indices, opt_filter, total_num_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = self.inner.evaluate(emit_to)?;
        self.narrow.array(&sums)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.inner.state(emit_to)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.inner.merge_batch(values, group_indices, total_num_groups)
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.inner.convert_to_state(&widen(values)?, opt_filter)
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}
