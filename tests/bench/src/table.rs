//! The figures and how they are printed.

/// One measured figure.
struct Row {
    name: String,
    value: String,
    target: String,
    how: String,
}

/// Figures in the order they were taken.
pub struct Table(Vec<Row>);

impl Table {
    /// No figures yet.
    pub fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a figure; `target` is empty where there is none.
    pub fn add(&mut self, name: &str, value: String, target: &str, how: &str) {
        eprintln!("{name}: {value}");
        self.0.push(Row {
            name: name.to_owned(),
            value,
            target: target.to_owned(),
            how: how.to_owned(),
        });
    }

    /// Prints them as a table in Markdown.
    pub fn print(&self) {
        println!("| figure | value | target | how |");
        println!("|---|---|---|---|");
        for Row {
            name,
            value,
            target,
            how,
        } in &self.0
        {
            println!("| {name} | {value} | {target} | {how} |");
        }
    }
}

/// The middle of `values`, which are not empty.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.get(middle.wrapping_sub(1))) {
        (Some(high), Some(low)) if sorted.len().is_multiple_of(2) => f64::midpoint(*high, *low),
        (Some(value), _) => *value,
        _ => f64::NAN,
    }
}

/// `median (min to max)` with two decimals and a unit.
pub fn spread(values: &[f64], unit: &str) -> String {
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{:.2} {unit} ({min:.2} to {max:.2})", median(values))
}

/// Median of `a[i] / b[i]`.
pub fn ratio(a: &[f64], b: &[f64]) -> f64 {
    let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| a / b).collect();
    median(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert!((median(&[4.0, 1.0, 3.0]) - 3.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        assert!((ratio(&[2.0, 30.0, 4.0], &[1.0, 10.0, 4.0]) - 2.0).abs() < 1e-9);
    }
}
