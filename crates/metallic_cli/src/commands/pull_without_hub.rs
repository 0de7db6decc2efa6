//! `metallic pull` in a build without network code: says where files belong.

use metallic::config::process_env;

use crate::args::PullArgs;
use crate::error::{Error, Result};
use crate::hub::{self, HubName};

/// Refuses.
///
/// # Errors
/// Always.
pub(super) fn run(args: &PullArgs) -> Result<()> {
    let name =
        HubName::parse(&args.name).ok_or_else(|| Error::NotAHubName { name: args.name.clone() })?;
    let folder = name.folder(&hub::cache_folder(&process_env)?).join("snapshots").join("main");
    Err(Error::NoHub { folder })
}
