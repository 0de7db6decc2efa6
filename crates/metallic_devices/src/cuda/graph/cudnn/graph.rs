//! Operations over tensors as cuDNN takes them. Every tensor but the fed ones is virtual: it exists
//! between two operations of one kernel.

use super::descriptor::{Attribute, Descriptor, Kind};
use super::library::{Handle, Library};

/// Element types, as `cudnnDataType_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub(super) enum Element {
    F32 = 0,
    F16 = 2,
    I32 = 4,
    Bf16 = 9,
    Bool = 11,
}

/// Elementwise operations, as `cudnnPointwiseMode_t`.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(super) enum Pointwise {
    Add = 0,
    Mul = 1,
    Div = 6,
    Sub = 9,
    Exp = 13,
    Log = 15,
    Greater = 302,
    GreaterOrEqual = 303,
    Less = 304,
    And = 400,
    Index = 501,
    /// x where t holds, else b.
    Select = 601,
}

/// Reductions along the axes that the result has at length 1, as `cudnnReduceTensorOp_t`.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(super) enum Reduce {
    Sum = 0,
    Max = 3,
}

/// A tensor of a graph under construction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value(usize);

/// Operands of an elementwise operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operands {
    pub(super) x: Value,
    pub(super) b: Option<Value>,
    pub(super) t: Option<Value>,
    /// The axis whose index [`Pointwise::Index`] gives.
    pub(super) axis: Option<i64>,
}

impl Operands {
    /// One operand.
    pub(super) fn one(x: Value) -> Self {
        Self { x, b: None, t: None, axis: None }
    }

    /// Two operands.
    pub(super) fn two(x: Value, b: Value) -> Self {
        Self { b: Some(b), ..Self::one(x) }
    }
}

/// Alignment of every address that is fed, in bytes.
pub(super) const ALIGNMENT: u64 = 16;
/// Shape of a number.
pub(super) const NUMBER: [i64; 4] = [1; 4];
/// The first identifier of tensors that nobody feeds.
const FIRST_VIRTUAL: i64 = 1000;

/// A graph under construction. Objects refer to each other, so all are kept until the plan is made.
pub(super) struct Operations {
    library: &'static Library,
    tensors: Vec<Descriptor>,
    operations: Vec<Descriptor>,
    kept: Vec<Descriptor>,
}

type Outcome<T> = Result<T, String>;

/// Strides of a dense row-major tensor.
pub(super) fn dense(shape: [i64; 4]) -> [i64; 4] {
    let [_, b, c, d] = shape;
    [b * c * d, c * d, d, 1]
}

impl Operations {
    pub(super) fn new(library: &'static Library) -> Self {
        Self { library, tensors: Vec::new(), operations: Vec::new(), kept: Vec::new() }
    }

    fn tensor(
        &mut self,
        id: i64,
        element: Element,
        (shape, strides): ([i64; 4], [i64; 4]),
        finish: impl FnOnce(Descriptor) -> Outcome<Descriptor>,
    ) -> Outcome<Value> {
        let tensor = Descriptor::new(self.library, Kind::TENSOR)?
            .numbers(Attribute::TENSOR_UNIQUE_ID, &[id])?
            .choice(Attribute::TENSOR_DATA_TYPE, element as i32)?
            .numbers(Attribute::TENSOR_DIMENSIONS, &shape)?
            .numbers(Attribute::TENSOR_STRIDES, &strides)?
            .numbers(Attribute::TENSOR_BYTE_ALIGNMENT, &[ALIGNMENT as i64])?;
        self.tensors.push(finish(tensor)?.finish()?);
        Ok(Value(self.tensors.len() - 1))
    }

    /// A tensor in device memory, fed under `id`.
    pub(super) fn fed(
        &mut self,
        id: i64,
        element: Element,
        shape: [i64; 4],
        strides: [i64; 4],
    ) -> Outcome<Value> {
        self.tensor(id, element, (shape, strides), Ok)
    }

    /// A number in host memory, fed under `id` and read when a run is put on the stream.
    pub(super) fn host_number(&mut self, id: i64, element: Element) -> Outcome<Value> {
        let flag = |tensor: Descriptor| tensor.flag(Attribute::TENSOR_IS_BY_VALUE, true);
        self.tensor(id, element, (NUMBER, NUMBER), flag)
    }

    /// A tensor between two operations.
    pub(super) fn virtual_tensor(&mut self, element: Element, shape: [i64; 4]) -> Outcome<Value> {
        let id = FIRST_VIRTUAL + self.tensors.len() as i64;
        let flag = |tensor: Descriptor| tensor.flag(Attribute::TENSOR_IS_VIRTUAL, true);
        self.tensor(id, element, (shape, dense(shape)), flag)
    }

    /// `out = a b`, sums in f32. `lengths` are the live rows, columns and depth of each batch, where
    /// they are fewer than the shape says.
    pub(super) fn matmul(
        &mut self,
        [a, b, out]: [Value; 3],
        lengths: [Option<Value>; 3],
    ) -> Outcome<()> {
        let product = Descriptor::new(self.library, Kind::MATMUL)?
            .choice(Attribute::MATMUL_COMP_TYPE, Element::F32 as i32)?
            .finish()?;
        let mut operation = Descriptor::new(self.library, Kind::OPERATION_MATMUL)?
            .objects(Attribute::OPERATION_MATMUL_DESC, &[&product])?
            .objects(Attribute::OPERATION_MATMUL_ADESC, &[&self.tensors[a.0]])?
            .objects(Attribute::OPERATION_MATMUL_BDESC, &[&self.tensors[b.0]])?
            .objects(Attribute::OPERATION_MATMUL_CDESC, &[&self.tensors[out.0]])?;
        let places = [
            Attribute::OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC,
            Attribute::OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC,
            Attribute::OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC,
        ];
        for (attribute, length) in places.into_iter().zip(lengths) {
            if let Some(Value(length)) = length {
                operation = operation.objects(attribute, &[&self.tensors[length]])?;
            }
        }
        self.add(operation, product)
    }

    /// An elementwise operation, computed in `element`'s type and stored in a new virtual tensor of
    /// it.
    pub(super) fn pointwise(
        &mut self,
        mode: Pointwise,
        element: Element,
        operands: Operands,
        shape: [i64; 4],
    ) -> Outcome<Value> {
        let out = self.virtual_tensor(element, shape)?;
        self.pointwise_into(mode, element, operands, out)?;
        Ok(out)
    }

    /// As [`Operations::pointwise`], computed in `precision` and stored in `out`.
    pub(super) fn pointwise_into(
        &mut self,
        mode: Pointwise,
        precision: Element,
        Operands { x, b, t, axis }: Operands,
        out: Value,
    ) -> Outcome<()> {
        let mut how = Descriptor::new(self.library, Kind::POINTWISE)?
            .choice(Attribute::POINTWISE_MODE, mode as i32)?
            .choice(Attribute::POINTWISE_MATH_PREC, precision as i32)?;
        if let Some(axis) = axis {
            how = how.numbers(Attribute::POINTWISE_AXIS, &[axis])?;
        }
        let how = how.finish()?;
        let mut operation = Descriptor::new(self.library, Kind::OPERATION_POINTWISE)?
            .objects(Attribute::OPERATION_POINTWISE_PW_DESCRIPTOR, &[&how])?
            .objects(Attribute::OPERATION_POINTWISE_XDESC, &[&self.tensors[x.0]])?;
        let more =
            [(Attribute::OPERATION_POINTWISE_BDESC, b), (Attribute::OPERATION_POINTWISE_TDESC, t)];
        for (attribute, operand) in more {
            if let Some(Value(operand)) = operand {
                operation = operation.objects(attribute, &[&self.tensors[operand]])?;
            }
        }
        let operation =
            operation.objects(Attribute::OPERATION_POINTWISE_YDESC, &[&self.tensors[out.0]])?;
        self.add(operation, how)
    }

    /// A reduction in f32.
    pub(super) fn reduce(&mut self, operator: Reduce, x: Value, shape: [i64; 4]) -> Outcome<Value> {
        let out = self.virtual_tensor(Element::F32, shape)?;
        let how = Descriptor::new(self.library, Kind::REDUCTION)?
            .choice(Attribute::REDUCTION_OPERATOR, operator as i32)?
            .choice(Attribute::REDUCTION_COMP_TYPE, Element::F32 as i32)?
            .finish()?;
        let operation = Descriptor::new(self.library, Kind::OPERATION_REDUCTION)?
            .objects(Attribute::OPERATION_REDUCTION_DESC, &[&how])?
            .objects(Attribute::OPERATION_REDUCTION_XDESC, &[&self.tensors[x.0]])?
            .objects(Attribute::OPERATION_REDUCTION_YDESC, &[&self.tensors[out.0]])?;
        self.add(operation, how)?;
        Ok(out)
    }

    fn add(&mut self, operation: Descriptor, how: Descriptor) -> Outcome<()> {
        self.operations.push(operation.finish()?);
        self.kept.push(how);
        Ok(())
    }

    /// The whole as one graph of `handle`, with all that it refers to.
    pub(super) fn finish(self, handle: &Handle) -> Outcome<(Descriptor, Vec<Descriptor>)> {
        let operations: Vec<&Descriptor> = self.operations.iter().collect();
        let graph = Descriptor::new(self.library, Kind::OPERATION_GRAPH)?
            .handle(Attribute::OPERATIONGRAPH_HANDLE, handle)?
            .objects(Attribute::OPERATIONGRAPH_OPS, &operations)?
            .finish()?;
        let kept = [self.operations, self.kept, self.tensors].into_iter().flatten().collect();
        Ok((graph, kept))
    }
}
