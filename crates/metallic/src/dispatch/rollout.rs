//! A rollout by percentage: `auto` may use graph for a share of all requests, the others keep
//! legacy.
//!
//! A request is one answer, not one call: all layers and steps of it fall on the same side. The
//! side depends on the request's key alone, so the same request falls there again, on every
//! machine, and whoever was in at 5 % is in at 25 %.

use std::fmt;
use std::str::FromStr;

use super::policy::PolicySource;
use crate::error::Error;

/// Hundredths of a percent in a whole.
const WHOLE: u16 = 10_000;

/// A share of requests, from 0 to 100 %, in steps of 0.01 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Share(u16);

impl Share {
    /// Whether a request with this draw is among the share.
    pub fn admits(self, draw: Draw) -> bool {
        draw.0 < self.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", f64::from(self.0) / 100.0)
    }
}

impl FromStr for Share {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Error> {
        let number = value.strip_suffix('%').unwrap_or(value).trim_end();
        let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let percent = number.parse::<f64>().ok().filter(|_| plain);
        match percent.filter(|percent| (0.0..=100.0).contains(percent)) {
            // In range, so nothing is cut off.
            Some(percent) => Ok(Self((percent * 100.0).round() as u16)),
            None => Err(Error::UnknownValue {
                setting: "a share of requests".to_owned(),
                value: value.to_owned(),
                accepted: "a percentage from 0 to 100, as 25 or 2.5%".into(),
            }),
        }
    }
}

/// Where a request falls, from 0 to 99.99 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Draw(u16);

impl Draw {
    /// The last to be let in: where calls fall that belong to no request.
    pub const LAST: Draw = Draw(WHOLE - 1);

    /// The draw of a request: the 64-bit FNV-1a hash of its key, its bits mixed once more
    /// (FNV's high bits hardly depend on the last bytes), taken modulo 10,000.
    pub fn of(key: &str) -> Self {
        let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self(((mixed >> 32) % u64::from(WHOLE)) as u16)
    }
}

impl fmt::Display for Draw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", f64::from(self.0) / 100.0)
    }
}

/// A rollout with its source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RolloutChoice {
    /// Requests for which `auto` may use graph.
    pub share: Share,
    /// Who set it.
    pub source: PolicySource,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages() {
        let share = |text: &str| text.parse::<Share>().map(|share| share.to_string());
        for (text, shown) in [
            ("0", "0 %"),
            ("25", "25 %"),
            ("2.5%", "2.5 %"),
            ("0.01 %", "0.01 %"),
            ("100", "100 %"),
        ] {
            assert_eq!(share(text).unwrap(), shown, "{text}");
        }
        for text in ["", "%", "-1", "100.1", "ten", "nan", "inf", "1e1", "5 percent"] {
            let error = share(text).unwrap_err().to_string();
            assert!(error.contains("from 0 to 100"), "{text}: {error}");
        }
    }

    #[test]
    fn a_share_admits_its_part_and_a_larger_one_the_same_and_more() {
        let draws: Vec<Draw> = (0..20_000).map(|i| Draw::of(&format!("request {i}"))).collect();
        for percent in ["0", "1", "25", "99", "100"] {
            let share: Share = percent.parse().unwrap();
            let admitted = draws.iter().filter(|draw| share.admits(**draw)).count() as f64;
            let expected = percent.parse::<f64>().unwrap() * 200.0;
            // Five standard deviations of a fair draw.
            let deviation = (20_000.0 * (expected / 2e4) * (1.0 - expected / 2e4)).sqrt();
            assert!((admitted - expected).abs() <= 5.0 * deviation, "{percent}: {admitted}");
        }
        let (small, large): (Share, Share) = ("5".parse().unwrap(), "25".parse().unwrap());
        assert!(draws.iter().all(|draw| !small.admits(*draw) || large.admits(*draw)));
        let all: Share = "100".parse().unwrap();
        assert!(all.admits(Draw::LAST) && !"99.99".parse::<Share>().unwrap().admits(Draw::LAST));
    }
}
