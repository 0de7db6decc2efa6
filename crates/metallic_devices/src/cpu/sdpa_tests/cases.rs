//! Random calls: shapes, types, layouts, masks, poison.

use half::{bf16, f16};
use metallic::Context;
use metallic::op::{Band, Mask, MaskTensor, Sdpa, SdpaArgs};
use metallic::tensor::{DType, Tensor};
use metallic_testkit::oracle::{self, SdpaProblem, TensorMask, TensorMaskValues};

use super::contexts;
use crate::cpu::kernels::convert::encode_row;
use crate::cpu::linear::testing::Random;
use crate::cpu::quant::dequantize_row;
use crate::cpu::simd::Level;

/// How a `[batch, heads, len, dim]` tensor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    Dense,
    /// Stored `[batch, len, heads, dim]`.
    HeadsInside,
    /// A part of a longer cache.
    Narrowed,
}

/// The bytes and the axis order of a tensor in memory, and what they mean.
#[derive(Clone, Debug)]
struct Stored {
    dtype: DType,
    dims: [usize; 4],
    layout: Layout,
    bytes: Vec<u8>,
}

impl Stored {
    fn new(dtype: DType, dims: [usize; 4], layout: Layout) -> Self {
        let stored = Self { dtype, dims, layout, bytes: Vec::new() };
        let bytes = vec![0xff; dtype.row_bytes(stored.memory().iter().product()).unwrap()];
        Self { bytes, ..stored }
    }

    /// Axis lengths in memory.
    fn memory(&self) -> [usize; 4] {
        let [b, h, n, d] = self.dims;
        match self.layout {
            Layout::Dense => [b, h, n, d],
            Layout::HeadsInside => [b, n, h, d],
            Layout::Narrowed => [b, h, n + 3, d],
        }
    }

    /// The bytes of one row.
    fn row(&mut self, row: usize) -> &mut [u8] {
        let [_, h, n, d] = self.dims;
        let (b, h, n, heads, len) = (row / n / h, row / n % h, row % n, h, n);
        let at = match self.layout {
            Layout::Dense => row,
            Layout::HeadsInside => (b * len + n) * heads + h,
            Layout::Narrowed => (b * heads + h) * (len + 3) + n + 2,
        };
        let bytes = self.dtype.row_bytes(d).unwrap();
        &mut self.bytes[at * bytes..][..bytes]
    }

    fn rows(&self) -> usize {
        self.dims[..3].iter().product()
    }

    /// Fills it with gaussian numbers, and poisons one row in `poison`.
    fn fill(&mut self, random: &mut Random, poison: Option<usize>) {
        let dim = self.dims[3];
        for row in 0..self.rows() {
            let mut values: Vec<f32> = (0..dim).map(|_| random.gaussian()).collect();
            let poisoned = poison.is_some_and(|every| random.bits().is_multiple_of(every as u64));
            if poisoned && !self.dtype.is_quantized() {
                values[row % dim] = [f32::NAN, f32::INFINITY][row % 2];
            }
            let dtype = self.dtype;
            let bytes = self.row(row);
            encode_row(Level::detect(), dtype, &values, bytes);
            if poisoned && dtype.is_quantized() {
                bytes[..2].copy_from_slice(&f16::NAN.to_le_bytes());
            }
        }
    }

    fn values(&mut self) -> Vec<f64> {
        let dim = self.dims[3];
        let mut values = vec![0.0; self.rows() * dim];
        for row in 0..self.rows() {
            let dtype = self.dtype;
            dequantize_row(dtype, self.row(row), &mut values[row * dim..][..dim]);
        }
        values.into_iter().map(f64::from).collect()
    }

    fn tensor(&self, context: &Context) -> Tensor {
        let tensor = context.upload(self.dtype, self.memory(), &self.bytes).unwrap();
        match self.layout {
            Layout::Dense => tensor,
            Layout::HeadsInside => tensor.permute(&[0, 2, 1, 3]).unwrap(),
            Layout::Narrowed => tensor.narrow(2, 2, self.dims[2]).unwrap(),
        }
    }
}

/// A call as stored, and as the reference sees it.
struct Case {
    q: Stored,
    k: Stored,
    v: Stored,
    out: Stored,
    /// Element type, shape and bytes of the mask.
    mask: Option<(DType, [usize; 4], Vec<u8>)>,
    scale: Option<f32>,
    softcap: Option<f32>,
    problem: SdpaProblem,
}

fn one_of<T: Copy>(random: &mut Random, choices: &[T]) -> T {
    choices[random.bits() as usize % choices.len()]
}

impl Case {
    fn random(random: &mut Random) -> Self {
        let batch = one_of(random, &[0, 1, 1, 1, 2, 3]);
        let kv_heads = one_of(random, &[1, 1, 2, 3]);
        let group = one_of(random, &[1, 2, 4, 7]);
        // What a model decodes with: the kernel for few rows takes all of these.
        let decode = one_of(random, &[false, false, true]);
        let q_len = match decode {
            true => 1,
            false => one_of(random, &[0, 1, 1, 1, 2, 5, 17, 50, 70, 131]),
        };
        let kv_len = one_of(random, &[0, 1, 3, 31, 64, 100, 257, 300, 600]);
        let mut dims = [64usize, 64];
        let dtypes = [DType::F32, DType::F16, DType::Bf16, DType::Q8_0];
        let mut kv = [one_of(random, &dtypes), one_of(random, &dtypes)];
        for (dim, dtype) in dims.iter_mut().zip(kv) {
            *dim = match dtype {
                DType::Q8_0 => one_of(random, &[32, 64, 96]),
                _ => one_of(random, &[1, 8, 20, 64, 72, 80, 128]),
            };
        }
        if kv[0] == DType::Q8_0 || one_of(random, &[true, false]) {
            dims[1] = if kv[1] == DType::Q8_0 { dims[0].next_multiple_of(32) } else { dims[0] };
        }
        if decode {
            kv[1] = kv[0];
            dims = [one_of(random, &[32, 64, 128]), one_of(random, &[32, 64, 96])];
        }
        let [head_dim, v_dim] = dims;
        let layout = |random: &mut Random| {
            one_of(random, &[Layout::Dense, Layout::HeadsInside, Layout::Narrowed])
        };
        let q_heads = kv_heads * group;
        let q_dtype = one_of(random, &dtypes[..3]);
        let mut q = Stored::new(q_dtype, [batch, q_heads, q_len, head_dim], layout(random));
        let mut k = Stored::new(kv[0], [batch, kv_heads, kv_len, head_dim], layout(random));
        let mut v = Stored::new(kv[1], [batch, kv_heads, kv_len, v_dim], layout(random));
        let out = Stored::new(q_dtype, [batch, q_heads, q_len, v_dim], layout(random));
        let poison = one_of(random, &[None, None, Some(kv_len + 40), Some(20)]);
        q.fill(random, None);
        // −inf scores of attended keys are no business of this test, so keys get no infinities.
        k.fill(random, None);
        v.fill(random, poison);
        if poison.is_some() && kv_len > 3 && !kv[0].is_quantized() {
            let row = random.bits() as usize % k.rows().max(1);
            if k.rows() > 0 {
                k.row(row).fill(0xff);
            }
        }
        let offset =
            one_of(random, &[None, None, None, Some(-5), Some(7), Some(i64::MIN), Some(i64::MAX)]);
        let bound = |random: &mut Random| {
            one_of(random, &[None, Some(0), Some(3), Some(80), Some(1 << 40)])
        };
        let band = match one_of(random, &[0, 1, 1, 2]) {
            0 => Band { offset, ..Band::OPEN },
            1 => Band { left: None, right: Some(0), offset: None },
            _ => Band { left: bound(random), right: bound(random), offset },
        };
        let scores = [batch, q_heads, q_len, kv_len];
        let mask = random_mask(random, scores);
        let kv_lens = one_of(random, &[false, false, true]).then(|| {
            let span = kv_len as u64 + 4;
            (0..batch).map(|_| (random.bits() % span) as i64 - 2).collect()
        });
        let scale = one_of(random, &[None, Some(0.3f32), Some(0.0)]);
        let softcap = one_of(random, &[None, None, Some(0.5f32), Some(30.0)]);
        let problem = SdpaProblem {
            batch,
            q_heads,
            kv_heads,
            q_len,
            kv_len,
            head_dim,
            v_dim,
            q: q.values(),
            k: k.values(),
            v: v.values(),
            band,
            mask: mask.as_ref().map(mask_values),
            kv_lens,
            scale: scale.map_or(1.0 / (head_dim as f64).sqrt(), f64::from),
            softcap: softcap.map(f64::from),
        };
        Self { q, k, v, out, mask, scale, softcap, problem }
    }

    fn check(&self, name: &str, context: &Context, want: &[f64]) {
        let mask = self.mask.as_ref().map(|(dtype, shape, bytes)| {
            let tensor = context.upload(*dtype, *shape, bytes).unwrap();
            if *dtype == DType::Bool {
                MaskTensor::Bool(tensor)
            } else {
                MaskTensor::Additive(tensor)
            }
        });
        let lens = self.problem.kv_lens.as_ref();
        let lens: Option<Vec<i32>> = lens.map(|lens| lens.iter().map(|&len| len as i32).collect());
        let mut out = self.out.clone();
        let base = context.upload(out.dtype, out.memory(), &out.bytes).unwrap();
        let args = SdpaArgs {
            q: self.q.tensor(context),
            k: self.k.tensor(context),
            v: self.v.tensor(context),
            mask: Mask { band: self.problem.band, tensor: mask },
            kv_lens: lens.map(|lens| context.upload_i32([lens.len()], &lens).unwrap()),
            scale: self.scale,
            softcap: self.softcap,
            out: match out.layout {
                Layout::Dense => base.clone(),
                Layout::HeadsInside => base.permute(&[0, 2, 1, 3]).unwrap(),
                Layout::Narrowed => base.narrow(2, 2, out.dims[2]).unwrap(),
            },
        };
        context.run::<Sdpa>(&args).unwrap();
        out.bytes = context.download(&base).unwrap();
        let ulp = match out.dtype {
            DType::F32 => 2e-5,
            DType::F16 => 1e-3,
            _ => 8e-3,
        };
        for (at, (got, want)) in out.values().into_iter().zip(want).enumerate() {
            let same = got == *want || (got.is_nan() && want.is_nan());
            let close = (got - want).abs() <= ulp * (0.3 + want.abs());
            assert!(same || close, "{name} at {at}: {got}, expected {want}; {}", self.describe());
        }
        // What lies between the rows of a narrowed output stays as it was.
        if out.layout == Layout::Narrowed && out.rows() > 0 {
            let row = out.dtype.row_bytes(out.dims[3]).unwrap();
            assert!(out.bytes[..2 * row].iter().all(|byte| *byte == 0xff), "{name}");
        }
    }

    fn describe(&self) -> String {
        let mut problem = self.problem.clone();
        (problem.q, problem.k, problem.v) = Default::default();
        let mask = self.mask.as_ref().map(|(dtype, shape, _)| (dtype, shape));
        problem.mask = None;
        let types = [self.q.dtype, self.k.dtype, self.v.dtype];
        format!("{types:?} {mask:?} {problem:?}")
    }
}

fn random_mask(random: &mut Random, scores: [usize; 4]) -> Option<(DType, [usize; 4], Vec<u8>)> {
    let kind = one_of(
        random,
        &[None, None, Some(DType::Bool), Some(DType::F32), Some(DType::F16), Some(DType::Bf16)],
    );
    let dtype = kind?;
    let shape = scores.map(|dim| if random.bits().is_multiple_of(2) { 1 } else { dim });
    let hidden = one_of(random, &[f32::NEG_INFINITY, f32::NEG_INFINITY, f32::MIN]);
    let hide = one_of(random, &[0, 1, 2, 9]);
    let mut bytes = Vec::new();
    for _ in 0..shape.iter().product() {
        let hides = random.bits() % 10 < hide;
        let value = if hides { hidden } else { random.gaussian() };
        match dtype {
            DType::Bool => bytes.push(u8::from(!hides) * 3),
            DType::F32 => bytes.extend(value.to_le_bytes()),
            DType::F16 => bytes.extend(
                f16::from_f32(value.max(if value.is_finite() { -65504.0 } else { value }))
                    .to_le_bytes(),
            ),
            _ => bytes.extend(
                bf16::from_f32(if value == f32::MIN { bf16::MIN.to_f32() } else { value })
                    .to_le_bytes(),
            ),
        }
    }
    Some((dtype, shape, bytes))
}

fn mask_values((dtype, shape, bytes): &(DType, [usize; 4], Vec<u8>)) -> TensorMask {
    let values = if *dtype == DType::Bool {
        TensorMaskValues::Bool(bytes.iter().map(|byte| *byte != 0).collect())
    } else {
        let mut values = vec![0.0; bytes.len() / dtype.block_bytes()];
        dequantize_row(*dtype, bytes, &mut values);
        TensorMaskValues::Additive(values.into_iter().map(f64::from).collect())
    };
    TensorMask { shape: *shape, values }
}

#[test]
fn random_calls_agree_with_f64() {
    let contexts = contexts();
    let mut random = Random::new(11);
    for case in 0..300 {
        let call = Case::random(&mut random);
        let want = oracle::sdpa(&call.problem).out;
        // Each case on a few of them; together all of them on many.
        for (name, context) in contexts.iter().skip(case % 3).step_by(3) {
            call.check(&format!("case {case}, {name}"), context, &want);
        }
    }
}
