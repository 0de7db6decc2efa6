//! Rows of a table, one per token: `out[r] = table[ids[r]]`, decoded to f32.

use std::fmt;

use super::{Op, OpArgs, OpSpec, check};
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// The op.
#[derive(Debug)]
pub struct Embedding;

/// One call of [`Embedding`].
#[derive(Clone, Debug)]
pub struct EmbeddingArgs {
    /// i32 `[rows]`, each in `0 .. vocab`. The caller guarantees the range.
    pub ids: Tensor,
    /// `[vocab, width]`, dense, any float or quantised type.
    pub table: Tensor,
    /// f32 `[rows, width]`, dense, written in place.
    pub out: Tensor,
}

/// What a kernel of [`Embedding`] depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EmbeddingSpec {
    /// Element type of the table.
    pub table: DType,
    /// Width of a row.
    pub width: usize,
}

impl OpSpec for EmbeddingSpec {}

impl fmt::Display for EmbeddingSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} width={}", self.table, self.width)
    }
}

impl Op for Embedding {
    const ID: &'static str = "embedding";
    type Spec = EmbeddingSpec;
    type Args = EmbeddingArgs;

    fn check(args: &EmbeddingArgs) -> Result<EmbeddingSpec> {
        let EmbeddingArgs { ids, table, out } = args;
        let op = Self::ID;
        check::rank(op, "ids", ids, "rows")?;
        check::dtype(op, "ids", ids, &[DType::I32], "i32")?;
        check::dense(op, "ids", ids)?;
        check::rank(op, "table", table, "vocab, width")?;
        check::dense(op, "table", table)?;
        if !(table.dtype().is_float() || table.dtype().is_quantized()) {
            check::dtype(op, "table", table, &[], "a float or quantised type")?;
        }
        check::dense_f32(op, "out", out, "rows, width")?;
        check::axis(op, "out axis 0", out.shape()[0], ids.shape()[0], "the number of ids")?;
        check::axis(op, "out axis 1", out.shape()[1], table.shape()[1], "the table's width")?;
        check::apart(op, ("out", out), ("ids", ids))?;
        check::apart(op, ("out", out), ("table", table))?;
        Ok(EmbeddingSpec { table: table.dtype(), width: table.shape()[1] })
    }
}

impl OpArgs for EmbeddingArgs {
    fn each_tensor<'a>(&'a self, visit: &mut dyn FnMut(&'static str, &'a Tensor)) {
        visit("ids", &self.ids);
        visit("table", &self.table);
        visit("out", &self.out);
    }
}
