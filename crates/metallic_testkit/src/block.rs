//! The numbers of a block's case, and its calls on a device.

use metallic::op::Precision;
use metallic::segment::{AttentionBlockArgs, MlpBlockArgs, Norm, Projection, QkNorm, Rotation};
use metallic::tensor::{DType, Tensor};
use metallic::{Context, Result};

use crate::cases::block::BlockCase;
use crate::oracle::estimate::{InputRounding, Matrix};
use crate::oracle::{self, BlockProblem, Estimate};
use crate::random::Random;
use crate::storage::{decode, encode, poison, rounded};

/// Added to mean squares.
const EPS: f32 = 1e-6;
/// Positions of a cache past those that a call looks at.
const SPARE: usize = 3;

/// The host values of `case`.
pub fn problem(case: &BlockCase) -> BlockProblem {
    let BlockCase { hidden, q_heads, kv_heads, head_dim, pairs, ffn, len, .. } = *case;
    let mut random = Random::named(&case.name);
    let [of_v, others] = case.weights;
    let mut numbers = |count: usize, center: f64, deviation: f64| -> Vec<f64> {
        let values: Vec<f64> = (0..count).map(|_| center + deviation * random.normal()).collect();
        rounded(DType::F32, &values)
    };
    let rounding = |dtype: DType| match (case.precision, dtype) {
        (Precision::Exact, _) | (_, DType::F32) => InputRounding::None,
        (Precision::Quantized, DType::F16) => InputRounding::Float(2f64.powi(-11)),
        (Precision::Quantized, DType::Bf16) => InputRounding::Float(2f64.powi(-8)),
        (Precision::Quantized, _) => InputRounding::EightBits,
    };
    let mut matrix = |rows: usize, cols: usize, dtype: DType, bias: bool| {
        let values = numbers(rows * cols, 0.0, 1.0 / (cols as f64).sqrt());
        let bias = bias.then(|| numbers(rows, 0.0, 0.3));
        Matrix { cols, values: rounded(dtype, &values), bias, input: rounding(dtype) }
    };
    let (q_width, kv_width) = (q_heads * head_dim, kv_heads * head_dim);
    let qkv = [
        matrix(q_width, hidden, others, case.bias),
        matrix(kv_width, hidden, others, case.bias),
        matrix(kv_width, hidden, of_v, case.bias),
    ];
    let o = matrix(hidden, q_width, others, false);
    let gate_up = [matrix(ffn, hidden, others, false), matrix(ffn, hidden, others, false)];
    let down = matrix(hidden, ffn, of_v, false);
    let positions = case.starts.iter().flat_map(|start| *start..start + len);
    let angles: Vec<f64> = positions
        .flat_map(|position| {
            let frequency = move |pair| 1e4f64.powf(-(pair as f64) / pairs as f64);
            (0..pairs).map(move |pair| position as f64 * frequency(pair))
        })
        .collect();
    let of_angles =
        |f: fn(f64) -> f64| rounded(DType::F32, &angles.iter().copied().map(f).collect::<Vec<_>>());
    let mut cache = || {
        let (kv_len, row) = (case.kv_len(), head_dim);
        let mut values = numbers(case.batch() * kv_heads * kv_len * row, 0.0, 1.0);
        for (index, head) in values.chunks_exact_mut(kv_len * row).enumerate() {
            head[case.starts[index / kv_heads] * row..].fill(f64::NAN);
        }
        rounded(case.cache, &values)
    };
    BlockProblem {
        k_cache: cache(),
        v_cache: cache(),
        x: numbers(case.rows() * hidden, 0.0, 1.0),
        pending: case.pending.then(|| numbers(case.rows() * hidden, 0.0, 0.5)),
        eps: f64::from(EPS),
        attn_norm: numbers(hidden, 1.0, 0.1),
        ffn_norm: numbers(hidden, 1.0, 0.1),
        qk_norm: case.qk_norm.then(|| [numbers(head_dim, 1.0, 0.1), numbers(head_dim, 1.0, 0.1)]),
        qkv,
        o,
        cos: of_angles(f64::cos),
        sin: of_angles(f64::sin),
        gate_up,
        down,
        case: case.clone(),
    }
}

/// What every call of one block reads, on a device.
#[derive(Debug)]
pub struct PlacedBlock {
    attention: AttentionBlockArgs,
    mlp: MlpBlockArgs,
}

impl PlacedBlock {
    /// Lays `problem` out on the device of `ctx`.
    ///
    /// # Errors
    /// When the device has no memory.
    pub fn new(ctx: &Context, problem: &BlockProblem) -> Result<Self> {
        let case = &problem.case;
        let BlockCase { hidden, len, pairs, pairing, precision, .. } = *case;
        let [of_v, others] = case.weights;
        let (batch, rows) = (case.batch(), case.rows());
        let f32 = |shape: &[usize], values: &[f64]| {
            ctx.upload(DType::F32, shape, &encode(DType::F32, values))
        };
        let matrix = |matrix: &Matrix, dtype: DType| {
            let out = matrix.values.len() / matrix.cols;
            let weight = ctx.upload(dtype, [out, matrix.cols], &encode(dtype, &matrix.values))?;
            let bias = matrix.bias.as_ref().map(|bias| f32(&[out], bias)).transpose()?;
            Result::Ok(Projection { weight, bias })
        };
        let norm = |weight: &[f64]| Result::Ok(Norm { weight: f32(&[hidden], weight)?, eps: EPS });
        let [q, k, v] = &problem.qkv;
        let qk_norm = problem.qk_norm.as_ref().map(|[q, k]| {
            let (q, k) = (f32(&[q.len()], q)?, f32(&[k.len()], k)?);
            Result::Ok(QkNorm { q, k, eps: EPS })
        });
        let angles = |values: &[f64]| f32(&[batch, len, pairs], values);
        let stream = |shape: &[usize], values: &[f64]| f32(shape, values);
        let (by_row, by_sequence) = ([rows, hidden], [batch, len, hidden]);
        let pending = |shape: &[usize]| {
            problem.pending.as_ref().map(|values| stream(shape, values)).transpose()
        };
        let lens = |extra: usize| -> Vec<i32> {
            case.starts.iter().map(|start| (start + extra) as i32).collect()
        };
        let attention = AttentionBlockArgs {
            x: stream(&by_sequence, &problem.x)?,
            pending: pending(&by_sequence)?,
            norm: norm(&problem.attn_norm)?,
            q: matrix(q, others)?,
            k: matrix(k, others)?,
            v: matrix(v, of_v)?,
            qk_norm: qk_norm.transpose()?,
            rotation: Rotation { cos: angles(&problem.cos)?, sin: angles(&problem.sin)?, pairing },
            k_cache: place_cache(ctx, case, &problem.k_cache)?,
            v_cache: place_cache(ctx, case, &problem.v_cache)?,
            starts: ctx.upload_i32([batch], &lens(0))?,
            kv_lens: ctx.upload_i32([batch], &lens(len))?,
            band: oracle::band(case),
            scale: None,
            o: matrix(&problem.o, others)?,
            precision,
            out: ctx.empty(DType::F32, by_sequence)?,
        };
        let [gate, up] = &problem.gate_up;
        let mlp = MlpBlockArgs {
            x: stream(&by_row, &problem.x)?,
            pending: pending(&by_row)?,
            norm: norm(&problem.ffn_norm)?,
            gate: matrix(gate, others)?,
            up: matrix(up, others)?,
            down: matrix(&problem.down, of_v)?,
            precision,
            out: ctx.empty(DType::F32, by_row)?,
        };
        Ok(Self { attention, mlp })
    }

    /// A call of the attention half with a stream, caches and a result of its own.
    ///
    /// # Errors
    /// When the device has no memory.
    pub fn attention(&self, ctx: &Context, problem: &BlockProblem) -> Result<AttentionBlockArgs> {
        let args = self.attention.clone();
        Ok(AttentionBlockArgs {
            x: fresh(ctx, &args.x, &problem.x)?,
            out: unwritten(ctx, &args.out)?,
            k_cache: place_cache(ctx, &problem.case, &problem.k_cache)?,
            v_cache: place_cache(ctx, &problem.case, &problem.v_cache)?,
            ..args
        })
    }

    /// A call of the feed-forward half with a stream and a result of its own.
    ///
    /// # Errors
    /// When the device has no memory.
    pub fn mlp(&self, ctx: &Context, problem: &BlockProblem) -> Result<MlpBlockArgs> {
        let args = self.mlp.clone();
        let (x, out) = (fresh(ctx, &args.x, &problem.x)?, unwritten(ctx, &args.out)?);
        Ok(MlpBlockArgs { x, out, ..args })
    }
}

fn fresh(ctx: &Context, like: &Tensor, values: &[f64]) -> Result<Tensor> {
    ctx.upload(DType::F32, like.shape(), &encode(DType::F32, values))
}

/// A tensor of NaN.
fn unwritten(ctx: &Context, like: &Tensor) -> Result<Tensor> {
    fresh(ctx, like, &vec![f64::NAN; like.shape().elements()])
}

/// The view of a cache with room for a few positions more, which hold NaN.
fn place_cache(ctx: &Context, case: &BlockCase, values: &[f64]) -> Result<Tensor> {
    let (dtype, kv_len) = (case.cache, case.kv_len());
    let heads = case.batch() * case.kv_heads;
    let live = encode(dtype, values);
    let bytes = live.len() / heads;
    let spare = poison(dtype).repeat(SPARE * case.head_dim / dtype.block_len());
    let image: Vec<u8> =
        live.chunks_exact(bytes).flat_map(|head| [head, &spare].concat()).collect();
    let shape = [case.batch(), case.kv_heads, kv_len + SPARE, case.head_dim];
    ctx.upload(dtype, shape, &image)?.narrow(2, 0, kv_len)
}

/// The values of a whole cache, of which `view` shows the first positions, head by head; spare
/// positions as well.
///
/// # Errors
/// When the device fails.
pub fn cache_values(ctx: &Context, case: &BlockCase, view: &Tensor) -> Result<Vec<f64>> {
    let [batch, kv_heads, dim] = [case.batch(), case.kv_heads, case.head_dim];
    let shape = [batch, kv_heads, case.kv_len() + SPARE, dim];
    let layout = metallic::tensor::Layout::contiguous(shape.into());
    let whole = Tensor::new(view.buffer().clone(), view.dtype(), layout)?;
    Ok(decode(view.dtype(), &ctx.download(&whole)?))
}

/// What [`cache_values`] must give.
pub fn cache_estimates(case: &BlockCase, cache: &[Estimate]) -> Vec<Estimate> {
    let spare = vec![Estimate::exact(f64::NAN); SPARE * case.head_dim];
    let heads = cache.chunks_exact(case.kv_len() * case.head_dim);
    heads.flat_map(|head| [head, &spare].concat()).collect()
}
