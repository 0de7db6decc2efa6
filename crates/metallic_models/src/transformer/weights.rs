//! A model's tensors on a device, checked against its configuration.

use half::{bf16, f16};
use metallic::Context;
use metallic::segment::Projection;
use metallic::tensor::{DType, Tensor};

use super::config::ModelConfig;
use crate::error::Result;
use crate::source::ModelFiles;

/// The tensors of one block.
#[derive(Debug)]
pub(super) struct BlockWeights {
    pub(super) attn_norm: Tensor,
    pub(super) q: Projection,
    pub(super) k: Projection,
    pub(super) v: Projection,
    pub(super) o: Projection,
    /// f32 `[head_dim]` each: norms of queries and keys, per head.
    pub(super) qk_norm: Option<(Tensor, Tensor)>,
    pub(super) ffn_norm: Tensor,
    pub(super) gate: Projection,
    pub(super) up: Projection,
    pub(super) down: Projection,
}

/// All tensors.
#[derive(Debug)]
pub(super) struct Weights {
    /// `[vocab, hidden]`.
    pub(super) token_embd: Tensor,
    pub(super) blocks: Vec<BlockWeights>,
    pub(super) output_norm: Tensor,
    /// `[vocab, hidden]`; the embedding itself when tied.
    pub(super) output: Tensor,
}

impl Weights {
    /// Puts every tensor of `files` on the device; `loaded` learns the bytes of each matrix that is
    /// there.
    pub(super) fn load(ctx: &Context, files: &ModelFiles, loaded: &dyn Fn(usize)) -> Result<Self> {
        let config = files.config();
        let loader = Loader { ctx, files, loaded };
        let token_embd = loader.matrix("token_embd.weight", config.vocab, config.hidden)?;
        let output = if config.tied_output {
            token_embd.clone()
        } else {
            loader.matrix("output.weight", config.vocab, config.hidden)?
        };
        let blocks =
            (0..config.n_layers).map(|n| loader.block(n, config)).collect::<Result<_>>()?;
        let output_norm = loader.vector("output_norm.weight", config.hidden)?;
        Ok(Self { token_embd, blocks, output_norm, output })
    }
}

struct Loader<'a> {
    ctx: &'a Context,
    files: &'a ModelFiles,
    loaded: &'a dyn Fn(usize),
}

impl Loader<'_> {
    fn block(&self, n: usize, config: &ModelConfig) -> Result<BlockWeights> {
        let ModelConfig { hidden, ffn, head_dim, n_heads, n_kv_heads, qkv_bias, .. } = *config;
        let (q_width, kv_width) = (n_heads * head_dim, n_kv_heads * head_dim);
        let project = |name: &str, rows, cols, bias| {
            self.projection(&format!("blk.{n}.{name}"), rows, cols, bias)
        };
        let norm = |name: &str, len| self.vector(&format!("blk.{n}.{name}.weight"), len);
        let qk_norm = match config.qk_norm {
            true => Some((norm("attn_q_norm", head_dim)?, norm("attn_k_norm", head_dim)?)),
            false => None,
        };
        Ok(BlockWeights {
            attn_norm: norm("attn_norm", hidden)?,
            q: project("attn_q", q_width, hidden, qkv_bias)?,
            k: project("attn_k", kv_width, hidden, qkv_bias)?,
            v: project("attn_v", kv_width, hidden, qkv_bias)?,
            o: project("attn_output", hidden, q_width, false)?,
            qk_norm,
            ffn_norm: norm("ffn_norm", hidden)?,
            gate: project("ffn_gate", ffn, hidden, false)?,
            up: project("ffn_up", ffn, hidden, false)?,
            down: project("ffn_down", hidden, ffn, false)?,
        })
    }

    fn projection(&self, name: &str, rows: usize, cols: usize, bias: bool) -> Result<Projection> {
        let weight = self.matrix(&format!("{name}.weight"), rows, cols)?;
        let bias = match bias {
            true => Some(self.vector(&format!("{name}.bias"), rows)?),
            false => None,
        };
        Ok(Projection { weight, bias })
    }

    /// A matrix as stored, without a copy where the device can.
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Tensor> {
        let info = self.files.tensor_shaped(name, &[rows, cols])?;
        let tensor = self.ctx.import(info.dtype, [rows, cols], info.bytes.clone())?;
        (self.loaded)(info.bytes.len());
        Ok(tensor)
    }

    /// A norm or a bias, as f32.
    fn vector(&self, name: &str, len: usize) -> Result<Tensor> {
        let info = self.files.tensor_shaped(name, &[len])?;
        let pairs = || info.bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
        let values: Vec<f32> = match info.dtype {
            DType::F32 => info
                .bytes
                .chunks_exact(4)
                .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
                .collect(),
            DType::F16 => pairs().map(|pair| f16::from_le_bytes(pair).to_f32()).collect(),
            DType::Bf16 => pairs().map(|pair| bf16::from_le_bytes(pair).to_f32()).collect(),
            dtype => {
                return Err(crate::Error::BadTensor {
                    tensor: name.to_owned(),
                    problem: crate::TensorProblem::VectorType { dtype },
                });
            }
        };
        Ok(self.ctx.upload_f32([len], &values)?)
    }
}
