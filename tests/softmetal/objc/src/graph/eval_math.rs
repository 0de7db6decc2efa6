//! Elementwise arithmetic and reductions. Results are rounded to their type after every op.

use super::infer::axis_of;
use super::ir::{Binary, Reduction, Unary};
use super::value::{Data, Rows, Value, in_parallel, joint_shape, places, strides};
use crate::mps::dtype::DType;
use crate::runtime::abort::abort;

/// erf by its series near 0 and its continued fraction further out; enough for f32.
fn erf(x: f64) -> f64 {
    let x2 = x * x;
    if x.abs() < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..60 {
            term *= -x2 / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let mut fraction = 0.0;
    for n in (1..60).rev() {
        fraction = f64::from(n) / 2.0 / (x.abs() + fraction);
    }
    let tail = (-x2).exp() / ((x.abs() + fraction) * std::f64::consts::PI.sqrt());
    (1.0 - tail).copysign(x)
}

fn one(op: Unary, x: f32) -> f32 {
    match op {
        Unary::Identity => x,
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Square => x * x,
        Unary::SquareRoot => x.sqrt(),
        Unary::ReciprocalSquareRoot => 1.0 / x.sqrt(),
        Unary::Reciprocal => 1.0 / x,
        Unary::Negative => -x,
        Unary::Absolute => x.abs(),
        Unary::Exponent => x.exp(),
        Unary::Logarithm => x.ln(),
        Unary::Tanh => x.tanh(),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Erf => erf(f64::from(x)) as f32,
        Unary::Relu => x.max(0.0),
        Unary::Floor => x.floor(),
        Unary::Round => x.round_ties_even(),
        Unary::IsNan | Unary::IsInfinite | Unary::IsFinite | Unary::Not => {
            abort!("{op:?} gives no number")
        }
    }
}

pub(super) fn unary(op: Unary, x: &Value) -> Value {
    let shape = x.shape.clone();
    let test: Option<fn(f32) -> bool> = match op {
        Unary::IsNan => Some(f32::is_nan),
        Unary::IsInfinite => Some(f32::is_infinite),
        Unary::IsFinite => Some(f32::is_finite),
        Unary::Not => Some(|x| x == 0.0),
        _ => None,
    };
    if let Some(test) = test {
        let list = x.as_floats().iter().map(|x| i64::from(test(*x))).collect();
        return Value::integers(DType::Bool, shape, list);
    }
    match &x.data {
        Data::Float(list) => {
            let mut out = list.clone();
            in_parallel(&mut out, 4096, |_, part| part.iter_mut().for_each(|x| *x = one(op, *x)));
            Value::floats(x.dtype, shape, out)
        }
        Data::Integer(list) => {
            let list = list
                .iter()
                .map(|x| match op {
                    Unary::Identity => *x,
                    Unary::Square => x * x,
                    Unary::Negative => -x,
                    Unary::Absolute => x.abs(),
                    _ => abort!("{op:?} of integers is not modelled"),
                })
                .collect();
            Value::integers(x.dtype, shape, list)
        }
    }
}

fn float_pair(op: Binary, a: f32, b: f32) -> f32 {
    match op {
        Binary::Add => a + b,
        Binary::Subtract => a - b,
        Binary::Multiply => a * b,
        Binary::Divide => a / b,
        // As fmax and fmin: a NaN gives way.
        Binary::Maximum => a.max(b),
        Binary::Minimum => a.min(b),
        Binary::Power => a.powf(b),
        Binary::Modulo => a - b * (a / b).floor(),
        _ => f32::from(compare(op, a, b)),
    }
}

fn integer_pair(op: Binary, a: i64, b: i64) -> i64 {
    match op {
        Binary::Add => a.wrapping_add(b),
        Binary::Subtract => a.wrapping_sub(b),
        Binary::Multiply => a.wrapping_mul(b),
        Binary::Divide => a.checked_div(b).unwrap_or(0),
        Binary::Maximum => a.max(b),
        Binary::Minimum => a.min(b),
        Binary::Modulo => a.checked_rem_euclid(b).unwrap_or(0),
        Binary::Power => a.wrapping_pow(b.clamp(0, 63) as u32),
        Binary::And => i64::from(a != 0 && b != 0),
        Binary::Or => i64::from(a != 0 || b != 0),
        _ => i64::from(compare(op, a, b)),
    }
}

fn compare<T: PartialOrd>(op: Binary, a: T, b: T) -> bool {
    match op {
        Binary::Equal => a == b,
        Binary::NotEqual => a != b,
        Binary::Less => a < b,
        Binary::LessOrEqual => a <= b,
        Binary::Greater => a > b,
        Binary::GreaterOrEqual => a >= b,
        _ => abort!("{op:?} is no comparison"),
    }
}

pub(super) fn binary(op: Binary, dtype: DType, a: &Value, b: &Value) -> Value {
    let shape = joint_shape(&a.shape, &b.shape);
    let (left, right) = (Rows::new(&a.shape, &shape), Rows::new(&b.shape, &shape));
    let count = shape.iter().product();
    match (&a.data, &b.data) {
        (Data::Float(x), Data::Float(y)) => {
            let mut list = vec![0.0; count];
            in_parallel(&mut list, left.width(), |number, row| {
                let places = left.row(number).zip(right.row(number));
                for (out, (i, j)) in row.iter_mut().zip(places) {
                    *out = float_pair(op, x[i], y[j]);
                }
            });
            if dtype == DType::Bool {
                Value::integers(dtype, shape, list.iter().map(|x| *x as i64).collect())
            } else {
                Value::floats(dtype, shape, list)
            }
        }
        (Data::Integer(x), Data::Integer(y)) => {
            let mut list: Vec<i64> = Vec::with_capacity(count);
            let pairs = left.iter().zip(right.iter()).flat_map(|(left, right)| left.zip(right));
            pairs.for_each(|(i, j)| list.push(integer_pair(op, x[i], y[j])));
            Value::integers(dtype, shape, list)
        }
        _ => abort!("{op:?} of {} and {}", a.dtype.name(), b.dtype.name()),
    }
}

pub(super) fn select(predicate: &Value, yes: &Value, no: &Value) -> Value {
    let shape = joint_shape(&predicate.shape, &joint_shape(&yes.shape, &no.shape));
    let Data::Integer(chosen) = &predicate.data else { abort!("select wants a predicate of bool") };
    let data = match (&yes.data, &no.data) {
        (Data::Float(y), Data::Float(n)) => {
            Data::Float(pick_either(&shape, (predicate, chosen), (yes, y), (no, n)))
        }
        (Data::Integer(y), Data::Integer(n)) => {
            Data::Integer(pick_either(&shape, (predicate, chosen), (yes, y), (no, n)))
        }
        _ => abort!("select of {} and {}", yes.dtype.name(), no.dtype.name()),
    };
    Value::new(yes.dtype, shape, data)
}

/// Elements of `yes` where `chosen` is not 0, of `no` elsewhere.
fn pick_either<T: Copy>(
    shape: &[usize],
    (predicate, chosen): (&Value, &[i64]),
    (yes, y): (&Value, &[T]),
    (no, n): (&Value, &[T]),
) -> Vec<T> {
    let rows = |value: &Value| Rows::new(&value.shape, shape);
    let (at_p, at_y, at_n) = (rows(predicate), rows(yes), rows(no));
    let mut list = Vec::with_capacity(shape.iter().product());
    for ((p, yes), no) in at_p.iter().zip(at_y.iter()).zip(at_n.iter()) {
        for ((p, yes), no) in p.zip(yes).zip(no) {
            list.push(if chosen[p] != 0 { y[yes] } else { n[no] });
        }
    }
    list
}

pub(super) fn reduce(kind: Reduction, axes: Option<&[i64]>, x: &Value) -> Value {
    let rank = x.shape.len();
    let all: Vec<usize> = match axes {
        None => (0..rank).collect(),
        Some(axes) => axes
            .iter()
            .map(|axis| axis_of(*axis, rank).unwrap_or_else(|text| abort!("{text}")))
            .collect(),
    };
    let own = strides(&x.shape);
    let keep: Vec<usize> =
        (0..rank).map(|i| if all.contains(&i) { 1 } else { x.shape[i] }).collect();
    let gone: Vec<usize> =
        (0..rank).map(|i| if all.contains(&i) { x.shape[i] } else { 1 }).collect();
    let inner = places(&gone, &own, 0);
    let count = inner.len() as f32;
    let starts = places(&keep, &own, 0);
    match &x.data {
        Data::Float(list) => {
            let reduced = starts.iter().map(|start| {
                let items = inner.iter().map(|at| list[start + at]);
                match kind {
                    Reduction::Sum => items.sum(),
                    Reduction::Mean => items.sum::<f32>() / count,
                    Reduction::Product => items.product(),
                    // NaN is passed over; nothing but NaN gives an infinity.
                    Reduction::Maximum => items.fold(f32::NEG_INFINITY, f32::max),
                    Reduction::Minimum => items.fold(f32::INFINITY, f32::min),
                }
            });
            Value::floats(x.dtype, keep.clone(), reduced.collect())
        }
        Data::Integer(list) => {
            let reduced = starts.iter().map(|start| {
                let items = inner.iter().map(|at| list[start + at]);
                match kind {
                    Reduction::Sum => items.sum(),
                    Reduction::Mean => items.sum::<i64>() / inner.len() as i64,
                    Reduction::Product => items.product(),
                    Reduction::Maximum => items.max().unwrap_or(0),
                    Reduction::Minimum => items.min().unwrap_or(0),
                }
            });
            Value::integers(x.dtype, keep.clone(), reduced.collect())
        }
    }
}
