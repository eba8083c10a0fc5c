//! Kubernetes quantities, exact: a decimal number of arbitrary size with a suffix.

use std::cmp::Ordering;

/// Larger scales are refused; they would only make numbers nobody writes.
const MAX_DIGITS: usize = 60;

/// `mantissa * 10^exponent`, with the mantissa without trailing zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quantity {
    negative: bool,
    /// Decimal digits, most significant first, no leading zeros; empty is zero.
    digits: Vec<u8>,
    exponent: i32,
}

impl Quantity {
    /// Parses a quantity such as `1.5Gi`, `200m` or `1e3`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) || number.len() > MAX_DIGITS {
            return None;
        }
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').collect();
        let mut exponent = -i32::try_from(fraction.len()).ok()?;
        match suffix {
            "" => {}
            "n" => exponent -= 9,
            "u" => exponent -= 6,
            "m" => exponent -= 3,
            "k" => exponent += 3,
            "M" => exponent += 6,
            "G" => exponent += 9,
            "T" => exponent += 12,
            "P" => exponent += 15,
            "E" => exponent += 18,
            "Ki" | "Mi" | "Gi" | "Ti" | "Pi" | "Ei" => {
                let power = 1 + ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().position(|s| *s == suffix)?;
                for _ in 0..power {
                    multiply(&mut digits, 1024);
                }
            }
            scientific => {
                let power = scientific.strip_prefix(['e', 'E'])?;
                let power: i32 = power.strip_prefix('+').unwrap_or(power).parse().ok()?;
                if power.abs() > 60 {
                    return None;
                }
                exponent += power;
            }
        }
        let mut out = Self {
            negative,
            digits,
            exponent,
        };
        out.normalize();
        Some(out)
    }

    /// A whole number.
    pub(super) fn from_int(value: i64) -> Self {
        let digits = value.unsigned_abs().to_string().bytes().map(|b| b - b'0').collect();
        let mut out = Self {
            negative: value < 0,
            digits,
            exponent: 0,
        };
        out.normalize();
        out
    }

    fn normalize(&mut self) {
        let zeros = self.digits.iter().take_while(|d| **d == 0).count();
        self.digits.drain(..zeros);
        while self.digits.last() == Some(&0) {
            self.digits.pop();
            self.exponent += 1;
        }
        if self.digits.is_empty() {
            self.negative = false;
            self.exponent = 0;
        }
    }

    /// -1, 0 or 1.
    pub(super) fn sign(&self) -> i64 {
        if self.digits.is_empty() {
            0
        } else if self.negative {
            -1
        } else {
            1
        }
    }

    /// The value as an integer, if it is one and fits.
    pub(super) fn as_int(&self) -> Option<i64> {
        if self.exponent < 0 {
            return None;
        }
        let mut out: i128 = 0;
        for digit in self
            .digits
            .iter()
            .copied()
            .chain(std::iter::repeat_n(0, usize::try_from(self.exponent).ok()?))
        {
            out = out.checked_mul(10)?.checked_add(i128::from(digit))?;
        }
        i64::try_from(if self.negative { -out } else { out }).ok()
    }

    /// The value, approximately.
    pub(super) fn as_float(&self) -> f64 {
        let digits: String = self.digits.iter().map(|d| char::from(b'0' + d)).collect();
        let text = format!(
            "{}{}e{}",
            if self.negative { "-" } else { "" },
            if digits.is_empty() { "0" } else { &digits },
            self.exponent
        );
        text.parse().unwrap_or(f64::NAN)
    }

    /// Digits of the magnitude at a common exponent.
    fn at(&self, exponent: i32) -> Vec<u8> {
        let mut out = self.digits.clone();
        out.extend(std::iter::repeat_n(0, usize::try_from(self.exponent - exponent).unwrap_or(0)));
        out
    }

    /// Sum.
    pub(super) fn add(&self, other: &Self) -> Self {
        let exponent = self.exponent.min(other.exponent);
        let (a, b) = (self.at(exponent), other.at(exponent));
        let (negative, digits) = if self.negative == other.negative {
            (self.negative, add_digits(&a, &b))
        } else {
            match cmp_digits(&a, &b) {
                Ordering::Less => (other.negative, sub_digits(&b, &a)),
                _ => (self.negative, sub_digits(&a, &b)),
            }
        };
        let mut out = Self {
            negative,
            digits,
            exponent,
        };
        out.normalize();
        out
    }

    /// Difference.
    pub(super) fn sub(&self, other: &Self) -> Self {
        let mut minus = other.clone();
        minus.negative = !minus.negative && !minus.digits.is_empty();
        self.add(&minus)
    }

    /// Order.
    pub(super) fn cmp(&self, other: &Self) -> Ordering {
        self.sub(other).sign().cmp(&0)
    }
}

fn multiply(digits: &mut Vec<u8>, factor: u32) {
    let mut carry = 0u32;
    for digit in digits.iter_mut().rev() {
        let product = u32::from(*digit) * factor + carry;
        *digit = u8::try_from(product % 10).unwrap_or(0);
        carry = product / 10;
    }
    while carry > 0 {
        digits.insert(0, u8::try_from(carry % 10).unwrap_or(0));
        carry /= 10;
    }
}

fn trimmed(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|d| **d == 0).count();
    &digits[zeros..]
}

fn cmp_digits(a: &[u8], b: &[u8]) -> Ordering {
    let (a, b) = (trimmed(a), trimmed(b));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

fn add_digits(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(a.len().max(b.len()) + 1);
    let (mut x, mut y) = (a.iter().rev(), b.iter().rev());
    let mut carry = 0;
    loop {
        let (p, q) = (x.next(), y.next());
        if p.is_none() && q.is_none() && carry == 0 {
            break;
        }
        let sum = p.copied().unwrap_or(0) + q.copied().unwrap_or(0) + carry;
        out.push(sum % 10);
        carry = sum / 10;
    }
    out.reverse();
    out
}

/// `a - b`, where `a` is not smaller.
fn sub_digits(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(a.len());
    let mut y = b.iter().rev();
    let mut borrow = 0;
    for x in a.iter().rev() {
        let take = y.next().copied().unwrap_or(0) + borrow;
        if *x >= take {
            out.push(x - take);
            borrow = 0;
        } else {
            out.push(x + 10 - take);
            borrow = 1;
        }
    }
    out.reverse();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_exact() {
        let q = |s: &str| Quantity::parse(s).unwrap_or_else(|| panic!("{s}"));
        assert_eq!(q("1.5Gi").as_int(), Some(1_610_612_736));
        assert_eq!(q("1Gi").cmp(&q("1G")), Ordering::Greater);
        assert_eq!(q("1000m").cmp(&q("1")), Ordering::Equal);
        assert_eq!(q("50k").add(&q("20")).as_int(), Some(50_020));
        assert_eq!(q("50k").sub(&q("100k")).as_int(), Some(-50_000));
        assert_eq!(q("0.1").add(&q("0.2")), q("0.3"));
        assert_eq!(q("1e3").as_int(), Some(1000));
        assert_eq!(q("9999999999999999999999999999G").as_int(), None);
        assert_eq!(q("100m").as_int(), None);
        for bad in ["", "1.2.3", "200K", "Three", "Mi", "1,3G", "1e"] {
            assert!(Quantity::parse(bad).is_none(), "{bad}");
        }
    }
}
