//! The logits of a next token, as much of them as is asked for: reading 40 candidates costs less
//! than reading a vocabulary, whose choice then is made where the logits lie.

use metallic::Context;
use metallic::op::{TopK, TopKArgs};
use metallic::tensor::{DType, Layout, Shape, Tensor};

use crate::error::Result;
use crate::sampler::Candidate;

/// What is known of the next token of a sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Every logit: f32 `[vocab]`.
    All(Vec<f32>),
    /// The likeliest tokens.
    Best {
        /// In descending order; of equal logits, the lower id first.
        candidates: Vec<Candidate>,
        /// How many logits of the whole vocabulary are NaN or infinite.
        not_finite: usize,
    },
    /// The device drew the token.
    Drawn {
        /// The token.
        id: u32,
        /// As above.
        not_finite: usize,
    },
}

impl Next {
    /// Reads `logits`, dense f32 `[1, vocab]`: the `best` likeliest of them where that many are
    /// asked for and the device has a kernel for it, else all.
    pub(super) fn read(ctx: &Context, logits: &Tensor, best: Option<usize>) -> Result<Self> {
        let k = best.map(|best| best.min(logits.shape()[1]));
        match k.filter(|k| (1..=TopK::MAX_K).contains(k)) {
            Some(k) => Self::best(ctx, logits, k),
            None => Ok(Self::All(ctx.download_f32(logits)?)),
        }
    }

    fn best(ctx: &Context, logits: &Tensor, k: usize) -> Result<Self> {
        // One tensor of 32-bit elements, so that one transfer reads all: values, ids, the count.
        let all = ctx.empty(DType::I32, [2 * k + 1])?;
        let part = |dtype, shape: &[usize], offset| {
            let dense = Layout::contiguous(Shape::new(shape));
            let layout = Layout::strided(dense.shape(), dense.strides(), offset);
            Tensor::new(all.buffer().clone(), dtype, layout.unwrap_or(dense))
        };
        let picked = ctx.run::<TopK>(&TopKArgs {
            x: logits.clone(),
            values: part(DType::F32, &[1, k], 0)?,
            ids: part(DType::I32, &[1, k], k)?,
            not_finite: part(DType::I32, &[1], 2 * k)?,
        });
        match picked {
            Ok(_) => {}
            Err(metallic::Error::NoBackend { .. }) => {
                return Ok(Self::All(ctx.download_f32(logits)?));
            }
            Err(error) => return Err(error.into()),
        }
        let bytes = ctx.download(&all)?;
        let words: Vec<u32> =
            bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let (values, rest) = words.split_at(k);
        let candidates = values.iter().zip(rest);
        Ok(Self::Best {
            candidates: candidates
                .map(|(&value, &id)| Candidate { id, logit: f32::from_bits(value) })
                .collect(),
            not_finite: rest[k] as usize,
        })
    }

    /// What the device chose after each of several steps, by chance where `drawn`, from the bytes of
    /// [`metallic::segment::FollowingSteps::chosen`]; nothing where it made none.
    pub(super) fn chosen_by_device(bytes: &[u8], drawn: bool) -> Vec<Self> {
        let words: Vec<u32> =
            bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let most = words.len() / 3;
        let next = |step: usize| {
            let (id, logit) = (words[step], f32::from_bits(words[most + step]));
            let not_finite = words[2 * most + step] as usize;
            match drawn {
                true => Self::Drawn { id, not_finite },
                false => Self::Best { candidates: vec![Candidate { id, logit }], not_finite },
            }
        };
        let made = words.first().map_or(0, |made| *made as usize);
        (1..=most.min(made)).map(next).collect()
    }

    /// The token that a device which goes on by itself takes: the one it drew, or the likeliest.
    pub(crate) fn chosen(&self) -> Option<u32> {
        match self {
            Self::Drawn { id, .. } => Some(*id),
            _ => self.likeliest(),
        }
    }

    /// The likeliest token, where it is known; of equal logits, the lower id.
    pub fn likeliest(&self) -> Option<u32> {
        match self {
            Self::All(logits) => {
                let higher = |best: (u32, f32), next: (u32, f32)| {
                    if next.1 > best.1 { next } else { best }
                };
                (0..).zip(logits.iter().copied()).reduce(higher).map(|(id, _)| id)
            }
            Self::Best { candidates, .. } => candidates.first().map(|best| best.id),
            Self::Drawn { .. } => None,
        }
    }

    /// True when every logit of the vocabulary is a finite number.
    pub(crate) fn is_finite(&self) -> bool {
        match self {
            // Without a branch for each: a vocabulary is long.
            Self::All(logits) => logits
                .chunks(1024)
                .all(|part| part.iter().fold(true, |all, logit| all & logit.is_finite())),
            Self::Best { not_finite, .. } | Self::Drawn { not_finite, .. } => *not_finite == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use metallic::cache::ResourceCache;
    use metallic::dispatch::KernelBackendRegistry;
    use metallic_devices::cpu::{CPU, CpuDevice, CpuOptions};
    use metallic_instrumentation::Recorder;

    use super::*;

    const LOGITS: [f32; 6] = [0.5, 2.0, -1.0, 2.0, 1.0, 0.0];

    fn read(ctx: &Context, logits: &[f32], best: Option<usize>) -> Next {
        Next::read(ctx, &ctx.upload_f32([1, logits.len()], logits).unwrap(), best).unwrap()
    }

    #[test]
    fn as_much_is_read_as_is_asked_for() {
        let ctx =
            CpuDevice::context(CpuOptions::default(), Default::default(), Recorder::disabled());
        assert_eq!(read(&ctx, &LOGITS, None), Next::All(LOGITS.to_vec()));
        assert_eq!(read(&ctx, &LOGITS, Some(TopK::MAX_K + 1)), {
            let order = [1, 3, 4, 0, 5, 2];
            let candidate = |id: u32| Candidate { id, logit: LOGITS[id as usize] };
            Next::Best { candidates: order.map(candidate).to_vec(), not_finite: 0 }
        });
        assert_eq!(read(&ctx, &LOGITS, None).likeliest(), Some(1));
        assert_eq!(read(&ctx, &LOGITS, Some(3)).likeliest(), Some(1));
        let Next::Best { candidates, not_finite } =
            read(&ctx, &[1.0, f32::NAN, f32::INFINITY], Some(1))
        else {
            panic!("the device has the kernel")
        };
        assert_eq!((candidates[0].id, not_finite), (2, 2));
        let wide = vec![1.0; TopK::MAX_K + 2];
        assert_eq!(read(&ctx, &wide, Some(TopK::MAX_K + 1)), Next::All(wide.clone()));
    }

    #[test]
    fn a_device_without_the_kernel_gives_all() {
        let device = CpuDevice::new(CpuOptions::default());
        let registry = KernelBackendRegistry::new(CPU, Default::default());
        let cache = ResourceCache::default();
        let ctx = Context::new(Arc::new(device), registry, cache, Recorder::disabled());
        assert_eq!(read(&ctx, &LOGITS, Some(2)), Next::All(LOGITS.to_vec()));
    }
}
