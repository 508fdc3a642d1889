//! The verbs of `printf`, as Go has them. Called by `functions`.

use anyhow::{Context, Result, bail};
use serde_json::{Number, Value};

use super::print::{plain, quoted};

/// The widest field, and the most digits; Go's are the same.
const WIDTH_MAX: usize = 1_000_000;

/// Digits behind the point where no precision says how many.
const DIGITS: usize = 6;

/// What stands behind a `%`.
#[derive(Debug, Default)]
pub struct Verb {
    /// What it asks for.
    pub letter: char,
    /// `-`: blanks go to the right.
    minus: bool,
    /// `+`: numbers that are not negative have a sign, too.
    plus: bool,
    /// A blank there instead of a plus, and between the bytes of a text in digits.
    blank: bool,
    /// `#`: digits begin with `0x`.
    sharp: bool,
    /// `0`: filled up by zeros.
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

impl Verb {
    /// Reads a verb with its flags, and returns what is behind it.
    ///
    /// # Errors
    /// A verb that is not supported or not there, or a number that is above the limit.
    pub fn parse(text: &str) -> Result<(Self, &str)> {
        let mut verb = Self::default();
        let rest = text.trim_start_matches(['-', '+', '#', '0', ' ']);
        for flag in text.chars().take(text.len() - rest.len()) {
            match flag {
                '-' => verb.minus = true,
                '+' => verb.plus = true,
                '#' => verb.sharp = true,
                '0' => verb.zero = true,
                _ => verb.blank = true,
            }
        }
        let (width, mut rest) = number(rest, "width")?;
        verb.width = width.unwrap_or(0);
        if let Some(behind) = rest.strip_prefix('.') {
            let (precision, behind) = number(behind, "precision")?;
            verb.precision = Some(precision.unwrap_or(0));
            rest = behind;
        }
        let mut letters = rest.chars();
        verb.letter = letters.next().context("printf: a % without a verb")?;
        if !matches!(
            verb.letter,
            's' | 'd' | 'v' | 'q' | 't' | 'x' | 'X' | 'f' | '%'
        ) {
            bail!("printf: %{} is not supported", verb.letter);
        }
        Ok((verb, letters.as_str()))
    }

    /// What it makes of a value. Of a list, that is what it makes of each element.
    pub fn shown(&self, value: &Value) -> String {
        match (self.letter, value) {
            ('s' | 'v', Value::String(text)) => self.padded("", self.cut(text)),
            ('q', Value::String(text)) => self.padded("", quoted(&self.cut(text))),
            ('x' | 'X', Value::String(text)) => self.padded("", self.bytes(text)),
            ('d' | 'x' | 'X', Value::Number(number)) => match integer(number) {
                Some(number) => self.integer(number),
                None => self.mistaken(value),
            },
            ('f', Value::Number(number)) if integer(number).is_none() => {
                let number = number.as_f64().unwrap_or_default();
                let digits = self.precision.unwrap_or(DIGITS);
                self.padded(
                    self.sign(number < 0.0),
                    format!("{:.digits$}", number.abs()),
                )
            }
            (_, Value::Array(list)) => {
                let list: Vec<String> = list.iter().map(|element| self.shown(element)).collect();
                format!("[{}]", list.join(" "))
            }
            // The type of a number or an object is Docker's to know: `%s` shows them as they are.
            ('s' | 'v', value) | ('t', value @ Value::Bool(_)) => self.padded("", plain(value)),
            (_, value) => self.mistaken(value),
        }
    }

    /// What Go says of a value that is none for the verb.
    fn mistaken(&self, value: &Value) -> String {
        let kind = match value {
            Value::Null => return format!("%!{}(<nil>)", self.letter),
            Value::Bool(_) => "bool",
            Value::Number(number) if integer(number).is_some() => "int",
            Value::Number(_) => "float64",
            Value::String(_) => "string",
            Value::Array(_) => "[]interface {}",
            Value::Object(_) => "map[string]interface {}",
        };
        format!("%!{}({kind}={})", self.letter, plain(value))
    }

    fn cut(&self, text: &str) -> String {
        let most = self.precision.unwrap_or(usize::MAX);
        text.chars().take(most).collect()
    }

    /// A text's bytes as digits.
    fn bytes(&self, text: &str) -> String {
        let most = self.precision.unwrap_or(usize::MAX);
        let bytes = text.bytes().take(most).map(|byte| format!("{byte:02x}"));
        let bytes: Vec<String> = bytes.collect();
        let before = match (self.sharp, bytes.is_empty()) {
            (true, false) => "0x",
            _ => "",
        };
        let text = match self.blank {
            true => format!("{before}{}", bytes.join(&format!(" {before}"))),
            false => format!("{before}{}", bytes.concat()),
        };
        self.cased(text)
    }

    fn integer(&self, number: i128) -> String {
        let magnitude = number.unsigned_abs();
        let digits = match self.letter {
            'd' => magnitude.to_string(),
            _ => format!("{magnitude:x}"),
        };
        let least = self.precision.unwrap_or(0);
        let zeros = "0".repeat(least.saturating_sub(digits.len()));
        let before = match self.letter {
            'x' | 'X' if self.sharp => "0x",
            _ => "",
        };
        // A precision says how many zeros there are, and no width does then.
        let verb = Self {
            zero: self.zero && self.precision.is_none(),
            ..*self
        };
        let before = self.cased(format!("{}{before}", self.sign(number < 0)));
        verb.padded(&before, self.cased(zeros + &digits))
    }

    fn sign(&self, is_negative: bool) -> &'static str {
        match is_negative {
            true => "-",
            false if self.plus => "+",
            false if self.blank => " ",
            false => "",
        }
    }

    fn cased(&self, text: String) -> String {
        match self.letter {
            'X' => text.to_uppercase(),
            _ => text,
        }
    }

    /// As wide as is asked for; zeros go behind what is before a number.
    fn padded(&self, before: &str, text: String) -> String {
        let len = before.chars().count() + text.chars().count();
        let missing = self.width.saturating_sub(len);
        match (self.minus, self.zero) {
            (true, _) => format!("{before}{text}{}", " ".repeat(missing)),
            (false, true) => format!("{before}{}{text}", "0".repeat(missing)),
            (false, false) => format!("{}{before}{text}", " ".repeat(missing)),
        }
    }
}

/// A number without a part behind the point.
fn integer(number: &Number) -> Option<i128> {
    let positive = number.as_u64().map(i128::from);
    positive.or_else(|| number.as_i64().map(i128::from))
}

/// The digits that a text begins with, and the rest.
fn number<'a>(text: &'a str, what: &str) -> Result<(Option<usize>, &'a str)> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &text[..text.len() - rest.len()];
    if digits.is_empty() {
        return Ok((None, rest));
    }
    let number = digits.parse().unwrap_or(usize::MAX);
    if number > WIDTH_MAX {
        bail!("printf: a {what} of {digits} is above the limit of {WIDTH_MAX}");
    }
    Ok((Some(number), rest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_shown_as_by_go() {
        for (format, value, want) in [
            ("%.4s|", json!("0123456789"), "0123|"),
            ("%.12s|", json!("ab"), "ab|"),
            ("%6.2s|", json!("abc"), "    ab|"),
            ("%-6.2q|", json!("abc"), "\"ab\"  |"),
            ("%.2v|", json!("\u{fc}bc"), "\u{fc}b|"),
            ("%05d|", json!(42), "00042|"),
            ("%05d|", json!(-42), "-0042|"),
            ("%-05d|", json!(42), "42   |"),
            ("%+d|% d|", json!(42), "+42|"),
            ("%6.3d|", json!(7), "   007|"),
            ("%x|", json!(255), "ff|"),
            ("%#X|", json!(255), "0XFF|"),
            ("%x|", json!(-255), "-ff|"),
            ("%x|", json!("hi"), "6869|"),
            ("% #X|", json!("hi"), "0X68 0X69|"),
            ("%.1x|", json!("hi"), "68|"),
            ("%f|", json!(0.5), "0.500000|"),
            ("%6.2f|", json!(-0.125), " -0.12|"),
            ("%+v|", json!(5), "5|"),
            ("%+v|", json!(["a", 1]), "[a 1]|"),
            ("%3d|", json!([1, 2]), "[  1   2]|"),
            ("%t|", json!(true), "true|"),
            ("%s|", json!(5), "5|"),
            ("%d|", json!("x"), "%!d(string=x)|"),
            ("%f|", json!(5), "%!f(int=5)|"),
            ("%d|", json!(0.5), "%!d(float64=0.5)|"),
            ("%d|", Value::Null, "%!d(<nil>)|"),
            ("%d|", json!(u64::MAX), "18446744073709551615|"),
        ] {
            let (verb, rest) = Verb::parse(&format[1..]).unwrap();
            let rest = rest.chars().take(1).collect::<String>();
            assert_eq!(verb.shown(&value) + &rest, want, "{format} {value}");
        }
    }

    #[test]
    fn what_is_no_verb_is_refused() {
        for (text, want) in [
            ("", "a % without a verb"),
            ("-3", "a % without a verb"),
            ("p", "%p is not supported"),
            ("*d", "%* is not supported"),
            (".1000001s", "a precision of 1000001 is above"),
            ("99999999999999999999d", "is above the limit"),
        ] {
            let error = Verb::parse(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
