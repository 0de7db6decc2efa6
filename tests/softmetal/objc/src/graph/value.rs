//! Tensors of the reference interpreter: f32 or 64-bit integers in row-major order.

use std::borrow::Cow;

use crate::mps::dtype::{DType, Scalar};
use crate::runtime::abort::abort;

/// Elements.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Data {
    Float(Vec<f32>),
    Integer(Vec<i64>),
}

/// A tensor with all extents known.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Data,
}

impl Value {
    pub(crate) fn new(dtype: DType, shape: Vec<usize>, data: Data) -> Value {
        let count = match &data {
            Data::Float(list) => list.len(),
            Data::Integer(list) => list.len(),
        };
        if count != shape.iter().product::<usize>() {
            abort!("the interpreter made {count} elements for {shape:?}");
        }
        Value { dtype, shape, data }
    }

    /// Floats, rounded to `dtype`.
    pub(crate) fn floats(dtype: DType, shape: Vec<usize>, mut list: Vec<f32>) -> Value {
        dtype.round_all(&mut list);
        Value::new(dtype, shape, Data::Float(list))
    }

    /// Integers, wrapped to `dtype`.
    pub(crate) fn integers(dtype: DType, shape: Vec<usize>, mut list: Vec<i64>) -> Value {
        for x in &mut list {
            *x = dtype.wrap(*x);
        }
        Value::new(dtype, shape, Data::Integer(list))
    }

    pub(crate) fn from_scalars(dtype: DType, shape: Vec<usize>, list: &[Scalar]) -> Value {
        let data = if dtype.is_float() {
            Data::Float(list.iter().map(|s| as_float(*s)).collect())
        } else {
            Data::Integer(list.iter().map(|s| as_integer(*s)).collect())
        };
        Value::new(dtype, shape, data)
    }

    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub(crate) fn get(&self, index: usize) -> Scalar {
        match &self.data {
            Data::Float(list) => Scalar::Float(list[index]),
            Data::Integer(list) => Scalar::Integer(list[index]),
        }
    }

    /// The elements as floats.
    pub(crate) fn as_floats(&self) -> Cow<'_, [f32]> {
        match &self.data {
            Data::Float(list) => Cow::Borrowed(list),
            Data::Integer(list) => list.iter().map(|x| *x as f32).collect(),
        }
    }

    /// The elements as floats, to be changed.
    pub(crate) fn to_floats(&self) -> Vec<f32> {
        self.as_floats().into_owned()
    }

    /// The elements as integers, floats cut off.
    pub(crate) fn to_integers(&self) -> Vec<i64> {
        match &self.data {
            Data::Float(list) => list.iter().map(|x| *x as i64).collect(),
            Data::Integer(list) => list.clone(),
        }
    }

    pub(crate) fn dims(&self) -> Vec<i64> {
        self.shape.iter().map(|n| *n as i64).collect()
    }

    /// The same elements under another shape.
    pub(crate) fn with_shape(mut self, shape: Vec<usize>) -> Value {
        if shape.iter().product::<usize>() != self.len() {
            abort!("cannot reshape {:?} to {shape:?}", self.shape);
        }
        self.shape = shape;
        self
    }

    /// The elements at `places`, under `shape`.
    pub(crate) fn pick(&self, shape: Vec<usize>, places: &[usize]) -> Value {
        let data = match &self.data {
            Data::Float(list) => Data::Float(places.iter().map(|i| list[*i]).collect()),
            Data::Integer(list) => Data::Integer(places.iter().map(|i| list[*i]).collect()),
        };
        Value::new(self.dtype, shape, data)
    }
}

pub(crate) fn as_float(scalar: Scalar) -> f32 {
    match scalar {
        Scalar::Float(x) => x,
        Scalar::Integer(x) => x as f32,
    }
}

pub(crate) fn as_integer(scalar: Scalar) -> i64 {
    match scalar {
        Scalar::Float(x) => x as i64,
        Scalar::Integer(x) => x,
    }
}

/// Row-major strides.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for place in (1..shape.len()).rev() {
        strides[place - 1] = strides[place] * shape[place];
    }
    strides
}

/// The strides with which a tensor of `shape` is read as one of `wide`: 0 along broadcast extents.
pub(crate) fn broadcast_strides(shape: &[usize], wide: &[usize]) -> Vec<usize> {
    let own = strides(shape);
    let skip = wide.len() - shape.len();
    (0..wide.len())
        .map(|place| match place.checked_sub(skip) {
            Some(i) if shape[i] != 1 => own[i],
            _ => 0,
        })
        .collect()
}

/// The place of every element of `shape` under `strides`, from `start`, in row-major order.
pub(crate) fn places(shape: &[usize], strides: &[usize], start: usize) -> Vec<usize> {
    let mut list = vec![start];
    for (extent, stride) in shape.iter().zip(strides) {
        list = list.iter().flat_map(|at| (0..*extent).map(move |i| at + i * stride)).collect();
    }
    list
}

/// The places of the elements of a tensor that is read as a wider one, row by row.
pub(crate) struct Rows {
    starts: Vec<usize>,
    width: usize,
    step: usize,
}

impl Rows {
    /// The rows, along the last axis, of a tensor of shape `own` that is read as one of `wide`.
    pub(crate) fn new(own: &[usize], wide: &[usize]) -> Rows {
        let strides = broadcast_strides(own, wide);
        let Some((width, outer)) = wide.split_last() else {
            return Rows { starts: vec![0], width: 1, step: 0 };
        };
        let (step, above) = strides.split_last().expect("as many strides as extents");
        Rows { starts: places(outer, above, 0), width: *width, step: *step }
    }

    /// How many elements a row has.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// The places of row `number`.
    pub(crate) fn row(&self, number: usize) -> impl Iterator<Item = usize> + use<> {
        let (start, step) = (self.starts[number], self.step);
        (0..self.width).map(move |i| start + i * step)
    }

    /// The places of each row.
    pub(crate) fn iter(&self) -> impl Iterator<Item = impl Iterator<Item = usize> + use<>> {
        (0..self.starts.len()).map(|number| self.row(number))
    }
}

/// Runs `work` on chunks of `size` elements of `out`, with their numbers, on all cores.
pub(crate) fn in_parallel(out: &mut [f32], size: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let chunks = out.len() / size.max(1);
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(chunks.max(1));
    // A thread costs about what 100 000 elements do.
    if workers == 1 || out.len() < 100_000 {
        return out.chunks_mut(size.max(1)).enumerate().for_each(|(n, chunk)| work(n, chunk));
    }
    let share = chunks.div_ceil(workers);
    std::thread::scope(|scope| {
        for (worker, part) in out.chunks_mut(share * size).enumerate() {
            let work = &work;
            scope.spawn(move || {
                let numbered = part.chunks_mut(size).enumerate();
                numbered.for_each(|(n, chunk)| work(worker * share + n, chunk));
            });
        }
    });
}

/// The shape that two shapes broadcast to; the graph compiler has checked that they do.
pub(crate) fn joint_shape(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], place: usize| {
        (place + dims.len()).checked_sub(rank).map_or(1, |i| dims[i])
    };
    (0..rank)
        .map(|place| match (at(a, place), at(b, place)) {
            (x, y) if x == y || y == 1 => x,
            (1, y) => y,
            _ => abort!("{a:?} and {b:?} are not broadcast compatible"),
        })
        .collect()
}
