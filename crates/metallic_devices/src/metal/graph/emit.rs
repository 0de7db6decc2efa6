//! Puts ops into an MPSGraph, each after its shapes and types were checked.
//!
//! One method an op, named as MPSGraph names it. Not: what the ops are for (`lower/`).

use metallic::Result;
use objc2::rc::Retained;
use objc2_foundation::{NSArray, NSData, NSString};
use objc2_metal_performance_shaders::MPSDataType;
use objc2_metal_performance_shaders_graph::{MPSGraph, MPSGraphOptions, MPSGraphTensor};

use super::value::{ANY, Value, bad, broadcast, check_dims, element_bytes, shape};

/// An op of two operands that are broadcast to one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    Minimum,
    Maximum,
    /// From here on the result is a bool.
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    And,
    Or,
}

/// An op of one operand that keeps its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unary {
    Square,
    ReciprocalSquareRoot,
    Sigmoid,
    Tanh,
    Floor,
    /// From here on the result is a bool.
    IsNan,
    IsFinite,
}

/// A graph being built.
pub(crate) struct Emitter {
    graph: Retained<MPSGraph>,
    /// Whether `reciprocalSquareRoot` exists (macOS 15).
    new_rsqrt: bool,
}

impl Emitter {
    /// An empty graph for a system of at least macOS 15, or an older one.
    pub(crate) fn new(macos_15: bool) -> Self {
        // SAFETY: a new graph without options synchronises nothing with the host on its own.
        let graph = unsafe {
            let graph = MPSGraph::new();
            graph.setOptions(MPSGraphOptions::None);
            graph
        };
        Self { graph, new_rsqrt: macos_15 }
    }

    /// The object.
    pub(crate) fn graph(&self) -> &MPSGraph {
        &self.graph
    }

    fn value(
        &self,
        op: &str,
        dims: Vec<isize>,
        dtype: MPSDataType,
        make: impl FnOnce(&MPSGraph) -> Retained<MPSGraphTensor>,
    ) -> Result<Value> {
        check_dims(op, &dims, dtype)?;
        Ok(Value { tensor: make(&self.graph), dims, dtype })
    }

    /// A fed value.
    ///
    /// # Errors
    /// [`metallic::Error::Compile`] for a shape MPSGraph does not take, as all methods here.
    pub(crate) fn placeholder(
        &self,
        name: &str,
        dims: &[isize],
        dtype: MPSDataType,
    ) -> Result<Value> {
        self.value(name, dims.to_vec(), dtype, |graph| {
            let name = NSString::from_str(name);
            // SAFETY: the shape and type were checked.
            unsafe {
                graph.placeholderWithShape_dataType_name(Some(&shape(dims)), dtype, Some(&name))
            }
        })
    }

    /// One number, of shape `[1]`.
    pub(crate) fn scalar(&self, value: f64, dtype: MPSDataType) -> Result<Value> {
        self.value("constant", vec![1], dtype, |graph| {
            // SAFETY: a scalar of a type MPSGraph knows.
            unsafe { graph.constantWithScalar_shape_dataType(value, &shape(&[1]), dtype) }
        })
    }

    /// Numbers of shape `dims`.
    pub(crate) fn integers(&self, values: &[i32], dims: &[isize]) -> Result<Value> {
        let elements: isize = dims.iter().product();
        if usize::try_from(elements) != Ok(values.len()) {
            return Err(bad("constant", format!("{} numbers for {dims:?}", values.len())));
        }
        self.value("constant", dims.to_vec(), MPSDataType::Int32, |graph| {
            let data = NSData::with_bytes(bytemuck::cast_slice(values));
            // SAFETY: the data are as long as the shape and type say; they are copied.
            unsafe {
                graph.constantWithData_shape_dataType(&data, &shape(dims), MPSDataType::Int32)
            }
        })
    }

    /// `x` converted; `x` itself where it has the type already.
    pub(crate) fn cast(&self, x: &Value, dtype: MPSDataType) -> Result<Value> {
        if x.dtype == dtype {
            return Ok(x.clone());
        }
        self.value("cast", x.dims.clone(), dtype, |graph| {
            // SAFETY: every type here converts to every other.
            unsafe { graph.castTensor_toType_name(&x.tensor, dtype, None) }
        })
    }

    /// An op of two operands of one type.
    pub(crate) fn binary(&self, op: Binary, a: &Value, b: &Value) -> Result<Value> {
        let name = format!("{op:?}");
        if a.dtype != b.dtype {
            return Err(types_differ(&name, a, b));
        }
        let logical = matches!(op, Binary::And | Binary::Or);
        if logical != (a.dtype == MPSDataType::Bool) {
            return Err(bad(&name, "wants bools where the others want numbers"));
        }
        let dims = broadcast(&name, &a.dims, &b.dims)?;
        let compares = op as u8 >= Binary::Equal as u8;
        let dtype = if compares { MPSDataType::Bool } else { a.dtype };
        let (a, b) = (&a.tensor, &b.tensor);
        self.value(&name, dims, dtype, |graph| {
            // SAFETY: equal types, and shapes that broadcast, were checked above.
            unsafe {
                match op {
                    Binary::Add => graph.additionWithPrimaryTensor_secondaryTensor_name(a, b, None),
                    Binary::Subtract => {
                        graph.subtractionWithPrimaryTensor_secondaryTensor_name(a, b, None)
                    }
                    Binary::Multiply => {
                        graph.multiplicationWithPrimaryTensor_secondaryTensor_name(a, b, None)
                    }
                    Binary::Divide => {
                        graph.divisionWithPrimaryTensor_secondaryTensor_name(a, b, None)
                    }
                    Binary::Minimum => {
                        graph.minimumWithPrimaryTensor_secondaryTensor_name(a, b, None)
                    }
                    Binary::Maximum => {
                        graph.maximumWithPrimaryTensor_secondaryTensor_name(a, b, None)
                    }
                    Binary::Equal => graph.equalWithPrimaryTensor_secondaryTensor_name(a, b, None),
                    Binary::NotEqual => {
                        graph.notEqualWithPrimaryTensor_secondaryTensor_name(a, b, None)
                    }
                    Binary::Less => {
                        graph.lessThanWithPrimaryTensor_secondaryTensor_name(a, b, None)
                    }
                    Binary::LessOrEqual => {
                        graph.lessThanOrEqualToWithPrimaryTensor_secondaryTensor_name(a, b, None)
                    }
                    Binary::Greater => {
                        graph.greaterThanWithPrimaryTensor_secondaryTensor_name(a, b, None)
                    }
                    Binary::GreaterOrEqual => {
                        graph.greaterThanOrEqualToWithPrimaryTensor_secondaryTensor_name(a, b, None)
                    }
                    Binary::And => {
                        graph.logicalANDWithPrimaryTensor_secondaryTensor_name(a, b, None)
                    }
                    Binary::Or => graph.logicalORWithPrimaryTensor_secondaryTensor_name(a, b, None),
                }
            }
        })
    }

    /// An op of one float operand.
    pub(crate) fn unary(&self, op: Unary, x: &Value) -> Result<Value> {
        let asks = matches!(op, Unary::IsNan | Unary::IsFinite);
        let dtype = if asks { MPSDataType::Bool } else { x.dtype };
        let (x, dims) = (&x.tensor, x.dims.clone());
        self.value(&format!("{op:?}"), dims, dtype, |graph| {
            // SAFETY: these take any shape.
            unsafe {
                match op {
                    Unary::Square => graph.squareWithTensor_name(x, None),
                    Unary::ReciprocalSquareRoot if self.new_rsqrt => {
                        graph.reciprocalSquareRootWithTensor_name(x, None)
                    }
                    Unary::ReciprocalSquareRoot =>
                    {
                        #[expect(deprecated, reason = "its name before macOS 15")]
                        graph.reverseSquareRootWithTensor_name(x, None)
                    }
                    Unary::Sigmoid => graph.sigmoidWithTensor_name(x, None),
                    Unary::Tanh => graph.tanhWithTensor_name(x, None),
                    Unary::Floor => graph.floorWithTensor_name(x, None),
                    Unary::IsNan => graph.isNaNWithTensor_name(x, None),
                    Unary::IsFinite => graph.isFiniteWithTensor_name(x, None),
                }
            }
        })
    }

    /// `a` where `predicate` holds, `b` elsewhere; all three are broadcast.
    pub(crate) fn select(&self, predicate: &Value, a: &Value, b: &Value) -> Result<Value> {
        if predicate.dtype != MPSDataType::Bool {
            return Err(bad("select", "the predicate is no bool"));
        }
        if a.dtype != b.dtype {
            return Err(types_differ("select", a, b));
        }
        let dims = broadcast("select", &predicate.dims, &broadcast("select", &a.dims, &b.dims)?)?;
        let (predicate, a, b, dtype) = (&predicate.tensor, &a.tensor, &b.tensor, a.dtype);
        self.value("select", dims, dtype, |graph| {
            // SAFETY: types and shapes were checked above.
            unsafe {
                graph.selectWithPredicateTensor_truePredicateTensor_falsePredicateTensor_name(
                    predicate, a, b, None,
                )
            }
        })
    }

    /// `a b` of `[.., m, k]` and `[.., k, n]`. The outer axes must be equal: how MPSGraph
    /// broadcasts them has ended processes (pytorch#149132).
    pub(crate) fn matmul(&self, a: &Value, b: &Value) -> Result<Value> {
        if a.dtype != b.dtype {
            return Err(types_differ("matmul", a, b));
        }
        let rank = a.dims.len();
        let fits = rank >= 2
            && rank == b.dims.len()
            && a.dims[..rank - 2] == b.dims[..rank - 2]
            && a.dims[rank - 1] == b.dims[rank - 2];
        if !fits {
            return Err(bad("matmul", format!("shapes {:?} and {:?} do not fit", a.dims, b.dims)));
        }
        let mut dims = a.dims.clone();
        dims[rank - 1] = b.dims[rank - 1];
        self.value("matmul", dims, a.dtype, |graph| {
            // SAFETY: types and shapes were checked above.
            unsafe {
                graph.matrixMultiplicationWithPrimaryTensor_secondaryTensor_name(
                    &a.tensor, &b.tensor, None,
                )
            }
        })
    }

    /// MPSGraph's attention op: `q [b, h, n, d]`, `k` and `v [b, h, kv, d]`, `mask` added to the
    /// scaled scores, broadcasting to `[b, h, n, kv]`, all of one type and `h`.
    pub(crate) fn sdpa(&self, [q, k, v]: [&Value; 3], mask: &Value, scale: f32) -> Result<Value> {
        for operand in [k, v, mask] {
            if operand.dtype != q.dtype {
                return Err(types_differ("sdpa", q, operand));
            }
        }
        let ([qd, kd, vd], md) = ([&q.dims, &k.dims, &v.dims], &mask.dims);
        let rank_4 = [qd, kd, vd, md].iter().all(|dims| dims.len() == 4);
        if !rank_4 || qd[..2] != kd[..2] || kd != vd || qd[3] != kd[3] {
            return Err(bad("sdpa", format!("shapes {qd:?}, {kd:?} and {vd:?} do not fit")));
        }
        let scores = [qd[0], qd[1], qd[2], kd[2]];
        if broadcast("sdpa", md, &scores)? != scores {
            return Err(bad("sdpa", format!("a mask {md:?} for scores {scores:?}")));
        }
        let (dims, dtype) = (qd.clone(), q.dtype);
        self.value("sdpa", dims, dtype, |graph| {
            // SAFETY: types and shapes were checked above; the caller knows that the op exists.
            unsafe {
                graph.scaledDotProductAttentionWithQueryTensor_keyTensor_valueTensor_maskTensor_scale_name(
                    &q.tensor, &k.tensor, &v.tensor, Some(&mask.tensor), scale, None,
                )
            }
        })
    }

    /// `exp(x − max) / Σ exp(x − max)` along `axis`.
    pub(crate) fn softmax(&self, x: &Value, axis: usize) -> Result<Value> {
        check_axis("softmax", x, axis)?;
        self.value("softmax", x.dims.clone(), x.dtype, |graph| {
            // SAFETY: the axis was checked.
            unsafe { graph.softMaxWithTensor_axis_name(&x.tensor, axis as isize, None) }
        })
    }

    /// The largest element along `axis`, which stays, with length 1.
    pub(crate) fn reduce_max(&self, x: &Value, axis: usize) -> Result<Value> {
        check_axis("reduction", x, axis)?;
        let mut dims = x.dims.clone();
        dims[axis] = 1;
        self.value("reduction", dims, x.dtype, |graph| {
            // SAFETY: the axis was checked.
            unsafe { graph.reductionMaximumWithTensor_axis_name(&x.tensor, axis as isize, None) }
        })
    }

    /// The mean along `axis`, which stays, with length 1.
    pub(crate) fn mean(&self, x: &Value, axis: usize) -> Result<Value> {
        check_axis("mean", x, axis)?;
        let mut dims = x.dims.clone();
        dims[axis] = 1;
        self.value("mean", dims, x.dtype, |graph| {
            // SAFETY: the axis was checked.
            unsafe { graph.meanOfTensor_axes_name(&x.tensor, &shape(&[axis as isize]), None) }
        })
    }

    /// `x` with its axes in the order `axes`.
    pub(crate) fn transpose(&self, x: &Value, axes: &[usize]) -> Result<Value> {
        let mut seen = vec![false; x.dims.len()];
        let permutes = axes.len() == seen.len()
            && axes
                .iter()
                .all(|axis| seen.get_mut(*axis).is_some_and(|seen| !std::mem::replace(seen, true)));
        if !permutes {
            return Err(bad("transpose", format!("axes {axes:?} of {:?}", x.dims)));
        }
        let dims = axes.iter().map(|axis| x.dims[*axis]).collect();
        let order: Vec<isize> = axes.iter().map(|axis| *axis as isize).collect();
        self.value("transpose", dims, x.dtype, |graph| {
            // SAFETY: it is a permutation of the axes.
            unsafe { graph.transposeTensor_permutation_name(&x.tensor, &shape(&order), None) }
        })
    }

    /// The elements of `x` under another shape; one length of both may be unknown.
    pub(crate) fn reshape(&self, x: &Value, dims: &[isize]) -> Result<Value> {
        if x.dims == dims {
            return Ok(x.clone());
        }
        let known = |dims: &[isize]| -> isize { dims.iter().filter(|dim| **dim != ANY).product() };
        let unknown = |dims: &[isize]| dims.iter().filter(|dim| **dim == ANY).count();
        let fits = known(&x.dims) == known(dims)
            && unknown(&x.dims) == unknown(dims)
            && unknown(dims) <= 1;
        if !fits {
            return Err(bad("reshape", format!("{:?} to {dims:?}", x.dims)));
        }
        self.value("reshape", dims.to_vec(), x.dtype, |graph| {
            // SAFETY: the element counts are equal.
            unsafe { graph.reshapeTensor_withShape_name(&x.tensor, &shape(dims), None) }
        })
    }

    /// `x` repeated along its axes of length 1 until it has shape `dims`.
    pub(crate) fn broadcast_to(&self, x: &Value, dims: &[isize]) -> Result<Value> {
        if x.dims == dims {
            return Ok(x.clone());
        }
        if dims.contains(&ANY) || broadcast("broadcast", &x.dims, dims)? != dims {
            return Err(bad("broadcast", format!("{:?} to {dims:?}", x.dims)));
        }
        self.value("broadcast", dims.to_vec(), x.dtype, |graph| {
            // SAFETY: the shape was checked.
            unsafe { graph.broadcastTensor_toShape_name(&x.tensor, &shape(dims), None) }
        })
    }

    /// `start .. start + len` of `axis`.
    pub(crate) fn slice(&self, x: &Value, axis: usize, start: isize, len: isize) -> Result<Value> {
        check_axis("slice", x, axis)?;
        if start < 0 || len < 1 || start + len > x.dims[axis] {
            let reason = format!("{len} from {start} of axis {axis} of {:?}", x.dims);
            return Err(bad("slice", reason));
        }
        let mut dims = x.dims.clone();
        dims[axis] = len;
        self.value("slice", dims, x.dtype, |graph| {
            // SAFETY: the range lies inside.
            unsafe {
                graph.sliceTensor_dimension_start_length_name(&x.tensor, axis, start, len, None)
            }
        })
    }

    /// `a`, then `b`, along `axis`.
    pub(crate) fn concat(&self, a: &Value, b: &Value, axis: usize) -> Result<Value> {
        check_axis("concat", a, axis)?;
        if a.dtype != b.dtype {
            return Err(types_differ("concat", a, b));
        }
        let mut dims = b.dims.clone();
        if dims.len() == a.dims.len() {
            dims[axis] = a.dims[axis];
        }
        if dims != a.dims || b.dims[axis] == ANY || a.dims[axis] == ANY {
            return Err(bad("concat", format!("{:?} and {:?}, axis {axis}", a.dims, b.dims)));
        }
        dims[axis] += b.dims[axis];
        self.value("concat", dims, a.dtype, |graph| {
            let both = NSArray::from_slice(&[&*a.tensor, &*b.tensor]);
            // SAFETY: all other axes are equal.
            unsafe { graph.concatTensors_dimension_name(&both, axis as isize, None) }
        })
    }

    /// `data` with `update` written at `starts`, an i32 `[rank]` computed in the graph. `update`
    /// has the rank of `data` and is nowhere longer; it must lie inside.
    pub(crate) fn slice_update(
        &self,
        data: &Value,
        update: &Value,
        starts: &Value,
    ) -> Result<Value> {
        if data.dtype != update.dtype {
            return Err(types_differ("slice update", data, update));
        }
        let rank = data.dims.len();
        let fits = rank == update.dims.len()
            && update.dims.iter().zip(&data.dims).all(|(new, old)| new <= old)
            && starts.dims == [rank as isize]
            && starts.dtype == MPSDataType::Int32;
        if !fits {
            let reason = format!("{:?} into {:?} at {:?}", update.dims, data.dims, starts.dims);
            return Err(bad("slice update", reason));
        }
        let lens: Vec<i32> = update.dims.iter().map(|dim| *dim as i32).collect();
        let ends = self.binary(Binary::Add, starts, &self.integers(&lens, &[rank as isize])?)?;
        let strides = self.integers(&vec![1; rank], &[rank as isize])?;
        self.value("slice update", data.dims.clone(), data.dtype, |graph| {
            // SAFETY: types, ranks and lengths were checked; the caller bounds the starts.
            unsafe {
                graph.sliceUpdateDataTensor_updateTensor_startsTensor_endsTensor_stridesTensor_name(
                    &data.tensor,
                    &update.tensor,
                    &starts.tensor,
                    &ends.tensor,
                    &strides.tensor,
                    None,
                )
            }
        })
    }

    /// `weights · scales` as floats, where each axis of `scales` divides that of `weights`:
    /// signed bytes in groups (macOS 15).
    pub(crate) fn dequantize(
        &self,
        weights: &Value,
        scales: &Value,
        dtype: MPSDataType,
    ) -> Result<Value> {
        let divides = weights.dims.len() == scales.dims.len()
            && weights.dims.iter().zip(&scales.dims).all(|(all, groups)| all % groups == 0);
        if !divides || weights.dtype != MPSDataType::Int8 || scales.dtype != dtype {
            let reason = format!("{:?} by {:?}", weights.dims, scales.dims);
            return Err(bad("dequantize", reason));
        }
        self.value("dequantize", weights.dims.clone(), dtype, |graph| {
            // SAFETY: types and groups were checked.
            unsafe {
                graph.dequantizeTensor_scaleTensor_dataType_name(
                    &weights.tensor,
                    &scales.tensor,
                    dtype,
                    None,
                )
            }
        })
    }
}

fn check_axis(op: &str, x: &Value, axis: usize) -> Result<()> {
    if axis < x.dims.len() {
        return Ok(());
    }
    Err(bad(op, format!("axis {axis} of {:?}", x.dims)))
}

fn types_differ(op: &str, a: &Value, b: &Value) -> metallic::Error {
    let name =
        |value: &Value| format!("{:#x} ({} bytes)", value.dtype.0, element_bytes(value.dtype));
    bad(op, format!("operands of types {} and {}", name(a), name(b)))
}
