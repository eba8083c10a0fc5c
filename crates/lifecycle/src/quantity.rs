//! Kubernetes quantities, exactly: `4`, `500m`, `1.5Gi`, `2e3`. Compared as rational numbers, never through floating point.

use std::{cmp::Ordering, fmt};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a quantity: write a number such as 4, 0.5 or 2e3, or one with a suffix such as 500m, 16Gi or 500G")]
pub struct QuantityError {
    text: String,
}

/// A quantity as `mantissa * 2^twos * 10^tens`, exactly.
#[derive(Debug, Clone, Copy)]
pub struct Exact {
    mantissa: i128,
    twos: u32,
    tens: i32,
}

/// Longest text that is looked at; every quantity that Kubernetes prints is shorter.
const MAX_TEXT: usize = 40;
/// Most digits of a number: with the largest suffix it still fits.
const MAX_DIGITS: usize = 20;

fn suffix(text: &str) -> Option<(u32, i32)> {
    Some(match text {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(digits);
            if unsigned.is_empty() || unsigned.len() > 2 || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let value: i32 = digits.parse().ok()?;
            // Beyond these no quantity of a machine lies.
            if !(-18..=18).contains(&value) {
                return None;
            }
            (0, value)
        }
    })
}

impl Exact {
    /// Zero.
    pub const ZERO: Self = Self {
        mantissa: 0,
        twos: 0,
        tens: 0,
    };

    /// Reads a quantity.
    ///
    /// # Errors
    /// [`QuantityError`] when the text is none, or beyond every machine.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let bad = || QuantityError {
            text: text.chars().take(MAX_TEXT).collect(),
        };
        if text.len() > MAX_TEXT {
            return Err(bad());
        }
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, unit) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{}", fraction.trim_end_matches('0'));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || digits.trim_start_matches('0').len() > MAX_DIGITS {
            return Err(bad());
        }
        let magnitude: i128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| bad())? };
        let (twos, tens) = suffix(unit).ok_or_else(bad)?;
        let fraction_digits = i32::try_from(fraction.trim_end_matches('0').len()).map_err(|_| bad())?;
        Ok(Self {
            mantissa: if negative { -magnitude } else { magnitude },
            twos,
            tens: tens - fraction_digits,
        })
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        self.mantissa < 0
    }

    /// Smallest whole number that is not below it (as Kubernetes rounds up); `None` beyond `u64` or below zero.
    pub fn ceil(&self) -> Option<u64> {
        let mut value = self.mantissa.checked_shl(self.twos).filter(|v| v >> self.twos == self.mantissa)?;
        for _ in 0..self.tens.max(0) {
            value = value.checked_mul(10)?;
        }
        if self.tens < 0 {
            let divisor = 10i128.checked_pow(self.tens.unsigned_abs())?;
            value = value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0);
        }
        u64::try_from(value).ok()
    }

    /// The digits of `|mantissa| * 2^twos`, as a wide number in base 10^9, smallest first, times `10^tens` (not negative).
    fn wide(&self, tens: u32) -> Vec<u32> {
        const BASE: u64 = 1_000_000_000;
        let mut limbs: Vec<u32> = Vec::new();
        let mut rest = self.mantissa.unsigned_abs();
        while rest > 0 {
            limbs.push(u32::try_from(rest % u128::from(BASE)).unwrap_or_default());
            rest /= u128::from(BASE);
        }
        let factors = std::iter::repeat_n(2u64, self.twos as usize).chain(std::iter::repeat_n(10u64, tens as usize));
        for factor in factors {
            let mut carry = 0u64;
            for limb in &mut limbs {
                let value = u64::from(*limb) * factor + carry;
                *limb = u32::try_from(value % BASE).unwrap_or_default();
                carry = value / BASE;
            }
            if carry > 0 {
                limbs.push(u32::try_from(carry).unwrap_or_default());
            }
        }
        limbs
    }
}

impl Ord for Exact {
    fn cmp(&self, other: &Self) -> Ordering {
        let signs = self.mantissa.signum().cmp(&other.mantissa.signum());
        if signs != Ordering::Equal {
            return signs;
        }
        let least = self.tens.min(other.tens);
        let a = self.wide(self.tens.abs_diff(least));
        let b = other.wide(other.tens.abs_diff(least));
        let magnitude = a.len().cmp(&b.len()).then_with(|| a.iter().rev().cmp(b.iter().rev()));
        if self.mantissa < 0 { magnitude.reverse() } else { magnitude }
    }
}

impl PartialOrd for Exact {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Exact {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Exact {}

impl TryFrom<&Quantity> for Exact {
    type Error = QuantityError;

    fn try_from(quantity: &Quantity) -> Result<Self, QuantityError> {
        Self::parse(&quantity.0)
    }
}

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.twos, self.tens) {
            (0, 0) => write!(f, "{}", self.mantissa),
            (twos, tens) => write!(f, "{}*2^{twos}*10^{tens}", self.mantissa),
        }
    }
}
